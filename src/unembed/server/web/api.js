/** Requests to the server. Every failure becomes an ApiError whose message is a sentence for people. */

export class ApiError extends Error {
  /** retry: whether the same request may succeed later; after: seconds to wait, where the server said so. */
  constructor(message, { status = 0, retry = false, after = null } = {}) {
    super(message);
    this.status = status;
    this.retry = retry;
    this.after = after;
  }
}

const IN_WORDS = {
  404: "The server does not know this request. It may run another version than this page.",
  413: "That is more than the server accepts at once.",
  429: "Too many requests from here in a short time.",
  500: "The server failed on this request.",
  503: "The server is busy.",
  504: "The server took too long and gave up.",
};

/** The response of a request that succeeded. Raises ApiError, or AbortError where `signal` was raised. */
export async function call(path, { body, signal, headers = {} } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Check the connection, and that it is running.", { retry: true });
  }
  if (response.ok) return response;
  const seconds = Number.parseFloat(response.headers.get("Retry-After"));
  throw new ApiError(await reason(response), {
    status: response.status,
    retry: response.status === 429 || response.status === 503,
    after: Number.isFinite(seconds) ? seconds : null,
  });
}

async function reason(response) {
  try {
    const { error, detail } = await response.json();
    const message = error?.message ?? error ?? detail;
    if (typeof message === "string" && message) return sentence(message);
  } catch {
    // not JSON: a proxy answered
  }
  return IN_WORDS[response.status] ?? `The server answered with status ${response.status}.`;
}

/** The server's messages are lower-case lines without a full stop. */
export function sentence(message) {
  const text = message[0].toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

const json = async (path, options) => (await call(path, options)).json();

/** The models that are served, the default one first. */
export async function listModels() {
  const { data } = await json("v1/models");
  return data.sort((a, b) => (b.default ?? false) - (a.default ?? false));
}

/** {vector, tokens, ids} of a text. */
export async function embed(text, model, signal) {
  const body = { input: text, model, include_tokens: true };
  const [entry] = (await json("v1/embeddings", { body, signal })).data;
  return { vector: Float32Array.from(entry.embedding), tokens: entry.tokens ?? [], ids: entry.ids ?? [] };
}

/** {vector, similarity, bytes}: an embedding as a store keeps it. */
export async function defend(vector, defence, { id, normalize }, signal) {
  const body = { embeddings: Array.from(vector), model: id, normalize, ...defence };
  const { bytes, data: [entry] } = await json("v1/defences", { body, signal });
  return { vector: Float32Array.from(entry.embedding), similarity: entry.cosine, bytes };
}

export async function randomText(model, hard) {
  const query = new URLSearchParams({ model, hard });
  return (await json(`random?${query}`)).text;
}

export const queue = (signal) => json("queue", { signal });
