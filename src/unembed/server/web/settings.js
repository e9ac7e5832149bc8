/** The model and how to invert: controls, their limits, and the honest figures that the server has for the model. */

import { count, find, h, percent, plural } from "./dom.js";

const STRATEGIES = {
  confidence: "Each pass keeps the tokens it is surest of.",
  sequential: "From left to right, equally many tokens a pass.",
  euler: "Each pass keeps tokens at random, at an even rate (ancestral sampling).",
  remask: "Keeps tokens at random and takes some back, so that mistakes can be mended.",
  "two-stage": "Fills everything in half of the passes, then doubts its weakest tokens again.",
  threshold: "Keeps whatever is at least 90 % sure, so easy texts take fewer passes.",
};

const STEERED = "Steering draws it to words whose own numbers add up to these.";

export class Settings {
  constructor(onchange) {
    this.models = [];
    this.onchange = onchange;
    find("#settings").addEventListener("submit", (event) => event.preventDefault());
    find("#settings").addEventListener("input", () => this.changed());
  }

  get model() {
    return this.models[find("#model").selectedIndex];
  }

  get values() {
    const { steps, candidates } = this.model.limits;
    const within = (id, most, least = 1) => Math.min(most, Math.max(least, Math.trunc(Number(find(id).value)) || least));
    return {
      strategy: find("#strategy").value, steps: within("#steps", steps), candidates: within("#candidates", candidates), seed: within("#seed", 999999, 0),
      steering: this.steered ? Number(find("#steering").value) : 0, seconds: find("encoder-control").seconds,
    };
  }

  /** Whether the model has what steering takes. */
  get steered() {
    return this.model.defaults.steering > 0;
  }

  /** Fill the controls; `wish` is what a link asked for. Returns what cannot be had, in words. */
  fill(wish) {
    find("#model").replaceChildren(...this.models.map(({ id }) => h("option", { value: id }, id)));
    find("#model").selectedIndex = Math.max(0, this.models.findIndex(({ id }) => id === wish.model));
    this.adapt(wish);
    return wish.model && this.model.id !== wish.model ? `The link asks for the model ${wish.model}, which is not served here.` : "";
  }

  /** Fit the controls to the chosen model. */
  adapt(wish = {}) {
    const { limits, defaults, strategies, dimension, length, parameters, encoder } = this.model;
    find("#strategy").replaceChildren(...strategies.map((name) => h("option", { value: name }, name)));
    find("#strategy").value = strategies.includes(wish.strategy) ? wish.strategy : defaults.strategy;
    find("#steps").max = limits.steps;
    find("#steps").value = wish.steps ?? defaults.steps;
    find("#candidates").max = limits.candidates;
    find("#candidates").value = wish.candidates ?? defaults.candidates;
    if (wish.seed !== undefined) find("#seed").value = wish.seed;
    find("#steering-field").hidden = !this.steered;
    if (this.steered) find("#steering").value = wish.steering ?? defaults.steering;
    find("encoder-control").adapt(this.model, wish);
    find("#text").maxLength = limits.text_characters;
    find("#intro-dimension").textContent = count(dimension);
    find("#explain-length").textContent = count(length);
    const size = parameters ? `, ${(parameters / 1e6).toPrecision(2)} M parameters` : "";
    find("#model-facts").textContent = `${count(dimension)} numbers \u2192 up to ${plural(length, "token")}${size}`;
    find("#model").title = encoder ?? "";
    find("#accuracy").textContent = accuracy(this.model.results, length);
    this.show();
  }

  changed() {
    this.show();
    this.onchange();
  }

  show() {
    const { strategy, steps, candidates, steering } = this.values;
    find("encoder-control").show();
    find("#steps-value").textContent = steps;
    find("#candidates-value").textContent = candidates;
    find("#steering-value").textContent = steering || "none";
    find("#strategy-note").textContent = [STRATEGIES[strategy], steering && STEERED].filter(Boolean).join(" ");
  }
}

/** A few sentences from what the server knows of the inverter's accuracy, never from this page. */
function accuracy(results, length) {
  const found = [results?.evaluation, results?.test, results, results?.validation].find((tree) => Number.isFinite(tree?.token_accuracy));
  if (!found) return "This server has no measured accuracy for the model. Judge it by texts of your own: original and recovered are compared token by token.";
  const share = (x) => (x > 0 && x < 0.095 ? `${(100 * x).toFixed(1)} %` : percent(x));
  const texts = Number.isFinite(found.n) ? `On ${count(found.n)} texts` : "On texts";
  const size = Number.isInteger(found.tokens) ? ` of ${found.tokens} tokens` : ` of up to ${length} tokens`;
  const exact = Number.isFinite(found.exact_match) ? ` and ${share(found.exact_match)} of the texts word for word` : "";
  const cosine = Number.isFinite(found.cosine) ? ` The mean cosine was ${found.cosine.toFixed(2)}.` : "";
  return `${texts}${size} that it was not trained on, this inverter put ${share(found.token_accuracy)} of the tokens in their very place${exact}, `
    + `from the numbers alone, their length not given.${cosine} Meaning comes back before wording, and words before their order; names and numbers are easily wrong.`;
}
