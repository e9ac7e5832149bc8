/** Whether the encoder may be asked, and for how long. Its events are its inputs' own. */

import { find, h } from "./dom.js";

const SECONDS = 30; // unless a link asks for others
const SAYS = {
  with: "What the numbers give away to anyone who has the public encoder too.",
  without: "What the numbers give away alone: no encoder is asked.",
};

class EncoderControl extends HTMLElement {
  connectedCallback() {
    const choice = (value, title, checked) => h("label", { class: "choice" },
      h("input", { type: "radio", name: "encoder", value, checked, "aria-describedby": "encoder-note" }), h("span", {}, title));
    this.append(h("fieldset", {}, h("legend", { class: "hidden" }, "Recover the text"),
      h("div", { class: "choices" }, choice("with", "With the encoder", true), choice("without", "Without it", false))));
    this.offered = true;
    this.show();
  }

  /** What is asked for, whether it is offered or not. */
  get wish() {
    return { encoder: this.querySelector("[name=encoder]:checked").value, seconds: Number(find("#seconds").value) };
  }

  /** "with" or "without". */
  get chosen() {
    return this.offered ? this.wish.encoder : "without";
  }

  /** Most seconds of a search; 0 where there is none. */
  get seconds() {
    return this.chosen === "with" ? this.wish.seconds : 0;
  }

  /** What is chosen, in a few words. */
  get says() {
    return this.seconds ? `with the encoder for ${this.seconds} s` : "without the encoder";
  }

  /** Offer what the model and the server allow; `wish` is {encoder, seconds}, as far as asked for. */
  adapt({ guided, limits }, wish) {
    this.offered = guided && limits.seconds > 0;
    this.hidden = find("#seconds-field").hidden = !this.offered;
    find("#seconds").max = limits.seconds;
    find("#seconds").min = Math.min(1, limits.seconds);
    find("#seconds").value = wish.seconds || SECONDS;
    this.querySelector(`[value=${wish.encoder === "without" ? "without" : "with"}]`).checked = true;
  }

  show() {
    find("#encoder-note").textContent = SAYS[this.chosen];
    find("#seconds-value").textContent = `${this.wish.seconds} s`;
  }
}

/** What a link has to say: nothing of what is usual. */
export const unusual = ({ encoder, seconds }) => ({
  encoder: encoder === "without" ? encoder : null,
  seconds: seconds && seconds !== SECONDS ? seconds : null,
});

customElements.define("encoder-control", EncoderControl);
