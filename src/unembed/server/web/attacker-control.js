/** What the attacker may ask beside the vector, and for how many rounds. Its events are its inputs' own. */

import { h } from "./dom.js";

export const ATTACKERS = {
  blind: { title: "Blind", says: "Has the vector and nothing else." },
  "black-box": { title: "Black box", says: "May ask the encoder too: each round embeds changes of the text and keeps the closest." },
  "white-box": { title: "White box", says: "Has the encoder\u2019s weights too: their gradients say which words to try, round after round." },
};

class AttackerControl extends HTMLElement {
  connectedCallback() {
    this.choices = h("div", { class: "choices" });
    this.value = h("output", { for: "rounds" });
    this.rounds = h("input", { id: "rounds", type: "range", min: 1, max: 50, value: 20, disabled: true });
    this.note = h("p", { class: "quiet note", id: "attacker-note" });
    this.append(
      h("fieldset", { "aria-describedby": "attacker-note" }, h("legend", {}, "Attacker"), this.choices),
      h("div", { class: "field" }, h("label", { for: "rounds" }, "Rounds of queries ", this.value), this.rounds),
      this.note);
    this.addEventListener("input", () => this.show());
    this.offer(Object.keys(ATTACKERS), "blind"); // room for them, until the model says which
  }

  offer(attackers, chosen) {
    this.choices.replaceChildren(...attackers.map((value) => h("label", { class: "choice" },
      h("input", { type: "radio", name: "attacker", value, checked: value === chosen }), h("span", {}, ATTACKERS[value].title))));
    this.show();
  }

  get attack() {
    const attacker = this.querySelector("[name=attacker]:checked").value;
    return { attacker, rounds: attacker === "blind" ? 0 : Number(this.rounds.value) };
  }

  /** Offer what the model allows; `wish` is {attacker, rounds}, as far as asked for. */
  adapt({ attackers, limits }, wish) {
    const offered = limits.rounds ? attackers : ["blind"];
    this.hidden = offered.length === 1;
    const wanted = wish.attacker ?? (wish.rounds ? offered.at(-1) : "blind");
    this.rounds.max = Math.max(1, limits.rounds);
    if (wish.rounds) this.rounds.value = wish.rounds;
    this.offer(offered, offered.includes(wanted) ? wanted : "blind");
  }

  show() {
    const { attacker, rounds } = this.attack;
    this.rounds.disabled = attacker === "blind";
    this.value.textContent = rounds || "none";
    this.note.textContent = ATTACKERS[attacker].says;
  }
}

customElements.define("attacker-control", AttackerControl);
