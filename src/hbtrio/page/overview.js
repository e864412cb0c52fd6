// A cell per instance, grouped by host. One tab stop a host; arrow keys go from cell to cell.

import { arrange, element, printable, setText } from "./dom.js";
import { byNaturalOrder } from "./fleet.js";
import { WORRYING } from "./words.js";

export class Overview {
  /**
   * @param {Element} root
   * @param {Fleet} fleet
   * @param {(uuid: string) => void} choose an instance was chosen
   */
  constructor(root, fleet, choose) {
    this._root = root;
    this._fleet = fleet;
    this._groups = new Map();
    this._cells = new Map();
    this._chosen = "";
    root.addEventListener("click", ({ target }) => {
      const cell = target.closest("[role=option]");
      if (cell) {
        this._activate(cell);
        choose(cell.dataset.uuid);
      }
    });
    root.addEventListener("keydown", (event) => this._key(event, choose));
  }

  /** Shows what changed; `shown` tells whether an instance passes the filters. */
  update(changed, shown, filtersChanged) {
    const moved = new Set();
    for (const uuid of changed) this._updateCell(uuid, moved);
    if (moved.size) this._sort(moved);
    for (const uuid of filtersChanged ? this._cells.keys() : changed) {
      const cell = this._cells.get(uuid);
      if (cell) cell.hidden = !shown(this._fleet.instances.get(uuid));
    }
    for (const group of this._groups.values()) this._summarize(group);
  }

  /** Marks the instance whose details are shown. */
  mark(uuid) {
    this._cells.get(this._chosen)?.setAttribute("aria-selected", "false");
    this._chosen = uuid;
    this._cells.get(uuid)?.setAttribute("aria-selected", "true");
  }

  _updateCell(uuid, moved) {
    const one = this._fleet.instances.get(uuid);
    let cell = this._cells.get(uuid);
    if (!one) {
      cell?.remove();
      this._cells.delete(uuid);
      return;
    }
    if (!cell) {
      const selected = String(uuid === this._chosen);
      cell = element("span", { role: "option", id: `cell-${uuid}`, "data-uuid": uuid, "aria-selected": selected });
      this._cells.set(uuid, cell);
    }
    const label = `${printable(one.label)}: ${one.kind}${one.windows.length ? ", a window is open" : ""}`;
    cell.className = "shape";
    cell.dataset.kind = one.kind;
    cell.dataset.level = one.level;
    cell.classList.toggle("open", one.windows.length > 0);
    cell.title = label;
    cell.setAttribute("aria-label", label);
    const group = this._groupOf(one.host);
    if (cell.parentNode !== group.list) {
      group.list.append(cell);
      moved.add(group);
    }
  }

  _groupOf(host) {
    let group = this._groups.get(host);
    if (!group) {
      const id = `host-${this._groups.size}`;
      const name = element("h2", { id }, host);
      const summary = element("p", { class: "hint" });
      const list = element("div", {
        role: "listbox", class: "cells", tabindex: "0", "aria-labelledby": id, "aria-orientation": "horizontal",
      });
      const section = element("div", { class: "host" }, element("div", { class: "head" }, name, summary), list);
      group = { host, section, list, summary };
      this._groups.set(host, group);
      const groups = [...this._groups.values()].sort((a, b) => byNaturalOrder(a.host, b.host));
      arrange(this._root, groups.map((one) => one.section));
    }
    return group;
  }

  _sort(groups) {
    const order = new Map([...groups].map((group) => [group.host, []]));
    for (const one of this._fleet.byName()) order.get(one.host)?.push(this._cells.get(one.uuid));
    for (const group of groups) arrange(group.list, order.get(group.host));
  }

  _summarize({ host, section, list, summary }) {
    let worrying = 0;
    let visible = 0;
    for (const cell of list.children) {
      if (cell.dataset.level <= WORRYING) worrying += 1;
      if (!cell.hidden) visible += 1;
    }
    section.hidden = visible === 0;
    const known = this._fleet.hosts.get(host);
    // A host says more of its own link than an agent of a host's.
    const state = known?.link?.state ?? known?.link ?? "up";
    const link = state === "up" || state === "none" ? "" : `, link ${state}`;
    const held = known?.held_since ? ", alarms held back" : known?.brake_closed ? ", brake closed" : "";
    const bad = worrying ? `, ${worrying} to look at` : "";
    setText(summary, `${list.children.length}${bad}${link}${held}`);
  }

  // -- keys ---------------------------------------------------------------------------------

  _key(event, choose) {
    const list = event.target.closest("[role=listbox]");
    if (!list) return;
    const cells = [...list.children].filter((cell) => !cell.hidden);
    const at = cells.findIndex((cell) => cell.id === list.getAttribute("aria-activedescendant"));
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: at + columnsOf(cells),
      ArrowUp: at - columnsOf(cells),
      Home: 0,
      End: cells.length - 1,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this._activate(cells[Math.max(0, Math.min(cells.length - 1, to))]);
    } else if ((event.key === "Enter" || event.key === " ") && cells[at]) {
      event.preventDefault();
      choose(cells[at].dataset.uuid);
    }
  }

  _activate(cell) {
    if (!cell) return;
    this._root.querySelector(".active")?.classList.remove("active");
    cell.classList.add("active");
    cell.parentNode.setAttribute("aria-activedescendant", cell.id);
    cell.scrollIntoView({ block: "nearest" });
  }
}

function columnsOf(cells) {
  const below = cells.findIndex((cell) => cell.offsetTop > cells[0].offsetTop);
  return below === -1 ? cells.length : below;
}
