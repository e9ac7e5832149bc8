/** An embedding of unknown text: pasted, dropped or chosen as a file. Fires "embedding" with {vector, source}. */

import { count, h, showError } from "./dom.js";
import { readEmbeddings } from "./files.js";

class EmbeddingInput extends HTMLElement {
  connectedCallback() {
    this.rows = [];
    this.source = "";
    this.area = h("textarea", { id: "paste", rows: 3, spellcheck: "false", placeholder: '[0.0132, \u22120.0471, \u2026] or {"embedding": [\u2026]}', oninput: () => this.typed() });
    this.file = h("input", { id: "file", type: "file", class: "hidden", accept: ".json,.jsonl,.npy,.txt,.csv", onchange: () => this.readFile(this.file.files[0]) });
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.row = h("input", { id: "row", type: "number", min: 1, value: 1, inputmode: "numeric", oninput: () => this.choose() });
    this.rowField = h("span", { class: "row-field", hidden: true }, h("label", { for: "row" }, "Row"), this.row);
    this.note = h("span", { class: "quiet push" });
    this.details = h("details", {},
      h("summary", {}, "I have only an embedding"),
      h("div", { class: "drop" },
        h("label", { for: "paste" }, "Paste numbers or JSON, or drop a .json, .jsonl or .npy file anywhere on the page"),
        this.area,
        h("div", { class: "row" },
          h("button", { class: "plain", type: "button", onclick: () => this.file.click() }, "Choose file"),
          h("label", { class: "hidden", for: "file" }, "Embedding file"), this.file, this.rowField, this.note),
        this.error));
    this.append(this.details);
    this.listen();
  }

  listen() {
    const over = (on) => document.documentElement.classList.toggle("dropping", on);
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      over(true);
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
    document.addEventListener("drop", (event) => {
      over(false);
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.details.open = true;
      this.readFile(event.dataTransfer.files[0]);
    });
  }

  async readFile(file) {
    if (!file) return;
    this.file.value = ""; // so that the same file can be chosen again
    this.area.value = "";
    this.read(new Uint8Array(await file.arrayBuffer()), file.name);
  }

  typed() {
    if (this.area.value.trim()) this.read(new TextEncoder().encode(this.area.value), "pasted");
    else this.clear();
  }

  clear(message = "") {
    this.rows = [];
    this.rowField.hidden = true;
    this.note.textContent = "";
    showError(this.error, message);
  }

  read(bytes, source) {
    this.clear();
    try {
      this.rows = readEmbeddings(bytes);
    } catch (error) {
      showError(this.error, source === "pasted" ? error.message : `${source}: ${error.message}`);
      return;
    }
    this.source = source;
    this.rowField.hidden = this.rows.length === 1;
    this.row.max = this.rows.length;
    this.row.value = 1;
    this.choose();
  }

  choose() {
    const row = this.rows[Number(this.row.value) - 1];
    showError(this.error, row ? "" : `There are rows 1 to ${count(this.rows.length)}.`);
    if (!row) return;
    const several = this.rows.length > 1;
    this.note.textContent = several ? `of ${count(this.rows.length)}, ${count(row.length)} numbers each` : `${count(row.length)} numbers`;
    const source = several ? `${this.source}, row ${this.row.value}` : this.source;
    this.dispatchEvent(new CustomEvent("embedding", { detail: { vector: Float32Array.from(row), source } }));
  }

  /** The numbers were read, but do not fit. */
  refuse(message) {
    showError(this.error, message);
  }
}

customElements.define("embedding-input", EmbeddingInput);
