/** Embeddings from what people have: JSON in the usual shapes, JSON lines, NumPy's .npy. */

const MAGIC = "\u0093NUMPY";
export const MAX_BYTES = 64 * 2 ** 20;
const DEEPEST = 8; // lists and objects around a row

/** Rows (arrays of numbers) of the bytes of a file or a paste. Raises Error with a sentence for people. */
export function readEmbeddings(bytes) {
  if (bytes.length > MAX_BYTES) throw new Error(`That is ${Math.round(bytes.length / 2 ** 20)} MB; at most 64 MB can be read here.`);
  const isNpy = [...MAGIC].every((c, i) => bytes[i] === c.charCodeAt(0));
  const rows = isNpy ? readNpy(bytes) : readJson(new TextDecoder().decode(bytes));
  if (!rows.length) throw new Error("There is no embedding in it.");
  rows.forEach((row, i) => {
    const at = row.findIndex((x) => typeof x !== "number" || !Number.isFinite(Math.fround(x)));
    if (at >= 0) throw new Error(`Row ${i + 1}, entry ${at + 1}: a finite number within float32 is expected.`);
    if (row.length && row.every((x) => Math.fround(x) === 0)) throw new Error(`Row ${i + 1} is all zeros.`);
  });
  return rows;
}

function readJson(text) {
  const trimmed = text.trim();
  if (!trimmed) throw new Error("There is nothing in it.");
  try {
    return rowsOf(JSON.parse(trimmed));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  const lines = trimmed.split(/\r?\n/).filter((line) => line.trim());
  if (lines.length > 1 && /^[[{]/.test(lines[1].trim())) {
    return lines.flatMap((line, i) => {
      try {
        return rowsOf(JSON.parse(line));
      } catch (error) {
        throw new Error(`Line ${i + 1} is not JSON with an embedding in it.`, { cause: error });
      }
    });
  }
  const numbers = trimmed.replace(/^\[|\]$/g, "").trim().split(/[\s,;]+/).map(Number);
  if (numbers.length > 1 && numbers.some((x) => !Number.isNaN(x))) return [numbers];
  throw new Error("It is neither JSON with an embedding in it, nor a list of numbers, nor a .npy file.");
}

function rowsOf(tree, depth = 0) {
  if (depth > DEEPEST) throw new Error("The JSON is nested too deeply.");
  if (Array.isArray(tree)) {
    const nested = tree.every((x) => typeof x === "object" && x !== null);
    return nested ? tree.flatMap((inner) => rowsOf(inner, depth + 1)) : [tree];
  }
  for (const key of ["embedding", "embeddings", "vector", "values", "data"]) {
    if (tree?.[key] === undefined) continue;
    return typeof tree[key] === "string" ? [fromBase64(tree[key])] : rowsOf(tree[key], depth + 1);
  }
  throw new Error('The JSON has no numbers under "embedding", "embeddings", "vector", "values" or "data".');
}

/** OpenAI's encoding_format "base64": little-endian float32. */
function fromBase64(text) {
  let bytes;
  try {
    bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  } catch {
    throw new Error("The embedding is a text, but not base64.");
  }
  if (bytes.length % 4) throw new Error("The base64 embedding is not a whole number of float32 values.");
  return Array.from(new Float32Array(bytes.buffer));
}

const TYPES = { f2: 2, f4: 4, f8: 8, i1: 1, u1: 1, i2: 2, i4: 4 };

/** numpy.lib.format versions 1 to 3; one vector (d,) or a table (n, d) in C order. */
function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] > 1;
  const start = wide ? 12 : 10;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const descr = /'descr':\s*'([<>|=])(\w\d)'/.exec(header);
  const size = TYPES[descr?.[2]];
  if (!size) throw new Error("The .npy file holds another type than float16, float32, float64 or small integers.");
  if (/'fortran_order':\s*True/.test(header)) throw new Error("The .npy file is stored by columns (Fortran order); rows are expected.");
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").map((x) => x.trim()).filter(Boolean).map(Number);
  if (shape.length < 1 || shape.length > 2) throw new Error(`The .npy file has ${shape.length} axes; (d,) or (n, d) is expected.`);
  const [n, d] = shape.length === 1 ? [1, shape[0]] : shape;
  if (start + length + n * d * size > bytes.length) throw new Error("The .npy file is cut off.");
  const value = reader(view, descr[2], descr[1] !== ">");
  return Array.from({ length: n }, (_, row) =>
    Array.from({ length: d }, (_, column) => value(start + length + (row * d + column) * size)));
}

function reader(view, type, little) {
  switch (type) {
    case "f2": return (at) => half(view.getUint16(at, little));
    case "f4": return (at) => view.getFloat32(at, little);
    case "f8": return (at) => view.getFloat64(at, little);
    case "i1": return (at) => view.getInt8(at);
    case "u1": return (at) => view.getUint8(at);
    case "i2": return (at) => view.getInt16(at, little);
    default: return (at) => view.getInt32(at, little);
  }
}

function half(raw) {
  const exponent = (raw >> 10) & 31;
  const fraction = raw & 1023;
  const sign = raw & 32768 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}
