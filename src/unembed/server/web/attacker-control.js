/** What the attacker may ask beside the vector, for how many rounds and calls. Its events are its inputs' own. */

import { h } from "./dom.js";

export const ATTACKERS = {
  blind: { title: "Blind", says: "Has the vector and nothing else.", searches: "Has the vector alone; a small imitation of the encoder judges its rounds." },
  "black-box": { title: "Black box", says: "May ask the encoder too: each round embeds changes of the text and keeps the closest." },
  "white-box": { title: "White box", says: "Has the encoder\u2019s weights too: their gradients say which words to try, round after round." },
};

class AttackerControl extends HTMLElement {
  connectedCallback() {
    this.choices = h("div", { class: "choices" });
    this.value = h("output", { for: "rounds" });
    this.rounds = h("input", { id: "rounds", type: "range", min: 1, max: 50, value: 20, disabled: true });
    this.calls = h("input", { id: "max-calls", type: "number", min: 1, step: 1, inputmode: "numeric", placeholder: "no limit", disabled: true });
    this.note = h("p", { class: "quiet note", id: "attacker-note" });
    this.append(
      h("fieldset", { "aria-describedby": "attacker-note" }, h("legend", {}, "Attacker"), this.choices),
      h("div", { class: "field" }, h("label", { for: "rounds" }, "Rounds ", this.value), this.rounds),
      h("div", { class: "field" }, h("label", { for: "max-calls" }, "Call limit"), this.calls),
      this.note);
    this.wanted = { blind: 0, asking: 20 }; // rounds, until others are asked for
    this.searches = false;
    this.rounds.addEventListener("input", () => { this.wanted[this.kind] = Number(this.rounds.value); });
    this.addEventListener("input", () => this.show());
    this.offer(Object.keys(ATTACKERS), "blind"); // room for them, until the model says which
  }

  offer(attackers, chosen) {
    this.choices.replaceChildren(...attackers.map((value) => h("label", { class: "choice" },
      h("input", { type: "radio", name: "attacker", value, checked: value === chosen }), h("span", {}, ATTACKERS[value].title))));
    this.show();
  }

  get attacker() {
    return this.querySelector("[name=attacker]:checked").value;
  }

  get kind() {
    return kindOf(this.attacker);
  }

  get attack() {
    const { attacker } = this;
    if (attacker === "blind") return { attacker, rounds: this.searches ? Number(this.rounds.value) : 0, max_calls: null };
    const calls = Math.trunc(Number(this.calls.value)); // 0 where nothing is asked for, or no number
    return { attacker, rounds: Number(this.rounds.value), max_calls: calls >= 1 ? calls : null };
  }

  /** Offer what the model allows; `wish` is {attacker, rounds, max_calls}, as far as asked for. */
  adapt({ attackers, limits, blind_search: searches }, wish) {
    const offered = limits.rounds ? attackers : ["blind"];
    this.searches = searches && limits.rounds > 0;
    this.hidden = offered.length === 1;
    const wanted = wish.attacker ?? (wish.rounds ? offered.at(-1) : "blind");
    this.rounds.max = Math.max(1, limits.rounds);
    if (wish.rounds) this.calls.value = wish.max_calls ?? "";
    const chosen = offered.includes(wanted) ? wanted : "blind";
    const rounds = chosen === wanted ? wish.rounds ?? 0 : 0;
    if (rounds || chosen === "blind") this.wanted[kindOf(chosen)] = rounds; // nothing asked for is no search, if blind
    this.offer(offered, chosen);
  }

  show() {
    const blind = this.kind === "blind";
    this.rounds.min = blind ? 0 : 1;
    this.rounds.value = this.wanted[this.kind];
    this.rounds.disabled = blind && !this.searches;
    this.calls.disabled = blind;
    this.value.textContent = this.attack.rounds || "none";
    const { says, searches } = ATTACKERS[this.attacker];
    this.note.textContent = (this.searches && searches) || says;
  }
}

/** Whether rounds ask the encoder: each kind has a number of its own. */
const kindOf = (attacker) => (attacker === "blind" ? "blind" : "asking");

customElements.define("attacker-control", AttackerControl);
