"""Bounds how often a guest may reject the actions of one event."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from hbtrio.policy.quota import Quota
from hbtrio.wire.vocabulary import Event


@attrs.frozen
class VetoRule:
    """How many rejects of an event stand.

    Args:
        max_rejects: how many of them in any ``per_s``; 0: all of them.
        per_s: in seconds.
    """

    max_rejects: int = 0
    per_s: float = 3600.0

    @property
    def words(self) -> str:
        """For operators: ``3 rejects in 3600 s``."""
        rejects = "1 reject" if self.max_rejects == 1 else f"{self.max_rejects} rejects"
        return f"{rejects} in {self.per_s:g} s"


class Veto:
    """The rejects of one instance, by event; those of one event say nothing of another.

    Args:
        rule: how many of them stand.
    """

    def __init__(self, rule: VetoRule) -> None:
        self.rule = rule
        self._rejects: dict[Event, Quota] = {}

    def stands(self, event: Event, now: float) -> bool:
        """Takes a reject of an action's vote; returns whether it stands.

        After one that does not, the count of the event begins anew: the action goes on.
        """
        rule = self.rule
        if rule.max_rejects == 0:
            return True
        quota = self._rejects.setdefault(event, Quota(rule.max_rejects, rule.per_s))
        if quota.take(now):
            return True
        del self._rejects[event]
        return False

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of which there are rejects, whether they still count or not."""
        return tuple(self._rejects)

    def counted(self, event: Event, now: float) -> list[float]:
        """Returns when those rejects of an event were that count now, the oldest first."""
        quota = self._rejects.get(event)
        return [] if quota is None else quota.taken(now)

    def restore(self, event: Event, earlier: Iterable[float], now: float) -> None:
        """Counts rejects that were before this object was there; the rule may be another now.

        Args:
            event: the event.
            earlier: when they were; those that are too long ago do not count.
            now: the present time.
        """
        rule = self.rule
        if rule.max_rejects == 0:
            return
        quota = Quota(rule.max_rejects, rule.per_s)
        for at in sorted([*earlier, *self.counted(event, now)]):
            quota.restore(at)
        self._rejects[event] = quota
