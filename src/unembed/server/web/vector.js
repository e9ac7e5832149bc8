/** Arithmetic on embeddings. */

export const BINS = 41; // of the histogram, symmetric about zero

export const norm = (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));

export function unit(v) {
  const length = norm(v);
  return length === 0 ? Float32Array.from(v) : Float32Array.from(v, (x) => x / length);
}

export function cosine(a, b) {
  let dot = 0;
  for (let i = 0; i < a.length; i++) dot += a[i] * b[i];
  const lengths = norm(a) * norm(b);
  return lengths === 0 ? 0 : dot / lengths;
}

/** {counts, limit}: how many values fall into each of BINS equal bins of [-limit, limit]. */
export function histogram(v) {
  const limit = Math.max(...v.map(Math.abs)) || 1;
  const counts = new Array(BINS).fill(0);
  for (const x of v) counts[Math.min(BINS - 1, Math.floor(((x + limit) / (2 * limit)) * BINS))] += 1;
  return { counts, limit };
}

/** Shannon entropy in bits of the histogram: at most log2(BINS). */
export function entropy(counts) {
  const total = counts.reduce((a, b) => a + b, 0);
  return counts.reduce((sum, n) => (n ? sum - (n / total) * Math.log2(n / total) : sum), 0);
}

export function describe(v) {
  const shape = histogram(v);
  return { dimension: v.length, min: Math.min(...v), max: Math.max(...v), norm: norm(v), entropy: entropy(shape.counts), ...shape };
}
