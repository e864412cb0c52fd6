"""``hbtrio ctl groups``: who is available, how many more may go down, and who is in the way."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import attrs
import msgspec

from hbtrio.cli.ctl.ranking import members_of
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import column, numbers, write_table
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus
from hbtrio.wire.operator import GroupLine

#: Members that a line names; the others are counted.
_NAMED = 5


async def show_groups(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Shows all groups, or those that are named.

    Raises:
        UserError: the daemon can't be asked, or has no such group.
    """
    status = await client.any_status()
    for name in options.names:
        members_of(name, status)
    groups = [one for one in status.groups if not options.names or one.name in options.names]
    if options.json:
        screen.json({"groups": msgspec.to_builtins(groups)}, indent=2)
    elif groups:
        _write(screen, groups)
    else:
        screen.line("no groups are configured ([groups.NAME] in host.toml or agent.toml)")
    return ExitStatus.DONE


def _write(screen: Screen, groups: Sequence[GroupLine]) -> None:
    now = [str(one.allowed_now) for one in groups]
    unavailable = [blockers(one) or "-" for one in groups]
    columns = [
        column("GROUP", [one.name for one in groups]),
        numbers("MEMBERS", [str(len(one.members)) for one in groups]),
        numbers("AVAILABLE", [str(one.available) for one in groups]),
        numbers("MAY GO DOWN NOW", now),
        attrs.evolve(column("RULE", [one.rule for one in groups]), flexible=True),
        attrs.evolve(column("UNAVAILABLE", unavailable), flexible=True),
    ]
    write_table(screen, columns)


def blockers(group: GroupLine) -> str:
    """The members that are unavailable, with what each is: ``db-2 is restarting``."""
    each = [f"{one.name} {one.state}" for one in group.unavailable]
    if len(each) > _NAMED:
        each = [*each[:_NAMED], f"{len(each) - _NAMED} more"]
    return ", ".join(each)


def group_notes(groups: Sequence[GroupLine]) -> Iterator[tuple[str, str]]:
    """A line for each group with a member that is unavailable, with its colour."""
    for one in groups:
        if one.unavailable:
            colour = "bad" if one.available + one.max_unavailable < len(one.members) else "warn"
            yield f"group {one.name}: {blockers(one)}, {one.rule}", colour
