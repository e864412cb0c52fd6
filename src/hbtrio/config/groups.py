"""``[groups.NAME]`` of host.toml and agent.toml: whose members must not all be down at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import attrs

from hbtrio.config.instances import glob_fault, needs_name
from hbtrio.config.rules import Ruled
from hbtrio.config.settings import (
    NumberOrShare,
    checked_field,
    number,
    number_or_share,
    tables,
)
from hbtrio.config.source import Fault, shown

#: Groups of one daemon: each is a few series of metrics, and a line in status.
GROUPS: Final = 256

#: Entries of the list of members of one group.
_ENTRIES: Final = 256

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

# ruff: noqa: RUF009 -- the calls in the class bodies make attrs fields, not shared defaults


def _members() -> Any:
    span = f"1 to {_ENTRIES} names or uuids, with or without wildcards"

    def check(value: tuple[str, ...]) -> Iterator[str]:
        if not 1 <= len(value) <= _ENTRIES:
            yield f"must be {span}, got {len(value)}"
            return
        for place, item in enumerate(value, 1):
            fault = glob_fault(item)
            if not fault and item in value[: place - 1]:
                fault = f"is listed twice, {shown(item)}"
            if fault:
                yield Fault(f"item {place}: {fault}", place - 1)

    return checked_field(attrs.NOTHING, check, span)


@attrs.frozen(kw_only=True)
class GroupSettings(Ruled):
    """A group, and how many of its members may be unavailable at once."""

    members: tuple[str, ...] = _members()
    max_unavailable: NumberOrShare = number_or_share(100_000, "VMs")
    min_available: NumberOrShare = number_or_share(100_000, "VMs")
    #: How long a corrective action waits for the group, at most.
    max_delay_s: float = number(300.0, 0, 86_400, "s")

    def _one_limit(self) -> Iterator[str]:
        if self.max_unavailable is None and self.min_available is None:
            yield "needs max_unavailable or min_available"
        elif self.max_unavailable is not None and self.min_available is not None:
            fault = "max_unavailable and min_available: only one of them"
            yield Fault(fault, "min_available", "max_unavailable")

    rules: ClassVar = (_one_limit,)


def group_tables() -> Any:
    """Declare ``[groups.NAME]``: a ``Mapping[str, GroupSettings]``."""
    return tables(_name_faults, "names of groups")


def _name_faults(groups: Mapping[str, object]) -> Iterator[str]:
    if len(groups) > GROUPS:
        yield f"must be at most {GROUPS} groups, got {len(groups)}"
    for name in groups:
        if not _NAME.fullmatch(name):
            expected = "must be a name of letters, digits, dot, _ and -, at most 64"
            yield Fault(f"{shown(name)}: {expected}", name)


def names_needed(groups: Mapping[str, GroupSettings]) -> Iterator[tuple[str, int, str]]:
    """Yields the members that only libvirt's names can tell: group, index and entry."""
    for name, settings in groups.items():
        for index, entry in enumerate(settings.members):
            if needs_name(entry):
                yield name, index, entry
