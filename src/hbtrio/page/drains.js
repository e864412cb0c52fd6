// What is to come: the drains in progress, how far each is; opened, the instances that are in progress
// or not done. Then the planned actions.

import * as api from "./api.js";
import { arrange, element, printable, setText } from "./dom.js";
import { counted } from "./words.js";

/** The states in which an instance stays. */
const ENDED = ["done", "skipped", "failed", "cancelled"];

/** States of which nothing is to be told of each instance. */
const QUIET = ["waiting", "done"];

/** More hosts, instances or plans than these are only counted. */
const HOSTS = 2;
const MOST = 100;
const PLANS = 10;

export class Drains {
  /**
   * @param {Element} section holds a list; hidden without a drain
   * @param {Fleet} fleet
   */
  constructor(section, fleet) {
    this._section = section;
    this._fleet = fleet;
    this._items = new Map();
    this._lines = [];
  }

  /** A line for each planned action. */
  _plans() {
    const planned = this._fleet.planned();
    const lines = planned.slice(0, PLANS).map(({ label, plan }) => `${label}: ${plan}`);
    if (planned.length > PLANS) lines.push(counted(planned.length - PLANS, "more planned action"));
    while (this._lines.length < lines.length) this._lines.push(newLine());
    return lines.map((text, index) => {
      setText(this._lines[index].firstElementChild, printable(text));
      return this._lines[index];
    });
  }

  /** Shows the drains there are now; one that is open stays open. */
  update() {
    const before = this._items;
    this._items = new Map();
    for (const drain of this._fleet.drains) {
      const item = before.get(drain.id) ?? newItem(drain.id);
      show(item, drain);
      this._items.set(drain.id, item);
    }
    const nodes = [...this._items.values()].map(({ node }) => node).concat(this._plans());
    arrange(this._section.firstElementChild, nodes);
    this._section.hidden = nodes.length === 0;
  }
}

const newLine = () => element("li", {}, element("bdi"));

function newItem(id) {
  const text = element("bdi");
  const bar = element("progress", { max: 1 });
  const list = element("ul", { class: "hint" });
  const details = element("details", {}, element("summary", {}, text, bar), list);
  const item = { id, text, bar, list, details, node: element("li", {}, details) };
  details.addEventListener("toggle", () => tell(item));
  return item;
}

function show(item, { hosts, action, phase, counts, who }) {
  const total = sum(Object.values(counts));
  const ended = sum(ENDED.map((state) => counts[state] ?? 0));
  const named = hosts.slice(0, HOSTS);
  if (hosts.length > HOSTS) named.push(`${hosts.length - HOSTS} more`);
  const states = Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ");
  const stopped = phase === "running" ? "" : `, ${phase}`;
  const text = `Drain of ${named.join(", ")}: ${action}${stopped}, ${ended} of ${total} ended: ${states}; by ${who}`;
  setText(item.text, printable(text));
  item.bar.max = Math.max(1, total);
  item.bar.value = ended;
  item.bar.setAttribute("aria-label", `${ended} of ${total} ended`);
  tell(item);
}

/** Names the instances, if the item is open. */
async function tell({ id, list, details }) {
  if (!details.open) return;
  try {
    const { instances } = await api.drain(id);
    const found = instances.filter(({ state }) => !QUIET.includes(state));
    const lines = found.slice(0, MOST).map(lineOf);
    if (found.length > MOST) lines.push(`and ${found.length - MOST} more`);
    if (!lines.length) lines.push("no instance is in progress");
    list.replaceChildren(...lines.map((line) => element("li", {}, element("bdi", {}, printable(line)))));
  } catch {
    // The next status shows whether the daemon is there, and the drain.
  }
}

const lineOf = ({ name, uuid, hostname, state, reason }) =>
  `${name || uuid} on ${hostname}: ${state}${reason ? ` (${reason})` : ""}`;

const sum = (numbers) => numbers.reduce((whole, number) => whole + number, 0);
