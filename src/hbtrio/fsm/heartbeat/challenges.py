"""The challenges to one guest: which is unanswered, since when, how many were missed in a row.

While an event is in progress that stops the VM from answering, challenges go on for as long as they
are answered, late or not: a guest that gets none starts over with ``init``, which would end the
suspension too early. After ``PROBES`` unanswered ones they cease, so that no backlog builds up in a
frozen VM's port.

A VM that only stood still answers the probes that waited in its port as soon as it runs. A late
answer calls for a fresh challenge at once, so the return is noticed within moments of the thaw
although nothing more than the probes was sent into the frozen port. A guest that lost the probes
says ``init`` after 5 s without a challenge, which has the same effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from hbtrio.wire.channel_messages import Challenge

#: Unanswered challenges after which a VM that may be frozen is left alone, until one is answered
#: late, which it is when the VM runs again.
PROBES: Final = 2


class Challenges:
    """The book of the challenges to one guest; at most one is unanswered and not yet missed.

    Only the number tells one answer from another: a guest that was stopped sends the answers to all
    that it missed in one burst, and a port may hold answers of a session that is long over.

    Args:
        new_id: makes challenges in 0..2^31-1.
    """

    __slots__ = (
        "_missed",
        "_missed_sent_at",
        "_new_id",
        "answered_at",
        "misses",
        "number",
        "probes_left",
        "sent_at",
    )

    def __init__(self, new_id: Callable[[], int]) -> None:
        self._new_id = new_id
        #: The unanswered challenge, or None.
        self.number: int | None = None
        #: When the last challenge was sent.
        self.sent_at = -math.inf
        #: When the last challenge was answered, if that still counts.
        self.answered_at = -math.inf
        #: How many were missed since the last answer.
        self.misses = 0
        #: How many more a VM that may be frozen is sent if it goes on missing them.
        self.probes_left = PROBES
        self._missed: int | None = None
        self._missed_sent_at = -math.inf

    def next(self, now: float) -> Challenge:
        """A new challenge, in place of the unanswered one."""
        self.number = self._new_id()
        self.sent_at = now
        return Challenge(self.number)

    def answered(self, echo: int, now: float) -> bool:
        """Whether this answers the challenge that is unanswered; it then is no more."""
        if echo != self.number:
            return False
        self.number = None
        self.misses = 0
        self.probes_left = PROBES
        self.answered_at = now
        return True

    def late_by(self, echo: int, now: float) -> float | None:
        """Seconds since the last missed challenge, if this is its answer; said only once."""
        if self._missed is None or echo != self._missed:
            return None
        self._missed = None
        return now - self._missed_sent_at

    def miss(self, *, counts: bool) -> None:
        """The unanswered challenge was missed.

        Args:
            counts: whether that is the guest's doing; if not, neither are the misses before it.
        """
        self._missed, self._missed_sent_at = self.number, self.sent_at
        self.number = None
        if counts:
            self.misses += 1
            self.probes_left -= 1
        else:
            self.misses = 0

    def start_over(self) -> None:
        """What was answered and missed so far does not count; one on its way still does."""
        self.misses = 0
        self.answered_at = -math.inf
        self.probes_left = PROBES

    def forget(self, *, probes_left: int = PROBES) -> None:
        """Nothing that was sent, answered or missed so far counts any more."""
        self.number = self._missed = None
        self.start_over()
        self.probes_left = probes_left
