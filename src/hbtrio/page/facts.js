// What is known of an instance, as terms and values.

/**
 * @param {object} one the instance, as the fleet has it
 * @param {object} details the daemon's last answer about this instance alone; {} before it
 * @param {string} notActed why nothing is done about it at present
 * @param {string} action the operator's action in progress
 */
export function factsOf({ line, host, owner, hold, plan }, details, notActed, action) {
  const windows = Object.entries(line.windows_s ?? {}).map(([kind, seconds]) => `${kind} ${seconds} s`);
  const domain = line.domain?.name ?? line.domain;
  return [
    ["Hold", hold],
    ["Planned", plan],
    ["Host", host],
    ["Health", [line.health, line.health_reason].filter(Boolean).join(": ")],
    ["Not acted", notActed],
    ["On a loss", details.next_loss ? nextLoss(details.next_loss) : line.corrective_action],
    ["Commands", details.corrective && commands(details.corrective)],
    ["Owner", owner],
    ["Action", action],
    ["Interval", line.interval_ms && `${line.interval_ms} ms`],
    ["Windows", windows.join(", ")],
    ["Domain", domain && [domain, line.domain?.state ?? line.domain_state].filter(Boolean).join(", ")],
    ["Groups", details.groups?.join(", ")],
    ["UUID", line.uuid],
  ].filter(([, value]) => value);
}

/** What would follow if the instance were lost now. */
function nextLoss({ action, does, argv, why, agent }) {
  const what = {
    command: `runs ${argv.join(" ")}`,
    "dry-run": `would run ${argv.join(" ")}: this host only reports it`,
    alarm: "an alarm to the VIM",
    nothing: `nothing: ${why}`,
  }[does];
  const told = agent && `its agent, ${agent}, is told`;
  return [action, what ?? does, told].filter(Boolean).join(", ");
}

const commands = ({ used, per_hour: most }) => (used ? `${used} of ${most} in this hour` : "");
