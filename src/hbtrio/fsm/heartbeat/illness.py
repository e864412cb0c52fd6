"""Decides when a guest's ill health is reported.

A deployed guest requests its action with the first unhealthy answer, then ``none``, and the action
again after 60 s. Other guests may request it with every beat, or alternate between healthy and
unhealthy. Neither may flood an operator or repeat a corrective command all the time.
"""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.heartbeat.effects import Ill, Note
from hbtrio.policy.quota import Quota
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import CorrectiveAction, Health

#: A little less than the guest's 60 s, so that its intended repetition is always reported.
SAME_AGAIN_S: Final = 55.0

#: Reports per minute, for a guest that alternates with every beat.
REPORTS: Final = 6
REPORTS_PERIOD_S: Final = 60.0

_REPORTING_OFF: Final = Note("unhealthy, but reporting is off")


class Illness:
    """The ill health of one guest."""

    def __init__(self) -> None:
        self._action: CorrectiveAction | None = None
        self._reported_at = 0.0
        #: The reason in the last report.
        self._reason: str | None = None
        self._quota = Quota(REPORTS, REPORTS_PERIOD_S)

    @property
    def lasts(self) -> bool:
        """Whether ill health was reported, and its end was not."""
        return self._reason is not None

    def heard(
        self, response: ChallengeResponse, now: float, *, reporting: bool
    ) -> Ill | Note | None:
        """Returns the effect of the health in an answer, or None.

        The end of ill health is only logged, because the kinds of reports are a closed list.
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
        """Ends the ill health and returns a log line; at most one for each report."""
        reason, self._reason = self._reason, None
        return f"healthy again after: {reason}" if reason else "healthy again"

    def is_news(
        self, health: Health, action: CorrectiveAction, now: float, reason: str = ""
    ) -> bool:
        """Returns whether an answer with this health and action is reported as ill health."""
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
