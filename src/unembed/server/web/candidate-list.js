/** Several recovered texts side by side; the chosen one is what the rest of the page shows. Fires "candidate". */

import { compare } from "./compare.js";
import { fixed, h, percent } from "./dom.js";
import { marked } from "./text-comparison.js";

class CandidateList extends HTMLElement {
  connectedCallback() {
    this.hidden = true;
  }

  /** Make room for `n` candidates, in the order in which frames name them. */
  lay(n) {
    this.hidden = n < 2;
    this.texts = [];
    this.facts = [];
    const cards = Array.from({ length: n }, (_, i) => {
      this.texts[i] = h("span", { class: "said" }, "\u2026");
      this.facts[i] = h("span", { class: "quiet facts" }, "\u00a0");
      return h("label", { class: "candidate" },
        h("input", { type: "radio", name: "candidate", value: i, checked: i === 0, onchange: () => this.choose(i) }), this.texts[i], this.facts[i]);
    });
    this.replaceChildren(h("fieldset", {}, h("legend", {}, "Candidates"), h("div", { class: "candidates" }, ...cards)));
  }

  choose(i) {
    this.dispatchEvent(new CustomEvent("candidate", { detail: i }));
  }

  progress(candidates) {
    candidates.forEach(({ text }, i) => { this.texts[i].textContent = text || "\u2026"; });
  }

  /** `results` in the frames' order; the one at `best` has the highest score. A search may have found fewer than asked for. */
  show(results, best, truth) {
    [...this.querySelectorAll(".candidate")].slice(results.length).forEach((card) => card.remove());
    results.forEach((result, i) => {
      const scores = truth && compare(truth.ids, result.ids);
      this.texts[i].replaceChildren(...(scores ? marked(result.tokens, scores.found) : [result.text]));
      const facts = [i === best ? "surest" : null, result.cosine === null ? null : `cosine ${fixed(result.cosine)}`, scores && `${percent(scores.accuracy)} of tokens`];
      this.facts[i].textContent = facts.filter(Boolean).join(" \u00b7 ");
      if (i === best) this.querySelectorAll("input")[i].checked = true;
    });
  }
}

customElements.define("candidate-list", CandidateList);
