"""When a guest's ill health is news.

A deployed guest asks for its action with the first unhealthy answer, then for ``none``, and again
after 60 s. Other guests may ask with every beat, or change between healthy and unhealthy with
every beat; neither may flood an operator, nor run a corrective command again and again.
"""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.heartbeat.effects import Ill, Note
from hbtrio.policy.quota import Quota
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import CorrectiveAction, Health

#: A little under the guest's 60 s, so that its deliberate repetition always passes.
SAME_AGAIN_S: Final = 55.0

#: Reports per minute, for a guest that changes its mind with every beat.
REPORTS: Final = 6
REPORTS_PERIOD_S: Final = 60.0

_REPORTING_OFF: Final = Note("unhealthy, but reporting is off")


class Illness:
    """One guest's course of illness."""

    def __init__(self) -> None:
        self._action: CorrectiveAction | None = None
        self._reported_at = 0.0
        #: What the guest said when it was news.
        self._reason: str | None = None
        self._quota = Quota(REPORTS, REPORTS_PERIOD_S)

    @property
    def lasts(self) -> bool:
        """Whether there was news of it, and none of its end."""
        return self._reason is not None

    def heard(
        self, response: ChallengeResponse, now: float, *, reporting: bool
    ) -> Ill | Note | None:
        """What is to be said about the health in an answer; None if it is no news.

        The end of an illness is only a line in the log: the kinds of reports are a closed list.
        """
        health, action, reason = (
            response.heartbeat_health,
            response.corrective_action,
            response.log_msg,
        )
        if self.is_news(health, action, now, reason):
            return Ill(reason, action) if reporting else _REPORTING_OFF
        if health is Health.HEALTHY and self.lasts:
            return Note(self.over())
        return None

    def over(self) -> str:
        """It is over; returns a line that says so. No more often than there was news of it."""
        reason, self._reason = self._reason, None
        return f"healthy again after: {reason}" if reason else "healthy again"

    def is_news(
        self, health: Health, action: CorrectiveAction, now: float, reason: str = ""
    ) -> bool:
        """Whether an answer with this health and action is to be reported as ill health."""
        if health is not Health.UNHEALTHY:
            self._action = None
            return False
        if not action.is_actionable:
            return False
        if action is self._action and now - self._reported_at < SAME_AGAIN_S:
            return False
        if not self._quota.take(now):
            return False
        self._action, self._reported_at, self._reason = action, now, reason
        return True
