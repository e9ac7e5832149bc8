/** Original against recovered, token by token: what came back without the encoder, and beside it what came back with it. */

import { compare, readable } from "./compare.js";
import { fixed, h, plural } from "./dom.js";

export const TITLES = { blind: "Without the encoder", guided: "With the encoder" };

export function marked(tokens, marks) {
  return tokens.flatMap((token, i) => {
    const { text, space } = readable(token, tokens[i - 1]);
    const piece = h("span", { class: `mark ${marks[i]}` }, text);
    return space ? [" ", piece] : [piece];
  });
}

class TextComparison extends HTMLElement {
  connectedCallback() {
    this.original = h("p", { class: "said original" });
    this.boxes = {};
    for (const kind of Object.keys(TITLES)) {
      const [said, facts] = [h("p", { class: "said" }), h("p", { class: "quiet facts" })];
      this.boxes[kind] = { said, facts, box: h("div", { class: kind }, h("h3", {}, TITLES[kind]), said, facts) };
    }
    this.append(h("div", {}, h("h3", {}, "Original"), this.original), ...Object.values(this.boxes).map(({ box }) => box));
    this.clear(false, null);
  }

  /** Before it runs: the original plainly, nothing measured. `subject` is null where there is none yet. */
  clear(guided, subject) {
    this.boxes.guided.box.hidden = !guided;
    const source = subject && subject.text === null;
    this.original.textContent = source ? `Not known: ${subject.source}` : subject?.text ?? "";
    this.original.dataset.empty = String(!subject?.text);
    for (const { said, facts } of Object.values(this.boxes)) {
      said.textContent = facts.textContent = "\u00a0";
      said.dataset.empty = "true";
    }
  }

  /**
   * `kind` is "blind" or "guided", `result` {text, cosine, tokens, ids}; `truth` is {tokens, ids} of the original's first
   * `length` tokens of `whole`, or null where no text is known.
   */
  show(kind, { truth, result, length, whole }) {
    const { said, facts } = this.boxes[kind];
    said.dataset.empty = String(!result.tokens.length);
    const cosine = result.cosine === null ? [] : [`cosine ${fixed(result.cosine)}`];
    if (truth) {
      const scores = compare(truth.ids, result.ids);
      this.original.replaceChildren(...marked(truth.tokens, scores.truth));
      said.replaceChildren(...(result.tokens.length ? marked(result.tokens, scores.found) : ["(an empty text)"]));
      const cut = whole > length ? ` The original has ${whole} tokens; at most ${length} come back.` : "";
      facts.replaceChildren(
        h("span", { class: "mark exact" }, `${scores.exact} in place`), ", ",
        h("span", { class: "mark moved" }, `${scores.moved} moved`), ", ",
        h("span", { class: "mark wrong" }, `${scores.wrong} wrong`),
        [` of ${plural(result.ids.length, "token")}`, ...cosine].join(", "), cut && `.${cut}`);
    } else {
      said.textContent = result.text || "(an empty text)";
      facts.textContent = cosine.join("");
    }
  }
}

customElements.define("text-comparison", TextComparison);
