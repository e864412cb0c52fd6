// The instances as a table, the worst first. Rows are kept and moved, not made anew.

import { arrange, element, printable, setText, shape } from "./dom.js";

const PAGE = 50;

export class List {
  /**
   * @param {HTMLTableSectionElement} body
   * @param {HTMLButtonElement} more shows further rows
   * @param {Fleet} fleet
   */
  constructor(body, more, fleet) {
    this._body = body;
    this._more = more;
    this._fleet = fleet;
    this._rows = new Map();
    this._limit = PAGE;
    this._chosen = "";
  }

  /** Shows further rows from now on. */
  extend() {
    this._limit *= 2;
  }

  /** Shows the instances that pass the filters; returns how many those are. */
  update(changed, shown) {
    const all = this._fleet.worstFirst().filter(shown);
    const first = all.slice(0, this._limit);
    const kept = new Set(first.map((one) => one.uuid));
    for (const uuid of this._rows.keys()) if (!kept.has(uuid)) this._rows.delete(uuid);
    arrange(this._body, first.map((one) => this._rowOf(one, changed)));
    this._more.hidden = all.length <= this._limit;
    setText(this._more, `Show more: ${all.length - first.length} are left`);
    return all.length;
  }

  /** Marks the instance whose details are shown. */
  mark(uuid) {
    this._rows.get(this._chosen)?.node.removeAttribute("aria-current");
    this._chosen = uuid;
    this._rows.get(uuid)?.node.setAttribute("aria-current", "true");
  }

  _rowOf(one, changed) {
    let row = this._rows.get(one.uuid);
    if (!row) row = this._newRow(one);
    else if (!changed.has(one.uuid)) return row.node;
    row.mark.dataset.kind = one.kind;
    setText(row.kind, one.kind);
    setText(row.name, printable(one.label));
    setText(row.host, one.host);
    // The table may have no room for all of a name.
    row.link.title = printable(one.label);
    row.host.title = one.host;
    setText(row.reason, printable(reasonOf(one)));
    return row.node;
  }

  _newRow(one) {
    const [kind, name] = [element("span"), element("bdi")];
    const [host, reason] = [element("td", { class: "wide" }), element("bdi")];
    const mark = shape(one.kind);
    const link = element("a", { href: `#${one.uuid}` }, name);
    const node = element(
      "tr",
      { "data-uuid": one.uuid, "aria-current": one.uuid === this._chosen && "true" },
      element("td", { class: "state" }, mark, kind),
      element("th", { scope: "row" }, link),
      host,
      element("td", { class: "reason" }, reason),
    );
    const row = { node, mark, kind, name, link, host, reason };
    this._rows.set(one.uuid, row);
    return row;
  }
}

function reasonOf({ reason, notActed, owner, windows }) {
  const open = windows.map(({ text }) => `${text} is open`);
  return [reason, ...open, notActed && `not acted: ${notActed}`, owner].filter(Boolean).join("; ");
}
