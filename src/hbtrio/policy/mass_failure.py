"""When many instances fail at once, the host is the problem: one alarm, no action.

A corrective command is therefore held back for one interval, to see whether more instances follow.
If more than a set share of the instances that were heartbeating failed within one interval of each
other, none of them is acted upon.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

import attrs

#: Failures remembered: as many as a host may have channels three times over.
_MEMORY: Final = 65536

#: No interval is longer than this (``[heartbeat] interval_max_ms``), so nothing older is near.
_FORGET_S: Final = 600.0


class FailureVerdict(Enum):
    """What to do about a failure once its interval of reflection is over."""

    ACT = "act"
    #: Too many at once, and nobody was told yet: raise the alarm.
    HOLD_AND_ALARM = "hold and alarm"
    #: It belongs to an incident that was alarmed already.
    HOLD = "hold"


@attrs.frozen
class Failure:
    """An instance that failed: lost, or ill with an action.

    ``total`` is how many instances were heartbeating just before it, itself included.
    """

    uuid: str
    at: float
    interval_s: float
    total: int


class MassFailures:
    """Counts failures close to each other.

    Args:
        share: the share of instances, over 0 and at most 1, above which nothing is done.
        minimum: with fewer heartbeating instances than this nothing is held back; a share of two
            instances says nothing about the host.
    """

    def __init__(self, share: float, minimum: int) -> None:
        self._share = share
        self._minimum = minimum
        self._failures: deque[Failure] = deque(maxlen=_MEMORY)
        self._incident: tuple[float, float] | None = None
        #: How many corrective commands were held back, for status.
        self.held = 0
        #: How many alarms were raised, for status.
        self.alarms = 0

    def note(self, failure: Failure) -> float:
        """Remembers a failure; returns the time at which :meth:`judge` may be asked about it."""
        while self._failures and failure.at - self._failures[0].at > _FORGET_S:
            self._failures.popleft()
        self._failures.append(failure)
        return failure.at + failure.interval_s

    def judge(self, failure: Failure) -> FailureVerdict:
        """Whether to act on a failure that was noted at least its interval ago."""
        if self._incident is not None and self._incident[0] <= failure.at <= self._incident[1]:
            self.held += 1
            return FailureVerdict.HOLD
        near = [
            other
            for other in self._failures
            if abs(other.at - failure.at) <= max(other.interval_s, failure.interval_s)
        ]
        # The first failure of a burst knows how many there were before it.
        total = max((other.total for other in near), default=failure.total)
        if total < self._minimum or len({f.uuid for f in near}) <= self._share * total:
            return FailureVerdict.ACT
        first, last = min(f.at for f in near), max(f.at for f in near)
        # One incident, one alarm: what overlaps the last one goes on from it.
        self.held += 1
        if self._incident is not None and first <= self._incident[1]:
            self._incident = min(first, self._incident[0]), max(last, self._incident[1])
            return FailureVerdict.HOLD
        self._incident = first, last
        self.alarms += 1
        return FailureVerdict.HOLD_AND_ALARM
