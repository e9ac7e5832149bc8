/** One inversion as a stream of events, which breaks and resumes without the reader noticing more than a pause. */

import { ApiError, call, queue, sentence } from "./api.js";

const TRIES = 6; // in a row, without a new frame or round between them
const RETRIED = new Set(["overloaded", "shutting_down", "rate_limited"]);

/** The {id, data} of each server-sent event of a response. */
export async function* serverSentEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { id: null, data: [] };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) event.data.push(line.slice(5).trimStart());
        else if (line.startsWith("id:")) event.id = line.slice(3).trim();
        else if (line === "" && event.data.length) {
          yield { id: event.id, data: JSON.parse(event.data.join("\n")) };
          event = { id: null, data: [] };
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Raises AbortError where `signal` is raised before. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

/**
 * Yield the frames of an inversion, or the rounds of a guided one, and at last its result.
 *
 * The answer depends on the request alone, so after a break the same request goes on behind the last one seen.
 * `notice` is told in words what is being waited for, and "" once it goes on.
 */
export async function* invert(request, { signal, notice }) {
  let last = null;
  let tries = 0;
  for (;;) {
    try {
      const headers = last === null ? {} : { "Last-Event-ID": String(last) };
      const response = await call("v1/invert", { body: { ...request, stream: true }, headers, signal });
      for await (const { data } of serverSentEvents(response)) {
        notice("");
        if (data.type === "error") {
          throw new ApiError(sentence(data.error.message), { retry: RETRIED.has(data.error.type) });
        }
        if (data.type !== "result") {
          if (last !== null && data.step <= last) continue;
          last = data.step;
          tries = 0;
        }
        yield data;
        if (data.type === "result") return;
      }
      throw new ApiError("The connection broke off.", { retry: true });
    } catch (error) {
      const failure = broken(error);
      if (!failure.retry || ++tries >= TRIES) throw failure;
      const seconds = failure.after ?? Math.min(0.5 * 2 ** (tries - 1), 8);
      const again = seconds < 1 ? "now" : `in ${Math.ceil(seconds)} s`;
      notice(`${failure.message} ${last === null ? "Trying again" : "Going on"} ${again}.`);
      await pause(seconds, signal);
    }
  }
}

/** A read that fails in the middle of a stream is a TypeError of the browser's. */
function broken(error) {
  if (error instanceof ApiError || error.name === "AbortError") return error;
  if (error instanceof TypeError) return new ApiError("The connection broke off.", { retry: true });
  return error;
}

/** Tell how many wait before us, until `signal` is raised. */
export async function watchQueue(signal, notice) {
  try {
    for (;;) {
      await pause(1.2, signal);
      const { waiting } = await queue(signal);
      if (!signal.aborted && waiting > 0) notice(`Waiting for a place: ${waiting} in the queue.`);
    }
  } catch {
    // aborted, or the queue is not to be had: nothing to tell
  }
}
