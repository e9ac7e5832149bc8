/** Which pass is shown: moves by itself while a stream runs, by hand or playing afterwards. Fires "pass". */

import { h } from "./dom.js";

const PAUSE = 420; // milliseconds a pass is shown while playing

class PassReplay extends HTMLElement {
  connectedCallback() {
    this.timer = null;
    this.icon = h("span", { class: "icon", "aria-hidden": "true" });
    this.button = h("button", { class: "round", type: "button", disabled: true, "aria-label": "Play the passes", onclick: () => this.toggle() }, this.icon);
    this.slider = h("input", { id: "pass", type: "range", min: 0, max: 1, value: 0, disabled: true, oninput: () => this.byHand() });
    this.label = h("label", { for: "pass" }, "No pass yet");
    this.share = h("span", { class: "quiet" });
    this.progress = h("progress", { max: 1, value: 0, "aria-label": "Inversion" });
    this.append(this.progress, h("div", { class: "replay" }, this.button, h("div", { class: "replay-track" }, h("p", {}, this.label, this.share), this.slider)));
  }

  reset() {
    this.stop();
    this.slider.value = 0;
    this.slider.disabled = this.button.disabled = true;
    this.label.textContent = "No pass yet";
    this.share.textContent = "";
    this.progress.value = 0;
  }

  start(total) {
    this.reset();
    this.slider.max = total;
    this.tell(0, total, null);
  }

  tell(step, total, masked) {
    this.slider.value = step;
    const text = step === 0 ? "Before the first pass" : `Pass ${step} of ${total}`;
    this.label.textContent = text;
    this.share.textContent = masked === null ? "" : masked === 0 ? "no mask left" : `${masked} masked`;
    this.slider.setAttribute("aria-valuetext", `${text}, ${this.share.textContent}`);
  }

  /** A pass arrived. */
  reach(step, total, masked) {
    this.tell(step, total, masked);
    this.progress.value = total ? step / total : 1;
  }

  /** The stream ended with `passes` passes; they can be replayed. */
  finish(passes) {
    this.slider.max = passes;
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
    this.button.setAttribute("aria-label", "Play the passes");
  }
}

customElements.define("pass-replay", PassReplay);
