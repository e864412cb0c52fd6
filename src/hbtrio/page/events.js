// Recent events and verdicts, the newest first.

import { element, printable, shape } from "./dom.js";
import { KIND_AFTER } from "./words.js";

const MOST = 200;

const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** When an event happened: the time, and the day if it is another. */
export function when(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return "";
  return (at.toDateString() === new Date().toDateString() ? time : day).format(at);
}

/** The same event, if the history and the stream both have it. */
export const keyOf = ({ time, kind, uuid, event, result, note }) =>
  [time, kind, uuid, event, result, note].join("\0");

/** An event as an item of a list; `about` is the link to its instance, if it is to be shown. */
export function eventItem(line, about = null) {
  const words = [line.kind, line.event, line.result, line.outcome, line.corrective_action];
  const refused = line.result === "reject" || line.alarm;
  return element(
    "li",
    { class: refused ? "refused" : false, "data-verdict": line.kind === "vote" || line.kind === "notice" },
    element("time", { datetime: line.time ?? "" }, when(line.time ?? "")),
    shape(KIND_AFTER[line.kind] ?? "event"),
    element(
      "div",
      {},
      about,
      element("strong", {}, words.filter(Boolean).join(" ")),
      line.reason ? element("bdi", { class: "said" }, printable(line.reason)) : null,
      line.note ? element("bdi", { class: "said" }, printable(line.note)) : null,
      line.who ? element("span", { class: "hint" }, `asked by ${printable(line.who)}`) : null,
    ),
  );
}

export class Events {
  /**
   * @param {HTMLOListElement} root
   * @param {Fleet} fleet names the instances
   */
  constructor(root, fleet) {
    this._root = root;
    this._fleet = fleet;
    this._lines = [];
    this._fresh = [];
    this._keys = new Set();
  }

  /** Takes an event, which may be an old one; returns whether it was unknown. */
  add(line) {
    const key = keyOf(line);
    if (this._keys.has(key) || !line.time) return false;
    this._keys.add(key);
    this._fresh.push(line);
    return true;
  }

  /** Shows what was added, once the instances' names are known. */
  update() {
    if (!this._fresh.length || !this._fleet.daemon) return;
    const late = (line) => -new Date(line.time).getTime();
    const known = new Map(this._lines.map(({ line, node }) => [line, node]));
    const lines = [...this._lines.map(({ line }) => line), ...this._fresh];
    lines.sort((a, b) => late(a) - late(b));
    for (const line of lines.splice(MOST)) this._keys.delete(keyOf(line));
    this._fresh = [];
    this._lines = lines.map((line) => ({ line, node: known.get(line) ?? this._item(line) }));
    const nodes = this._lines.map(({ node }) => node);
    // Most are at the top already; those that stay are not touched.
    nodes.forEach((node, index) => {
      if (this._root.children[index] !== node) this._root.insertBefore(node, this._root.children[index] ?? null);
    });
    while (this._root.children.length > nodes.length) this._root.lastChild.remove();
  }

  _item(line) {
    if (!line.uuid) return eventItem(line);
    const label = this._fleet.instances.get(line.uuid)?.label ?? (line.name || line.uuid.slice(0, 8));
    return eventItem(line, element("a", { href: `#${line.uuid}` }, element("bdi", {}, printable(label))));
  }
}
