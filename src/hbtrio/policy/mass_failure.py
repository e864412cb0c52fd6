"""Recognises mass failures: if many instances fail at once, the host is the problem.

A corrective command is held back for one interval to see whether more instances fail. If more than
a configured share of the heartbeating instances fail within one interval of each other, no
corrective command is run and one alarm is raised.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

import attrs

#: Failures remembered: three times the default limit of channels.
_MEMORY: Final = 65536

#: Older failures are dropped: no interval is longer than this (``[heartbeat] interval_max_ms``).
_FORGET_S: Final = 600.0


class FailureVerdict(Enum):
    """What to do about a failure once its interval is over."""

    ACT = "act"
    #: Too many instances failed at once: raise the alarm.
    HOLD_AND_ALARM = "hold and alarm"
    #: The alarm of this incident was raised already.
    HOLD = "hold"


@attrs.frozen
class Failure:
    """The failure of an instance: a loss, or an illness with a corrective action.

    ``at`` is the time in seconds, on any one clock. ``total`` counts the instances that were
    heartbeating just before the failure, including the failed one.
    """

    uuid: str
    at: float
    interval_s: float
    total: int


class MassFailures:
    """Counts failures that are close to each other.

    Args:
        share: failures are held back above this share of instances, over 0 and at most 1.
        minimum: nothing is held back with fewer heartbeating instances than this, because a share
            of two instances says nothing about the host.
    """

    def __init__(self, share: float, minimum: int) -> None:
        self._share = share
        self._minimum = minimum
        self._failures: deque[Failure] = deque(maxlen=_MEMORY)
        self._incident: tuple[float, float] | None = None
        #: The instances of the last incident.
        self.involved: set[str] = set()
        #: Corrective commands held back, for status.
        self.held = 0
        #: Alarms raised, for status.
        self.alarms = 0

    @property
    def share(self) -> float:
        """Failures are held back above this share of instances."""
        return self._share

    def note(self, failure: Failure) -> float:
        """Records a failure and returns the time from which :meth:`judge` can decide on it."""
        while self._failures and failure.at - self._failures[0].at > _FORGET_S:
            self._failures.popleft()
        self._failures.append(failure)
        return failure.at + failure.interval_s

    def judge(self, failure: Failure) -> FailureVerdict:
        """Decides whether to act on a failure that was noted at least its interval ago."""
        if self._incident is not None and self._incident[0] <= failure.at <= self._incident[1]:
            self.held += 1
            self.involved.add(failure.uuid)
            return FailureVerdict.HOLD
        near = [
            other
            for other in self._failures
            if abs(other.at - failure.at) <= max(other.interval_s, failure.interval_s)
        ]
        # Only the first failure of a burst counted all instances.
        total = max((other.total for other in near), default=failure.total)
        if total < self._minimum or len({f.uuid for f in near}) <= self._share * total:
            return FailureVerdict.ACT
        first, last = min(f.at for f in near), max(f.at for f in near)
        # One alarm per incident: failures that overlap the last incident extend it.
        self.held += 1
        if self._incident is not None and first <= self._incident[1]:
            self._incident = min(first, self._incident[0]), max(last, self._incident[1])
            self.involved |= {f.uuid for f in near}
            return FailureVerdict.HOLD
        self._incident = first, last
        self.involved = {f.uuid for f in near}
        self.alarms += 1
        return FailureVerdict.HOLD_AND_ALARM
