"""Judges whether this process is being scheduled on time.

A daemon that was stopped, swapped out or starved finds every timeout expired when it wakes up.
Acting on those timeouts would declare healthy peers dead, so a timeout counts only while the
process is on time. A tick more than 800 ms late marks the process as late. The process stays late
until 2000 ms have passed without another late tick (PROTOCOL.md, guest states).

Time in which the process did not run proves nothing about a peer either, however short it was: the
peer may have stood still with it, and nobody listened. :meth:`OnTimeGuard.stalled_s` adds it up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

TICK_S: Final = 0.2

#: The time between ticks while no timeout is near, to let an idle VM sleep. A new timeout is
#: guarded from the next tick on, at most a second later.
REST_S: Final = 1.0

LATE_S: Final = 0.8

#: A deadline noticed later than this exceeds the event loop's usual delay: messages may be waiting
#: to be read in this process.
BEHIND_S: Final = 0.02

CALM_S: Final = 2.0

#: A timeout that is at least this far away is guarded as well by ticks that rest until the next
#: one: a stall that such a tick misses ends ``LATE_S`` after it at most, and counts for ``CALM_S``.
FAR_S: Final = REST_S + LATE_S + CALM_S


class OnTimeGuard:
    """Judges lateness from regular ticks.

    A task calls :meth:`tick` at the times that :meth:`tick` returns. After a freeze, an overdue
    timeout may be judged before the overdue tick has run, so :meth:`is_late` also considers a tick
    that is due.

    Args:
        now: the time of creation, in seconds on the caller's monotonic clock.
    """

    __slots__ = ("_due", "_late_until", "_stalled_s", "end_rest", "late_ticks")

    def __init__(self, now: float) -> None:
        self._due = now + TICK_S
        self._late_until = -1.0
        self._stalled_s = 0.0
        #: Late ticks, for status and metrics.
        self.late_ticks = 0
        #: To be called when a timeout begins that is nearer than ``FAR_S``: whoever ticks sets it,
        #: and ticks now instead of at the end of a rest.
        self.end_rest: Callable[[], None] = _nothing

    def tick(self, now: float, *, resting: bool = False) -> float:
        """Records a tick and returns when the next is due: after ``TICK_S`` or ``REST_S``.

        Args:
            now: the time of this tick.
            resting: whether no timeout is pending within ``FAR_S``.
        """
        if now - self._due > LATE_S:
            self._late_until = now + CALM_S
            self.late_ticks += 1
        self._stalled_s = self.stalled_s(now)
        self._due = now + (REST_S if resting else TICK_S)
        return self._due

    def expect(self, due: float) -> None:
        """Sets when the next tick is due, in place of what :meth:`tick` has returned.

        For a caller that knows when its process stands still, and ticks only after that: meanwhile
        no tick is due, ``math.inf``.
        """
        self._due = due

    def stalled_s(self, now: float) -> float:
        """Returns for how long the process has not run since the guard was created, in seconds.

        It is the lateness of the ticks beyond ``BEHIND_S``, so of each stall up to ``TICK_S`` and
        ``BEHIND_S`` count as time in which the process ran; ``REST_S`` after a resting tick.
        """
        behind_s = now - self._due - BEHIND_S
        # Asked twice a beat, and max() takes longer than the rest.
        return self._stalled_s + behind_s if behind_s > 0.0 else self._stalled_s

    def is_late(self, now: float) -> bool:
        """Returns whether to disregard a timeout judged at ``now``."""
        return now < self._late_until or now - self._due > LATE_S

    def calm_at(self, now: float) -> float:
        """Returns the earliest time at which the process can be on time again; at least ``now``."""
        if now - self._due > LATE_S:
            return now + CALM_S
        return max(now, self._late_until)


def _nothing() -> None:
    pass
