"""The host's status as a table, and its events as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from hbtrio.cli.ctl.drain_notes import drain_notes
from hbtrio.cli.ctl.groups import group_notes
from hbtrio.cli.ctl.names import bracketed
from hbtrio.cli.ctl.ranking import ALL, Selection, counts, shown_name
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import (
    HEALTH_COLOURS,
    STATE_COLOURS,
    Column,
    column,
    counted,
    in_brackets,
    numbers,
    short_uuid,
    uuid_length,
    write_clipped,
    write_table,
)
from hbtrio.cli.ctl.times import clock, moment, stamp
from hbtrio.text import printable, reason_after
from hbtrio.wire.operator import (
    AnyEventLine,
    EventLine,
    FilesLine,
    FleetInstanceLine,
    HoldLine,
    HostLine,
    InstanceLine,
    PlannedLine,
    PolicyLine,
    Status,
)

#: The width in cells from which on a table shows the time of the last event.
_WITH_TIME: Final = 100

#: The width from which on it shows the numbers: the last event says more.
WITH_NUMBERS: Final = 80

#: Holds that are shown one by one; a host under maintenance may have hundreds.
_HOLDS: Final = 10

_KIND_COLOURS: Final = {
    "heartbeating": "good",
    "loss": "bad",
    "unhealthy": "bad",
    "restart-expired": "bad",
    "stopped": "warn",
    "paused": "warn",
    "absent": "warn",
    "not-acted": "bad",
    "overridden": "warn",
    "hold": "warn",
    "lost": "bad",
    "host-unreachable": "bad",
    "host-alarm": "bad",
    "host-alarm-over": "good",
    "undelivered": "bad",
}
_RESULT_COLOURS: Final = {"reject": "bad", "error": "warn", "timeout": "warn"}


def show_status(screen: Screen, status: Status, selection: Selection = ALL) -> None:
    """Writes the host and the selected instances, the worst first.

    Raises:
        UserError: the selection names what is not there.
    """
    instances = selection.of_instances(status.instances)
    lines = host_lines(status.host, status.instances)
    for text, colour in (*lines, *drain_notes(status.drains), *group_notes(status.groups)):
        write_clipped(screen, text, colour)
    if not instances:
        return
    write_table(screen, list(_columns(instances, status.host.actions, screen.columns)))


def host_lines(host: HostLine, instances: Sequence[InstanceLine]) -> Iterator[tuple[str, str]]:
    """A line that sums the host up, and one for each trouble of it, with their colours."""
    watched = [one for one in instances if one.policy is None or one.policy.watch]
    left_out = len(instances) - len(watched)
    yield (
        f"{host.hostname}: {host.heartbeating} of {len(watched)} heartbeating"
        f"{in_brackets(counts(watched))}, "
        f"{f'{left_out} not watched, ' if left_out else ''}"
        f"hbtrio {host.version} since {moment(host.started)}",
        "",
    )
    yield from hold_lines(instances)
    yield from planned_lines(instances)
    if host.alarms:
        yield (
            f"ALARM: {counted(host.alarms, 'mass failure')}, the host itself is suspected; "
            f"{counted(host.corrective_commands_held_back, 'corrective command')} held back",
            "bad",
        )
    if host.brake_closed:
        text = "the brake is closed: no command runs; `hbtrio ctl brake release` opens it"
        yield text, "bad"
    if (overload := host.overload) is not None:
        yield (
            f"{'ALARM: ' if overload.alarm else ''}overloaded since {moment(overload.since)}: "
            "heartbeats and losses come late; status and log lines are shed",
            "bad",
        )
    elif host.late:
        yield (
            "the host daemon is not being scheduled on time: missed heartbeats are ignored for now",
            "bad",
        )
    if host.agent_commands == "any":
        text = 'the agent may run any command here ([agent] commands = "any" in host.toml)'
        yield text, "warn"
    if host.crashes:
        yield f"{counted(host.crashes, 'internal failure')}: see the host's log", "bad"
    if fault := host.events_fault:
        lost = counted(fault.lost, "event")
        yield f"{lost} not written since {moment(fault.since)}: {fault.why}", "bad"
    yield from _link_lines(host)
    yield from _libvirt_lines(host)
    if host.memory is not None and host.memory.why:
        yield f"memory: {host.memory.why}", "bad" if host.memory.state == "failing" else "faint"
    if host.files is not None:
        yield from ((text, "bad") for text in file_lines(host.files))
    if host.corrective_commands_run:
        yield (
            f"{counted(host.corrective_commands_run, 'corrective command')} run, "
            f"{host.corrective_commands_failed} failed",
            "warn",
        )


def hold_lines(instances: Iterable[InstanceLine | FleetInstanceLine]) -> Iterator[tuple[str, str]]:
    """A line for each instance that is on hold, with its colour; after some, how many more."""
    held = [one for one in instances if one.hold is not None]
    for one in held[:_HOLDS]:
        yield f"{shown_name(one) or one.uuid}: {hold_words(one.hold)}", "warn"
    if (more := len(held) - _HOLDS) > 0:
        yield f"{counted(more, 'more instance')} on hold", "warn"


def planned_lines(
    instances: Iterable[InstanceLine | FleetInstanceLine],
) -> Iterator[tuple[str, str]]:
    """The planned actions, each with its colour; of many the first ones."""
    planned = [one for one in instances if one.planned is not None]
    for one in planned[:_HOLDS]:
        yield f"{shown_name(one) or one.uuid}: {planned_words(one.planned)}", "warn"
    if (more := len(planned) - _HOLDS) > 0:
        yield f"{counted(more, 'more instance')} with a planned action", "warn"


def planned_words(planned: PlannedLine | None) -> str:
    """A planned action: when, by whom, and what its guest said; "" for none."""
    if planned is None:
        return ""
    since, until = moment(planned.not_before), moment(planned.before)
    said = f"; {planned.state}: {planned.reason}" if planned.reason else ""
    end = "given up" if planned.gives_up else "done"
    when = f"asked from {since} on, {end} at {until}"
    return f"{planned.action} planned by {planned.who}: {when}{said}"


def hold_words(hold: HoldLine | None) -> str:
    """A hold: until when, by whom, why; "" for none."""
    if hold is None:
        return ""
    return f"on hold until {moment(hold.until)} by {hold.who}: {hold.reason}"


def _link_lines(host: HostLine) -> Iterator[tuple[str, str]]:
    link = host.link
    if link is None:  # an older host
        return
    if link.state == "none":
        yield "no agent is configured", ""
        return
    since = "" if link.since is None else f" since {moment(link.since)}"
    agent = f"agent {link.agent}, {link.endpoint}" if link.agent else f"agent at {link.endpoint}"
    why = f": {link.why}" if link.why else ""
    yield f"{agent}: link {link.state}{since}{why}", "" if link.state == "up" else "bad"
    if link.certificate:
        yield f"agent: {link.certificate}", "warn"


def _libvirt_lines(host: HostLine) -> Iterator[tuple[str, str]]:
    libvirt = host.libvirt
    if libvirt is None or libvirt.state == "off":  # None: an older host
        return
    since = "" if libvirt.since is None else f" since {moment(libvirt.since)}"
    if libvirt.state == "answers":
        yield f"libvirt: answers{since}, {counted(libvirt.domains, 'domain')}", ""
    else:
        yield f"libvirt: silent{since}: {libvirt.why}; nothing is done to a VM without it", "bad"


def file_lines(files: FilesLine) -> Iterator[str]:
    """Lines for the certificates that expire soon, and for renewed files that can't be used."""
    yield from files.warnings
    for fault in files.faults:
        yield f"{fault}; what was read before stays in use"


def _columns(
    instances: list[InstanceLine], actions: dict[str, str], width: int | None
) -> Iterator[Column]:
    length = uuid_length([one.uuid for one in instances], width)
    yield column("UUID", [one.uuid[:length] for one in instances])
    if any(one.domain is not None and one.domain.name != one.name for one in instances):
        names = ["-" if one.domain is None else one.domain.name for one in instances]
        yield attrs.evolve(column("DOMAIN", names), flexible=True)
    yield attrs.evolve(column("NAME", [one.name or "-" for one in instances]), flexible=True)
    yield column("STATE", [one.state for one in instances], STATE_COLOURS)
    yield column("HEALTH", [one.health for one in instances], HEALTH_COLOURS)
    if width is None or width >= WITH_NUMBERS:
        yield numbers("BEATS", [str(one.beats) for one in instances])
        yield numbers("MISSED", [str(one.missed) for one in instances])
        trips = [one.round_trip_ms for one in instances]
        yield numbers("RTT ms", ["-" if trip is None else f"{trip:.1f}" for trip in trips])
    if width is None or width >= _WITH_TIME:
        yield column("AT", [_at(one) for one in instances])
    if any(one.hold is not None for one in instances):
        yield hold_column(instances)
    policies = [policy_words(one.policy) for one in instances]
    if any(policies):
        yield attrs.evolve(column("POLICY", [one or "-" for one in policies]), flexible=True)
    if any(one.owner for one in instances):
        owners = [one.owner or "-" for one in instances]
        yield attrs.evolve(column("OWNER", owners), flexible=True)
    if any(one.not_acted for one in instances):
        reasons = [one.not_acted for one in instances]
        colours = dict.fromkeys(map(printable, reasons), "bad")
        not_acted = column("NOT ACTED", [one or "-" for one in reasons], colours)
        yield attrs.evolve(not_acted, flexible=True)
    latest = [latest_words(one, actions.get(one.uuid)) for one in instances]
    yield attrs.evolve(column("LAST", latest), flexible=True)


def hold_column(instances: Sequence[InstanceLine | FleetInstanceLine]) -> Column:
    """Until when instances are on hold, and why."""
    holds = ["" if one.hold is None else _until_why(one.hold) for one in instances]
    colours = dict.fromkeys(map(printable, filter(None, holds)), "warn")
    return attrs.evolve(column("HOLD", [one or "-" for one in holds], colours), flexible=True)


def _until_why(hold: HoldLine) -> str:
    return f"until {moment(hold.until)}: {hold.reason}"


def policy_words(policy: PolicyLine | None) -> str:
    """What is set for an instance only, and what is wrong with its metadata."""
    if policy is None:
        return ""
    values = [f"{key} {_word(getattr(policy, key, None))}" for key in policy.places]
    if policy.corrective == "unknown":
        values.append("not known yet: libvirt is silent about it")
    if policy.fault:
        values.append(f"metadata: {policy.fault}")
    return ", ".join(values)


def _word(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
    return str(value)


def going_on(one: InstanceLine | FleetInstanceLine, action: str | None) -> str:
    """What is in progress on an instance; "" for nothing."""
    texts = [f"{action} in progress"] if action else []
    if one.open is not None:
        extended = f", {one.open.extended}" if one.open.extended else ""
        left = f"{one.open.remaining_s:.0f} s left{extended}"
        texts.append(f"{one.open.kind} {one.open.event}, {left}")
    if one.restart_remaining_s is not None:
        texts.append(f"RESTART, {one.restart_remaining_s:.0f} s left")
    return "; ".join(texts)


def latest_words(one: InstanceLine, action: str | None) -> str:
    """What is in progress, or the last event."""
    if progress := going_on(one, action):
        return progress
    if one.health == "unhealthy" and one.health_reason:
        return f"unhealthy: {one.health_reason}"
    if one.last is None or _overtaken(one, one.last):
        return one.why
    head = _head(one.last)
    return ": ".join(filter(None, (head, reason_after(head, one.last.reason))))


def _at(one: InstanceLine) -> str:
    return "" if one.last is None or _overtaken(one, one.last) else clock(one.last.time)


def _overtaken(one: InstanceLine, last: EventLine) -> bool:
    """Whether the last event is out of date, by a change that is not an event itself."""
    if one.why == last.reason:
        return False
    well_again = last.kind == "unhealthy" and one.health == "healthy"
    unreachable = last.kind == "stopped" and one.state == "waiting"
    return well_again or unreachable


def _head(event: AnyEventLine) -> str:
    return " ".join(filter(None, (event.kind, event.event, event.result)))


def what_happened(event: AnyEventLine) -> tuple[str, str, str]:
    """The kind and result of an event with their colour, and the action, who asked, the reason."""
    colour = _RESULT_COLOURS.get(event.result, _KIND_COLOURS.get(event.kind, ""))
    action = f" [{event.corrective_action}]" if event.corrective_action else ""
    who = f" by {event.who}" if event.who else ""
    reason = f": {reason_after(_head(event), event.reason)}" if event.reason else ""
    note = f"; {event.note}" if event.note else ""
    return _head(event), colour, f"{action}{who}{reason}{note}"


def show_event(screen: Screen, event: AnyEventLine, name: str) -> None:
    """Writes one event: time, instance, host (of an agent's), what, who asked, and the reason.

    Args:
        screen: where to write.
        event: the event.
        name: the instance's name, or "".
    """
    head, colour, outcome = what_happened(event)
    uuid = short_uuid(event.uuid, screen.columns)
    called = bracketed(name) if name else ""
    start = " ".join(filter(None, (stamp(event.time), uuid, called, event.hostname)))
    screen.line(f"{start} " if start else "", (head, colour), outcome)
