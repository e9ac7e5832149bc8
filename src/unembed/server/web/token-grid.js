/** The canvas, one cell a position. Fires "token" with the position that is looked at. */

import { h, percent } from "./dom.js";

const STATES = { m: "masked", c: "just changed", u: "unchanged" };

class TokenGrid extends HTMLElement {
  connectedCallback() {
    this.tokens = [];
    this.current = 0;
    this.cells = [];
    this.grid = h("div", { class: "cells", role: "group", "aria-label": "Tokens by position; arrow keys move" });
    this.legend = h("p", { class: "legend quiet", "aria-hidden": "true" });
    const choice = (value, title, checked) => h("label", { class: "choice" },
      h("input", { type: "radio", name: "colour", value, checked, onchange: () => this.colour(value) }), h("span", {}, title));
    this.append(
      h("div", { class: "grid-head" },
        h("fieldset", {}, h("legend", { class: "hidden" }, "Colour the grid by"),
          h("div", { class: "choices" }, choice("state", "Change", true), choice("confidence", "Confidence", false))),
        this.legend),
      this.grid);
    this.grid.addEventListener("keydown", (event) => this.move(event));
    this.colour("state");
  }

  /** Lay out `length` empty cells, so that nothing moves once tokens come. */
  lay(length) {
    this.cells = Array.from({ length }, (_, i) => {
      const look = () => this.look(i);
      return h("button", { type: "button", class: "cell", tabindex: i === 0 ? 0 : -1, onfocus: look, onpointerenter: look, onclick: look }, h("span", { class: "piece" }));
    });
    this.current = 0;
    this.grid.replaceChildren(...this.cells);
    this.show(Array.from({ length }, () => ({ t: "", s: "m", p: 0, idle: true })));
  }

  show(tokens) {
    this.tokens = tokens;
    const end = tokens.findIndex((token) => token.end);
    tokens.forEach((token, i) => {
      const cell = this.cells[i];
      const state = token.idle ? "idle" : token.end ? (i === end ? "end" : "padding") : token.s;
      cell.dataset.state = state;
      cell.dataset.changed = token.s === "c";
      cell.style.setProperty("--p", (token.p ?? 0).toFixed(3));
      cell.dataset.glued = token.t.startsWith("##");
      cell.firstChild.textContent = state === "m" || state === "padding" ? "" : state === "end" ? "end" : token.t.replace(/^(##|[\u0120\u2581])/, "");
      cell.setAttribute("aria-label", this.name(token, i, state));
    });
  }

  name(token, i, state) {
    const place = `Position ${i + 1}`;
    if (token.idle) return `${place}: empty`;
    if (token.s === "m") return `${place}: masked`;
    const what = { end: "end of text", padding: "padding behind the text" }[state] ?? token.t;
    return `${place}: ${what}, ${STATES[token.s]}${token.p === null ? "" : `, ${percent(token.p)} sure`}`;
  }

  colour(by) {
    this.grid.dataset.colour = by;
    const entries = by === "state"
      ? [["m", "masked"], ["c", "just changed"], ["u", "unchanged"]]
      : [["p low", "guess"], ["p mid", "likely"], ["p high", "sure"]];
    this.legend.replaceChildren(...entries.map(([kind, title]) => h("span", {}, h("i", { class: `swatch ${kind}` }), title)));
  }

  look(i) {
    this.cells[this.current].tabIndex = -1;
    this.cells[this.current].classList.remove("current");
    this.current = i;
    this.cells[i].tabIndex = 0;
    this.cells[i].classList.add("current");
    this.dispatchEvent(new CustomEvent("token", { detail: i }));
  }

  move(event) {
    const columns = getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -this.current, End: this.cells.length - 1 - this.current };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.cells[Math.min(this.cells.length - 1, Math.max(0, this.current + step))].focus();
  }
}

customElements.define("token-grid", TokenGrid);
