// What is wrong with the daemons themselves, in sentences; the first are the gravest.

import { counted } from "./words.js";

/**
 * The warnings about an agent and its hosts, or about a host.
 *
 * Each has a `key` that stays while its text changes; `grave`; `text`; and, where an operator of an
 * agent can do something, `act` and `hostname`.
 */
export function warningsOf(fleet) {
  const found = [...(fleet.isAgent ? ofAgent(fleet) : ofHost(fleet.daemon)), ...ofGroups(fleet.groups)];
  const held = ({ key }) => Number(key === "hold");
  return found.sort((a, b) => held(b) - held(a) || Number(b.grave) - Number(a.grave));
}

const warning = (key, grave, text, more = {}) => ({ key, grave, text, ...more });

function ofAgent({ daemon, hosts }) {
  const found = ofFiles(daemon.files);
  if (daemon.store_fault) found.push(warning("store", true, `The store can't be written: ${daemon.store_fault}`));
  if (daemon.store_files_fault) found.push(warning("store-files", true, `The store's files: ${daemon.store_files_fault}`));
  if (daemon.on_hold) {
    const text = `${counted(daemon.on_hold, "instance")} on hold: alarms stay here`;
    found.push(warning("hold", false, text));
  }
  if (daemon.delivery && !daemon.delivery.reachable) {
    found.push(warning("vim", true, `The VIM can't be reached: ${daemon.delivery.fault}`));
  }
  if (daemon.crashes) found.push(warning("crashes", false, `${counted(daemon.crashes, "internal failure")}; see the agent's log`));
  return [...found, ...[...hosts.values()].flatMap(ofAgentsHost)];
}

function ofAgentsHost(host) {
  const { hostname } = host;
  const found = [];
  const add = (what, grave, text, act = "") =>
    found.push(warning(`${what} ${hostname}`, grave, `Host ${hostname}: ${text}`, { act, hostname }));
  if (host.held_since) add("held", true, `alarms are held back: ${host.held_why}`, "alarms");
  if (host.overload) add("overload", host.overload.alarm, "is overloaded: losses come late");
  if (host.link === "lost") add("lost", true, `no link for ${minutes(host.down_s)}`, "forget");
  if (host.link === "down") add("down", false, "the link is down");
  if (host.link === "never") add("never", false, "has never had a link", "forget");
  if (host.conflict) add("conflict", true, host.conflict);
  if (host.certificate) add("certificate", false, host.certificate);
  if (host.unregistered) add("unregistered", false, `${counted(host.unregistered, "instance")} that the VIM has not registered`);
  return found;
}

function ofHost(host) {
  const found = ofFiles(host.files);
  const add = (key, grave, text) => found.push(warning(key, grave, text));
  if (host.on_hold) add("hold", false, `${counted(host.on_hold, "instance")} on hold: nothing is done`);
  if (host.brake_closed) {
    add("brake", true, "The brake is closed after a mass failure: no corrective command runs. Release it with: hbtrio ctl brake release");
  }
  if (host.overload) add("overload", host.overload.alarm, "The host is overloaded: heartbeats come late");
  if (host.link?.state === "down") add("link", true, `No link to the agent: ${host.link.why}`);
  if (host.libvirt?.state === "silent") add("libvirt", true, `libvirt does not answer: ${host.libvirt.why}`);
  if (host.memory?.state === "failing") add("memory", true, `The history can't be written: ${host.memory.why}`);
  if (host.events_fault) add("events", true, `Events can't be written: ${host.events_fault.why}`);
  if (host.crashes) add("crashes", false, `${counted(host.crashes, "internal failure")}; see the host's log`);
  return found;
}

/** Who of a group is named; the others are counted. */
const NAMED = 5;

// A group with nobody unavailable has no warning; with more than its rule permits it is grave.
function ofGroups(groups) {
  return groups.flatMap(({ name, rule, members, available, max_unavailable, unavailable }) => {
    if (!unavailable.length) return [];
    const named = unavailable.slice(0, NAMED).map((one) => `${one.name} ${one.state}`);
    if (unavailable.length > NAMED) named.push(`${unavailable.length - NAMED} more`);
    const grave = members.length - available > max_unavailable;
    return [warning(`group ${name} ${grave}`, grave, `Group ${name}: ${named.join(", ")}, ${rule}`)];
  });
}

// A certificate has one warning at most, which names it.
function ofFiles(files) {
  const warnings = (files?.warnings ?? []).map((text) => warning(text, false, text));
  return [...warnings, ...(files?.faults ?? []).map((text) => warning(text, true, text))];
}

const minutes = (seconds) =>
  seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} minutes`;
