"""Bounds how often a guest may reject the actions of one event."""

from __future__ import annotations

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
