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
