"""One round of asking: who was asked, who answered, and what comes of it.

A vote and a notice are the same round with two differences: one reject ends a vote at once, while
a failed handler of a notice does not stop the others; and a notice is complete, not accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import attrs

from hbtrio.fsm.table import Table
from hbtrio.wire.vocabulary import NotificationType, VoteResult


class BallotState(Enum):
    """What is known of a round."""

    OPEN = "open"  # somebody has not answered
    REFUSED = "refused"  # a voter rejected: the event must not happen
    ANSWERED = "answered"  # everybody who still counts has answered
    EXPIRED = "expired"  # the window ended first
    ABORTED = "aborted"  # superseded, or its peer went away


class BallotEvent(Enum):
    """What can happen to a round."""

    ANSWER_CAME = "an answer came, others are owed"
    LAST_ANSWER_CAME = "the last answer owed came"
    REJECT_CAME = "a reject came (votes only)"
    WINDOW_CLOSED = "the window closed"
    ROUND_ABORTED = "the round was aborted"


_CLOSED = frozenset(BallotEvent)

BALLOT_TABLE: Table[BallotState, BallotEvent] = Table(
    "ballot",
    BallotState.OPEN,
    {
        BallotState.OPEN: {
            BallotEvent.ANSWER_CAME: BallotState.OPEN,
            BallotEvent.LAST_ANSWER_CAME: BallotState.ANSWERED,
            BallotEvent.REJECT_CAME: BallotState.REFUSED,
            BallotEvent.WINDOW_CLOSED: BallotState.EXPIRED,
            BallotEvent.ROUND_ABORTED: BallotState.ABORTED,
        },
        BallotState.REFUSED: {},
        BallotState.ANSWERED: {},
        BallotState.EXPIRED: {},
        BallotState.ABORTED: {},
    },
    {
        BallotState.OPEN: frozenset(),
        BallotState.REFUSED: _CLOSED,
        BallotState.ANSWERED: _CLOSED,
        BallotState.EXPIRED: _CLOSED,
        BallotState.ABORTED: _CLOSED,
    },
    BallotEvent,
)


@attrs.frozen
class Outcome:
    """The one result of a round, with its reason."""

    result: VoteResult
    reason: str


class Ballot:
    """A round and its answers; it has exactly one outcome.

    Args:
        notification: ``REVOCABLE`` for a vote, else a notice.
        voters: names of those asked. With nobody to ask the round is complete at once.
    """

    def __init__(self, notification: NotificationType, voters: Iterable[str]) -> None:
        self.is_vote = notification is NotificationType.REVOCABLE
        self.state = BallotState.OPEN
        self.outcome: Outcome | None = None
        self._owed: dict[str, None] = dict.fromkeys(voters)
        self._agreed = ""
        self._anyone_accepted = False
        self._failure: Outcome | None = None
        if not self._owed:
            self._close(BallotEvent.LAST_ANSWER_CAME, Outcome(VoteResult.COMPLETE, ""))

    @property
    def owed(self) -> tuple[str, ...]:
        """Those who have not answered yet."""
        return tuple(self._owed)

    @property
    def settled(self) -> Outcome:
        """The outcome of a closed round.

        Raises:
            ValueError: the round is still open.
        """
        if self.outcome is None:
            raise ValueError("the round is still open")
        return self.outcome

    def answer(self, voter: str, result: VoteResult, reason: str) -> Outcome | None:
        """Notes an answer; returns the outcome if it closes the round.

        A second answer of a voter, or one after the round is closed, counts for nothing.
        """
        if self.state is not BallotState.OPEN or voter not in self._owed:
            return None
        del self._owed[voter]
        if result is VoteResult.REJECT and self.is_vote:
            return self._close(BallotEvent.REJECT_CAME, Outcome(result, reason))
        if result in (VoteResult.ACCEPT, VoteResult.COMPLETE):
            self._anyone_accepted |= result is VoteResult.ACCEPT
            self._agreed = self._agreed or reason
        elif self._failure is None:
            failed = VoteResult.TIMEOUT if result is VoteResult.TIMEOUT else VoteResult.ERROR
            self._failure = Outcome(failed, reason)
        return self._settle()

    def leave(self, voter: str) -> Outcome | None:
        """A voter went away without an answer; it no longer counts."""
        if self.state is not BallotState.OPEN or voter not in self._owed:
            return None
        del self._owed[voter]
        return self._settle()

    def expire(self) -> Outcome | None:
        """The window closed. Whoever is silent has agreed, and is named in the reason."""
        if self.state is not BallotState.OPEN:
            return None
        silent = ", ".join(self._owed)
        outcome = self._failure or Outcome(VoteResult.TIMEOUT, f"no answer in time from {silent}")
        return self._close(BallotEvent.WINDOW_CLOSED, outcome)

    def abort(self, reason: str) -> Outcome | None:
        """The round ends without its answers, for a reason that is not the voters'."""
        if self.state is not BallotState.OPEN:
            return None
        return self._close(BallotEvent.ROUND_ABORTED, Outcome(VoteResult.ERROR, reason))

    def _settle(self) -> Outcome | None:
        if self._owed:
            self.state = BALLOT_TABLE.after(self.state, BallotEvent.ANSWER_CAME)
            return None
        if self._failure is not None:
            outcome = self._failure
        elif self.is_vote and self._anyone_accepted:
            outcome = Outcome(VoteResult.ACCEPT, self._agreed)
        else:
            outcome = Outcome(VoteResult.COMPLETE, self._agreed)
        return self._close(BallotEvent.LAST_ANSWER_CAME, outcome)

    def _close(self, event: BallotEvent, outcome: Outcome) -> Outcome:
        self.state = BALLOT_TABLE.after(self.state, event)
        self.outcome = outcome
        return outcome


def as_reported(ballot: Ballot, timeout_s: float) -> Outcome:
    """The outcome of a closed round as a host reports it.

    At the end of the host's window a silent guest has agreed: a vote is accepted, a notice is
    complete (PROTOCOL.md, host behaviour). A guest that said ``timeout`` itself keeps its word.
    """
    outcome = ballot.settled
    if ballot.state is BallotState.EXPIRED and outcome.result is VoteResult.TIMEOUT:
        agreed = VoteResult.ACCEPT if ballot.is_vote else VoteResult.COMPLETE
        return Outcome(agreed, f"no answer within {timeout_s:g} s")
    return outcome
