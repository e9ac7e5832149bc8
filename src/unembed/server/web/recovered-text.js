/** The answer: the best text so far, what its cosine means, and how many of the words it has. */

import { compare, compareWords, inWords } from "./compare.js";
import { fixed, h } from "./dom.js";
import { TITLES, marked } from "./text-comparison.js";

/** The cosine from which on a text is usually so near; docs/server.md says where the levels come from. */
const MEANINGS = [
  [1 - 1e-6, "the same text to the encoder"],
  [0.98, "very close, but not the text"],
  [0.92, "nearly the same meaning"],
  [0.8, "the topic, about half of the words"],
  [0.53, "at best the topic"],
  [-Infinity, "hardly anything"],
];

class RecoveredText extends HTMLElement {
  connectedCallback() {
    this.answer = h("p", { class: "said answer" });
    this.verdict = h("p", { class: "verdict" });
    this.outcome = h("p", { class: "quiet outcome" });
    this.append(this.answer, this.verdict, this.outcome);
    this.clear();
  }

  clear() {
    this.progress("Nothing yet. Press Enter in the text, or the button.");
    this.answer.dataset.empty = "true";
  }

  /** A text that is being filled in. */
  progress(text) {
    this.answer.textContent = text || "\u2026";
    this.answer.dataset.empty = String(!text);
    this.verdict.textContent = this.outcome.textContent = "\u00a0";
  }

  /**
   * As `TextComparison.show`; `original` is the whole text or null, `spent` what the search took, `running` that it goes on,
   * `changed` that a defence changed the embedding before it was sent. Returns in words what came back.
   */
  show(kind, original, { truth, result, changed, spent = null, running = false }) {
    const tokens = truth ? marked(result.tokens, compare(truth.ids, result.ids).found) : [result.text];
    this.answer.replaceChildren(...(result.tokens.length ? tokens : ["(an empty text)"]));
    this.answer.dataset.empty = String(!result.tokens.length);
    this.judge(result.cosine, changed);
    const found = original === null ? "" : `: ${inWords(compareWords(original, result.text))}`;
    this.outcome.textContent = `${TITLES[kind]}${found}${spent ? `${running ? " so far" : ""}, after ${spent}` : ""}.`;
    return `${this.verdict.textContent}. ${this.outcome.textContent}`;
  }

  /** Say what a cosine means. Digits are cut, so that only the same text has 1.00. */
  judge(cosine, changed) {
    const digits = (x) => h("strong", {}, fixed(x, 2));
    if (cosine === null) this.verdict.textContent = "\u00a0";
    else if (changed) this.verdict.replaceChildren(digits(cosine), ": cosine to the changed embedding");
    else {
      const [, meaning] = MEANINGS.find(([least]) => cosine >= least);
      this.verdict.replaceChildren(digits(cosine >= MEANINGS[0][0] ? 1 : Math.floor(cosine * 100) / 100), `: ${meaning}`);
    }
  }
}

customElements.define("recovered-text", RecoveredText);
