/** What the inverter thought of one position: the token, how sure it is, what else it considered. */

import { h, percent } from "./dom.js";

const ROWS = 5;

class TokenDetail extends HTMLElement {
  connectedCallback() {
    this.head = h("p", { class: "detail-head" });
    this.list = h("ol", {});
    this.append(this.head, this.list);
    this.setAttribute("aria-live", "polite");
    this.searched = false; // whether its token is of a search: judged with all others in sight, without alternatives
    this.show(null);
  }

  /** `speak` false while tokens change by themselves. */
  show(token, position, speak = true) {
    this.setAttribute("aria-live", speak ? "polite" : "off");
    if (!token || token.idle) {
      this.head.textContent = "Point at a token, or move to it with the arrow keys, to see what else it could have been.";
      this.list.replaceChildren();
      return;
    }
    const said = token.s === "m" ? "masked" : token.end ? "end of the text" : token.t;
    const sure = token.s === "m" || token.p === null ? "" : `, ${percent(token.p)} sure ${this.searched ? "with all others in sight" : "when it was put there"}`;
    this.head.replaceChildren(h("span", { class: "quiet" }, `Position ${position + 1}: `), h("b", {}, said), h("span", { class: "quiet" }, sure));
    const others = (token.alternatives ?? []).slice(0, ROWS);
    this.list.replaceChildren(...others.map((other) => this.bar(other, other.id === token.id && token.s !== "m")));
    if (!others.length) this.head.append(h("span", { class: "quiet" }, token.s === "m" ? ". No pass has looked at it yet." : ""));
  }

  bar(other, chosen) {
    const fill = h("span", { class: "fill", "aria-hidden": "true" });
    fill.style.setProperty("--p", other.p.toFixed(3));
    return h("li", { class: chosen ? "chosen" : "" },
      h("span", { class: "other" }, other.t || "end", chosen ? h("span", { class: "hidden" }, " (chosen)") : null), fill, h("span", { class: "share" }, percent(other.p)));
  }
}

customElements.define("token-detail", TokenDetail);
