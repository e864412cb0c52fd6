"""Whether this process is being scheduled on time.

A daemon that was stopped, swapped out or starved wakes up and finds every timeout past. Believing
them would declare healthy peers dead: the fault is here. So a timeout counts only while the process
itself runs on time: a tick that comes more than 800 ms late marks the process late, and it stays so
until 2000 ms have passed without another late tick (PROTOCOL.md, guest states).
"""

from __future__ import annotations

from typing import Final

TICK_S: Final = 0.2

#: Between ticks while no timeout is waiting to be judged: an idle VM wants to sleep. What
#: begins to wait is guarded from the next tick on, a second later at most.
REST_S: Final = 1.0

LATE_S: Final = 0.8

#: A deadline noticed this much late is no longer the loop's usual delay: answers may be held up in
#: this process.
BEHIND_S: Final = 0.02

CALM_S: Final = 2.0


class OnTimeGuard:
    """Judges lateness from regular ticks.

    A task calls :meth:`tick` when the last one said that the next is due. The tick of a process
    that was frozen has not run yet when an overdue timeout is judged in the same pass of the
    scheduler, so :meth:`is_late` also counts the tick that is owed.

    Args:
        now: the time of creation, in seconds of the caller's monotonic clock.
    """

    __slots__ = ("_due", "_late_until", "late_ticks")

    def __init__(self, now: float) -> None:
        self._due = now + TICK_S
        self._late_until = -1.0
        #: How many ticks came late, for status and metrics.
        self.late_ticks = 0

    def tick(self, now: float, *, resting: bool = False) -> float:
        """Notes a tick and returns when the next one is due: in ``TICK_S``, or ``REST_S``.

        Args:
            now: the time of this tick.
            resting: no timeout is waiting to be judged.
        """
        if now - self._due > LATE_S:
            self._late_until = now + CALM_S
            self.late_ticks += 1
        self._due = now + (REST_S if resting else TICK_S)
        return self._due

    def is_late(self, now: float) -> bool:
        """Whether a timeout judged at ``now`` must not be believed."""
        return now < self._late_until or now - self._due > LATE_S

    def calm_at(self, now: float) -> float:
        """The earliest time at which the process may count as on time again; ``now`` if it is."""
        if now - self._due > LATE_S:
            return now + CALM_S
        return max(now, self._late_until)
