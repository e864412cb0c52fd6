"""Keeps the last votes and notices of voters, and what they inhibit, for whoever lists them."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from hbtrio.fsm.inhibition import Inhibition
from hbtrio.nursery.windows import Answer
from hbtrio.policy.voter_news import LastRequest
from hbtrio.wire.app_status import InhibitionStatus, RequestStatus
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import NotificationType, VoterAnswer

#: Votes and notices that are kept of each application.
KEPT: Final = 5


class VoterRequest(msgspec.Struct):
    """A vote or notice that a voter was asked."""

    notify: ActionNotify
    asked_at: float
    result: str = "open"
    reason: str = ""

    def close(self, answer: Answer | None) -> None:
        """Sets the answer; None: there was none when the vote or notice ended."""
        self.result = "none" if answer is None else str(answer.result)
        self.reason = "" if answer is None else answer.reason

    def last(self) -> LastRequest:
        """Returns it as it is reported to the host."""
        return LastRequest(
            event=self.notify.event_type,
            notification=self.notify.notification_type,
            answer=VoterAnswer(self.result),
            reason=self.reason,
            at=self.asked_at,
        )

    def status(self, now: float) -> RequestStatus:
        """Returns it as it is listed at ``now``."""
        is_vote = self.notify.notification_type is NotificationType.REVOCABLE
        return RequestStatus(
            kind="vote" if is_vote else "notice",
            event=str(self.notify.event_type),
            result=self.result,
            reason=self.reason,
            ago_s=round(now - self.asked_at, 3),
        )


def inhibition_status(held: Inhibition | None, now: float) -> InhibitionStatus | None:
    """Returns an application's inhibition as it is listed at ``now``; the events are sorted."""
    if held is None:
        return None
    return InhibitionStatus(sorted(map(str, held.events)), held.reason, round(now - held.since, 3))


class AppRequests:
    """The last ``KEPT`` votes and notices of one application."""

    def __init__(self) -> None:
        self._requests: deque[VoterRequest] = deque(maxlen=KEPT)

    def opened(self, notify: ActionNotify, now: float) -> VoterRequest:
        """Adds one that was asked at ``now``; it replaces the oldest if there are ``KEPT``."""
        request = VoterRequest(notify, now)
        self._requests.appendleft(request)
        return request

    def last(self) -> LastRequest | None:
        """Returns the newest one, or None."""
        return self._requests[0].last() if self._requests else None

    def status(self, now: float) -> list[RequestStatus]:
        """Returns all, the newest first."""
        return [request.status(now) for request in self._requests]
