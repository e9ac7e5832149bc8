/** One inversion on the page: what arrives is kept, so that every pass and every candidate can be looked at again. */

import { embed } from "./api.js";
import { find, fixed, percent, showError } from "./dom.js";
import { invert, watchQueue } from "./inversion.js";
import { cosine } from "./vector.js";

const ALTERNATIVES = 5;

export class Run {
  constructor(live) {
    this.live = live;
    this.grid = find("token-grid");
    this.detail = find("token-detail");
    this.replay = find("pass-replay");
    this.comparison = find("text-comparison");
    this.list = find("candidate-list");
    this.abort = null;
    this.frames = [];
    this.results = [];
    this.candidate = 0;
    this.position = null;
    this.grid.addEventListener("token", ({ detail }) => this.look(detail));
    this.replay.addEventListener("pass", ({ detail }) => this.showPass(detail));
    this.list.addEventListener("candidate", ({ detail }) => this.choose(detail));
  }

  get running() {
    return this.abort !== null;
  }

  /** Room for what is to come; nothing on the page moves from here to the end. */
  lay(length, candidates, subject) {
    this.length = length;
    this.subject = subject;
    this.frames = [];
    this.results = [];
    this.candidate = 0;
    this.position = null;
    this.truth = subject?.truth ? { tokens: subject.truth.tokens.slice(0, length), ids: subject.truth.ids.slice(0, length) } : null;
    this.whole = subject?.truth?.ids.length ?? 0;
    this.grid.lay(length);
    this.detail.show(null);
    this.replay.reset();
    this.list.lay(candidates);
    this.comparison.clear();
    if (subject) this.comparison.wait({ original: subject.text, source: subject.source });
    showError(find("#invert-error"), "");
    find("#invert-note").textContent = "";
  }

  stop() {
    this.abort?.abort();
  }

  /** Invert `vector`; returns what the table of trials needs, or null where nothing came of it. */
  async start(subject, vector, model, settings) {
    this.lay(model.length, settings.candidates, subject);
    this.replay.start(settings.steps);
    const abort = new AbortController();
    this.abort = abort;
    this.button(true);
    this.live.say("Inverting.");
    const queued = new AbortController();
    abort.signal.addEventListener("abort", () => queued.abort());
    const notice = (text) => this.notice(text);
    watchQueue(queued.signal, notice);
    const request = { embeddings: Array.from(vector), model: model.id, ...settings, alternatives: ALTERNATIVES, normalize: model.normalize };
    try {
      for await (const event of invert(request, { signal: abort.signal, notice })) {
        queued.abort();
        if (event.type === "frame") this.take(event);
        else return await this.finish(event.result, vector, model, abort.signal);
      }
    } catch (error) {
      if (error.name === "AbortError") this.live.say("Stopped.");
      else showError(find("#invert-error"), error.message);
      this.notice("");
    } finally {
      queued.abort();
      if (this.abort === abort) {
        this.abort = null;
        this.button(false);
        if (this.frames.length) this.replay.finish(this.frames.length - 1);
      }
    }
    return null;
  }

  button(running) {
    find("#invert").textContent = running ? "Stop" : "Invert";
  }

  notice(text) {
    const note = find("#invert-note");
    if (note.textContent === text) return;
    note.textContent = text;
    if (text) this.live.say(text);
  }

  take(frame) {
    this.frames.push(frame);
    const tokens = frame.candidates[this.candidate].tokens;
    const masked = tokens.filter(({ s }) => s === "m").length;
    this.showTokens(tokens);
    this.replay.reach(frame.step, frame.total, masked);
    this.comparison.progress(frame.candidates[this.candidate].text);
    if (frame.candidates.length > 1) this.list.progress(frame.candidates);
    this.live.say(`Pass ${frame.step} of ${frame.total}, ${masked} masked`, false);
  }

  async finish(result, vector, model, signal) {
    const ranked = result.candidates.length ? result.candidates : [result];
    this.results = inFrameOrder(ranked, this.frames.at(-1).candidates);
    this.candidate = this.results.indexOf(ranked[0]);
    if (this.results.length > 1) this.list.show(this.results, this.candidate, this.truth);
    const scores = this.choose(this.candidate);
    const seen = scores ? ` ${percent(scores.accuracy)} of the tokens are in place.` : "";
    const similar = result.cosine === null ? "" : ` Cosine ${fixed(result.cosine)}.`;
    this.live.say(`Done. Recovered: ${result.text || "an empty text"}.${seen}${similar}`);
    return { subject: this.subject, scores, text: result.text, cosine: await this.trueCosine(result, vector, model, signal) };
  }

  /** The server's cosine is to the vector it was given; where that was changed, measure against the true one. */
  async trueCosine(result, vector, model, signal) {
    if (vector === this.subject.vector) return result.cosine;
    if (!result.text) return null;
    return cosine((await embed(result.text, model.id, signal)).vector, this.subject.vector);
  }

  choose(i) {
    this.candidate = i;
    this.showPass(this.frames.length - 1);
    if (!this.results.length) return null;
    return this.comparison.show({ truth: this.truth, result: this.results[i], length: this.length, whole: this.whole });
  }

  showPass(step) {
    const frame = this.frames[step];
    const tokens = frame.candidates[this.candidate].tokens;
    this.showTokens(tokens);
    this.replay.tell(frame.step, frame.total, tokens.filter(({ s }) => s === "m").length);
  }

  showTokens(tokens) {
    this.grid.show(tokens);
    if (this.position !== null) this.detail.show(tokens[this.position], this.position, false);
  }

  look(position) {
    this.position = position;
    this.detail.show(this.grid.tokens[position], position);
  }
}

/** Results come best first, frames in an order of their own: match them by the text they ended with. */
function inFrameOrder(ranked, last) {
  const free = [...ranked];
  return last.map(({ text }) => free.splice(Math.max(0, free.findIndex((result) => result.text === text)), 1)[0]);
}
