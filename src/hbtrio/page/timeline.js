// The states of an instance over the time of its history, as a bar; the list beside it says the same.

import { element } from "./dom.js";
import { when } from "./events.js";
import { KIND_AFTER } from "./words.js";

/** The bar of these events, the newest first; null if they tell of no state. */
export function timeline(lines) {
  const states = lines
    .filter(({ kind }) => kind in KIND_AFTER)
    .map(({ kind, time }) => ({ kind: KIND_AFTER[kind], from: new Date(time).getTime() }))
    .reverse();
  if (!states.length) return null;
  const now = Date.now();
  const parts = states.map(({ kind, from }, index) => {
    const until = states[index + 1]?.from ?? now;
    const part = element("span", { class: "shape", "data-kind": kind, title: `${kind} from ${when(from)}` });
    part.style.flexGrow = String(Math.max(1, until - from));
    return part;
  });
  const bar = element("div", { class: "timeline", "aria-hidden": "true" }, ...parts);
  return element("div", {}, bar, element("p", { class: "hint ends", "aria-hidden": "true" }, element("span", {}, when(states[0].from)), element("span", {}, "now")));
}
