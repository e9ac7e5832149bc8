/** The page: what happens when. Each part of it lives in a module of its own. */

import "./candidate-list.js";
import "./cosine-curve.js";
import "./defence-control.js";
import "./embedding-input.js";
import "./encoder-control.js";
import "./pass-replay.js";
import "./text-comparison.js";
import "./token-detail.js";
import "./token-grid.js";
import "./trial-table.js";
import "./vector-view.js";
import { embed, listModels, randomText } from "./api.js";
import { DEFENCES, protect } from "./defence.js";
import { Announcer, count, find, fixed, plural, showError } from "./dom.js";
import { Run } from "./run.js";
import { readLink, writeLink } from "./link.js";
import { Settings } from "./settings.js";
import { cosine, norm, unit } from "./vector.js";

const live = new Announcer(find("#live"));
const settings = new Settings(() => {
  if (!run.frames.length) run.lay(settings.model.length, settings.values, subject); // room for what will come
  remember();
});
const view = find("vector-view");
const defences = find("defence-control");
const run = new Run(live);

/** What is being inverted: {text, truth, vector, source}; text and truth are null where they are not known. */
let subject = null;
let busy = null; // AbortController of what was begun by a press

function remember() {
  if (!settings.model) return;
  const { chosen: encoder } = find("encoder-control");
  const state = { text: find("#text").value, model: settings.model, ...settings.values, encoder, defence: defences.defence };
  history.replaceState(null, "", writeLink(state) || location.pathname + location.search);
}

/** The vector as a thief would find it. */
const leaked = () => protect(subject.vector, defences.defence);

function showVector() {
  if (!subject) {
    defences.tell(null);
    return;
  }
  const vector = leaked();
  view.show(vector, defences.defence.kind === "none" ? vector : subject.vector);
  defences.tell(subject.vector, cosine(vector, subject.vector));
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
  showError(find("#text-error"), "");
  const before = find("#text").value;
  try {
    const text = await randomText(settings.model.id, hard);
    if (find("#text").value !== before) return; // what was typed meanwhile stays
    find("#text").value = text;
    typed();
    live.say(`Text: ${find("#text").value}`);
  } catch (error) {
    showError(find("#text-error"), error.message);
  }
}

function typed() {
  if (subject?.text === null) forget(); // the text counts now, not the embedding that was given
  noteText();
  remember();
}

function noteText() {
  const changed = subject?.text && find("#text").value.trim() !== subject.text;
  find("#text-note").textContent = changed ? "changed since it was embedded" : "";
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
  find("#stop").disabled = !busy;
}

/** The one press: embed the text unless that was done, invert, search. A second press ends it. */
async function press() {
  if (busy) {
    stop();
    return;
  }
  const text = find("#text").value.trim();
  const known = subject && (subject.text ?? text) === text;
  showError(find("#text-error"), "");
  if (!known && !text) {
    showError(find("#text-error"), "There is no text yet. Type one, or roll the dice.");
    find("#text").focus();
    return;
  }
  const abort = new AbortController();
  showBusy(abort);
  try {
    if (!known) await embedText(text, abort.signal);
    bringIntoView();
    await invert(abort);
  } catch (error) {
    if (error.name !== "AbortError") showError(find("#text-error"), error.message);
  } finally {
    if (busy === abort) showBusy(null);
  }
}

async function invert(abort) {
  const { kind, strength } = defences.defence;
  const inverted = subject;
  const defence = kind === "none" ? "None" : `${DEFENCES[kind].title}: ${DEFENCES[kind].says(strength, subject.vector.length)}`;
  const vector = leaked();
  const trials = await run.start(subject, vector, settings.model, settings.values, abort);
  for (const trial of trials) {
    find("trial-table").add(inverted, { ...trial, defence, similarity: cosine(vector, inverted.vector) });
  }
}

/** On a phone what comes back is far below the button. */
function bringIntoView() {
  const section = find("#recovery");
  if (section.getBoundingClientRect().top < innerHeight / 2) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.scrollIntoView({ behavior: still ? "auto" : "smooth" });
}

async function share() {
  remember();
  try {
    await navigator.clipboard.writeText(location.href);
    find("#invert-note").textContent = "Link copied";
    live.say("Link copied");
  } catch {
    find("#invert-note").textContent = "The address bar has the link";
    live.say("The address bar has the link");
  }
}

function listen() {
  find("#invert").addEventListener("click", press);
  find("#stop").addEventListener("click", stop);
  find("#share").addEventListener("click", share);
  find("#dice-easy").addEventListener("click", () => roll(false));
  find("#dice-hard").addEventListener("click", () => roll(true));
  find("#text").addEventListener("input", typed);
  find("#text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) press();
  });
  find("embedding-input").addEventListener("embedding", takeEmbedding);
  defences.addEventListener("change", () => { showVector(); remember(); });
  find("#model").addEventListener("change", () => {
    settings.adapt({ ...settings.values, ...find("encoder-control").wish });
    forget();
    remember();
  });
  window.addEventListener("hashchange", () => location.hash.includes("=") && open(readLink())); // or it is the skip link
}

/** What was embedded counts no more: another model was chosen, or a text is typed instead of an embedding. */
function forget() {
  stop();
  find("#embedding-note").textContent = subject ? "(of what was embedded last)" : "";
  subject = null;
  run.lay(settings.model.length, settings.values, null);
}

/** Show what a link says. */
function open(wish) {
  const before = settings.model;
  if (wish.text !== undefined) find("#text").value = wish.text;
  defences.defence = wish.defence ?? { kind: "none", strength: 40 };
  showError(find("#page-error"), settings.fill(wish));
  if (settings.model !== before) forget();
  noteText();
  showVector();
}

async function begin() {
  const wish = readLink();
  try {
    settings.models = await listModels();
  } catch (error) {
    showError(find("#page-error"), `${error.message} Reload the page to try again.`);
    return;
  }
  open(wish);
  forget();
  listen();
  if (!find("#text").value) await roll(false);
  document.documentElement.dataset.ready = "true";
}

begin();
