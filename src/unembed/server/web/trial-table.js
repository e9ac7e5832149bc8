/** What was tried on one text: each defence with what it cost and what still came back. */

import { compareWords, inWords } from "./compare.js";
import { fixed, h } from "./dom.js";

const COLUMNS = ["Defence", "Similarity kept", "Words", "Cosine to the true embedding", "What came back"];

class TrialTable extends HTMLElement {
  connectedCallback() {
    this.subject = null;
    this.body = h("tbody");
    this.caption = h("p", { class: "quiet" });
    this.hidden = true;
    this.append(h("details", {},
      h("summary", {}, h("h2", { id: "trials-heading" }, "What was tried")),
      this.caption,
      h("table", { "aria-labelledby": "trials-heading" },
        h("thead", {}, h("tr", {}, ...COLUMNS.map((title) => h("th", { scope: "col" }, title)))), this.body)));
  }

  /** Trials of another text or embedding start a new table. */
  add(subject, { defence, similarity, cosine, text, settings }) {
    if (subject !== this.subject) {
      this.subject = subject;
      this.body.replaceChildren();
    }
    this.hidden = false;
    this.caption.textContent = `${subject.text === null ? "An embedding of unknown text" : `\u201c${subject.text}\u201d`}, inverted with and without defences.`;
    const cells = [
      h("th", { scope: "row" }, defence, h("span", { class: "quiet" }, settings)),
      ...[fixed(similarity), subject.text === null ? "\u2013" : inWords(compareWords(subject.text, text)), cosine === null ? "\u2013" : fixed(cosine)].map((x, i) => h("td", { class: "number", "data-title": COLUMNS[i + 1] }, x)),
      h("td", { class: "said" }, text || "(an empty text)"),
    ];
    this.body.prepend(h("tr", {}, ...cells));
  }
}

customElements.define("trial-table", TrialTable);
