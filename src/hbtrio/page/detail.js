// One instance in depth: open windows, facts, round trips, applications, what to do, its history.

import * as api from "./api.js";
import { ActionForm } from "./actions.js";
import { countdown } from "./countdown.js";
import { element, printable, setText, shape } from "./dom.js";
import { eventItem, keyOf, when } from "./events.js";
import { factsOf } from "./facts.js";
import { Sparkline } from "./sparkline.js";
import { timeline } from "./timeline.js";
import { voterList } from "./voters.js";

/** How often its round trip is asked for, in ms. */
const EVERY = 2_000;

const HISTORY = 60;

export class Detail {
  /**
   * @param {Element} root
   * @param {Fleet} fleet
   * @param {() => void} asked the instance is to be asked for
   * @param {() => void} closed the user wants to see no more of it
   */
  constructor(root, fleet, asked, closed) {
    this._root = root;
    this._fleet = fleet;
    this._uuid = "";
    this._asked = asked;
    this._closed = closed;
    this._looking = false;
    setInterval(() => {
      if (!this._uuid || document.hidden) return;
      this._ask();
    }, EVERY);
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") closed();
    });
  }

  /** Shows this instance, or none. */
  show(uuid) {
    this._uuid = uuid;
    this._shown = null;
    this._details = {};
    this._seen = {};
    this._votersText = "";
    this._factsText = "";
    this._lines = new Map();
    this._root.hidden = !uuid;
    this._root.replaceChildren();
    if (!uuid) return;
    this._mark = shape("unknown");
    this._name = element("bdi");
    this._state = element("p", { class: "now" });
    this._windows = element("div", { class: "windows" });
    this._facts = element("dl");
    this._spark = new Sparkline();
    this._trips = element("div", { hidden: true }, element("h3", {}, "Round trips"), this._spark.node);
    this._trip = element("p", { class: "hint" });
    this._trips.append(this._trip);
    this._voters = element("div");
    this._bar = element("div");
    this._history = element("ol", { class: "events", tabindex: "0", "aria-label": "History of the instance" });
    const heading = element("h2", { id: "detail-title", tabindex: "-1" }, this._name);
    const close = element("button", { type: "button", "aria-label": "Close the details", on: { click: this._closed } }, "✕");
    this._root.append(
      element("div", { class: "head" }, this._mark, heading, close),
      this._state,
      this._windows,
      this._facts,
      this._trips,
      this._voters,
      ...(this._fleet.isAgent ? [new ActionForm(uuid, () => this._name.textContent).node] : []),
      element("h3", {}, "History"),
      this._bar,
      this._history,
    );
    this.update();
    this._takeHistory();
    this._ask();
    heading.focus();
  }

  _ask() {
    this._asked(this._uuid);
    this._look();
  }

  /** Shows what is known of the instance now. */
  update() {
    if (!this._uuid) return;
    const one = this._fleet.instances.get(this._uuid);
    if (one && one === this._shown) return;
    this._shown = one;
    this._mark.dataset.kind = one?.kind ?? "unknown";
    setText(this._name, printable(one?.label ?? this._uuid));
    if (one && "next_loss" in one.line) this._take(one.line);
    setText(this._state, one ? this._sentence(one) : "not known here, or no longer");
    if (!one) return;
    this._windows.replaceChildren(...one.windows.map(countdown));
    this._updateFacts();
    // An agent has to ask the host, see _look().
    if (!this._fleet.isAgent) this._showBeats(one.line);
  }

  // A status of all leaves out what is in the details of one; that is kept until the next.
  _take(details) {
    this._details = details;
    const { voters, voters_unlisted } = details;
    const text = JSON.stringify([voters, voters_unlisted]);
    if (text === this._votersText) return;
    this._votersText = text;
    this._voters.replaceChildren(...[voterList(details)].filter(Boolean));
  }

  _sentence({ kind, reason, line }) {
    const { state, since } = this._details;
    const so = state === line.state && since ? `${kind} since ${when(since)}` : kind;
    return printable([so, reason].filter(Boolean).join(": "));
  }

  /** Asks the instance's host what it sees; a host's own page knows that already. */
  async _look() {
    const uuid = this._uuid;
    if (!this._fleet.isAgent || this._looking || !this._fleet.instances.has(uuid)) return;
    this._looking = true;
    try {
      const seen = await api.look(uuid);
      if (uuid !== this._uuid) return;
      this._seen = seen;
      this._updateFacts();
      this._showBeats(seen);
    } catch {
      // The stream of events notices that the daemon is away.
    } finally {
      this._looking = false;
    }
  }

  _showBeats({ why, round_trip_ms: trip, beats, missed }) {
    const known = typeof trip === "number";
    this._trips.hidden = !known && !why;
    this._spark.node.toggleAttribute("hidden", !known);
    if (known) this._spark.add(trip);
    setText(this._trip, known ? `last ${trip} ms; ${beats} beats, ${missed} missed` : printable(why ?? ""));
  }

  _updateFacts() {
    if (!this._shown) return;
    const notActed = this._shown.notActed || this._seen.not_acted;
    const action = this._fleet.actions[this._uuid];
    const facts = factsOf(this._shown, this._details, notActed, action);
    const text = JSON.stringify(facts);
    if (text === this._factsText) return;
    this._factsText = text;
    const nodes = facts.map(([term, value]) => [
      element("dt", {}, term),
      element("dd", {}, element("bdi", {}, printable(value))),
    ]);
    this._facts.replaceChildren(...nodes.flat());
  }

  /** An event about some instance has happened; the history has it a moment later. */
  addEvent(line) {
    if (this._uuid && line.uuid === this._uuid) this._addLines([line]);
  }

  async _takeHistory() {
    const uuid = this._uuid;
    let lines = [];
    try {
      lines = await api.history({ uuid, limit: HISTORY });
    } catch (error) {
      if (uuid === this._uuid) this._history.replaceChildren(element("li", { class: "hint" }, error.message));
    }
    if (uuid === this._uuid) this._addLines(lines);
  }

  _addLines(lines) {
    for (const line of lines) this._lines.set(keyOf(line), line);
    if (!this._lines.size) return;
    const sorted = [...this._lines.values()].sort((a, b) => new Date(b.time) - new Date(a.time));
    this._bar.replaceChildren(...[timeline(sorted)].filter(Boolean));
    this._history.replaceChildren(...sorted.slice(0, HISTORY).map((line) => eventItem(line)));
  }

  /** The instance that is shown; "" if none is. */
  get uuid() {
    return this._uuid;
  }
}
