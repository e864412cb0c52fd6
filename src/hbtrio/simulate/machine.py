"""Simulates a machine: its clocks, and that it stands still as a whole."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final, Protocol

from hbtrio.simulate.timeline import Timeline

#: The true time at the start of each simulation.
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)

#: How long a machine has been up at the start of a simulation, in seconds, at most.
_UP_S: Final = 1e6


class Freezable(Protocol):
    """What stands still with its machine."""

    def freeze(self, why: str) -> None:
        """Stops it."""

    def thaw(self, why: str) -> None:
        """Lets it go on, unless it was also stopped for another reason."""


class Machine:
    """A host, a VM or a controller: what its processes share.

    Args:
        timeline: has the true time.
        name: also of its random stream.
    """

    def __init__(self, timeline: Timeline, name: str) -> None:
        self.name = name
        #: Its processes; each adds itself and removes itself at its end.
        self.processes: list[Freezable] = []
        self._timeline = timeline
        self._monotonic_s = timeline.random(f"machine {name}").uniform(0.0, _UP_S)
        self._wall_s = EPOCH.timestamp()
        self._paused_at: float | None = None

    def monotonic(self) -> float:
        """Reads its monotonic clock, in seconds; it stands still in a pause and is never set."""
        since = self._timeline.now if self._paused_at is None else self._paused_at
        return since + self._monotonic_s

    def wall(self) -> float:
        """Reads its wall clock, in seconds since 1970."""
        return self._timeline.now + self._wall_s

    def utc(self) -> datetime:
        """Reads its wall clock."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def step_wall_clock(self, seconds: float) -> None:
        """Sets the wall clock, as an operator or a first sync does."""
        self._wall_s += seconds

    def when(self, monotonic_s: float) -> float:
        """Returns the first moment of the timeline at which the monotonic clock has reached a time.

        Infinite if the time is.
        """
        at = monotonic_s - self._monotonic_s
        # Rounded down, the process would wake up before its deadline, again and again at once.
        while at + self._monotonic_s < monotonic_s:
            at = math.nextafter(at, math.inf)
        return at

    @property
    def paused(self) -> bool:
        """Whether it stands still."""
        return self._paused_at is not None

    def pause(self) -> None:
        """Stops all its processes and its monotonic clock, as a hypervisor pauses a VM."""
        if self._paused_at is None:
            self._paused_at = self._timeline.now
            for process in list(self.processes):
                process.freeze("pause")

    def resume(self) -> None:
        """Ends a pause; without one it does nothing."""
        if self._paused_at is not None:
            self._monotonic_s -= self._timeline.now - self._paused_at
            self._paused_at = None
            for process in list(self.processes):
                process.thaw("pause")
