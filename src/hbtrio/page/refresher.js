// Decides what to ask the daemon for: an instance after an event about it, everything now and then.

import * as api from "./api.js";

/** Events come in bursts; requests are put together for this long. In ms, as all of these. */
const GATHER = 40;

/** More instances than this are asked for together. */
const MANY = 12;

const BETWEEN_STATUSES = 500;

/** How often everything is asked for: not every change of state is an event. */
const EVERY = 3_000;
const EVERY_OF_MANY = 10_000;
const CROWD = 300;

export class Refresher {
  /**
   * @param {Fleet} fleet receives the answers
   * @param {(changed: Set<string>, whole: boolean) => void} changed called after each answer
   */
  constructor(fleet, changed) {
    this._fleet = fleet;
    this._changed = changed;
    this._touched = new Set();
    this._all = false;
    this._failed = false;
    this._running = false;
    this._lastStatus = -Infinity;
    setInterval(() => this._poll(), 1_000);
    document.addEventListener("visibilitychange", () => this._poll());
  }

  /** Whether an answer is awaited. */
  get isAsking() {
    return this._running;
  }

  /** An instance may have changed. */
  touch(uuid) {
    this._touched.add(uuid);
    this._start();
  }

  /** Everything may have changed. */
  all() {
    this._all = true;
    this._start();
  }

  _poll() {
    const every = this._fleet.instances.size > CROWD ? EVERY_OF_MANY : EVERY;
    const begun = this._fleet.daemon || this._failed;
    if (!document.hidden && begun && performance.now() - this._lastStatus > every) this.all();
  }

  // One request at a time: an answer never overtakes a newer one.
  async _start() {
    if (this._running) return;
    this._running = true;
    try {
      while (this._all || this._touched.size) {
        await sleep(GATHER);
        if (this._all || this._touched.size > MANY) await this._everything();
        else await this._some();
      }
      this._failed = false;
    } catch (error) {
      // The stream of events notices that the daemon is away, and asks for all when it is back.
      this._failed = error.status !== 401; // else a token is being asked for
    } finally {
      this._running = false;
    }
  }

  async _everything() {
    await sleep(BETWEEN_STATUSES - (performance.now() - this._lastStatus));
    this._all = false;
    this._touched.clear();
    this._lastStatus = performance.now();
    this._changed(this._fleet.take(await api.status()), true);
  }

  async _some() {
    const changed = new Set();
    for (const uuid of this._touched) {
      this._touched.delete(uuid);
      try {
        if (this._fleet.takeOne(await api.instance(uuid))) changed.add(uuid);
      } catch (error) {
        if (error.status !== 404) throw error;
        this._fleet.forget(uuid);
        changed.add(uuid);
      }
    }
    this._changed(changed, false);
  }
}

const sleep = (ms) => (ms > 0 ? new Promise((resume) => setTimeout(resume, ms)) : undefined);
