"""An agent's status as two tables: its hosts, and the instances on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from hbtrio.cli.ctl.drain_notes import drain_notes
from hbtrio.cli.ctl.groups import group_notes
from hbtrio.cli.ctl.ranking import ALL, Selection, counts
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import (
    HEALTH_COLOURS,
    STATE_COLOURS,
    column,
    counted,
    in_brackets,
    numbers,
    uuid_length,
    write_clipped,
    write_table,
)
from hbtrio.cli.ctl.times import moment
from hbtrio.cli.ctl.views import (
    WITH_NUMBERS,
    file_lines,
    going_on,
    hold_column,
    hold_lines,
    planned_lines,
)
from hbtrio.wire.operator import FleetHostLine, FleetInstanceLine, FleetStatus

_LINK_COLOURS: Final = {"up": "good", "down": "warn", "lost": "bad", "never": "bad"}


def fleet_lines(status: FleetStatus) -> Iterator[tuple[str, str]]:
    """A line that sums the fleet up, and one for each trouble of it, with their colours."""
    agent = status.agent
    heartbeating = sum(one.heartbeating for one in status.instances)
    up = sum(one.link == "up" for one in status.hosts)
    yield (
        f"{agent.name}: {heartbeating} of {counted(len(status.instances), 'instance')} "
        f"heartbeating{in_brackets(counts(status.instances))}, "
        f"{up} of {counted(len(status.hosts), 'host')} linked, VIM {agent.vim or 'none'}, "
        f"hbtrio {agent.version} since {moment(agent.started)}",
        "",
    )
    yield from hold_lines(status.instances)
    yield from planned_lines(status.instances)
    if agent.crashes:
        yield f"{counted(agent.crashes, 'internal failure')}: see the agent's log", "bad"
    if agent.store_fault:
        yield f"the store can't be written: {agent.store_fault}", "bad"
    if agent.store_files_fault:
        yield f"STORE: {agent.store_files_fault}", "bad"
    if agent.files is not None:
        yield from ((text, "bad") for text in file_lines(agent.files))
    delivery = agent.delivery
    if delivery is not None and not delivery.reachable:
        waiting = counted(delivery.waiting, "message")
        yield f"the VIM can't be reached: {delivery.fault}; {waiting} waiting", "bad"
    for host in status.hosts:
        if host.held_since is not None:
            since = moment(host.held_since)
            text = f"ALARM: {host.hostname}: alarms held back since {since}: {host.held_why}"
            yield text, "bad"
        if (overload := host.overload) is not None:
            alarm = "ALARM: " if overload.alarm else ""
            since = moment(overload.since)
            yield f"{alarm}{host.hostname}: overloaded since {since}: losses come late", "bad"


def show_fleet(screen: Screen, status: FleetStatus, selection: Selection = ALL) -> None:
    """Writes the agent, its hosts by name, and the selected instances, the worst first.

    Raises:
        UserError: the selection names what is not there.
    """
    agent, instances = status.agent, selection.of_instances(status.instances)
    lines = (*fleet_lines(status), *drain_notes(status.drains), *group_notes(status.groups))
    for text, colour in lines:
        write_clipped(screen, text, colour)
    if status.hosts and selection.is_everything:
        hosts = status.hosts
        columns = [
            attrs.evolve(column("HOST", [one.hostname for one in hosts]), flexible=True),
            column("LINK", [one.link for one in hosts], _LINK_COLOURS),
            numbers("INSTANCES", [str(one.instances) for one in hosts]),
            numbers("HEARTBEATING", [str(one.heartbeating) for one in hosts]),
            column("VERSION", [one.version or "-" for one in hosts]),
            attrs.evolve(column("NOTE", [_note(one) for one in hosts]), flexible=True),
        ]
        write_table(screen, columns)
    if instances:
        length = uuid_length([one.uuid for one in instances], screen.columns)
        columns = [column("UUID", [one.uuid[:length] for one in instances])]
        if any(one.domain not in ("", one.name) for one in instances):
            domains = column("DOMAIN", [one.domain or "-" for one in instances])
            columns.append(attrs.evolve(domains, flexible=True))
        columns += [
            attrs.evolve(column("NAME", [one.name or "-" for one in instances]), flexible=True),
            attrs.evolve(column("HOST", [one.hostname for one in instances]), flexible=True),
            column("STATE", [one.state for one in instances], STATE_COLOURS),
            column("HEALTH", [one.health for one in instances], HEALTH_COLOURS),
        ]
        if any(one.hold is not None for one in instances):
            columns.append(hold_column(instances))
        if screen.columns is None or screen.columns >= WITH_NUMBERS:
            reported = ["yes" if one.reporting else "no" for one in instances]
            columns.append(column("REPORTED", reported))
        columns.append(
            attrs.evolve(
                column("NOTE", [doing(one, agent.actions) for one in instances]), flexible=True
            )
        )
        write_table(screen, columns)


def _note(host: FleetHostLine) -> str:
    notes = []
    if host.link in ("down", "lost") and host.down_s is not None:
        notes.append(f"for {host.down_s:.0f} s")
    if host.certificate:
        notes.append(host.certificate)
    if host.conflict:
        notes.append(host.conflict)
    if host.unregistered:
        notes.append(f"{host.unregistered} unknown to the VIM")
    if host.reports_dropped:
        notes.append(f"{counted(host.reports_dropped, 'report')} dropped")
    if host.commands == "any":
        notes.append("runs any command")
    return ", ".join(notes)


def doing(instance: FleetInstanceLine, actions: dict[str, str]) -> str:
    """What is in progress, or the reason for the instance's state."""
    state = instance.domain_state
    note = going_on(instance, actions.get(instance.uuid)) or instance.why
    if instance.heartbeating or not state or state in note:
        return note
    return f"{note}; libvirt: {state}" if note else f"libvirt: {state}"
