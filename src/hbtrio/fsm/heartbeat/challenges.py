"""The challenges to one guest: which is unanswered, since when, how many were missed in a row."""

from __future__ import annotations

import math
from collections.abc import Callable

from hbtrio.wire.channel_messages import Challenge


class Challenges:
    """The book of the challenges to one guest; at most one is unanswered and not yet missed.

    Only the number tells one answer from another: a guest that was stopped sends the answers to all
    that it missed in one burst, and a port may hold answers of a session that is long over.

    Args:
        new_id: makes challenges in 0..2^31-1.
    """

    __slots__ = ("_missed", "_missed_sent_at", "_new_id", "misses", "number", "sent_at")

    def __init__(self, new_id: Callable[[], int]) -> None:
        self._new_id = new_id
        #: The unanswered challenge, or None.
        self.number: int | None = None
        #: When the last challenge was sent.
        self.sent_at = -math.inf
        #: How many were missed since the last answer.
        self.misses = 0
        self._missed: int | None = None
        self._missed_sent_at = -math.inf

    def next(self, now: float) -> Challenge:
        """A new challenge, in place of the unanswered one."""
        self.number = self._new_id()
        self.sent_at = now
        return Challenge(self.number)

    def answered(self, echo: int) -> bool:
        """Whether this answers the challenge that is unanswered; it then is no more."""
        if echo != self.number:
            return False
        self.number = None
        self.misses = 0
        return True

    def late_by(self, echo: int, now: float) -> float | None:
        """Seconds since the last missed challenge, if this is its answer; said only once."""
        if self._missed is None or echo != self._missed:
            return None
        self._missed = None
        return now - self._missed_sent_at

    def miss(self) -> None:
        """The unanswered challenge was missed."""
        self._missed, self._missed_sent_at = self.number, self.sent_at
        self.number = None
        self.misses += 1

    def forget(self) -> None:
        """Nothing that was sent or missed so far counts any more."""
        self.number = self._missed = None
        self.misses = 0
