/** A search's rounds: how the cosine climbs with the encoder calls, or a blind one's with the rounds, and the text that it has climbed to. */

import { readable } from "./compare.js";
import { count, fixed, h, plural, svg } from "./dom.js";

const HEIGHT = 100;
const CALLS = 18; // of a round, about: how far the axis reaches while rounds are to come

class CosineCurve extends HTMLElement {
  connectedCallback() {
    this.figure = h("p", { class: "curve-figure" });
    this.best = h("p", { class: "said" });
    this.line = svg("path", { class: "curve-line" });
    this.rest = svg("path", { class: "curve-rest" });
    this.dot = svg("path", { class: "curve-dot" });
    this.picture = svg("svg", { class: "curve", preserveAspectRatio: "none", viewBox: `0 0 100 ${HEIGHT}`, role: "img", "aria-label": "No round yet" },
      this.rest, this.line, this.dot);
    [this.low, this.most, this.unit] = [h("span"), h("span"), h("span")];
    this.append(
      h("div", { class: "curve-head" }, h("h3", {}, "Best text so far"), this.figure),
      this.best,
      h("div", { class: "curve-frame" },
        h("div", { class: "axis-y", "aria-hidden": "true" }, h("span", {}, "1"), h("span", {}, "cosine"), this.low),
        this.picture,
        h("div", { class: "axis-x", "aria-hidden": "true" }, h("span", {}, "0"), this.unit, this.most)));
    this.lay(false);
  }

  /** Make room, or none where nothing is searched. `limit`: most encoder calls, or null; `blind`: rounds of a blind search, or 0. */
  lay(guided, limit = null, blind = 0) {
    this.hidden = !guided;
    this.limit = limit ?? Infinity;
    this.blind = blind;
    this.unit.textContent = blind ? "rounds" : "encoder calls";
    this.best.textContent = "\u2026";
    this.figure.textContent = "No round yet";
    this.picture.setAttribute("aria-label", "No round yet");
    for (const path of [this.line, this.rest, this.dot]) path.setAttribute("d", "");
    this.low.textContent = this.most.textContent = "\u00a0";
  }

  /** `rounds` as far as they have come, the one at `shown` in full, of it the candidate at `place`. `left`: rounds to come. */
  show(rounds, shown, place, left) {
    const { encoder_calls: calls, candidates } = rounds[shown];
    const candidate = candidates[Math.min(place, candidates.length - 1)];
    this.best.replaceChildren(...said(candidate.tokens));
    const spent = this.blind ? `${plural(shown, "round")}, no encoder call` : plural(calls, "encoder call");
    this.figure.replaceChildren(h("strong", {}, cosineOf(candidate)), ` after ${spent}`);
    const along = (round, number) => (this.blind ? number : round.encoder_calls);
    this.draw(rounds.map((round, number) => ({ spent: along(round, number), cosine: round.candidates[0].cosine ?? 0 })), shown, left);
  }

  draw(points, shown, left) {
    const { spent } = points.at(-1);
    const most = this.blind || Math.max(spent, Math.min(this.limit, spent + left * CALLS));
    const low = Math.max(-1, Math.floor(Math.min(...points.map(({ cosine }) => cosine)) * 10 - 0.5) / 10);
    const x = (point) => ((100 * point.spent) / most).toFixed(2);
    const y = (point) => (HEIGHT * (1 - (point.cosine - low) / (1 - low))).toFixed(2);
    const steps = (some) => some.map((point, i) => (i ? `H${x(point)}V${y(point)}` : `M${x(point)} ${y(point)}`)).join("");
    this.line.setAttribute("d", steps(points.slice(0, shown + 1)));
    this.rest.setAttribute("d", steps(points.slice(shown)));
    this.dot.setAttribute("d", `M${x(points[shown])} ${y(points[shown])}h0`);
    this.low.textContent = fixed(low, 1);
    this.most.textContent = count(most);
    const [first, last] = [points[0], points.at(-1)];
    this.picture.setAttribute("aria-label", `Cosine by ${this.unit.textContent}: ${fixed(first.cosine)} after ${count(first.spent)}, ${fixed(last.cosine)} after ${count(last.spent)}`);
  }
}

const cosineOf = ({ cosine }) => (cosine === null ? "no cosine" : `cosine ${fixed(cosine)}`);

/** A text's pieces, those marked that the round has changed. */
function said(tokens) {
  const content = tokens.filter(({ end }) => !end);
  if (!content.length) return ["(an empty text)"];
  return content.flatMap(({ t, s }, i) => {
    const { text, space } = readable(t, content[i - 1]?.t);
    return [space ? " " : "", s === "c" ? h("ins", {}, text) : text];
  });
}

customElements.define("cosine-curve", CosineCurve);
