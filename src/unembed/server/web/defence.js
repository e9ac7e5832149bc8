/** What a vector store could do to an embedding before keeping it. The server does it, by the code that an audit prices. */

import { defend } from "./api.js";

const BITS = [8, 6, 5, 4, 3, 2, 1];
const name = (bits) => (bits === 8 ? "8 bits (int8)" : bits === 1 ? "1 bit (binary)" : `${bits} bits`);

/** `amount` is what the server is asked for at a strength from 0 (weak) to 100 (strong); `says` tells it in words. */
export const DEFENCES = {
  none: { title: "None", amount: () => null, says: () => "" },
  noise: {
    title: "Noise",
    amount: (strength) => 0.001 * 200 ** (strength / 100), // 0.001 to 0.2, a logarithmic slider
    says: (deviation) => `Gaussian noise of ${deviation.toPrecision(2)} on each number`,
  },
  rounding: {
    title: "Rounding",
    amount: (strength) => BITS[Math.round((strength / 100) * 6)],
    says: (bits) => `each number rounded to ${name(bits)}`,
  },
  dropping: {
    title: "Dropping",
    amount: (strength) => 1 - 0.98 * (strength / 100),
    says: (share) => `only the first ${(100 * share).toFixed(1)} % of the numbers kept`,
  },
  rotation: {
    title: "Rotation",
    amount: () => null,
    says: () => "a secret rotation, which pairs of text and vector undo",
  },
};

/** A defence in words. */
export const inWords = ({ kind, strength }) => DEFENCES[kind].says(DEFENCES[kind].amount(strength));

let last = { vector: null };

/**
 * {vector, similarity, bytes}: an embedding as who copies the store would invert it, of length 1; its cosine to the
 * embedding; and the bytes that the store keeps. Without a defence it is the embedding. The last answer is kept.
 */
export async function protect(vector, { kind, strength }, model, signal) {
  if (kind === "none") return { vector, similarity: 1, bytes: 4 * vector.length };
  const amount = DEFENCES[kind].amount(strength);
  if (last.vector !== vector || last.kind !== kind || last.amount !== amount) {
    last = { vector, kind, amount, kept: await defend(vector, { kind, amount }, model, signal) };
  }
  return last.kept;
}
