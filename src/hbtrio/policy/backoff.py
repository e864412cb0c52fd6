"""How long to wait before the next attempt: one second, doubling to sixty (PROTOCOL.md)."""

from __future__ import annotations

import math


class Backoff:
    """A doubling delay.

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
        """The delay to wait now; the following one is twice as long, up to the limit.

        Args:
            at_most_s: waits no longer this time, in seconds, for what is tried cheaply.
        """
        delay_s = min(self._next_s, at_most_s)
        self._next_s = min(2 * delay_s, self._limit_s)
        return delay_s

    def reset(self) -> None:
        """Starts over after a success."""
        self._next_s = self._first_s
