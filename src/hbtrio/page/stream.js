// Server-sent events over fetch: EventSource can't send the token in a header.

import * as api from "./api.js";

/** The daemon sends a comment after 15 quiet seconds; a stream this quiet is dead. In ms. */
const DEAD_AFTER = 40_000;

const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 5_000;

/** Events to ask for at the beginning: the history may not be kept. */
const RECENT = 100;

/** The objects of a response's stream, as they arrive; `heard` is called for every chunk. */
export async function* linesOf(response, heard = () => {}) {
  let rest = "";
  for await (const text of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    heard();
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}

// Not every browser iterates over a stream by itself.
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Follows the daemon's events for ever, through its restarts.
 * @param {object} on
 * @param {() => void} on.opened a stream was opened: what is known may be out of date
 * @param {(line: object) => void} on.event an event, old or new
 * @param {(error: Error) => void} on.lost the stream ended; it is opened again
 * @param {() => Promise<void>} on.refused the token is missing or wrong; waits for another
 */
export async function follow(on) {
  let pause = FIRST_PAUSE;
  for (;;) {
    const dead = new AbortController();
    let timer = setTimeout(() => dead.abort(), DEAD_AFTER);
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => dead.abort(), DEAD_AFTER);
    };
    try {
      const response = await api.events(RECENT, dead.signal);
      pause = FIRST_PAUSE;
      on.opened();
      for await (const line of linesOf(response, heard)) on.event(line);
      on.lost(new Error("the daemon ended the stream"));
    } catch (error) {
      if (error.status === 401) {
        await on.refused();
        continue;
      }
      on.lost(error);
    } finally {
      clearTimeout(timer);
    }
    await new Promise((resume) => setTimeout(resume, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}
