/** Which defence, how strong, and what it costs. Fires "change". */

import { DEFENCES } from "./defence.js";
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
    this.strength.disabled = kind === "none";
    this.tell(null);
  }

  changed() {
    this.strength.disabled = this.defence.kind === "none";
    this.dispatchEvent(new Event("change"));
  }

  /** Say what the defence does to a vector; `similarity` is the cosine between before and after. */
  tell(vector, similarity) {
    const { kind, strength } = this.defence;
    if (kind === "none" || vector === null) {
      this.strength.setAttribute("aria-valuetext", "no defence");
      this.cost.textContent = kind === "none" ? "As the encoder made it." : "";
      return;
    }
    const d = vector.length;
    const says = DEFENCES[kind].says(strength, d);
    this.strength.setAttribute("aria-valuetext", says);
    const bytes = DEFENCES[kind].bytes(strength, d);
    const size = bytes === 4 * d ? "" : `, ${count(bytes)} bytes instead of ${count(4 * d)}`;
    this.cost.replaceChildren(
      `${says[0].toUpperCase()}${says.slice(1)}${size}. Similarity to the true embedding: `,
      h("strong", {}, fixed(similarity)), ".");
  }
}

customElements.define("defence-control", DefenceControl);
