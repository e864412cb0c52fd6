// Which instances are shown: by text, by states, by host.

import { arrange, byId, element, setText, shape } from "./dom.js";
import { byNaturalOrder } from "./fleet.js";
import { KINDS, WORRYING } from "./words.js";

export class Filters {
  /** @param {() => void} changed called when the user changes a filter */
  constructor(changed) {
    this._text = byId("text");
    this._host = byId("host");
    this._clear = byId("clear");
    this._levels = new Set();
    this._buttons = KINDS.map((kind) => this._button(kind, changed));
    byId("counts").append(...this._buttons.map(({ button }) => button));
    for (const field of [this._text, this._host]) {
      field.addEventListener("input", () => {
        this._updateClear();
        changed();
      });
    }
    this._clear.addEventListener("click", () => {
      this._text.value = this._host.value = "";
      this._levels.clear();
      for (const { button } of this._buttons) button.setAttribute("aria-pressed", "false");
      this._updateClear();
      this._text.focus();
      changed();
    });
  }

  /** A function that tells whether an instance is shown. */
  predicate() {
    const words = this._text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const host = this._host.value;
    const levels = this._levels;
    return (one) => {
      if (host && one.host !== host) return false;
      if (levels.size && !levels.has(one.level)) return false;
      if (!words.length) return true;
      const text = `${one.label} ${one.uuid} ${one.host} ${one.kind} ${one.reason} ${one.notActed}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
  }

  /** Shows how many instances there are of each kind, and the hosts there are. */
  update(fleet) {
    const counts = fleet.counts();
    for (const { button, number, level } of this._buttons) {
      const count = counts.get(level) ?? 0;
      setText(number, String(count));
      // What can be pressed stays: it may be pressed already.
      button.hidden = count === 0 && !this._levels.has(level);
      button.classList.toggle("worrying", count > 0 && level <= WORRYING);
    }
    this._updateHosts(fleet);
  }

  _updateHosts(fleet) {
    const names = [...fleet.hosts.keys()].sort(byNaturalOrder);
    const [all, ...options] = this._host.options;
    if (names.length !== options.length || names.some((name, index) => options[index].value !== name)) {
      const chosen = this._host.value;
      arrange(this._host, [all, ...names.map((name) => element("option", { value: name }, name))]);
      this._host.value = names.includes(chosen) ? chosen : "";
    }
    this._host.parentElement.hidden = names.length < 2;
  }

  _button({ kind, meaning, level }, changed) {
    const number = element("b", {}, "0");
    const press = () => {
      if (!this._levels.delete(level)) this._levels.add(level);
      button.setAttribute("aria-pressed", String(this._levels.has(level)));
      this._updateClear();
      changed();
    };
    const button = element(
      "button",
      { type: "button", "aria-pressed": "false", title: meaning, hidden: true, on: { click: press } },
      shape(kind),
      number,
      ` ${kind}`,
    );
    return { button, number, level };
  }

  _updateClear() {
    this._clear.hidden = !(this._text.value || this._host.value || this._levels.size);
  }
}
