"""Notices a peer that is held back for so long that an operator should know its name."""

from __future__ import annotations

from typing import Final

#: Seconds that a peer is judged for; it is named once in them at most.
PERIOD_S: Final = 60.0

#: Seconds of pauses in that time that make a flood of it: a burst after a stall has fewer.
HELD_S: Final = 5.0


class Flood:
    """The pauses in the reading of one peer, over all its connections."""

    __slots__ = ("_held_s", "_named", "_since")

    def __init__(self) -> None:
        self._since = 0.0
        self._held_s = 0.0
        self._named = False

    def is_held_back(self, now: float) -> bool:
        """Returns whether the peer was named within the last minute."""
        return self._named and now - self._since < PERIOD_S

    def is_news(self, pause_s: float, now: float) -> bool:
        """Counts a pause; returns whether the peer is to be named, at most once a minute.

        Args:
            pause_s: for how long the peer will not be read, in seconds.
            now: seconds on the caller's clock.
        """
        if now - self._since >= PERIOD_S:
            self._since, self._held_s, self._named = now, 0.0, False
        self._held_s += pause_s
        if self._named or self._held_s < HELD_S:
            return False
        self._named = True
        return True
