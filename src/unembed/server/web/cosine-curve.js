/** How the best text's cosine climbs with the seconds of a search. */

import { count, fixed, h, plural, svg } from "./dom.js";

const HEIGHT = 100;
const REACHES = [2, 5, 10, 20, 30, 60, 120, 300]; // seconds of the axis while rounds are to come

class CosineCurve extends HTMLElement {
  connectedCallback() {
    this.figure = h("p", { class: "curve-figure" });
    this.line = svg("path", { class: "curve-line" });
    this.rest = svg("path", { class: "curve-rest" });
    this.dot = svg("path", { class: "curve-dot" });
    this.picture = svg("svg", { class: "curve", preserveAspectRatio: "none", viewBox: `0 0 100 ${HEIGHT}`, role: "img" }, this.rest, this.line, this.dot);
    [this.low, this.most] = [h("span"), h("span")];
    this.append(
      h("div", { class: "curve-head" }, h("h3", {}, "How close the numbers of the best text come"), this.figure),
      h("div", { class: "curve-frame" },
        h("div", { class: "axis-y", "aria-hidden": "true" }, h("span", {}, "1"), h("span", {}, "cosine"), this.low),
        this.picture,
        h("div", { class: "axis-x", "aria-hidden": "true" }, h("span", {}, "0"), h("span", {}, "seconds"), this.most)));
    this.lay(false);
  }

  /** Make room, or none where nothing is searched. */
  lay(guided) {
    this.hidden = !guided;
    this.figure.textContent = "The search has not begun";
    this.picture.setAttribute("aria-label", "No round yet");
    for (const path of [this.line, this.rest, this.dot]) path.setAttribute("d", "");
    this.low.textContent = this.most.textContent = "\u00a0";
  }

  /** `rounds` as far as they have come, the one at `shown` as the point. `limit`: seconds of the search while it runs, else 0. */
  show(rounds, shown, limit) {
    const { cosine, seconds, encoder_calls: calls } = rounds[shown];
    this.figure.replaceChildren(h("strong", {}, `cosine ${fixed(cosine)}`), ` after ${fixed(seconds, 1)} s, ${plural(calls, "query", "queries")}`);
    const spent = rounds.at(-1).seconds;
    const most = (limit && Math.min(limit, REACHES.find((reach) => reach > spent) ?? limit)) || spent || 1;
    const low = Math.max(-1, Math.floor(Math.min(...rounds.map((round) => round.cosine)) * 10 - 0.5) / 10);
    const x = (round) => Math.min(100, (100 * round.seconds) / Math.max(most, spent)).toFixed(2);
    const y = (round) => (HEIGHT * (1 - (round.cosine - low) / (1 - low))).toFixed(2);
    const steps = (some) => some.map((round, i) => (i ? `H${x(round)}V${y(round)}` : `M${x(round)} ${y(round)}`)).join("");
    this.line.setAttribute("d", steps(rounds.slice(0, shown + 1)));
    this.rest.setAttribute("d", steps(rounds.slice(shown)));
    this.dot.setAttribute("d", `M${x(rounds[shown])} ${y(rounds[shown])}h0`);
    this.low.textContent = fixed(low, 1);
    this.most.textContent = limit ? count(most) : fixed(most, 1);
    const at = (round) => `${fixed(round.cosine)} after ${fixed(round.seconds, 1)} s`;
    this.picture.setAttribute("aria-label", `Cosine by seconds: ${at(rounds[0])}, ${at(rounds.at(-1))}`);
  }
}

customElements.define("cosine-curve", CosineCurve);
