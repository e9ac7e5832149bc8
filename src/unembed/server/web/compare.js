/** The original's tokens against the recovered ones. */

/**
 * Marks for both sides: "exact" stands at the same position, "moved" is there but elsewhere, and what is left is
 * "missed" in the original and "wrong" in the recovered. Tokens are compared by id.
 */
export function compare(original, recovered) {
  const truth = original.map((id, i) => (id === recovered[i] ? "exact" : "missed"));
  const found = recovered.map((id, i) => (id === original[i] ? "exact" : "wrong"));
  const free = new Map(); // id -> positions of the original that no token has claimed
  original.forEach((id, i) => {
    if (truth[i] === "missed") free.set(id, [...(free.get(id) ?? []), i]);
  });
  recovered.forEach((id, i) => {
    const places = free.get(id);
    if (found[i] !== "wrong" || !places?.length) return;
    truth[places.shift()] = "moved";
    found[i] = "moved";
  });
  const exact = truth.filter((mark) => mark === "exact").length;
  return {
    truth,
    found,
    exact,
    moved: found.filter((mark) => mark === "moved").length,
    wrong: found.filter((mark) => mark === "wrong").length,
    accuracy: original.length ? exact / original.length : 0,
    match: exact === original.length && recovered.length === original.length,
  };
}

const GLUED = /^[.,;:!?%)\]}\u2019'’]/;
const OPENING = /[([{#$]$|^['"]$/;

/** How a display piece reads in running text: {text, space} with space before it or not. */
export function readable(piece, before) {
  if (piece.startsWith("##")) return { text: piece.slice(2), space: false };
  if (/^[\u0120\u2581]/.test(piece)) return { text: piece.slice(1), space: before !== undefined };
  if (before === undefined) return { text: piece, space: false };
  return { text: piece, space: !GLUED.test(piece) && !OPENING.test(before) && !/^['\u2019-]$/.test(before) };
}

/** How many of the original's `total` words were `found`, in order or not, and how many `more` there are. Case, accents and marks do not count. */
export function compareWords(original, recovered) {
  const [wanted, got] = [words(original), words(recovered)];
  const free = [...got];
  const found = wanted.filter((word) => {
    const place = free.indexOf(word);
    if (place >= 0) free.splice(place, 1);
    return place >= 0;
  }).length;
  let place = 0;
  for (const word of got) if (word === wanted[place]) place += 1;
  return { found, total: wanted.length, ordered: place === wanted.length, more: free.length };
}

/** The same in words. */
export function inWords({ found, total, ordered, more }) {
  if (found < total) return `${found} of ${total} ${total === 1 ? "word" : "words"}`;
  return `all ${total === 1 ? "of 1 word" : `${total} words`}${ordered ? "" : " in another order"}${more ? ` and ${more} more` : ""}`;
}

const words = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase()
  .replace(/\s*['\u2019]\s*/gu, "'").match(/[\p{L}\p{N}]+(?:'[\p{L}\p{N}]+)*/gu) ?? [];
