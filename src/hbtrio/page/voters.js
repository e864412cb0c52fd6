// Who votes in an instance, as its guest reports: applications and event scripts.

import { element, printable, shape } from "./dom.js";
import { when } from "./events.js";

/** The shape of a voter's health is that of an instance which is so. */
const KINDS = { healthy: "heartbeating", ill: "ill", silent: "lost", none: "stopped" };

/** Answers in words that need no explanation. */
const ANSWERS = { open: "not answered yet", none: "no answer", timeout: "no answer in time" };

/** The voters as a list; null where none are known. */
export function voterList({ voters, voters_unlisted: unlisted }) {
  if (!voters) return null;
  const items = voters.map(voterItem);
  if (unlisted) items.push(element("li", { class: "hint" }, `and ${unlisted} more`));
  if (!items.length) items.push(element("li", { class: "hint" }, "none: no application, and no event script"));
  return element("div", {}, element("h3", {}, "Applications"), element("ul", { class: "voters" }, ...items));
}

function voterItem({ name, health, since, interval_ms: interval, corrective_action: action, reason, last }) {
  const isScript = health === "none" && !interval;
  const asks = action && action !== "none" && action !== "unknown";
  const words = [
    isScript ? "event script" : [health + (since ? ` since ${when(since)}` : ""), reason].filter(Boolean).join(": "),
    interval && `heartbeat every ${interval / 1000} s`,
    asks && (health === "healthy" ? `${action} if it hangs` : `asks for ${action}`),
  ];
  return element(
    "li",
    {},
    shape(KINDS[health] ?? "unknown"),
    element(
      "div",
      {},
      element("strong", {}, element("bdi", {}, printable(name))),
      element("bdi", {}, printable(words.filter(Boolean).join(", "))),
      last ? element("span", { class: "hint" }, element("bdi", {}, printable(answer(last)))) : null,
    ),
  );
}

function answer({ kind, event, answer: given, reason, time }) {
  return [`${kind} ${event} ${when(time)}: ${ANSWERS[given] ?? given}`, reason].filter(Boolean).join(": ");
}
