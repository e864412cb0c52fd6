// What is known of the daemon and its instances. Nothing here touches the document.

import { KINDS, kindOf, levelOf } from "./words.js";

const natural = new Intl.Collator("en", { numeric: true });

/** An open vote or notice as it counts down, with its end on performance.now()'s clock. */
function windowOf({ kind, event, window, remaining_s, extended }, lengths) {
  const text = [`${kind} ${event}`, extended].filter(Boolean).join(", ");
  return { text, total: lengths?.[window], ends: performance.now() + 1000 * remaining_s };
}

/** Until when an instance is on hold, by whom and why; "" if it is not. */
const holdOf = ({ hold }) =>
  hold ? `on hold until ${new Date(hold.until).toLocaleString()} by ${hold.who}: ${hold.reason}` : "";

const time = (text) => new Date(text).toLocaleString();

/** What is planned for an instance, and by whom; "" if nothing is. */
function planOf({ planned }) {
  if (!planned) return "";
  const { action, not_before: since, before, gives_up: isGivenUp, who, state, reason } = planned;
  const end = `${isGivenUp ? "given up" : "done"} at ${time(before)}`;
  const said = reason ? `; ${state}: ${reason}` : "";
  return `${action} planned by ${who}: asked from ${time(since)} on, ${end}${said}`;
}

/** An instance as the page shows it, whichever daemon describes it. */
function instanceOf(line, hostname) {
  const kind = kindOf(line);
  const windows = [];
  if (line.open) windows.push(windowOf(line.open, line.windows_s));
  if (typeof line.restart_remaining_s === "number") {
    const ends = performance.now() + 1000 * line.restart_remaining_s;
    windows.push({ text: "restart", total: line.windows_s?.RESTART, ends });
  }
  const domain = line.domain?.name ?? line.domain ?? "";
  return {
    uuid: line.uuid,
    host: line.hostname ?? hostname,
    label: line.name || domain || line.uuid.slice(0, 8),
    kind,
    level: levelOf(kind),
    hold: holdOf(line),
    plan: planOf(line),
    reason: [holdOf(line), (kind === "ill" && line.health_reason) || line.why].filter(Boolean).join("; "),
    notActed: line.not_acted ?? "",
    owner: line.owner ?? "",
    windows,
    line,
  };
}

/** What of an instance is seen in overview and list. */
const seen = (one) =>
  [one.label, one.host, one.kind, one.reason, one.notActed, one.owner, one.windows.length].join("\0");

/** The fleet of an agent, or the instances of a host. */
export class Fleet {
  constructor() {
    this.instances = new Map();
    this.hosts = new Map();
    /** The daemon itself: the `agent` or `host` of its status. */
    this.daemon = null;
    this.isAgent = false;
    this.actions = {};
    this.groups = [];
    this.drains = [];
    this._byName = null;
  }

  /** Takes a whole status; returns the uuids of instances that now look different, or are gone. */
  take(status) {
    this.isAgent = "agent" in status;
    this.daemon = this.isAgent ? status.agent : status.host;
    this.actions = this.daemon.actions ?? {};
    this.groups = status.groups ?? [];
    this.drains = status.drains ?? [];
    this.hosts = new Map((status.hosts ?? [status.host]).map((host) => [host.hostname, host]));
    const changed = new Set();
    const present = new Set();
    for (const line of status.instances) {
      present.add(line.uuid);
      if (this.takeOne(line)) changed.add(line.uuid);
    }
    for (const uuid of this.instances.keys()) {
      if (!present.has(uuid)) {
        this.forget(uuid);
        changed.add(uuid);
      }
    }
    return changed;
  }

  /** Takes one instance; returns whether it looks different. */
  takeOne(line) {
    const before = this.instances.get(line.uuid);
    const now = instanceOf(line, this.isAgent ? "" : this.daemon.hostname);
    this.instances.set(line.uuid, now);
    if (!before || before.label !== now.label) this._byName = null;
    return !before || seen(before) !== seen(now);
  }

  forget(uuid) {
    if (this.instances.delete(uuid)) this._byName = null;
  }

  /** The instances for which an action is planned, the earliest end first. */
  planned() {
    const found = this.byName().filter(({ plan }) => plan);
    return found.sort((one, other) => Date.parse(one.line.planned.before) - Date.parse(other.line.planned.before));
  }

  /** All instances in natural order of their names. */
  byName() {
    this._byName ??= [...this.instances.keys()].sort((one, other) => {
      const [a, b] = [this.instances.get(one), this.instances.get(other)];
      return natural.compare(a.label, b.label) || natural.compare(a.uuid, b.uuid);
    });
    return this._byName.map((uuid) => this.instances.get(uuid));
  }

  /** All instances: those on hold, then the worst first, those of a kind by name. */
  worstFirst() {
    const levels = [[], ...KINDS.map(() => [])];
    for (const one of this.byName()) levels[one.hold ? 0 : one.level + 1].push(one);
    return levels.flat();
  }

  /** How many instances there are of each kind. */
  counts() {
    const counts = new Map();
    for (const { level } of this.instances.values()) counts.set(level, (counts.get(level) ?? 0) + 1);
    return counts;
  }
}

export const byNaturalOrder = (a, b) => natural.compare(a, b);
