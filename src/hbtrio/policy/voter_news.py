"""Decides when a guest reports its voters to a host that wants to know them, and which ones.

A list goes out when it has changed, not sooner than ``INTERVAL_S`` after the last one, and at any
rate every ``REFRESH_S``: a host that a VM has migrated to knows nothing of it. It goes out with the
answers to challenges, a few voters at a time, so that even the longest list leaves most of what a
host reads of a guest to its answers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from hbtrio.wire.channel_messages import MAX_VOTERS, VoterState
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoterAnswer,
    VoterHealth,
)

#: Seconds between the beginnings of two lists, at least, and of two equal lists.
INTERVAL_S: Final = 5.0
REFRESH_S: Final = 60.0

#: Voters that go out with one answer.
PER_ANSWER: Final = 4

#: The longest time that a list states, in seconds.
_LONGEST_S: Final = 2**31 - 1

#: Those that an operator looks for come first.
_RANK: Final = {
    VoterHealth.SILENT: 0,
    VoterHealth.ILL: 1,
    VoterHealth.HEALTHY: 2,
    VoterHealth.NONE: 3,
}


class LastRequest(msgspec.Struct, frozen=True):
    """The last vote or notice that a voter received, at ``at``, and what became of it."""

    event: Event
    notification: NotificationType
    answer: VoterAnswer
    reason: str
    at: float


class KnownVoter(msgspec.Struct, frozen=True):
    """What a guest knows of one of its voters; ``since``: of its health.

    The other values are those of :class:`~hbtrio.wire.channel_messages.VoterState`.
    """

    name: str
    health: VoterHealth = VoterHealth.NONE
    since: float = 0.0
    interval_ms: int = 0
    corrective_action: CorrectiveAction = CorrectiveAction.NONE
    reason: str = ""
    last: LastRequest | None = None


class VoterNews:
    """The lists of voters that a guest sends."""

    def __init__(self) -> None:
        self._sent: object = None
        self._sent_at = -math.inf
        #: When to look at all voters again at the earliest.
        self._look_at = -math.inf
        self._waiting: deque[tuple[int, KnownVoter]] = deque()
        self._count = 0
        self._unlisted = 0

    def next(
        self, known: Callable[[], Iterable[KnownVoter]], now: float, *, anew: bool
    ) -> list[VoterState]:
        """Returns what goes out with an answer to a challenge; often nothing.

        Args:
            known: returns all voters; called only if a list is due.
            now: the time.
            anew: whether the host has just acknowledged an init, and so knows no voter.
        """
        if anew:
            self._waiting.clear()
            self._sent, self._sent_at, self._look_at = None, -math.inf, now
        if not self._waiting and now >= self._look_at:
            everybody = sorted(known(), key=lambda one: _RANK[one.health])
            listed, unlisted = everybody[:MAX_VOTERS], max(0, len(everybody) - MAX_VOTERS)
            # A thousand voters are not looked at with each answer.
            self._look_at = now + INTERVAL_S if unlisted else now
            if (listed, unlisted) != self._sent or now - self._sent_at >= REFRESH_S:
                self._sent, self._sent_at = (listed, unlisted), now
                self._look_at = now + INTERVAL_S
                self._count, self._unlisted = len(listed), unlisted
                if not listed:
                    return [self._state(0, _NOBODY, now)]
                self._waiting.extend(enumerate(listed, 1))
        due = min(PER_ANSWER, len(self._waiting))
        return [self._state(*self._waiting.popleft(), now) for _ in range(due)]

    def _state(self, place: int, one: KnownVoter, now: float) -> VoterState:
        last = one.last or _NEVER
        return VoterState(
            place=place,
            count=self._count,
            unlisted=self._unlisted,
            name=one.name,
            health=one.health,
            health_s=_seconds(now - one.since),
            interval_ms=one.interval_ms,
            corrective_action=one.corrective_action,
            reason=one.reason,
            event_type=last.event,
            notification_type=last.notification,
            answer=last.answer,
            answer_reason=last.reason,
            ago_s=_seconds(now - last.at),
        )


_NOBODY: Final = KnownVoter("")
_NEVER: Final = LastRequest(Event.UNKNOWN, NotificationType.UNKNOWN, VoterAnswer.NONE, "", 0.0)


def _seconds(passed: float) -> int:
    return max(0, min(int(passed), _LONGEST_S))
