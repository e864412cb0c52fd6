"""The host's status as a table, and its events as lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import attrs
from rich.cells import cell_len

from hbtrio.cli.ctl_screen import Screen, clipped, padded
from hbtrio.config.source import printable
from hbtrio.nursery.ctl_replies import EventLine, HostLine, InstanceLine, Status

#: From these widths on, in cells, a table says when the last event was, and whole uuids.
_WITH_TIME: Final = 100
_WITH_UUID: Final = 120

#: The shortest abbreviation of a uuid, and the narrowest that a column is made.
_ABBREVIATION: Final = 8
_NARROW: Final = 8

_GAP: Final = "  "

_STATE_COLOURS: Final = {
    "beating": "good",
    "lost": "bad",
    "suspended": "warn",
    "returning": "warn",
    "restarting": "warn",
}
_HEALTH_COLOURS: Final = {"healthy": "good", "unhealthy": "bad"}
_KIND_COLOURS: Final = {
    "heartbeating": "good",
    "loss": "bad",
    "unhealthy": "bad",
    "restart-expired": "bad",
    "stopped": "warn",
    "lost": "bad",
}
_RESULT_COLOURS: Final = {"reject": "bad", "error": "warn", "timeout": "warn"}


@attrs.define
class _Column:
    """A column: its head, its cells with their colours, and whether it may be cut."""

    head: str
    cells: list[tuple[str, str]]
    right: bool = False
    flexible: bool = False
    width: int = 0

    def __attrs_post_init__(self) -> None:
        self.width = max(map(cell_len, [self.head, *(text for text, _ in self.cells)]))


def show_status(screen: Screen, status: Status) -> None:
    """Writes the host and its instances, by name and uuid."""
    for text, colour in _host_lines(status.host, len(status.instances)):
        width = screen.columns
        screen.line((text if width is None else clipped(printable(text), width), colour))
    if not status.instances:
        return
    instances = sorted(status.instances, key=lambda one: (one.name.casefold(), one.uuid))
    columns = list(_columns(instances, status.host.actions, screen.columns))
    _fit(columns, screen.columns)
    screen.line()
    screen.line(_row([(column.head, "") for column in columns], columns).rstrip())
    for cells in zip(*(column.cells for column in columns), strict=True):
        pieces: list[tuple[str, str] | str] = []
        for (text, colour), column in zip(cells, columns, strict=True):
            pieces += [(_cell(text, column), colour), _GAP]
        # Neither blanks nor a gap behind the last one.
        last, colour = cells[-1]
        pieces[-2:] = [(clipped(last, columns[-1].width), colour)]
        screen.line(*pieces)


def _host_lines(host: HostLine, instances: int) -> Iterator[tuple[str, str]]:
    started = host.started.replace("T", " ")
    yield (
        f"{host.hostname}: {host.heartbeating} of {instances} heartbeating, "
        f"hbtrio {host.version} since {started}",
        "",
    )
    if host.alarms:
        yield (
            f"ALARM: {_count(host.alarms, 'mass failure')}, the host itself is suspected; "
            f"{_count(host.corrective_commands_held_back, 'corrective command')} held back",
            "bad",
        )
    if host.late:
        yield "the host daemon is not being scheduled on time: no misses count", "bad"
    if host.crashes:
        yield f"{_count(host.crashes, 'internal failure')}: see the host's log", "bad"
    if host.corrective_commands_run:
        yield (
            f"{_count(host.corrective_commands_run, 'corrective command')} run, "
            f"{host.corrective_commands_failed} failed",
            "warn",
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _columns(
    instances: list[InstanceLine], actions: dict[str, str], width: int | None
) -> Iterator[_Column]:
    def column(head: str, cells: list[str], colours: dict[str, str] | None = None) -> _Column:
        plain = [printable(cell) for cell in cells]
        return _Column(head, [(cell, (colours or {}).get(cell, "")) for cell in plain])

    def numbers(head: str, cells: list[str]) -> _Column:
        return attrs.evolve(column(head, cells), right=True)

    uuids = [one.uuid for one in instances]
    length = _ABBREVIATION
    if width is None or width >= _WITH_UUID:
        length = max(map(len, uuids))
    for one, other in pairwise(sorted(uuids)):
        while length < len(one) and one[:length] == other[:length]:
            length += 1
    yield column("UUID", [uuid[:length] for uuid in uuids])
    yield attrs.evolve(column("NAME", [one.name or "-" for one in instances]), flexible=True)
    yield column("STATE", [one.state for one in instances], _STATE_COLOURS)
    yield column("HEALTH", [one.health for one in instances], _HEALTH_COLOURS)
    yield numbers("BEATS", [str(one.beats) for one in instances])
    yield numbers("MISSED", [str(one.missed) for one in instances])
    trips = [one.round_trip_ms for one in instances]
    yield numbers("TRIP ms", ["-" if trip is None else f"{trip:.1f}" for trip in trips])
    if width is None or width >= _WITH_TIME:
        yield column("AT", [one.last.time[11:19] if one.last else "" for one in instances])
    latest = [_latest(one, actions.get(one.uuid)) for one in instances]
    yield attrs.evolve(column("LAST", latest), flexible=True)


def _latest(one: InstanceLine, action: str | None) -> str:
    """What is going on, or what was last."""
    going_on = [f"{action} under way"] if action else []
    if one.open is not None:
        going_on.append(f"{one.open.kind} {one.open.event}, {one.open.remaining_s:.0f} s left")
    if one.restart_remaining_s is not None:
        going_on.append(f"RESTART, {one.restart_remaining_s:.0f} s left")
    if going_on:
        return "; ".join(going_on)
    if one.health == "unhealthy" and one.health_reason:
        return f"unhealthy: {one.health_reason}"
    return one.why if one.last is None else f"{_head(one.last)}: {one.last.reason}"


def _head(event: EventLine) -> str:
    return " ".join(filter(None, (event.kind, event.event, event.result)))


def _fit(columns: list[_Column], width: int | None) -> None:
    """Makes the table as wide as the screen: the flexible columns share what the others leave."""
    if width is None:
        return
    flexible = sorted((one for one in columns if one.flexible), key=lambda one: one.width)
    room = width - len(_GAP) * (len(columns) - 1)
    room -= sum(column.width for column in columns if not column.flexible)
    for sharers, column in zip(range(len(flexible), 0, -1), flexible, strict=True):
        # The narrow ones come first: what one of them does not need is for the others.
        column.width = min(column.width, max(_NARROW, room // sharers))
        room -= column.width


def _cell(text: str, column: _Column) -> str:
    return padded(text, column.width, right=column.right)


def _row(cells: list[tuple[str, str]], columns: list[_Column]) -> str:
    return _GAP.join(_cell(text, column) for (text, _), column in zip(cells, columns, strict=True))


def show_event(screen: Screen, event: EventLine) -> None:
    """Writes one event: time, instance, what, and why."""
    time = event.time[:23].replace("T", " ")
    colour = _RESULT_COLOURS.get(event.result, _KIND_COLOURS.get(event.kind, ""))
    action = f" [{event.corrective_action}]" if event.corrective_action else ""
    start = " ".join(filter(None, (time, event.uuid)))
    reason = f": {event.reason}" if event.reason else ""
    screen.line(f"{start} " if start else "", (_head(event), colour), f"{action}{reason}")
