"""Who is asked about and notified of events in this VM: event scripts and applications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hbtrio.nursery.windows import Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.channel_messages import ActionNotify


class Voters(Protocol):
    """A kind of voters."""

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """The handlers for this vote or notice, by name, as of this moment."""

    def health(self) -> list[HealthStatus]:
        """The health of those that have one of their own."""


class AllVoters:
    """All of these, side by side.

    Args:
        kinds: those who come first keep their names, where two have the same.
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


class VoterNames:
    """The names of one round: who comes second with a name is ``name (2)``, then ``name (3)``."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def take(self, name: str) -> str:
        """A name that nobody has yet, from now on this one's."""
        free, number = name, self._numbers.get(name, 1)
        while free in self._numbers:
            number += 1
            free = f"{name} ({number})"
        self._numbers[free] = 1
        self._numbers[name] = number
        return free
