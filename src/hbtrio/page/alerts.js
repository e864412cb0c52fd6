// The warnings about the daemons, and at an agent what an operator can do about a host.

import * as api from "./api.js";
import { arrange, element, printable, setText, shape } from "./dom.js";
import { ask } from "./question.js";
import { warningsOf } from "./warnings.js";
import { counted } from "./words.js";

const alarms = (how) => async (hostname) => {
  const { sent, withdrawn } = await api.alarms(hostname, how);
  return `${hostname}: ${counted(sent, "alarm")} sent, ${withdrawn} withdrawn`;
};

/** What can be done about a host: [button, question, doing it]. */
const ACTS = {
  alarms: [
    ["Send alarms", (host) => `Send the alarms of ${host} that are held back? The VIM acts on each of them.`, alarms("send")],
    ["Withdraw alarms", (host) => `Withdraw the alarms of ${host} that are held back? The VIM learns of none of these losses.`, alarms("withdraw")],
  ],
  forget: [
    [
      "Forget host",
      (host) => `Forget ${host} and its instances, because it is no more? Its history stays.`,
      async (hostname) => {
        const { instances } = await api.forget(hostname);
        return `${hostname} is forgotten, with ${counted(instances, "instance")}`;
      },
    ],
  ],
};

export class Alerts {
  /**
   * @param {Element} section holds a list; hidden without a warning
   * @param {Fleet} fleet
   * @param {() => void} done called after something was done
   */
  constructor(section, fleet, done) {
    this._section = section;
    this._fleet = fleet;
    this._done = done;
    this._items = new Map();
  }

  /** Shows the warnings there are now; an item stays itself while its words change. */
  update() {
    const before = this._items;
    this._items = new Map();
    for (const warning of warningsOf(this._fleet)) {
      const item = before.get(warning.key) ?? this._newItem(warning);
      setText(item.text, printable(warning.text));
      this._items.set(warning.key, item);
    }
    arrange(this._section.firstElementChild, [...this._items.values()].map(({ node }) => node));
    this._section.hidden = this._items.size === 0;
  }

  _newItem({ grave, act, hostname }) {
    const text = element("bdi");
    const buttons = (ACTS[act] ?? []).map((one) => this._button(hostname, ...one));
    const node = element(
      "li",
      { class: grave ? "grave" : false },
      shape(grave ? "lost" : "ill"),
      text,
      element("span", { class: "acts" }, ...buttons),
    );
    return { node, text };
  }

  _button(hostname, label, question, act) {
    const perform = async () => {
      const outcome = await act(hostname);
      this._done();
      return outcome;
    };
    const click = () => ask(question(hostname), label, perform);
    return element("button", { type: "button", "aria-label": `${label}: ${hostname}`, on: { click } }, label);
  }
}
