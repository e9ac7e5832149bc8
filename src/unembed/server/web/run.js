/** One press on the page: blind passes, then the search. What arrives is kept, so that all of it can be looked at again. */

import { embed } from "./api.js";
import { find, fixed, plural, showError } from "./dom.js";
import { invert, watchQueue } from "./inversion.js";
import { cosine } from "./vector.js";

const ALTERNATIVES = 5;

export class Run {
  constructor(live) {
    this.live = live;
    this.grid = find("token-grid");
    this.detail = find("token-detail");
    this.replay = find("pass-replay");
    this.curve = find("cosine-curve");
    this.recovered = find("recovered-text");
    this.comparison = find("text-comparison");
    this.list = find("candidate-list");
    this.abort = null;
    this.frames = []; // passes, then rounds
    this.grid.addEventListener("token", ({ detail }) => this.look(detail));
    this.replay.addEventListener("pass", ({ detail }) => this.showStep(detail));
    this.list.addEventListener("candidate", ({ detail }) => this.choose(detail));
  }

  /** Room for what is to come; nothing on the page moves from here to the end. */
  lay(length, { candidates, seconds }, subject) {
    this.length = length;
    this.seconds = seconds;
    this.subject = subject;
    this.frames = [];
    this.results = []; // of the stage that is on, in the order in which its frames name candidates
    this.candidate = 0;
    this.position = null;
    this.truth = subject?.truth ? { tokens: subject.truth.tokens.slice(0, length), ids: subject.truth.ids.slice(0, length) } : null;
    this.whole = subject?.truth?.ids.length ?? 0;
    this.grid.lay(length);
    this.detail.show(null);
    this.replay.reset();
    this.curve.lay(seconds > 0);
    this.list.lay(candidates);
    this.recovered.clear();
    this.comparison.clear(seconds > 0, subject);
    showError(find("#error"), "");
    find("#invert-note").textContent = "";
  }

  get rounds() {
    return this.frames.filter(({ type }) => type === "round");
  }

  /** Invert `vector`, until it is done or `abort` is raised; returns what the table of trials needs, one entry for each that was tried. */
  async start(subject, vector, model, { seconds, ...settings }, abort) {
    this.lay(model.length, { ...settings, seconds }, subject);
    this.abort = abort;
    this.changed = vector !== subject.vector;
    this.live.say("Inverting.");
    const request = { embeddings: Array.from(vector), model: model.id, ...settings, normalize: model.normalize };
    const trials = [];
    try {
      const blind = await this.follow({ ...request, alternatives: ALTERNATIVES });
      trials.push(await this.trial(blind, vector, model, "without the encoder"));
      if (seconds) {
        this.results = [];
        this.candidate = 0;
        this.list.lay(settings.candidates);
        const found = await this.follow({ ...request, seconds });
        trials.push(await this.trial(found, vector, model, `with the encoder, ${spent(found)}`));
      }
    } catch (error) {
      const stopped = error.name === "AbortError";
      if (stopped) this.live.say("Stopped.");
      else showError(find("#error"), this.rounds.length ? `${error.message} What was found until then stays.` : error.message);
      this.notice("");
      const last = this.rounds.at(-1);
      if (last && this.subject === subject) {
        const best = { ...last, ...last.candidates[0] };
        trials.push(await this.trial(best, vector, model, `with the encoder, ${spent(last)}, stopped`));
      }
    } finally {
      if (this.abort === abort) {
        this.abort = null;
        if (this.frames.length) {
          this.replay.finish(this.frames.length - 1);
          this.showStep(this.frames.length - 1); // nothing more is to come, which the curve takes into account
        }
      }
    }
    return trials;
  }

  /** One stream to its end; returns its result. */
  async follow(request) {
    const { signal } = this.abort;
    const queued = new AbortController();
    signal.addEventListener("abort", () => queued.abort());
    const notice = (text) => this.notice(text);
    watchQueue(queued.signal, notice);
    try {
      for await (const event of invert(request, { signal, notice })) {
        queued.abort();
        if (event.type === "result") return this.finish(event.result);
        this.take(event);
      }
    } finally {
      queued.abort();
    }
    return null;
  }

  async trial(result, vector, model, settings) {
    return { text: result.text, settings, cosine: await this.trueCosine(result, vector, model) };
  }

  notice(text) {
    const note = find("#invert-note");
    if (note.textContent === text) return;
    note.textContent = text;
    if (text) this.live.say(text);
  }

  take(frame) {
    this.frames.push(frame);
    const index = this.frames.length - 1;
    const note = this.showFrame(index);
    this.replay.reach(index, label(frame), note, frame.progress, Math.max(index, frame.total ?? 0));
    if (frame.candidates.length > 1) this.list.progress(frame.candidates);
    const near = frame.type === "round" ? `cosine ${fixed(frame.cosine)}, ` : "";
    this.live.say(`${label(frame)}, ${near}${note}`, false);
  }

  finish(result) {
    const ranked = result.candidates.length ? result.candidates : [result];
    this.results = inFrameOrder(ranked, this.frames.at(-1).candidates);
    this.candidate = this.results.indexOf(ranked[0]);
    if (this.results.length > 1) this.list.show(this.results, this.candidate, this.truth);
    const said = this.choose(this.candidate);
    this.live.say(`Done. Recovered: ${result.text || "an empty text"}. ${said}`);
    return result;
  }

  /** The server's cosine is to the vector it was given; where that was changed, measure against the true one. */
  async trueCosine(result, vector, model) {
    if (vector === this.subject.vector) return result.cosine;
    if (!result.text) return null;
    const truth = this.subject.vector;
    return embed(result.text, model.id).then((found) => cosine(found.vector, truth), () => null);
  }

  /** Show the candidate at `i`; returns in words what came back. */
  choose(i) {
    this.candidate = i;
    this.showStep(this.frames.length - 1);
    return this.results.length ? this.compare(this.results[i], this.frames.at(-1)) : "";
  }

  showStep(index) {
    this.replay.tell(index, label(this.frames[index]), this.showFrame(index));
  }

  /** Show what there is after a pass or round; returns in a few words how far that is. */
  showFrame(index) {
    const frame = this.frames[index];
    const candidate = frame.candidates[Math.min(this.candidate, frame.candidates.length - 1)];
    this.detail.searched = frame.type === "round";
    this.grid.show(candidate.tokens);
    if (this.position !== null) this.detail.show(candidate.tokens[this.position], this.position, false);
    const rounds = this.rounds;
    if (rounds.length) this.curve.show(rounds, Math.max(0, rounds.indexOf(frame)), this.abort ? this.seconds : 0);
    if (frame.type === "round") {
      const tokens = content(candidate);
      const result = { text: candidate.text, cosine: candidate.cosine, tokens: tokens.map(({ t }) => t), ids: tokens.map(({ id }) => id) };
      this.compare(result, frame);
      return changes(tokens, frame.step);
    }
    if (this.results.length && index === this.frames.length - 1) this.compare(this.results[this.candidate], frame);
    else this.recovered.progress(candidate.text);
    const masked = candidate.tokens.filter(({ s }) => s === "m").length;
    return masked === 0 ? "no mask left" : `${masked} masked`;
  }

  /** Show a text and its figures; returns in words what came back. */
  compare(result, frame) {
    const shown = { truth: this.truth, result, length: this.length, whole: this.whole, changed: this.changed };
    const kind = frame.type === "round" ? "guided" : "blind";
    this.comparison.show(kind, shown);
    if (kind === "guided") Object.assign(shown, { spent: `${fixed(frame.seconds, 1)} s (${queries(frame)})`, running: this.abort && !this.results.length });
    return this.recovered.show(kind, this.subject.text, shown);
  }

  look(position) {
    this.position = position;
    this.detail.show(this.grid.tokens[position], position);
  }
}

const content = ({ tokens }) => tokens.filter(({ end }) => !end);
const queries = ({ encoder_calls: calls }) => plural(calls, "query", "queries");
const spent = (found) => `${fixed(found.seconds, 1)} s, ${queries(found)}`;

function label({ type, step, total, seconds }) {
  if (type === "round") return step ? `Round ${step}, ${fixed(seconds, 1)} s` : "The search begins";
  return step ? `Pass ${step} of ${total}` : "Before the first pass";
}

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
