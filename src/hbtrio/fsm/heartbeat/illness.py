"""Decides when a guest's ill health is reported.

A deployed guest requests its action with the first unhealthy answer, then ``none``, and the action
again after 60 s. Other guests may request it with every beat, or alternate between healthy and
unhealthy. Neither may flood an operator or repeat a corrective command all the time.

Around an event, a guest may be ill because of it. From the opening of its notice until the guest is
heartbeating again, ill health is shown and kept. It is reported if it lasts a health interval
longer. The same goes for the time after heartbeating began, if the host is configured so.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from hbtrio.fsm.heartbeat.effects import Ill, Note
from hbtrio.policy.quota import Quota
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import CorrectiveAction, Health

#: A little less than the guest's 60 s, so that its intended repetition is always reported.
SAME_AGAIN_S: Final = 55.0

#: Reports per minute, for a guest that alternates with every beat.
REPORTS: Final = 6
REPORTS_PERIOD_S: Final = 60.0

#: For how long ill health has to last after an event until it is reported: a deployed guest checks
#: its health, and requests the action again, in that time.
HEALTH_INTERVAL_S: Final = 60.0

#: For how long ill health is kept after a vote, if the notice of the action does not follow.
UNTIL_NOTICE_S: Final = 60.0

_KEPT: Final = Note("unhealthy around an event or after its start: reported only if that lasts")

_REPORTING_OFF: Final = Note("unhealthy, but reporting is off")


@attrs.frozen
class ReportedIllness:
    """The last report of ill health, as long as it lasts.

    Args:
        action: the corrective action that was requested.
        reason: the reason in the report.
        at: when it was reported.
    """

    action: CorrectiveAction
    reason: str
    at: float


class Illness:
    """The ill health of one guest.

    Args:
        grace_s: for how long it is kept after heartbeating began, in seconds.
    """

    def __init__(self, grace_s: float = 0.0) -> None:
        self.grace_s = grace_s
        #: Until when ill health is kept; infinity during an event.
        self._keeps_until = -math.inf
        #: Whether heartbeating has begun since :meth:`settle`.
        self._has_begun = False
        #: The ill health that is kept, or None.
        self._kept: ChallengeResponse | None = None
        self._action: CorrectiveAction | None = None
        self._reported_at = 0.0
        #: The reason in the last report.
        self._reason: str | None = None
        self._quota = Quota(REPORTS, REPORTS_PERIOD_S)

    @property
    def reported(self) -> ReportedIllness | None:
        """The last report, if the ill health in it lasts."""
        if self._reason is None or self._action is None:
            return None
        return ReportedIllness(self._action, self._reason, self._reported_at)

    def recall(self, reported: ReportedIllness) -> None:
        """Takes what an earlier run of the host has reported: it is no news."""
        self._action, self._reason = reported.action, reported.reason
        self._reported_at = reported.at
        self._quota.restore(reported.at)

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
        self.settle(now)
        if health is not Health.UNHEALTHY:
            self._kept = None
        elif now < self._keeps_until:
            if not action.is_actionable:
                return None
            is_first, self._kept = self._kept is None, response
            return _KEPT if is_first else None
        elif (kept := self._kept) is not None:
            # It was requested once, and lasts.
            action, reason, self._kept = kept.corrective_action, kept.log_msg, None
        if self.is_news(health, action, now, reason):
            return Ill(reason, action) if reporting else _REPORTING_OFF
        if health is Health.HEALTHY and self.lasts:
            return Note(self.over())
        return None

    def event_begins(self) -> None:
        """Keeps ill health until the guest is heartbeating again: a notice is opened."""
        self._keeps_until = math.inf

    def action_begins(self, now: float) -> None:
        """Keeps ill health until the notice of an action whose vote was accepted."""
        self._keeps_until = max(self._keeps_until, now + UNTIL_NOTICE_S)

    def begins(self) -> None:
        """Notes that heartbeating begins, or goes on after an event."""
        self._has_begun = True

    def settle(self, now: float) -> None:
        """Computes until when ill health is kept, if heartbeating has begun before ``now``."""
        if self._has_begun:
            self._has_begun = False
            after_event_s = HEALTH_INTERVAL_S if self._keeps_until == math.inf else 0.0
            self._keeps_until = now + max(after_event_s, self.grace_s)

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
