// The words of the API that this page knows; one that it does not know is shown as it is.

/** A number of what a word names: `1 host`, `2 hosts`. */
export const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

/** What an instance can be, the worst first: [kind, what it means]. */
export const KINDS = [
  ["lost", "silent for too long"],
  ["ill", "says that it is not well"],
  ["unwatched", "no guest is heard, and nobody waits for one"],
  ["absent", "its guest left and has not come back"],
  ["unknown", "its host does not tell"],
  ["restarting", "goes down and is expected back"],
  ["suspended", "an event stops it from answering"],
  ["returning", "its silence does not count yet"],
  ["paused", "libvirt has paused it"],
  ["waiting", "no guest has been heard"],
  ["stopped", "ended on request"],
  ["not watched", "its administrator does not want it watched"],
  ["heartbeating", "answers"],
].map(([kind, meaning], level) => ({ kind, meaning, level }));

const LEVELS = new Map(KINDS.map(({ kind, level }) => [kind, level]));

/** The rank of a kind; an unknown one ranks as `unknown`. */
export const levelOf = (kind) => LEVELS.get(kind) ?? LEVELS.get("unknown");

/** Kinds up to this rank ask for a look. */
export const WORRYING = LEVELS.get("unknown");

/** The kind of an instance that the API describes. */
export function kindOf(line) {
  return line.state === "heartbeating" && line.health === "unhealthy" ? "ill" : line.state;
}

/** What an instance is after an event of this kind; other events leave its state alone. */
export const KIND_AFTER = {
  heartbeating: "heartbeating",
  stopped: "stopped",
  loss: "lost",
  unhealthy: "ill",
  paused: "paused",
  absent: "absent",
  unwatched: "unwatched",
};

/** Events that may be voted on. */
export const VOTED = [
  "stop", "reboot", "pause", "suspend", "resize_begin", "live_migrate_begin", "cold_migrate_begin",
];

/** Events that an instance may be told of. */
export const NOTIFIED = [
  "stop", "reboot", "pause", "unpause", "suspend", "resume", "resize_begin", "resize_end",
  "live_migrate_begin", "live_migrate_end", "cold_migrate_begin", "cold_migrate_end",
];

export const ACTIONS = [
  "stop", "reboot", "pause", "unpause", "suspend", "resume", "resize", "live-migrate", "cold-migrate",
];
