"""Simulates what runs in a VM: an application with an opinion, which takes its time.

Half of its answers come at once, some late in the window, a few in its last moment, few never. In a
scenario it answers at once, and always the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from hbtrio.nursery.windows import Abstention, Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.simulate.scenario import Scenario
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import CorrectiveAction, NotificationType, VoteResult

_NAME: Final = "app"

#: The share of votes that it rejects.
_REJECTS: Final = 0.3

#: The shares of answers at once, within the window, and within its last moment; the rest is never.
_AT_ONCE, _WITHIN, _LAST = 0.5, 0.8, 0.97

#: How much before its window's end a late answer comes, in seconds, at most.
_LAST_MOMENT_S: Final = 0.4

_SOON_S: Final = 0.05


class Tenant:
    """The application; see :class:`~hbtrio.nursery.guest.voters.Voters`.

    Args:
        draw: its random stream.
        is_ill: whether it reports ill health.
        told: called with each notice's event, when it reaches the application.
        scenario: what happens; None: anything.
    """

    def __init__(
        self,
        draw: random.Random,
        is_ill: Callable[[], bool],
        told: Callable[[str], None],
        scenario: Scenario | None,
    ) -> None:
        self._scenario = scenario
        self._draw = draw
        self._is_ill = is_ill
        self._told = told

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """Answers a vote or notice."""
        is_vote = notify.notification_type is NotificationType.REVOCABLE
        if not is_vote:
            self._told(notify.event_type)
        window_s = max(0.5, notify.timeout_ms / 1000 - 1.0)
        delay_s = self._delay(window_s)
        rejects = is_vote and self._rejects()

        async def answer(_: BallotWindow) -> Answer | Abstention | None:
            await trio.sleep(delay_s)
            if rejects:
                return Answer(VoteResult.REJECT, "busy")
            return Answer(VoteResult.ACCEPT if is_vote else VoteResult.COMPLETE)

        return {_NAME: answer}

    def health(self) -> list[HealthStatus]:
        """Its health."""
        if not self._is_ill():
            return []
        return [HealthStatus(False, CorrectiveAction.REBOOT, "it is ill")]

    def known(self) -> Sequence[KnownVoter]:
        """What is known of it."""
        return [KnownVoter(_NAME)]

    def _rejects(self) -> bool:
        if self._scenario is not None:
            return self._scenario.rejects
        return self._draw.random() < _REJECTS

    def _delay(self, window_s: float) -> float:
        share = self._draw.random()
        if share < _AT_ONCE or self._scenario is not None:
            return _SOON_S * self._draw.random()
        if share < _WITHIN:
            return window_s * self._draw.random()
        if share < _LAST:
            return window_s - _LAST_MOMENT_S * self._draw.random()
        return float("inf")
