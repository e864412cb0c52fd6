"""Counts the challenges to one guest: the unanswered one, and the misses in a row.

While an event that stops the VM from answering is in progress, challenges continue as long as they
are answered, late or not: a guest without challenges starts over with ``init``, which would end the
suspension too early. After ``PROBES`` unanswered ones they stop, so that no backlog builds up in
the port of a frozen VM.

A miss takes a whole interval in which this process listened: a stall of this process extends it, as
the guest may have stood still too. And a process that is late excuses misses, within a bound.

A thawed VM answers the probes in its port at once, though late. A late answer gets a fresh
challenge, so the return is noticed within moments, although only the probes were sent into the
frozen port. A guest that lost the probes sends ``init`` after 5 s without a challenge, which has
the same effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from hbtrio.fsm.heartbeat.rules import EXCUSED, SLACK_S
from hbtrio.wire.channel_messages import Challenge

#: Unanswered challenges after which a VM that may be frozen gets no more, until it answers one of
#: them late, when it runs again.
PROBES: Final = 2


class Challenges:
    """The challenges to one guest; at most one is unanswered and not yet missed.

    Only the number identifies an answer: a guest that was stopped answers all missed challenges in
    one burst, and a port may hold answers of an earlier session.

    Args:
        new_id: makes challenges in 0..2^31-1.
    """

    __slots__ = (
        "_excused_s",
        "_listened_from",
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
        #: Challenges missed since the last answer.
        self.misses = 0
        #: Challenges that a VM that may be frozen still gets without an answer.
        self.probes_left = PROBES
        self._missed: int | None = None
        self._missed_sent_at = -math.inf
        #: ``sent_at``, later by the time in which this process did not run since.
        self._listened_from = -math.inf
        #: For how long this process has listened to challenges whose misses were excused.
        self._excused_s = 0.0

    def next(self, now: float) -> Challenge:
        """Returns a new challenge, which replaces the unanswered one."""
        self.number = self._new_id()
        self.sent_at = self._listened_from = now
        return Challenge(self.number)

    def answered(self, echo: int, now: float) -> bool:
        """Returns whether this answers the unanswered challenge, and notes it."""
        if echo != self.number:
            return False
        self.number = None
        self.misses = 0
        self.probes_left = PROBES
        self.answered_at = now
        self._excused_s = 0.0
        return True

    def late_by(self, echo: int, now: float) -> float | None:
        """Returns seconds since the last missed challenge if this is its first answer, or None."""
        if self._missed is None or echo != self._missed:
            return None
        self._missed = None
        return now - self._missed_sent_at

    def stood_still(self, seconds: float) -> None:
        """Notes for how long this process did not run, and so did not listen."""
        self._listened_from += seconds
        self.answered_at += seconds

    def excuses(self, interval_s: float) -> bool:
        """Returns whether the lateness of this process still excuses a miss."""
        return self._excused_s < EXCUSED * interval_s - SLACK_S

    def over_at(self, interval_s: float, *, excused: bool) -> float:
        """Returns until when the last challenge may be answered; an excused one is replaced."""
        return (self.sent_at if excused else self._listened_from) + interval_s

    def miss(self, now: float, *, counts: bool) -> None:
        """Notes that the unanswered challenge was missed.

        Args:
            now: the time.
            counts: whether the guest is at fault; if not, earlier misses do not count either.
        """
        self._missed, self._missed_sent_at = self.number, self.sent_at
        self.number = None
        if counts:
            self.misses += 1
            self.probes_left -= 1
        else:
            self.misses = 0
            self._excused_s += now - self._listened_from

    def start_over(self) -> None:
        """Forgets answers and misses so far; the unanswered challenge still counts."""
        self.misses = 0
        self.answered_at = -math.inf
        self.probes_left = PROBES
        self._excused_s = 0.0

    def forget(self, *, probes_left: int = PROBES) -> None:
        """Forgets all challenges, answers and misses so far."""
        self.number = self._missed = None
        self.start_over()
        self.probes_left = probes_left
