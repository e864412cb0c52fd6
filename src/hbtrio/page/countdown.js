// Windows that are open, counting down. Timers run only while there are any.

import { element, printable, setText } from "./dom.js";

const TICK = 250;

/** The open countdowns; each removes itself when its node has left the page. */
const running = new Set();
let timer = 0;

/**
 * A window's text, bar and remaining seconds.
 * @param {{text: string, total: number, ends: number}} window `ends` on performance.now()'s clock
 */
export function countdown({ text, total, ends }) {
  const seconds = Math.max(total ?? 0, (ends - performance.now()) / 1000, 0.001);
  const what = printable(text);
  const bar = element("meter", { min: 0, max: seconds, "aria-label": `${what}: seconds left` });
  const left = element("span", { class: "left" });
  const node = element("div", { class: "countdown" }, element("bdi", {}, what), bar, left);
  const tick = () => {
    const remaining = Math.max(0, (ends - performance.now()) / 1000);
    bar.value = remaining;
    setText(left, `${remaining.toFixed(remaining < 10 ? 1 : 0)} s`);
    return node.isConnected && remaining > 0;
  };
  tick();
  running.add(tick);
  timer ||= setInterval(runAll, TICK);
  return node;
}

function runAll() {
  for (const tick of running) if (!tick()) running.delete(tick);
  if (!running.size) {
    clearInterval(timer);
    timer = 0;
  }
}
