/** Original against recovered, token by token: what came back without the encoder, and beside it what came back with it. */

import { compare, compareWords, inWords, readable } from "./compare.js";
import { fixed, h, plural } from "./dom.js";

const TITLES = { blind: "Without the encoder", guided: "With the encoder" };

export function marked(tokens, marks) {
  return tokens.flatMap((token, i) => {
    const { text, space } = readable(token, tokens[i - 1]);
    const piece = h("span", { class: `mark ${marks[i]}` }, text);
    return space ? [" ", piece] : [piece];
  });
}

class TextComparison extends HTMLElement {
  connectedCallback() {
    this.outcome = h("p", { class: "outcome" });
    this.original = h("p", { class: "said original" });
    this.boxes = {};
    for (const kind of Object.keys(TITLES)) {
      const [said, facts] = [h("p", { class: "said" }), h("p", { class: "quiet facts" })];
      this.boxes[kind] = { said, facts, box: h("div", { class: kind }, h("h3", {}, TITLES[kind]), said, facts) };
    }
    this.append(
      this.outcome,
      h("div", { class: "texts" }, h("div", {}, h("h3", {}, "Original"), this.original), ...Object.values(this.boxes).map(({ box }) => box)));
    this.clear(false, null);
  }

  /** Before and while it runs: the original plainly, nothing measured. `subject` is null where there is none yet. */
  clear(guided, subject) {
    this.dataset.guided = String(guided);
    this.boxes.guided.box.hidden = !guided;
    this.subject = subject;
    this.said = {};
    const source = subject && subject.text === null;
    this.original.textContent = source ? `Not known: ${subject.source}` : subject?.text ?? "";
    this.original.dataset.empty = String(!subject?.text);
    this.outcome.textContent = source ? "No original to compare with: a cosine near 1 says that a text has nearly these numbers." : "\u00a0";
    for (const { said, facts } of Object.values(this.boxes)) {
      said.textContent = facts.textContent = "\u00a0";
      said.dataset.empty = "true";
    }
  }

  /** A text that is being filled in. */
  progress(text) {
    this.boxes.blind.said.textContent = text || "\u2026";
    this.boxes.blind.said.dataset.empty = String(!text);
  }

  /**
   * `kind` is "blind" or "guided", `result` {text, cosine, tokens, ids}; `truth` is {tokens, ids} of the original's first
   * `length` tokens of `whole`, or null where no text is known; `spent` says what the search took, `running` that it goes on.
   */
  show(kind, { truth, result, length, whole, spent = null, running = false }) {
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
    const recovered = truth ? inWords(compareWords(this.subject.text, result.text)) : cosine.join("") || "no cosine";
    this.said[kind] = `${TITLES[kind]}: ${recovered}${spent ? `${running ? " so far," : ""} after ${spent}` : ""}.`;
    this.outcome.replaceChildren(...Object.keys(TITLES).filter((each) => this.said[each]).flatMap((each) => [h("span", {}, this.said[each]), " "]));
    return this.said[kind];
  }
}

customElements.define("text-comparison", TextComparison);
