// What is wrong with the daemons themselves, in sentences; the first are the gravest.

/** The warnings about an agent and its hosts, or about a host: [grave, text] each. */
export function warningsOf(fleet) {
  return (fleet.isAgent ? ofAgent(fleet) : ofHost(fleet.daemon)).sort(([a], [b]) => b - a);
}

function ofAgent({ daemon, hosts }) {
  const found = ofFiles(daemon.files);
  if (daemon.store_fault) found.push([true, `The store can't be written: ${daemon.store_fault}`]);
  if (daemon.store_files_fault) found.push([true, `The store's files: ${daemon.store_files_fault}`]);
  if (daemon.delivery && !daemon.delivery.reachable) {
    found.push([true, `The VIM can't be reached: ${daemon.delivery.fault}`]);
  }
  if (daemon.crashes) found.push([false, `${daemon.crashes} internal failures; the agent's log has them`]);
  for (const host of hosts.values()) {
    const name = `Host ${host.hostname}`;
    if (host.held_since) found.push([true, `${name}: alarms are held back: ${host.held_why}`]);
    if (host.link === "lost") found.push([true, `${name}: no link for ${minutes(host.down_s)}`]);
    if (host.link === "down") found.push([false, `${name}: the link is down`]);
    if (host.link === "never") found.push([false, `${name}: has never had a link`]);
    if (host.conflict) found.push([true, `${name}: ${host.conflict}`]);
    if (host.certificate) found.push([false, `${name}: ${host.certificate}`]);
    if (host.unregistered) {
      found.push([false, `${name}: ${host.unregistered} instances that the VIM has not registered`]);
    }
  }
  return found;
}

function ofHost(host) {
  const found = ofFiles(host.files);
  if (host.brake_closed) {
    found.push([true, "The brake is closed after a mass failure: no corrective command runs. Release it with: hbtrio ctl release"]);
  }
  if (host.overload) found.push([host.overload.alarm, "The host is overloaded: heartbeats come late"]);
  if (host.link?.state === "down") found.push([true, `No link to the agent: ${host.link.why}`]);
  if (host.libvirt?.state === "silent") found.push([true, `libvirt does not answer: ${host.libvirt.why}`]);
  if (host.memory?.state === "failing") found.push([true, `The history can't be written: ${host.memory.why}`]);
  if (host.events_fault) found.push([true, `Events can't be written: ${host.events_fault.why}`]);
  if (host.crashes) found.push([false, `${host.crashes} internal failures; the host's log has them`]);
  return found;
}

function ofFiles(files) {
  const warnings = (files?.warnings ?? []).map((text) => [false, text]);
  return [...warnings, ...(files?.faults ?? []).map((text) => [true, text])];
}

const minutes = (seconds) =>
  seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} minutes`;
