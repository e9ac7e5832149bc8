/** Which pass or round is shown: moves by itself while a stream runs, by hand or playing afterwards. Fires "pass". */

import { h } from "./dom.js";

const PAUSE = 420; // milliseconds a pass is shown while playing

export const PASSES = { none: "No pass yet", first: "Before the first pass", one: "Pass", play: "Play the passes" };
export const ROUNDS = { none: "No round yet", first: "Blind start", one: "Round", play: "Play the rounds" };

class PassReplay extends HTMLElement {
  connectedCallback() {
    this.timer = null;
    this.words = PASSES;
    this.icon = h("span", { class: "icon", "aria-hidden": "true" });
    this.button = h("button", { class: "round", type: "button", disabled: true, "aria-label": PASSES.play, onclick: () => this.toggle() }, this.icon);
    this.slider = h("input", { id: "pass", type: "range", min: 0, max: 1, value: 0, disabled: true, oninput: () => this.byHand() });
    this.label = h("label", { for: "pass" }, PASSES.none);
    this.share = h("span", { class: "quiet" });
    this.progress = h("progress", { max: 1, value: 0, "aria-label": "Inversion" });
    this.append(this.progress, h("div", { class: "replay" }, this.button, h("div", { class: "replay-track" }, h("p", {}, this.label, this.share), this.slider)));
  }

  /** `words` is PASSES or ROUNDS. */
  reset(words) {
    this.words = words;
    this.stop();
    this.slider.value = 0;
    this.slider.disabled = this.button.disabled = true;
    this.label.textContent = words.none;
    this.share.textContent = "";
    this.progress.value = 0;
  }

  start(total, words) {
    this.reset(words);
    this.slider.max = total;
    this.tell(0, total, "");
  }

  /** `note` says how far that is. */
  tell(step, total, note) {
    this.slider.value = step;
    const text = step === 0 ? this.words.first : `${this.words.one} ${step} of ${total}`;
    this.label.textContent = text;
    this.share.textContent = note;
    this.slider.setAttribute("aria-valuetext", `${text}, ${note}`);
  }

  /** A pass or round arrived. */
  reach(step, total, note) {
    this.tell(step, total, note);
    this.progress.value = total ? step / total : 1;
  }

  /** The stream ended behind step `last`; all can be replayed. */
  finish(last) {
    this.slider.max = last;
    this.slider.disabled = this.button.disabled = false;
    this.progress.value = 1;
  }

  byHand() {
    this.stop();
    this.go(Number(this.slider.value));
  }

  go(step) {
    this.dispatchEvent(new CustomEvent("pass", { detail: step }));
  }

  toggle() {
    if (this.timer) return this.stop();
    this.classList.add("playing");
    this.button.setAttribute("aria-label", "Pause");
    const last = Number(this.slider.max);
    let step = Number(this.slider.value) >= last ? 0 : Number(this.slider.value);
    const next = () => {
      this.go(step);
      if (step >= last) return this.stop();
      step += 1;
      this.timer = setTimeout(next, PAUSE);
    };
    next();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.classList.remove("playing");
    this.button.setAttribute("aria-label", this.words.play);
  }
}

customElements.define("pass-replay", PassReplay);
