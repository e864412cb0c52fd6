"""Keeps the voters that a guest reports to its host, bounded in number, size and rate.

The texts come from a tenant: they are made plain and cut. A list is taken as a whole, and no more
than ``LISTS`` changes of it in ``LISTS_S`` seconds, which an honest guest never exceeds for long:
what it loses is in its next list.
"""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.policy.quota import Quota
from hbtrio.wire.channel_codec import MAX_NAME_BYTES, MAX_VOTER_REASON_BYTES, plain_text
from hbtrio.wire.channel_messages import (
    MAX_VOTERS,
    ChallengeResponse,
    Exit,
    Init,
    Message,
    VoterState,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoterAnswer,
    VoterHealth,
)

#: Changed lists of one guest that are taken, and in how many seconds.
LISTS: Final = 3
LISTS_S: Final = 15.0

#: Two times closer than this, in seconds, are one: a guest reports whole seconds.
_SAME_S: Final = 2.0

#: The longest interval and the largest number of others that are taken from a guest.
_MOST: Final = 2**31 - 1


@attrs.frozen
class ReportedRequest:
    """The last vote or notice of a voter, which began at ``at`` on the caller's clock."""

    event: Event
    notification: NotificationType
    answer: VoterAnswer
    reason: str
    at: float


@attrs.frozen
class ReportedVoter:
    """A voter, whose health has been as it is since ``since`` on the caller's clock.

    The other values are those of :class:`~hbtrio.wire.channel_messages.VoterState`.
    """

    name: str
    health: VoterHealth
    since: float
    interval_ms: int
    corrective_action: CorrectiveAction
    reason: str
    last: ReportedRequest | None


class ReportedVoters:
    """The voters of one guest."""

    __slots__ = ("_arriving", "_quota", "unlisted", "voters")

    def __init__(self) -> None:
        #: Its voters; None: it has not reported any list.
        self.voters: tuple[ReportedVoter, ...] | None = None
        #: How many others it has.
        self.unlisted = 0
        self._arriving: list[ReportedVoter] = []
        #: Made with the first list: of 15,000 guests most may have none.
        self._quota: Quota | None = None

    def received(self, message: Message, now: float) -> bool:
        """Takes any message of the guest; returns whether the list may have changed with it.

        A message out of turn ends its list: the next list counts. An ``init`` or ``exit`` ends the
        list that is known: another run of the guest has other voters.
        """
        if type(message) is ChallengeResponse:  # nearly all of a guest's messages
            return False
        match message:
            case VoterState():
                return self._take(message, now)
            case Init() | Exit():
                self.voters, self.unlisted, self._arriving = None, 0, []
                return True
        return False

    def _take(self, state: VoterState, now: float) -> bool:
        if not 0 <= state.count <= MAX_VOTERS:
            return False
        if state.place <= 1 or not state.count:
            self._arriving = []
        if state.count:
            if state.place != len(self._arriving) + 1:
                self._arriving = []
                return False
            self._arriving.append(self._voter(state, now))
        if len(self._arriving) < state.count:
            return False
        arrived, self._arriving = tuple(self._arriving), []
        unlisted = max(0, min(state.unlisted, _MOST))
        if (arrived, unlisted) == (self.voters, self.unlisted):
            return False
        if self._quota is None:
            self._quota = Quota(LISTS, LISTS_S)
        if not self._quota.take(now):
            return False
        self.voters, self.unlisted = arrived, unlisted
        return True

    def _voter(self, state: VoterState, now: float) -> ReportedVoter:
        name = plain_text(state.name, MAX_NAME_BYTES)
        old = next((one for one in self.voters or () if one.name == name), None)
        request = None
        if state.notification_type is not NotificationType.UNKNOWN:
            request = ReportedRequest(
                event=state.event_type,
                notification=state.notification_type,
                answer=state.answer,
                reason=plain_text(state.answer_reason, MAX_VOTER_REASON_BYTES),
                at=_moment(state.ago_s, now, None if old is None or not old.last else old.last.at),
            )
        return ReportedVoter(
            name=name,
            health=state.health,
            since=_moment(state.health_s, now, None if old is None else old.since),
            interval_ms=max(0, min(state.interval_ms, _MOST)),
            corrective_action=state.corrective_action,
            reason=plain_text(state.reason, MAX_VOTER_REASON_BYTES),
            last=request,
        )


def _moment(ago_s: int, now: float, before: float | None) -> float:
    """Returns the time that was so long ago; ``before`` if that is the same moment."""
    at = now - max(0, ago_s)
    return before if before is not None and abs(at - before) <= _SAME_S else at
