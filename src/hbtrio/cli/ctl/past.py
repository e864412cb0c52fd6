"""What has happened: the events of a daemon, and its history."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from hbtrio.cli.ctl.instances import resolved
from hbtrio.cli.ctl.names import Names
from hbtrio.cli.ctl.ranking import members_of
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.views import show_event
from hbtrio.client.client import CtlClient
from hbtrio.client.stream import SILENCE_S
from hbtrio.errors import ExitStatus, UserError
from hbtrio.wire.operator import (
    AnyEventLine,
    EventFilter,
    FleetEventLine,
    FleetStatus,
    History,
    Status,
    WholeHistory,
    parse_event,
)

#: Events shown by default.
_RECENT: Final = 20

#: As many as any daemon keeps: those since some time are asked for.
_ALL: Final = 99_999


def takes(wanted: EventFilter, line: AnyEventLine) -> bool:
    """Whether a line is asked for: an older daemon does not know what is asked for."""
    return wanted.takes(uuid=line.uuid, kind=line.kind, time=line.time, who=line.who)


async def show_events(
    client: CtlClient, screen: Screen, names: Names, options: argparse.Namespace
) -> int:
    """Shows past events, and with ``--follow`` new ones.

    Raises:
        UserError: what went wrong; with ``--follow`` also that the stream has ended.
    """
    wanted = await _wanted(client, options)
    recent = options.recent
    if recent is None and wanted.since is not None:
        recent = _ALL
    elif recent is None:
        recent = 0 if options.follow else _RECENT
    query = {"recent": recent, "follow": "yes" if options.follow else "no", **wanted.as_query()}
    async with client.lines("GET", f"/v1/events?{urlencode(query)}") as lines:
        if options.json:
            while (event := await lines.next(dict[str, Any], SILENCE_S)) is not None:
                if _takes_members(wanted, event):
                    screen.json(event)
        else:
            while (line := await lines.read(parse_event, SILENCE_S)) is not None:
                if takes(wanted, line):
                    show_event(screen, line, await names.of(line))
        if options.follow:
            raise lines.lost("the daemon ended the stream")
    return ExitStatus.DONE


async def show_history(
    client: CtlClient, screen: Screen, names: Names, options: argparse.Namespace
) -> int:
    """Shows entries of the history, the newest last.

    Raises:
        UserError: what went wrong.
    """
    status = await client.any_status()
    check_kept(status)
    names.learn(status.instances)
    wanted = await _wanted(client, options, status)
    if options.json:
        is_wanted = partial(_takes_members, wanted)
        found, _ = await _gather(
            client, wanted, options.limit, options.before, WholeHistory, is_wanted
        )
        for entry in reversed(found):
            screen.json(entry)
        return ExitStatus.DONE
    lines, before = await page_of(client, wanted, options.limit, options.before)
    if before is not None:
        screen.line((f"... older entries: --before {before}", "faint"))
    for line in reversed(lines):
        show_event(screen, line, await names.of(line))
    return ExitStatus.DONE


def check_kept(status: Status | FleetStatus) -> None:
    """Checks that the daemon keeps a history.

    Raises:
        UserError: it does not.
    """
    if isinstance(status, FleetStatus):
        return
    memory = status.host.memory
    if memory is None or memory.state == "none":
        why = "it has no state directory; its agent may keep one (--url)"
        raise UserError(f"this host keeps no history: {why}", ExitStatus.FAILED)


async def page_of(
    client: CtlClient, wanted: EventFilter, limit: int, before: int | None = None
) -> tuple[list[FleetEventLine], int | None]:
    """The newest entries of the history that are asked for, and before which more may follow.

    Args:
        client: of the daemon.
        wanted: which entries.
        limit: how many at most.
        before: only entries older than the one with this id.

    Raises:
        UserError: UNREACHABLE, DENIED, or the daemon keeps no history.
    """
    return await _gather(client, wanted, limit, before, History, partial(takes, wanted))


async def happened(client: CtlClient, wanted: EventFilter, limit: int) -> list[AnyEventLine]:
    """The newest entries of the history that are asked for, the oldest first.

    Of a host that keeps none, these are its last events.

    Raises:
        UserError: UNREACHABLE or DENIED.
    """
    try:
        found, _ = await page_of(client, wanted, limit)
        return list(reversed(found))
    except UserError as fault:
        if fault.status is not ExitStatus.FAILED:
            raise
    query = {"recent": _ALL, "follow": "no", **wanted.as_query()}
    events: deque[AnyEventLine] = deque(maxlen=limit)
    async with client.lines("GET", f"/v1/events?{urlencode(query)}") as lines:
        while (line := await lines.read(parse_event, SILENCE_S)) is not None:
            if takes(wanted, line):
                events.append(line)
    return list(events)


async def _gather(
    client: CtlClient,
    wanted: EventFilter,
    limit: int,
    before: int | None,
    cls: type[History] | type[WholeHistory],
    is_wanted: Callable[[Any], bool],
) -> tuple[list[Any], int | None]:
    found: list[Any] = []
    while True:
        query = _query(wanted, limit - len(found), before)
        page: History | WholeHistory = await client.history(query, cls)
        found += filter(is_wanted, page.history)
        before = page.before
        if before is None or len(found) >= limit:
            return found, before


def _query(wanted: EventFilter, limit: int, before: int | None) -> str:
    query: dict[str, int | str] = {"limit": limit, **wanted.as_query()}
    if before is not None:
        query["before"] = before
    return urlencode(query)


def _takes_members(wanted: EventFilter, event: Mapping[str, Any]) -> bool:
    uuid, kind, time, who = (str(event.get(key, "")) for key in ("uuid", "kind", "time", "who"))
    return wanted.takes(uuid=uuid, kind=kind, time=time, who=who)


async def _wanted(
    client: CtlClient, options: argparse.Namespace, status: Status | FleetStatus | None = None
) -> EventFilter:
    uuid, members = "", None
    if status is None and (options.uuid or options.group):
        status = await client.any_status()
    if options.uuid and status is not None:
        uuid = resolved(options.uuid, status)
    if options.group and status is not None:
        members = members_of(options.group, status)
    return EventFilter(
        uuid=uuid,
        kinds=frozenset(options.kind),
        since=options.since,
        by=options.by or "",
        group=options.group or "",
        members=members,
    )
