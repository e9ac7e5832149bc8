/** The embedding as a picture: one bar a number, their histogram, and what describes them. */

import { count, fixed, h, svg } from "./dom.js";
import { BINS, describe } from "./vector.js";

const FACTS = [
  ["dimension", "Dimension", (x) => count(x)],
  ["min", "Min", (x) => fixed(x)],
  ["max", "Max", (x) => fixed(x)],
  ["norm", "Norm", (x) => fixed(x)],
  ["entropy", "Entropy", (x) => `${fixed(x, 2)} bits`],
];
const HEIGHT = 100;

/** One path for all bars: a thousand rectangles cost what one does. */
function bars(values, limit, width = 0.72) {
  return values
    .map((x, i) => `M${i} ${HEIGHT / 2}h${width}v${((-x / limit) * HEIGHT) / 2}h${-width}z`)
    .map((d) => d.replace(/\.(\d{2})\d+/g, ".$1"))
    .join("");
}

class VectorView extends HTMLElement {
  connectedCallback() {
    this.original = svg("path", { class: "bars-original" });
    this.shown = svg("path", { class: "bars" });
    this.strip = svg("svg", { class: "strip", preserveAspectRatio: "none", viewBox: `0 0 384 ${HEIGHT}`, role: "img", "aria-label": "No embedding yet" },
      svg("line", { class: "zero", x1: 0, x2: "100%", y1: HEIGHT / 2, y2: HEIGHT / 2 }), this.original, this.shown);
    this.columns = svg("path", { class: "bars" });
    this.histogram = svg("svg", { class: "histogram", preserveAspectRatio: "none", viewBox: `0 0 ${BINS} ${HEIGHT}`, role: "img", "aria-label": "No histogram yet" }, this.columns);
    this.axis = ["", "", ""].map((text) => h("span", {}, text));
    this.values = Object.fromEntries(FACTS.map(([key]) => [key, h("dd", {}, "\u2013")]));
    this.append(
      this.strip,
      h("details", {}, h("summary", {}, "Figures and histogram"), h("div", { class: "vector-facts" },
        h("dl", {}, ...FACTS.map(([key, title]) => h("div", {}, h("dt", {}, title), this.values[key]))),
        h("figure", { "aria-label": "Histogram of the values" }, this.histogram, h("div", { class: "axis", "aria-hidden": "true" }, ...this.axis)))),
    );
  }

  /** Show the vector as it is sent, and behind it the one it was made from where they differ. */
  show(vector, original = vector) {
    const values = Array.from(vector);
    const before = original === vector ? [] : Array.from(original);
    const facts = describe(values);
    const limit = Math.max(facts.limit, ...before.map(Math.abs));
    this.strip.setAttribute("viewBox", `0 0 ${values.length} ${HEIGHT}`);
    this.strip.setAttribute("aria-label", `${values.length} numbers from ${fixed(facts.min)} to ${fixed(facts.max)}`);
    this.shown.setAttribute("d", bars(values, limit));
    this.original.setAttribute("d", bars(before, limit));
    this.drawHistogram(facts);
    for (const [key, , format] of FACTS) this.values[key].textContent = format(facts[key]);
  }

  drawHistogram({ counts, limit, dimension }) {
    const most = Math.max(...counts);
    const middle = Math.floor(BINS / 2);
    const d = counts.map((n, i) => (n ? `M${i} ${HEIGHT}h0.84v${-Math.max(1.5, (n / most) * (HEIGHT - 4)).toFixed(1)}h-0.84z` : "")).join("");
    this.columns.setAttribute("d", d);
    const share = Math.round((counts[middle] / dimension) * 100);
    this.histogram.setAttribute("aria-label", `Histogram of ${BINS} bins from ${fixed(-limit)} to ${fixed(limit)}; ${share} % of the values lie in the middle bin`);
    [-limit, 0, limit].forEach((x, i) => { this.axis[i].textContent = x === 0 ? "0" : fixed(x, 2); });
  }
}

customElements.define("vector-view", VectorView);
