// The page: what the daemon says goes into the fleet, what changed there goes into the views.

import { Alerts } from "./alerts.js";
import * as api from "./api.js";
import { Detail } from "./detail.js";
import { byId, printable, setText } from "./dom.js";
import { Drains } from "./drains.js";
import { Events } from "./events.js";
import { Filters } from "./filters.js";
import { Fleet } from "./fleet.js";
import { List } from "./list.js";
import { Overview } from "./overview.js";
import { Refresher } from "./refresher.js";
import { follow } from "./stream.js";
import { OpenWindows } from "./windows.js";
import { WORRYING, counted } from "./words.js";

/** More names than this are only counted when they are read out. */
const NAMED = 3;

const fleet = new Fleet();
const filters = new Filters(() => draw({ filtered: true }));
const overview = new Overview(byId("overview"), fleet, choose);
const list = new List(byId("rows"), byId("more"), fleet);
const alerts = new Alerts(byId("alerts"), fleet, () => refresher.all());
const drains = new Drains(byId("drains"), fleet);
const windows = new OpenWindows(byId("windows"), fleet);
const events = new Events(byId("events"), fleet);
const detail = new Detail(byId("detail"), fleet, (uuid) => refresher.touch(uuid), () => choose(""));
const refresher = new Refresher(fleet, (changed, whole) => {
  for (const uuid of changed) pending.changed.add(uuid);
  draw({ whole });
  // What the details offer depends on which daemon this is.
  if (location.hash && !detail.uuid) showChosen();
});

// -- drawing ---------------------------------------------------------------------------------

/** What is to be drawn with the next frame. */
let pending = { changed: new Set(), whole: false, filtered: false, requested: false };

/** Levels that were read out last, by uuid. */
const levels = new Map();

function draw({ whole = false, filtered = false }) {
  pending.whole ||= whole;
  pending.filtered ||= filtered;
  if (pending.requested) return;
  pending.requested = true;
  requestAnimationFrame(() => {
    const { changed, whole, filtered } = pending;
    pending = { changed: new Set(), whole: false, filtered: false, requested: false };
    const shown = filters.predicate();
    if (changed.size || whole || filtered) {
      filters.update(fleet);
      overview.update(changed, shown, filtered);
      const count = list.update(changed, shown);
      setText(byId("shown"), `${count} of ${fleet.instances.size} shown`);
      overview.mark(detail.uuid);
      list.mark(detail.uuid);
      announce(changed);
    }
    if (whole) drawDaemon();
    windows.update();
    detail.update();
    events.update();
  });
}

function drawDaemon() {
  const name = fleet.daemon.name ?? fleet.daemon.hostname;
  const bad = [...fleet.instances.values()].filter((one) => one.level <= WORRYING).length;
  document.title = `${bad ? `(${bad}) ` : ""}${name} · hbtrio`;
  setText(byId("title"), name);
  const many = counted(fleet.instances.size, "instance");
  const what = fleet.isAgent ? `agent of ${counted(fleet.hosts.size, "host")}, ${many}` : `host, ${many}, read-only`;
  setText(byId("about"), `${what} · hbtrio ${fleet.daemon.version}`);
  alerts.update();
  drains.update();
}

/** Reads out which instances got worse, and which are heartbeating again. */
function announce(changed) {
  const news = { worse: [], better: [] };
  for (const uuid of changed) {
    const one = fleet.instances.get(uuid);
    const before = levels.get(uuid);
    if (one) levels.set(uuid, one.level);
    else levels.delete(uuid);
    if (!one || before === undefined || before === one.level) continue;
    if (one.level <= WORRYING) news.worse.push(one);
    else if (before <= WORRYING) news.better.push(one);
  }
  const sentences = Object.values(news).filter((ones) => ones.length).map(spoken);
  if (sentences.length) byId("news").textContent = sentences.join(". ");
}

function spoken(ones) {
  if (ones.length > NAMED) return `${ones.length} instances changed, ${ones[0].kind} among them`;
  return ones.map(({ label, kind }) => `${printable(label)} is ${kind}`).join(", ");
}

// -- choosing --------------------------------------------------------------------------------

function choose(uuid) {
  if (location.hash.slice(1) !== uuid) location.hash = uuid;
  else showChosen();
}

/** Shows the instance that the address names. */
function showChosen() {
  const before = detail.uuid;
  detail.show(decodeURIComponent(location.hash.slice(1)));
  draw({ filtered: true });
  if (before && !detail.uuid) byId("list-title").focus();
}

window.addEventListener("hashchange", showChosen);
byId("more").addEventListener("click", () => {
  list.extend();
  draw({ filtered: true });
});

// -- the daemon ------------------------------------------------------------------------------

function connection(state, text) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), text);
}

/** Waits until the user has typed a token. */
function askForToken() {
  const form = byId("token-form");
  const field = byId("token");
  setText(byId("token-fault"), api.token.get() ? "The token is wrong." : "");
  api.token.forget();
  connection("waiting", "needs the token");
  form.hidden = false;
  field.focus();
  return new Promise((resume) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      api.token.set(field.value.trim());
      field.value = "";
      form.hidden = true;
      resume();
    }, { once: true });
  });
}

async function takeHistory() {
  try {
    for (const line of await api.history()) events.add(line);
    draw({});
  } catch {
    // This daemon keeps none; the stream has told of the last events.
  }
}

// At once, beside the stream: what happens until that is open is among its first events.
refresher.all();

follow({
  opened() {
    connection("live", "live");
    if (!refresher.isAsking) refresher.all();
    takeHistory();
  },
  event(line) {
    if (!events.add(line)) return;
    if (line.uuid) refresher.touch(line.uuid);
    detail.addEvent(line);
    draw({});
  },
  lost: () => connection("lost", "reconnecting"),
  refused: askForToken,
});
