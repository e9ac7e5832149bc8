/** Which defence, how strong, and what it costs. Fires "change". */

import { DEFENCES, inWords } from "./defence.js";
import { count, fixed, h } from "./dom.js";

class DefenceControl extends HTMLElement {
  connectedCallback() {
    this.strength = h("input", { id: "strength", type: "range", min: 0, max: 100, value: 40, disabled: true, "aria-describedby": "defence-cost", oninput: () => this.changed() });
    this.label = h("label", { for: "strength" }, "Strength");
    this.cost = h("p", { id: "defence-cost", class: "quiet cost" }, "");
    const choices = Object.entries(DEFENCES).map(([kind, { title }]) =>
      h("label", { class: "choice" }, h("input", { type: "radio", name: "defence", value: kind, checked: kind === "none", onchange: () => this.changed() }), h("span", {}, title)));
    this.append(
      h("fieldset", {},
        h("legend", {}, "Protect it before it leaks"),
        h("div", { class: "choices" }, ...choices)),
      h("div", { class: "strength" }, this.label, this.strength),
      this.cost,
    );
    this.tell(null);
  }

  get defence() {
    return { kind: this.querySelector("[name=defence]:checked").value, strength: Number(this.strength.value) };
  }

  set defence({ kind, strength }) {
    this.querySelector(`[value=${kind}]`).checked = true;
    this.strength.value = strength;
    this.strength.disabled = !graded({ kind, strength });
    this.tell(null);
  }

  changed() {
    this.strength.disabled = !graded(this.defence);
    this.dispatchEvent(new Event("change"));
  }

  /** Say what the defence does; `kept` is what the server made of an embedding of `dimension` numbers, once it is known. */
  tell(kept, dimension) {
    const { kind } = this.defence;
    const says = inWords(this.defence);
    this.cost.classList.remove("error");
    this.strength.setAttribute("aria-valuetext", says || "no defence");
    if (kind === "none") {
      this.cost.textContent = "As the encoder made it.";
      return;
    }
    const sentence = `${says[0].toUpperCase()}${says.slice(1)}`;
    if (!kept) {
      this.cost.textContent = `${sentence}.`;
      return;
    }
    const before = 4 * dimension;
    const size = kept.bytes === before ? "" : `, ${count(kept.bytes)} bytes instead of ${count(before)}`;
    this.cost.replaceChildren(`${sentence}${size}. Similarity to the true embedding: `, h("strong", {}, fixed(kept.similarity)), ".");
  }

  /** Say why the server's answer is missing. */
  refuse(message) {
    this.cost.textContent = message;
    this.cost.classList.add("error");
  }
}

/** Whether a defence has a strength. */
const graded = ({ kind, strength }) => DEFENCES[kind].amount(strength) !== null;

customElements.define("defence-control", DefenceControl);
