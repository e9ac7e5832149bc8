/** What a vector store could do to an embedding before keeping it. Strength runs from 0 (weak) to 100 (strong). */

import { unit } from "./vector.js";

const sigma = (strength) => 0.001 * 200 ** (strength / 100); // 0.001 to 0.2, a logarithmic slider
const bits = (strength) => [8, 6, 5, 4, 3, 2, 1][Math.round((strength / 100) * 6)];
const kept = (strength, d) => Math.max(1, Math.round(d * (1 - 0.98 * (strength / 100))));
const name = (b) => (b === 8 ? "8 bits (int8)" : b === 1 ? "1 bit (binary)" : `${b} bits`);

export const DEFENCES = {
  none: {
    title: "None",
    says: () => "",
    apply: (v) => v,
    bytes: (_, d) => 4 * d,
  },
  noise: {
    title: "Noise",
    says: (s) => `Gaussian noise of ${sigma(s).toPrecision(2)} on each number`,
    apply: (v, s) => {
      const draw = gaussian(v.length);
      return v.map((x) => x + sigma(s) * draw());
    },
    bytes: (_, d) => 4 * d,
  },
  rounding: {
    title: "Rounding",
    says: (s) => `each number rounded to ${name(bits(s))}`,
    apply: (v, s) => round(v, bits(s)),
    bytes: (s, d) => Math.ceil((bits(s) * d) / 8),
  },
  dropping: {
    title: "Dropping",
    says: (s, d) => `only the first ${kept(s, d)} of ${d} numbers kept`,
    apply: (v, s) => v.map((x, i) => (i < kept(s, v.length) ? x : 0)),
    bytes: (s, d) => 4 * kept(s, d),
  },
};

/** The embedding as an attacker finds it: changed, then brought back to unit length, as the inverter expects. */
export function protect(v, { kind, strength }) {
  return kind === "none" ? v : unit(DEFENCES[kind].apply(v, strength));
}

/** The same defence always gives the same noise, so that a link shows what its sender saw. */
function gaussian(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** Symmetric levels, one scale for the vector; a single bit keeps the sign. */
function round(v, b) {
  if (b === 1) return v.map((x) => (x < 0 ? -1 : 1));
  const steps = 2 ** (b - 1) - 1;
  const scale = Math.max(...v.map(Math.abs)) || 1;
  return v.map((x) => (Math.round((x / scale) * steps) / steps) * scale);
}
