// The windows that are open in the whole fleet, counting down; those that end first are on top.

import { countdown } from "./countdown.js";
import { arrange, element, printable, setText } from "./dom.js";

/** More than these are only counted. */
const MOST = 20;

/** Two answers about one window differ by the time that they took, in ms. */
const SAME = 500;

export class OpenWindows {
  /**
   * @param {Element} section holds a list and a text; hidden without a window
   * @param {Fleet} fleet
   */
  constructor(section, fleet) {
    this._section = section;
    this._list = section.querySelector("ul");
    this._more = section.querySelector("p");
    this._fleet = fleet;
    this._items = new Map();
  }

  /** Shows what is open now. */
  update() {
    const all = [];
    for (const one of this._fleet.instances.values()) {
      for (const window of one.windows) all.push({ one, window });
    }
    all.sort((a, b) => a.window.ends - b.window.ends);
    const before = this._items;
    this._items = new Map();
    for (const { one, window } of all.slice(0, MOST)) {
      const key = `${one.uuid} ${one.label} ${window.text}`;
      const known = before.get(key);
      const same = known && Math.abs(known.ends - window.ends) < SAME;
      this._items.set(key, same ? known : { ends: window.ends, node: itemOf(one, window) });
    }
    arrange(this._list, [...this._items.values()].map(({ node }) => node));
    setText(this._more, all.length > MOST ? `and ${all.length - MOST} more` : "");
    this._section.hidden = all.length === 0;
  }
}

function itemOf({ uuid, label }, window) {
  const link = element("a", { href: `#${uuid}` }, element("bdi", {}, printable(label)));
  return element("li", {}, link, countdown(window));
}
