/** Which pass or round is shown: moves by itself while a stream runs, by hand or playing afterwards. Fires "pass". */

import { h } from "./dom.js";

const PAUSE = 420; // milliseconds a pass is shown while playing
const PLAY = "Play it again";

class PassReplay extends HTMLElement {
  connectedCallback() {
    this.timer = null;
    this.icon = h("span", { class: "icon", "aria-hidden": "true" });
    this.button = h("button", { class: "round", type: "button", disabled: true, "aria-label": PLAY, onclick: () => this.toggle() }, this.icon);
    this.slider = h("input", { id: "pass", type: "range", min: 0, max: 1, value: 0, disabled: true, oninput: () => this.byHand() });
    this.label = h("label", { for: "pass" });
    this.share = h("span", { class: "quiet" });
    this.progress = h("progress", { max: 1, value: 0, "aria-label": "Inversion" });
    this.append(this.progress, h("div", { class: "replay" }, this.button, h("div", { class: "replay-track" }, h("p", {}, this.label, this.share), this.slider)));
    this.reset();
  }

  reset() {
    this.stop();
    this.slider.value = this.progress.value = 0;
    this.slider.disabled = this.button.disabled = true;
    this.label.textContent = "No pass yet";
    this.share.textContent = "";
  }

  /** Frame `index` is shown; `note` says how far that is. */
  tell(index, label, note) {
    this.slider.value = index;
    this.label.textContent = label;
    this.share.textContent = note;
    this.slider.setAttribute("aria-valuetext", `${label}, ${note}`);
  }

  /** A pass or round arrived; `most` is the last one that is foreseen. */
  reach(index, label, note, progress, most) {
    this.slider.max = most;
    this.tell(index, label, note);
    this.progress.value = progress;
  }

  /** The stream ended behind frame `last`; all can be replayed. */
  finish(last) {
    this.slider.max = last;
    this.slider.disabled = this.button.disabled = false;
    this.progress.value = 1;
  }

  byHand() {
    this.stop();
    this.go(Number(this.slider.value));
  }

  go(index) {
    this.dispatchEvent(new CustomEvent("pass", { detail: index }));
  }

  toggle() {
    if (this.timer) return this.stop();
    this.classList.add("playing");
    this.button.setAttribute("aria-label", "Pause");
    const last = Number(this.slider.max);
    let index = Number(this.slider.value) >= last ? 0 : Number(this.slider.value);
    const next = () => {
      this.go(index);
      if (index >= last) return this.stop();
      index += 1;
      this.timer = setTimeout(next, PAUSE);
    };
    next();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.classList.remove("playing");
    this.button.setAttribute("aria-label", PLAY);
  }
}

customElements.define("pass-replay", PassReplay);
