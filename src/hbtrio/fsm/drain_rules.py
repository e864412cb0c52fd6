"""How a drain, or a planned action, goes about its instances."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

import attrs

from hbtrio.fsm.planned_time import PlannedTime

#: How long an instance may refuse or be blocked before it is skipped, in seconds, by default.
RETRY_FOR_S: Final = 1800.0


class OnReject(StrEnum):
    """What a drain does about an instance whose guest rejects."""

    WAIT = "wait"  # ask it again
    SKIP = "skip"
    FORCE = "force"  # act without its vote
    ABORT = "abort"  # end the drain


@attrs.frozen(kw_only=True)
class DrainRules:
    """How a drain goes about its instances.

    Args:
        parallel: the most actions at once, at least 1.
        retry_for_s: how long an instance may refuse or be blocked, in seconds; 0 skips it at once.
        on_reject: what to do about an instance whose guest rejects.
        planned: when a planned action is due: it is asked until then, in place of ``retry_for_s``,
            and performed without its vote at the end, unless ``on_reject`` is SKIP: then it is
            given up. None for a drain.
    """

    parallel: int = 1
    retry_for_s: float = RETRY_FOR_S
    on_reject: OnReject = OnReject.WAIT
    planned: PlannedTime | None = None

    @property
    def forced_at(self) -> float:
        """When a planned action is performed without its vote; infinity if it is not."""
        if self.planned is None or self.on_reject is OnReject.SKIP:
            return math.inf
        return self.planned.before
