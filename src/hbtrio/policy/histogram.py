"""Counts durations by size, as Prometheus' histograms do."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

#: Bounds for what takes microseconds on an idle machine and seconds on an overloaded one, in
#: seconds.
DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """How many durations were at most as long as each of some bounds.

    Args:
        bounds: the bounds in seconds, the smallest first; longer ones are counted too.
    """

    __slots__ = ("_bounds", "_counts", "total_s")

    def __init__(self, bounds: Sequence[float] = DURATIONS_S) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        #: The sum of all durations, in seconds.
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration, in seconds."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total_s += seconds

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Returns each bound with how many durations were at most that long, ``+Inf`` last."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
