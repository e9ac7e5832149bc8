/** The page's state in the address: everything behind "#", so that it is never sent to a server. */

import { DEFENCES } from "./defence.js";
import { unusual } from "./encoder-control.js";

/** What the address says: only keys that are there and make sense. */
export function readLink(hash = location.hash) {
  const query = new URLSearchParams(hash.slice(1));
  const found = {};
  for (const key of ["text", "model", "strategy", "encoder"]) if (query.get(key)) found[key] = query.get(key);
  for (const key of ["steps", "candidates", "seed", "steering", "seconds"]) {
    const value = Number(query.get(key));
    if (query.has(key) && Number.isInteger(value) && value >= 0) found[key] = value;
  }
  const [kind, strength] = (query.get("defence") ?? "").split(":");
  if (Object.hasOwn(DEFENCES, kind)) found.defence = { kind, strength: Math.min(100, Math.max(0, Number(strength) || 0)) };
  return found;
}

/** The hash for a state; what is the model's default is left out. */
export function writeLink({ text, model, strategy, steps, candidates, seed, steering, defence, ...search }) {
  const query = new URLSearchParams();
  if (text) query.set("text", text);
  if (!model.default) query.set("model", model.id);
  if (strategy !== model.defaults.strategy) query.set("strategy", strategy);
  if (steps !== model.defaults.steps) query.set("steps", steps);
  if (candidates !== model.defaults.candidates) query.set("candidates", candidates);
  if (seed) query.set("seed", seed);
  if (steering !== model.defaults.steering) query.set("steering", steering);
  for (const [key, value] of Object.entries(unusual(search))) if (value) query.set(key, value);
  if (defence.kind !== "none") query.set("defence", `${defence.kind}:${defence.strength}`);
  return query.size ? `#${query}` : "";
}
