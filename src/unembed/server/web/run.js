/** One inversion on the page: what arrives is kept, so that every pass or round and every candidate can be looked at again. */

import { embed } from "./api.js";
import { find, fixed, percent, plural, showError } from "./dom.js";
import { invert, watchQueue } from "./inversion.js";
import { PASSES, ROUNDS } from "./pass-replay.js";
import { cosine } from "./vector.js";

const ALTERNATIVES = 5;

export class Run {
  constructor(live) {
    this.live = live;
    this.grid = find("token-grid");
    this.detail = find("token-detail");
    this.replay = find("pass-replay");
    this.curve = find("cosine-curve");
    this.comparison = find("text-comparison");
    this.list = find("candidate-list");
    this.abort = null;
    this.frames = []; // or the rounds of a guided inversion
    this.results = [];
    this.candidate = 0;
    this.position = null;
    this.grid.addEventListener("token", ({ detail }) => this.look(detail));
    this.replay.addEventListener("pass", ({ detail }) => this.showStep(detail));
    this.list.addEventListener("candidate", ({ detail }) => this.choose(detail));
  }

  get running() {
    return this.abort !== null;
  }

  /** Room for what is to come; nothing on the page moves from here to the end. */
  lay(length, { candidates, rounds, attacker, max_calls: limit }, subject) {
    this.length = length;
    this.guided = rounds > 0;
    this.subject = subject;
    this.frames = [];
    this.results = [];
    this.candidate = 0;
    this.position = null;
    this.truth = subject?.truth ? { tokens: subject.truth.tokens.slice(0, length), ids: subject.truth.ids.slice(0, length) } : null;
    this.whole = subject?.truth?.ids.length ?? 0;
    this.grid.lay(length);
    this.detail.lay(this.guided);
    this.replay.reset(this.guided ? ROUNDS : PASSES);
    this.curve.lay(this.guided, limit, attacker === "blind" ? rounds : 0);
    this.list.lay(candidates);
    this.comparison.clear(this.guided);
    if (subject) this.comparison.wait({ original: subject.text, source: subject.source });
    showError(find("#invert-error"), "");
    find("#invert-note").textContent = "";
  }

  stop() {
    this.abort?.abort();
  }

  /** Invert `vector`; returns what the table of trials needs, or null where nothing came of it: a search may be stopped. */
  async start(subject, vector, model, settings) {
    this.lay(model.length, settings, subject);
    this.replay.start(this.guided ? settings.rounds : settings.steps, this.guided ? ROUNDS : PASSES);
    const abort = new AbortController();
    this.abort = abort;
    this.button(true);
    this.live.say("Inverting.");
    const queued = new AbortController();
    abort.signal.addEventListener("abort", () => queued.abort());
    const notice = (text) => this.notice(text);
    watchQueue(queued.signal, notice);
    const alternatives = this.guided ? 0 : ALTERNATIVES;
    const request = { embeddings: Array.from(vector), model: model.id, ...settings, alternatives, normalize: model.normalize };
    try {
      for await (const event of invert(request, { signal: abort.signal, notice })) {
        queued.abort();
        if (event.type === "result") return await this.finish(event.result, vector, model, abort.signal);
        this.take(event);
      }
    } catch (error) {
      if (error.name === "AbortError") this.live.say("Stopped.");
      else showError(find("#invert-error"), this.guided && this.frames.length ? `${error.message} What was found until then stays.` : error.message);
      this.notice("");
    } finally {
      queued.abort();
      if (this.abort === abort) {
        this.abort = null;
        this.button(false);
        if (this.frames.length) {
          this.replay.finish(this.frames.length - 1);
          this.showStep(this.frames.length - 1); // nothing more is to come, which the curve takes into account
        }
      }
    }
    return this.found(subject, vector, model);
  }

  /** What a search had found when it was stopped or its time was up. */
  async found(subject, vector, model) {
    if (!this.guided || !this.frames.length || this.subject !== subject) return null;
    const { candidates, encoder_calls: calls } = this.frames.at(-1);
    const best = candidates.reduce((a, b) => ((b.cosine ?? -1) > (a.cosine ?? -1) ? b : a));
    this.candidate = candidates.indexOf(best);
    this.showStep(this.frames.length - 1);
    return { subject, scores: this.compare(best), text: best.text, calls, rounds: this.frames.at(-1).step, stopped: true, cosine: await this.trueCosine(best, vector, model) };
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
    const note = this.showFrame(this.frames.length - 1);
    this.replay.reach(frame.step, frame.total, note);
    if (frame.candidates.length > 1) this.list.progress(frame.candidates);
    const near = this.guided && frame.candidates[0].cosine !== null ? `cosine ${fixed(frame.candidates[0].cosine)}, ` : "";
    this.live.say(`${this.guided ? "Round" : "Pass"} ${frame.step} of ${frame.total}, ${near}${note}`, false);
  }

  async finish(result, vector, model, signal) {
    const ranked = result.candidates.length ? result.candidates : [result];
    this.results = inFrameOrder(ranked, this.frames.at(-1).candidates);
    this.candidate = this.results.indexOf(ranked[0]);
    if (this.results.length > 1) this.list.show(this.results, this.candidate, this.truth);
    const scores = this.choose(this.candidate);
    const seen = scores ? ` ${percent(scores.accuracy)} of the tokens are in place.` : "";
    const similar = result.cosine === null ? "" : ` Cosine ${fixed(result.cosine)}.`;
    const asked = this.guided ? ` ${plural(result.encoder_calls, "encoder call")}.` : "";
    this.live.say(`Done. Recovered: ${result.text || "an empty text"}.${seen}${similar}${asked}`);
    return { subject: this.subject, scores, text: result.text, calls: result.encoder_calls, rounds: result.rounds, cosine: await this.trueCosine(result, vector, model, signal) };
  }

  /** The server's cosine is to the vector it was given; where that was changed, measure against the true one. */
  async trueCosine(result, vector, model, signal) {
    if (vector === this.subject.vector) return result.cosine;
    if (!result.text) return null;
    return cosine((await embed(result.text, model.id, signal)).vector, this.subject.vector);
  }

  choose(i) {
    this.candidate = i;
    this.showStep(this.frames.length - 1);
    if (!this.results.length) return null;
    return this.comparison.show({ truth: this.truth, result: this.results[i], length: this.length, whole: this.whole });
  }

  showStep(index) {
    const frame = this.frames[index];
    this.replay.tell(frame.step, frame.total, this.showFrame(index));
  }

  /** Show what there is after a pass or round; returns in a few words how far that is. */
  showFrame(index) {
    const frame = this.frames[index];
    const candidate = frame.candidates[Math.min(this.candidate, frame.candidates.length - 1)];
    this.showTokens(candidate.tokens);
    if (this.guided) {
      this.curve.show(this.frames, index, this.candidate, this.running ? frame.total - this.frames.at(-1).step : 0);
      this.compare(candidate);
      return changes(content(candidate), frame.step);
    }
    if (this.running) this.comparison.progress(candidate.text);
    const masked = candidate.tokens.filter(({ s }) => s === "m").length;
    return masked === 0 ? "no mask left" : `${masked} masked`;
  }

  /** Show a round's candidate beside the original; returns its scores where that is known. */
  compare(candidate) {
    const tokens = content(candidate);
    const result = { text: candidate.text, cosine: candidate.cosine, tokens: tokens.map(({ t }) => t), ids: tokens.map(({ id }) => id) };
    return this.comparison.show({ truth: this.truth, result, length: this.length, whole: this.whole });
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

const content = ({ tokens }) => tokens.filter(({ end }) => !end);

/** What a round did to the text, in words. */
function changes(tokens, step) {
  const changed = tokens.filter(({ s }) => s === "c").length;
  return step === 0 ? plural(tokens.length, "token") : changed ? `${plural(changed, "token")} changed` : "nothing better found";
}

/** Results come best first, frames in an order of their own: match them by the text they ended with. */
function inFrameOrder(ranked, last) {
  const free = [...ranked];
  return last.map(({ text }) => free.splice(Math.max(0, free.findIndex((result) => result.text === text)), 1)[0]);
}
