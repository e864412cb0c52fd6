"""Decides whether an instance is challenged, and when it is its turn next."""

from __future__ import annotations

import math
from collections.abc import Callable

from hbtrio.fsm.heartbeat.challenges import PROBES, Challenges
from hbtrio.fsm.heartbeat.effects import Effect, SendToGuest
from hbtrio.fsm.heartbeat.rules import HeartbeatRules
from hbtrio.fsm.heartbeat.silence import Silence
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.table import CHALLENGED, PROBED, HeartbeatState


class ChallengeSchedule:
    """The challenges of one instance and the time of its next turn.

    Args:
        situation: of the instance.
        rules: the host's settings.
        new_id: makes challenges in 0..2^31-1.
    """

    __slots__ = ("_situation", "challenges", "due", "silence")

    def __init__(
        self, situation: Situation, rules: HeartbeatRules, new_id: Callable[[], int]
    ) -> None:
        self._situation = situation
        self.challenges = Challenges(new_id)
        self.silence = Silence(rules)
        #: When it is the instance's turn; infinity for never.
        self.due = math.inf

    @property
    def is_challenging(self) -> bool:
        """Whether the instance is challenged at its next turn."""
        situation = self._situation
        if not situation.connected:
            return False
        if situation.state in CHALLENGED or situation.init_seen:
            return True
        return situation.state in PROBED and self.challenges.probes_left > 0

    def challenge(self, now: float, base: float) -> SendToGuest:
        """Challenges the instance, whose next turn is an interval after ``base``."""
        self.due = base + self._situation.profile.interval_s
        return SendToGuest(self.challenges.next(now))

    def plan(self, now: float) -> None:
        """Sets :attr:`due` if no challenge is to be sent now."""
        situation = self._situation
        interval_s = situation.profile.interval_s
        if situation.connected:
            situation.await_guest(now)
        if self.is_challenging:
            self.due = min(self.due, now + interval_s)
        else:
            overdue_at = situation.overdue_at
            # One that is excused by a late process is judged an interval later.
            overdue_at = overdue_at if overdue_at > now else now + interval_s
            self.due = min(self.silence.due(situation, now, interval_s), overdue_at)

    def start_over(self, now: float) -> None:
        """Counts misses and silence from now on: what is expected of the guest has changed."""
        self.challenges.start_over()
        self.silence.since = now
        self.plan(now)

    def give_up(self, now: float, *, probes_left: int = PROBES) -> None:
        """Forgets the challenges so far; an answer to one of them counts for nothing."""
        self.challenges.forget(probes_left=probes_left)
        self.plan(now)

    def returned(self, now: float) -> tuple[Effect, ...]:
        """Challenges an instance that should answer again, at once if it is connected."""
        self.silence.since = now
        self.due = math.inf
        return (self.challenge(now, now),) if self._situation.connected else NOTHING

    def fell_silent(self, now: float) -> None:
        """Counts the silence from now on: the instance has missed too many challenges."""
        self.silence.since = now
        if self._situation.state is HeartbeatState.UNWATCHED:
            self.challenges.probes_left = PROBES  # and again after each reconnect

    def disconnected(self) -> None:
        """Stops the challenges: nobody can be challenged without a connection."""
        self._situation.connected = False
        self.challenges.forget()
        # The alarm about a suspended one needs no connection, nor does libvirt's word.
        self.due = min(self._situation.unwatched_at, self._situation.overdue_at)
