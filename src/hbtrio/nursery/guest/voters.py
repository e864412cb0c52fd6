"""Combines the voters of this VM: event scripts and applications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from hbtrio.nursery.windows import Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.wire.channel_messages import ActionNotify


class Voters(Protocol):
    """One kind of voters, such as the applications."""

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """Returns the present handlers for this vote or notice, by voter name."""

    def health(self) -> list[HealthStatus]:
        """Returns the health of the voters that have one."""

    def known(self) -> Sequence[KnownVoter]:
        """Returns what is known of the voters, in the order of their handlers."""


class AllVoters:
    """Combines several kinds of voters.

    Args:
        kinds: of two voters with the same name, the one of the earlier kind keeps it.
    """

    def __init__(self, *kinds: Voters) -> None:
        self._kinds = kinds

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """See :class:`Voters`."""
        every: dict[str, Handler] = {}
        names = VoterNames()
        for voters in self._kinds:
            for name, handler in voters.handlers(notify).items():
                every[names.take(name)] = handler
        return every

    def health(self) -> list[HealthStatus]:
        """See :class:`Voters`."""
        return [status for voters in self._kinds for status in voters.health()]

    def known(self) -> Sequence[KnownVoter]:
        """See :class:`Voters`."""
        names, every = VoterNames(), []
        for one in (one for voters in self._kinds for one in voters.known()):
            name = names.take(one.name)
            every.append(one if name == one.name else msgspec.structs.replace(one, name=name))
        return every


class VoterNames:
    """Makes voter names unique in one round: a second ``name`` becomes ``name (2)``, and so on."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def take(self, name: str) -> str:
        """Takes and returns ``name``, numbered if it is taken already."""
        free, number = name, self._numbers.get(name, 1)
        while free in self._numbers:
            number += 1
            free = f"{name} ({number})"
        self._numbers[free] = 1
        self._numbers[name] = number
        return free
