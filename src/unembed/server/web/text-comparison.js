/** Original against recovered, token by token, and the figures that follow from it. */

import { compare, readable } from "./compare.js";
import { fixed, h, percent } from "./dom.js";

const UNKNOWN = "No original to compare with. A cosine near 1 says that the recovered text has nearly this embedding.";

export function marked(tokens, marks) {
  return tokens.flatMap((token, i) => {
    const { text, space } = readable(token, tokens[i - 1]);
    const piece = h("span", { class: `mark ${marks[i]}` }, text);
    return space ? [" ", piece] : [piece];
  });
}

class TextComparison extends HTMLElement {
  connectedCallback() {
    this.original = h("p", { class: "said" });
    this.recovered = h("p", { class: "said" });
    this.summary = h("p", { class: "quiet summary" });
    this.figures = Object.fromEntries(["cosine", "accuracy", "match"].map((key) => [key, h("dd", {}, "\u2013")]));
    this.originalBox = h("div", {}, h("h3", {}, "Original"), this.original);
    this.append(
      h("div", { class: "texts" }, this.originalBox, h("div", {}, h("h3", {}, "Recovered"), this.recovered)),
      this.summary,
      h("dl", { class: "figures" },
        h("div", {}, h("dt", {}, "Cosine"), this.figures.cosine),
        h("div", {}, h("dt", {}, "Token accuracy"), this.figures.accuracy),
        h("div", {}, h("dt", {}, "Exact match"), this.figures.match)));
    this.clear(false);
  }

  /** `guided`: texts change with every round, and more room is kept for them. */
  clear(guided) {
    this.dataset.guided = String(guided);
    this.wait({ original: null, source: "" });
    this.recovered.textContent = "";
    this.recovered.dataset.empty = "true";
  }

  /** Before and while passes run: the original plainly, nothing measured. */
  wait({ original, source }) {
    this.original.textContent = original ?? (source ? `Not known: ${source}` : "");
    this.original.dataset.empty = String(original === null);
    this.summary.textContent = original === null && source ? UNKNOWN : "\u00a0";
    for (const figure of Object.values(this.figures)) figure.textContent = "\u2013";
  }

  progress(text) {
    this.recovered.textContent = text || "\u2026";
    this.recovered.dataset.empty = String(!text);
  }

  /** `truth` is {tokens, ids} of the original's first `length` tokens of `whole`, or null where no text is known. */
  show({ truth, result, length, whole }) {
    this.figures.cosine.textContent = result.cosine === null ? "\u2013" : fixed(result.cosine);
    this.recovered.dataset.empty = String(!result.tokens.length);
    if (!truth) {
      this.recovered.replaceChildren(result.text || "(an empty text)");
      this.figures.accuracy.textContent = this.figures.match.textContent = "\u2013";
      this.summary.textContent = UNKNOWN;
      return null;
    }
    const scores = compare(truth.ids, result.ids);
    this.original.replaceChildren(...marked(truth.tokens, scores.truth));
    this.recovered.replaceChildren(...(result.tokens.length ? marked(result.tokens, scores.found) : ["(an empty text)"]));
    this.figures.accuracy.textContent = percent(scores.accuracy);
    this.figures.match.textContent = scores.match && whole <= length ? "yes" : "no";
    const cut = whole > length ? ` The original has ${whole} tokens; at most ${length} come back.` : "";
    this.summary.replaceChildren(
      h("span", { class: "mark exact" }, `${scores.exact} in place`), ", ",
      h("span", { class: "mark moved" }, `${scores.moved} moved`), ", ",
      h("span", { class: "mark wrong" }, `${scores.wrong} wrong`), ` of ${result.ids.length}.${cut}`);
    return scores;
  }
}

customElements.define("text-comparison", TextComparison);
