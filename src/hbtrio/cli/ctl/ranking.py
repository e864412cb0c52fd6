"""Which instances a status shows, and in which order: those that need somebody come first."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import attrs

from hbtrio.cli.ctl.instances import pick
from hbtrio.errors import ExitStatus, UserError
from hbtrio.text import printable
from hbtrio.wire.operator import FleetInstanceLine, FleetStatus, InstanceLine, Status

AnyInstance = TypeVar("AnyInstance", InstanceLine, FleetInstanceLine)

#: See :func:`place_of`.
Place = tuple[bool, int, list[tuple[int, int, str]], str]

#: What is ill is between what is lost and what nobody watches.
_ILL: Final = "ill"

#: The worst first; states that are not here come last.
WORST_FIRST: Final = ("lost", _ILL, "absent", "unwatched")

_NUMBER: Final = re.compile(r"(\d+)")


@attrs.frozen
class Selection:
    """What the command line asks to see.

    Args:
        words: instances by name or the beginning of their uuid; none: all.
        states: only those in one of these states; none: in any.
        unhealthy: only those that are lost, ill, absent or unwatched.
        host: only those on this host; "" for any.
        group: only members of this group; "" for any.
        members: who they are, from :meth:`within` on.
    """

    words: tuple[str, ...] = ()
    states: frozenset[str] = frozenset()
    unhealthy: bool = False
    host: str = ""
    group: str = ""
    members: frozenset[str] | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Selection:
        """The selection of a parsed command line."""
        return cls(
            tuple(options.names),
            frozenset(options.state),
            options.unhealthy,
            options.host or "",
            options.group or "",
        )

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self == Selection()

    def within(self, status: Status | FleetStatus) -> Selection:
        """Returns the selection for a daemon, which tells who is in the group.

        Raises:
            UserError: there is no such group; or of a host, another host is asked for.
        """
        at = self if isinstance(status, FleetStatus) else self.on(status.host.hostname)
        return attrs.evolve(at, members=members_of(self.group, status)) if self.group else at

    def on(self, hostname: str) -> Selection:
        """Returns the selection for one host, which does not name it in each of its instances.

        Raises:
            UserError: another host is asked for.
        """
        if self.host not in ("", hostname):
            raise UserError(f"--host: this is {hostname}; its agent knows others (--url)")
        return attrs.evolve(self, host="")

    def of_members(
        self, status: Status | FleetStatus, instances: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Returns what is asked for of instances as JSON has them, the worst first.

        Args:
            status: tells which they are.
            instances: all of them.

        Raises:
            UserError: see :meth:`of_instances`.
        """
        if isinstance(status, FleetStatus):
            uuids = [one.uuid for one in self.of_instances(status.instances)]
        else:
            uuids = [one.uuid for one in self.of_instances(status.instances)]
        by_uuid = {one["uuid"]: one for one in instances}
        return [by_uuid[uuid] for uuid in uuids if uuid in by_uuid]

    def of_instances(self, instances: Sequence[AnyInstance]) -> list[AnyInstance]:
        """Returns the instances that are asked for, the worst first.

        Raises:
            UserError: a word names none of them, or more than one; or the host has none.
        """
        chosen = list(instances)
        if self.words:
            uuids = {pick(instances, word, "here") for word in self.words}
            chosen = [one for one in chosen if one.uuid in uuids]
        if self.host:
            if not any(_host(one) == self.host for one in instances):
                raise UserError(f"no instance on {printable(self.host)}", ExitStatus.FAILED)
            chosen = [one for one in chosen if _host(one) == self.host]
        if self.members is not None:
            chosen = [one for one in chosen if one.uuid in self.members]
        if self.states:
            chosen = [one for one in chosen if one.state.replace(" ", "-") in self.states]
        if self.unhealthy:
            chosen = [one for one in chosen if standing_of(one) in WORST_FIRST]
        return sorted(chosen, key=place_of)


ALL: Final = Selection()


def members_of(name: str, status: Status | FleetStatus) -> frozenset[str]:
    """The uuids of a group's members.

    Raises:
        UserError: there is no such group.
    """
    for group in status.groups:
        if group.name == name:
            return frozenset(group.members)
    text = f"no group {printable(name)}; `hbtrio ctl groups` lists them"
    raise UserError(text, ExitStatus.FAILED)


def shown_name(one: InstanceLine | FleetInstanceLine) -> str:
    """Libvirt's name of an instance, or else its guest's."""
    if isinstance(one, InstanceLine):
        return one.name if one.domain is None else one.domain.name
    return one.domain or one.name


def counts(instances: Iterable[InstanceLine | FleetInstanceLine]) -> str:
    """How many instances need somebody or do anything but heartbeat, in words; "" for none."""
    found = Counter(standing_of(one) for one in instances)
    others = sorted(set(found) - {*WORST_FIRST, "heartbeating"})
    words = [state for state in (*WORST_FIRST, *others) if found[state]]
    return ", ".join(f"{found[state]} {state}" for state in words)


def standing_of(one: InstanceLine | FleetInstanceLine) -> str:
    """The state of an instance, or ``ill`` for one that heartbeats and says so."""
    return _ILL if one.heartbeating and one.health == "unhealthy" else one.state


def place_of(one: InstanceLine | FleetInstanceLine) -> Place:
    """A key by which those on hold come first, then the worst; equals are in natural order."""
    standing = standing_of(one)
    worst = WORST_FIRST.index(standing) if standing in WORST_FIRST else len(WORST_FIRST)
    return one.hold is None, worst, _natural(shown_name(one)), one.uuid


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which ``db-9`` comes before ``db-10``."""
    pieces = _NUMBER.split(name.casefold())
    # int() refuses thousands of digits; a name that long is no number.
    return [
        (0, int(piece), "") if piece.isdecimal() and len(piece) < 20 else (1, 0, piece)
        for piece in pieces
    ]


def _host(one: InstanceLine | FleetInstanceLine) -> str:
    return "" if isinstance(one, InstanceLine) else one.hostname
