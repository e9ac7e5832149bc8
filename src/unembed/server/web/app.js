/** The page: what happens when. Each part of it lives in a module of its own. */

import { ATTACKERS } from "./attacker-control.js";
import "./candidate-list.js";
import "./cosine-curve.js";
import "./defence-control.js";
import "./embedding-input.js";
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
const settings = new Settings(() => remember());
const view = find("vector-view");
const defences = find("defence-control");
const run = new Run(live);

/** What is being inverted: {text, truth, vector, source}; text and truth are null where they are not known. */
let subject = null;
let busy = null; // AbortController of the embedding being made

function remember() {
  if (!settings.model) return;
  const state = { text: find("#text").value, model: settings.model, ...settings.values, defence: defences.defence };
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
  run.stop();
  subject = next;
  find("#embedding-note").textContent = next.text === null ? `(${next.source})` : "";
  find("#invert").disabled = false;
  showVector();
  run.lay(settings.model.length, settings.values, subject);
}

async function embedText() {
  const text = find("#text").value.trim();
  showError(find("#text-error"), "");
  if (!text) {
    showError(find("#text-error"), "There is no text yet. Type one, or roll the dice.");
    find("#text").focus();
    return;
  }
  busy?.abort();
  busy = new AbortController();
  const { signal } = busy;
  find("#embed").setAttribute("aria-busy", "true");
  try {
    const { vector, tokens, ids } = await embed(text, settings.model.id, signal);
    take({ text, vector, truth: ids.length ? { tokens, ids } : null, source: "" });
    noteText();
    live.say(`Embedded: ${count(vector.length)} numbers. They can be inverted now.`);
  } catch (error) {
    if (error.name !== "AbortError") showError(find("#text-error"), error.message);
  } finally {
    if (!signal.aborted) find("#embed").removeAttribute("aria-busy");
  }
}

async function roll(hard) {
  showError(find("#text-error"), "");
  const before = find("#text").value;
  try {
    const text = await randomText(settings.model.id, hard);
    if (find("#text").value !== before) return; // what was typed meanwhile stays
    find("#text").value = text;
    noteText();
    remember();
    live.say(`Text: ${find("#text").value}`);
  } catch (error) {
    showError(find("#text-error"), error.message);
  }
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
  take({ text: null, truth: null, vector: normalize ? unit(vector) : vector, source: scaled ? `${source}, scaled from norm ${fixed(length)} to 1` : source });
  live.say(`Embedding of ${count(dimension)} numbers taken from ${source}. It can be inverted now.`);
}

async function invert() {
  if (run.running) {
    run.stop();
    return;
  }
  const { kind, strength } = defences.defence;
  const chosen = settings.values;
  const defence = kind === "none" ? "None" : `${DEFENCES[kind].title}: ${DEFENCES[kind].says(strength, subject.vector.length)}`;
  const vector = leaked();
  const trial = await run.start(subject, vector, settings.model, chosen);
  if (!trial) return;
  const best = chosen.candidates > 1 ? `, best of ${chosen.candidates}` : "";
  const spent = chosen.attacker === "blind" ? plural(trial.rounds, "round") : plural(trial.calls, "encoder call");
  const how = chosen.rounds
    ? `${ATTACKERS[chosen.attacker].title.toLowerCase()}, ${spent}${trial.stopped ? ", stopped" : ""}${best}`
    : `${chosen.strategy}, ${plural(chosen.steps, "pass", "passes")}${best}`;
  find("trial-table").add(trial.subject, { ...trial, defence, similarity: cosine(vector, trial.subject.vector), settings: how });
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
  find("#embed").addEventListener("click", embedText);
  find("#invert").addEventListener("click", invert);
  find("#share").addEventListener("click", share);
  find("#dice-easy").addEventListener("click", () => roll(false));
  find("#dice-hard").addEventListener("click", () => roll(true));
  find("#text").addEventListener("input", () => { noteText(); remember(); });
  find("#text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) embedText();
  });
  find("embedding-input").addEventListener("embedding", takeEmbedding);
  defences.addEventListener("change", () => { showVector(); remember(); });
  find("#model").addEventListener("change", () => {
    settings.adapt(settings.values);
    forget();
    remember();
  });
  window.addEventListener("hashchange", () => open(readLink()));
}

/** Another model was chosen: an embedding means nothing to it. */
function forget() {
  run.stop();
  find("#embedding-note").textContent = subject ? "(of another model: embed again)" : "";
  find("#invert").disabled = true;
  subject = null;
  run.lay(settings.model.length, { candidates: 1, rounds: 0 }, null);
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
