"""The records of drains, as a daemon keeps them and its store takes and returns them."""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.fsm.drain import DrainItem, DrainPhase
from hbtrio.fsm.drain_rules import DrainRules
from hbtrio.wire.vocabulary import ActionName

#: Drains that are kept, the last ones.
KEPT: Final = 10


@attrs.frozen(kw_only=True)
class DrainRecord:
    """A drain, without its instances.

    Args:
        id: the drain's own; never reused.
        action: what is done to each instance.
        command: what performs it; empty for the configured command of each host.
        rules: how it goes about its instances.
        ignore_hold: whether instances on hold are not skipped.
        who: who requested it.
        begun_at: when it began, in seconds since the epoch.
        boot_id: the machine's boot in which it began.
        phase: whether it runs, or was cancelled or aborted.
        reason: why it was cancelled or aborted.
        ended_at: when it ended, in seconds since the epoch; None while it goes on.
    """

    id: str
    action: ActionName
    command: tuple[str, ...] = ()
    rules: DrainRules = attrs.field(factory=DrainRules)
    ignore_hold: bool = False
    who: str
    begun_at: float
    boot_id: str
    phase: DrainPhase = DrainPhase.RUNNING
    reason: str = ""
    ended_at: float | None = None

    @property
    def actor(self) -> str:
        """Whom its actions are recorded for."""
        return f"{'drain' if self.rules.planned is None else 'plan'} {self.id} of {self.who}"


@attrs.frozen(kw_only=True)
class DrainPlace:
    """An instance of a drain: its place in the order, and its state.

    Args:
        drain: the drain.
        position: its place, from 0 on.
        name: its name when the drain began, for people.
        hostname: its host.
        answer: what its guest answered to the vote before the drain; "" if it was not asked.
        item: its state.
    """

    drain: str
    position: int
    name: str = ""
    hostname: str = ""
    answer: str = ""
    item: DrainItem


@attrs.frozen
class StoredDrain:
    """A drain and its instances, in their order."""

    record: DrainRecord
    places: tuple[DrainPlace, ...]
