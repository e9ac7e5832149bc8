/** The page: what happens when. Each part of it lives in a module of its own. */

import "./candidate-list.js";
import "./cosine-curve.js";
import "./defence-control.js";
import "./embedding-input.js";
import "./encoder-control.js";
import "./pass-replay.js";
import "./recovered-text.js";
import "./text-comparison.js";
import "./token-detail.js";
import "./token-grid.js";
import "./trial-table.js";
import "./vector-view.js";
import { embed, listModels, randomText } from "./api.js";
import { DEFENCES, inWords, protect } from "./defence.js";
import { Announcer, count, find, fixed, h, plural, showError } from "./dom.js";
import { pause } from "./inversion.js";
import { Run } from "./run.js";
import { readLink, writeLink } from "./link.js";
import { remark } from "./remark.js";
import { Settings } from "./settings.js";
import { norm, unit } from "./vector.js";

const REST = 0.15; // seconds without a change of the defence before the server is asked

const live = new Announcer(find("#live"));
const settings = new Settings(() => {
  if (!run.frames.length) run.lay(settings.model.length, settings.values, subject); // room for what will come
  changed();
});
const view = find("vector-view");
const defences = find("defence-control");
const run = new Run(live);

/** What is being inverted: {text, truth, vector, source}; text and truth are null where they are not known. */
let subject = null;
let busy = null; // AbortController of what was begun by a press
let preview = null; // that of the vector that is shown
let made = null; // what the results that are shown were asked by

/** All that a result depends on. A new embedding clears the results, so that it need not be told apart from another. */
const asked = (text = find("#text").value.trim()) =>
  JSON.stringify([subject?.text === null || text, settings.model.id, settings.values, defences.defence]);

/** The text or an option is another one: say so beside results that were made before. */
function changed() {
  const stale = String(run.frames.length > 0 && made !== asked());
  if (find(".bench").dataset.stale !== stale) { // screen readers hear of it once
    find(".bench").dataset.stale = stale;
    find("#stale").replaceChildren(...(stale === "true" ? ["Out of date", h("span", { class: "hidden" }, ": the text or an option has changed")] : []));
  }
  const { kind } = defences.defence;
  find("#options-note").textContent = [find("encoder-control").says, kind === "none" ? "no defence" : DEFENCES[kind].title.toLowerCase()].join(", ");
}

/** Put what is asked into the address; an embedding without its text would make it too long. */
function remember() {
  const { chosen: encoder } = find("encoder-control");
  const text = subject?.text === null ? "" : find("#text").value;
  const state = { text, model: settings.model, ...settings.values, encoder, defence: defences.defence };
  history.replaceState(null, "", writeLink(state) || location.pathname + location.search);
}

/** Show the vector as a thief would find it. The server is asked for it, after a rest; a newer call ends an older one. */
async function showVector(rest = 0) {
  preview?.abort();
  defences.tell(null);
  if (!subject) return;
  const { vector } = subject;
  preview = new AbortController();
  const { signal } = preview;
  try {
    if (rest && defences.defence.kind !== "none") await pause(rest, signal);
    const kept = await protect(vector, defences.defence, settings.model, signal);
    if (signal.aborted) return;
    view.show(kept.vector, vector);
    defences.tell(kept, vector.length);
  } catch (error) {
    if (error.name === "AbortError") return;
    const message = `What is kept of it is not known. ${error.message}`;
    defences.refuse(message);
    live.say(message);
  }
}

function take(next) {
  subject = next;
  find("#embedding-note").textContent = next.text === null ? `(${next.source})` : "";
  showVector();
  run.lay(settings.model.length, settings.values, subject);
}

async function embedText(text, signal) {
  const { vector, tokens, ids } = await embed(text, settings.model.id, signal);
  take({ text, vector, truth: ids.length ? { tokens, ids } : null, source: "" });
  noteText();
  live.say(`Embedded: ${count(vector.length)} numbers.`);
}

async function roll(hard) {
  showError(find("#error"), "");
  const before = find("#text").value;
  try {
    const text = await randomText(settings.model.id, hard);
    if (find("#text").value !== before) return; // what was typed meanwhile stays
    find("#text").value = text;
    typed();
    live.say(`Text: ${find("#text").value}`);
  } catch (error) {
    showError(find("#error"), error.message);
  }
}

function typed() {
  if (subject?.text === null) subject = null; // the text counts now, not the embedding that was given
  noteText();
  changed();
}

/** Say what is unusual about the text; its tokens are known once it was embedded. */
function noteText() {
  const text = find("#text").value.trim();
  if (subject?.text) find("#embedding-note").textContent = subject.text === text ? "" : "(of the text before)";
  const said = remark(text, subject?.text === text ? subject.truth?.tokens : []);
  if (find("#text-note").textContent !== said) find("#text-note").textContent = said;
}

function takeEmbedding({ detail: { vector, source } }) {
  const { dimension, normalize, id } = settings.model;
  if (vector.length !== dimension) {
    find("embedding-input").refuse(`It has ${plural(vector.length, "number")}; ${id} makes embeddings of ${count(dimension)}.`);
    return;
  }
  const length = norm(vector);
  const scaled = normalize && Math.abs(length - 1) > 0.01;
  find("embedding-input").refuse("");
  stop();
  take({ text: null, truth: null, vector: normalize ? unit(vector) : vector, source: scaled ? `${source}, scaled from norm ${fixed(length)} to 1` : source });
  live.say(`Embedding of ${count(dimension)} numbers taken from ${source}. Its text can be recovered now.`);
}

function stop() {
  busy?.abort();
  showBusy(null);
}

function showBusy(abort) {
  busy = abort;
  find("#invert").textContent = busy ? "Stop" : "Recover the text";
}

/** Embed the text unless that was done, invert, search. */
async function start() {
  const text = find("#text").value.trim();
  const known = subject && (subject.text ?? text) === text;
  showError(find("#error"), "");
  if (!known && !text) {
    showError(find("#error"), "There is no text yet. Type one, or roll the dice.");
    find("#text").focus();
    return;
  }
  const abort = new AbortController();
  showBusy(abort);
  remember();
  find("recovered-text").scrollIntoView({ block: "nearest" });
  try {
    if (!known) await embedText(text, abort.signal);
    await invert(abort);
  } catch (error) {
    if (error.name !== "AbortError") showError(find("#error"), error.message);
  } finally {
    if (busy === abort) showBusy(null);
  }
}

async function invert(abort) {
  const { defence } = defences;
  const { model, values } = settings;
  const inverted = subject;
  const question = asked(inverted.text);
  const { vector, similarity } = await protect(inverted.vector, defence, model, abort.signal);
  made = question;
  const inversion = run.start(inverted, vector, model, values, abort);
  changed();
  const { title } = DEFENCES[defence.kind];
  const said = defence.kind === "none" ? title : `${title}: ${inWords(defence)}`;
  for (const trial of await inversion) find("trial-table").add(inverted, { ...trial, defence: said, similarity });
}

async function share() {
  remember();
  const said = await navigator.clipboard.writeText(location.href).then(() => "Link copied", () => "The address bar has the link");
  find("#invert-note").textContent = subject?.text === null ? `${said}, without the embedding` : said;
  live.say(find("#invert-note").textContent);
}

/** Enter inverts, also anew what has changed; Shift and Enter begin a line. An input method's Enter (229) is its own. */
function key(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  if (event.repeat || (busy && made === asked())) return;
  stop();
  start();
}

function listen() {
  find("#invert").addEventListener("click", () => (busy ? stop() : start()));
  find("#share").addEventListener("click", share);
  find("#dice-easy").addEventListener("click", () => roll(false));
  find("#dice-hard").addEventListener("click", () => roll(true));
  find("#text").addEventListener("input", typed);
  find("#text").addEventListener("keydown", key);
  find("embedding-input").addEventListener("embedding", takeEmbedding);
  defences.addEventListener("change", () => { showVector(REST); changed(); });
  find("#model").addEventListener("change", () => {
    settings.adapt({ ...settings.values, ...find("encoder-control").wish });
    forget();
  });
  window.addEventListener("hashchange", () => location.hash.includes("=") && open(readLink())); // or it is the skip link
}

/** What was embedded counts no more: another model was chosen. */
function forget() {
  stop();
  find("#embedding-note").textContent = "";
  subject = null;
  showVector();
  run.lay(settings.model.length, settings.values, null);
  noteText();
  changed();
}

/** Fill in what a link says; one with a text runs by itself. */
function open(wish) {
  const before = settings.model;
  if (wish.text !== undefined) find("#text").value = wish.text;
  defences.defence = wish.defence ?? { kind: "none", strength: 40 };
  const problem = settings.fill(wish);
  showError(find("#page-error"), problem);
  if (settings.model !== before) forget();
  typed();
  showVector();
  if (!wish.text || problem) return;
  stop();
  start();
}

async function begin() {
  try {
    settings.models = await listModels();
  } catch (error) {
    showError(find("#page-error"), `${error.message} Reload the page to try again.`);
    return;
  }
  open(readLink());
  listen();
  if (!find("#text").value) await roll(false);
  document.documentElement.dataset.ready = "true";
}

begin();
