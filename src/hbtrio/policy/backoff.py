"""Retry delays: one second, doubling up to sixty (PROTOCOL.md)."""

from __future__ import annotations

import math


class Backoff:
    """Computes doubling delays.

    Args:
        first_s: the first delay, in seconds.
        limit_s: the largest delay, in seconds.
    """

    __slots__ = ("_first_s", "_limit_s", "_next_s")

    def __init__(self, first_s: float = 1.0, limit_s: float = 60.0) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._next_s = first_s

    def next_delay_s(self, at_most_s: float = math.inf) -> float:
        """Returns the delay before the next attempt and doubles the one after, up to the limit.

        Args:
            at_most_s: an upper bound for this delay, in seconds, for attempts that cost little.
        """
        delay_s = min(self._next_s, at_most_s)
        self._next_s = min(2 * delay_s, self._limit_s)
        return delay_s

    def reset(self) -> None:
        """Starts again with the first delay, after a success."""
        self._next_s = self._first_s
