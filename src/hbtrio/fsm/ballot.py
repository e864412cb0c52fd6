"""Collects the answers of a vote or notice and decides its outcome.

A vote and a notice differ in two ways. One reject ends a vote at once, while a failed handler of a
notice doesn't stop the others. A vote ends as accepted, a notice as complete.

A voter that can't be run or does not answer in time agrees (PROTOCOL.md), unless the vote is one
that such a failure rejects: FAILURE_POLICY of the guest.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec

from hbtrio.fsm.table import Table
from hbtrio.policy.named_reasons import joined, named
from hbtrio.wire.vocabulary import NotificationType, VoteResult


class BallotState(Enum):
    """The state of a round."""

    OPEN = "open"  # an answer is still missing
    REFUSED = "refused"  # a voter rejected: the event must not happen
    ANSWERED = "answered"  # all voters that did not leave have answered
    EXPIRED = "expired"  # the window ended first
    ABORTED = "aborted"  # superseded, or the peer disconnected


class BallotEvent(Enum):
    """The events of a round."""

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


class Outcome(msgspec.Struct, frozen=True):
    """The result of a round, with its reason."""

    result: VoteResult
    reason: str


class _Reason(msgspec.Struct, frozen=True):
    """A voter's reason, alone and with its name."""

    alone: str
    by_name: str


class Ballot:
    """A round of a vote or notice, with exactly one outcome.

    Args:
        notification: ``REVOCABLE`` for a vote, else a notice.
        voters: the voters' names. A round without voters is complete at once.
        failure_rejects: whether a voter that could not answer rejects a vote; not a notice.
    """

    def __init__(
        self,
        notification: NotificationType,
        voters: Iterable[str],
        *,
        failure_rejects: bool = False,
    ) -> None:
        self.is_vote = notification is NotificationType.REVOCABLE
        self._failure_rejects = failure_rejects and self.is_vote
        self.state = BallotState.OPEN
        self.outcome: Outcome | None = None
        #: The outcome's reason with the names of those who gave it; of an agreement or a failure
        #: all reasons. Empty until the round is closed.
        self.named_reason = ""
        self._owed: dict[str, None] = dict.fromkeys(voters)
        self._agreed: list[_Reason] = []
        self._anyone_accepted = False
        self._failures: list[_Reason] = []
        self._failure: Outcome | None = None
        self._abstained: list[str] = []
        if not self._owed:
            self._close(BallotEvent.LAST_ANSWER_CAME, Outcome(VoteResult.COMPLETE, ""), "")

    @property
    def owed(self) -> tuple[str, ...]:
        """The voters that have not answered yet."""
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

    def answer(
        self, voter: str, result: VoteResult, reason: str, *, by_name: bool = False
    ) -> Outcome | None:
        """Records an answer; returns the outcome if the answer closes the round.

        A voter's second answer, and an answer to a closed round, are ignored.

        Args:
            voter: its name.
            result: its answer.
            reason: why; may be empty.
            by_name: whether :attr:`named_reason` names the voter.
        """
        if self.state is not BallotState.OPEN or voter not in self._owed:
            return None
        del self._owed[voter]
        said = _Reason(reason, named(voter, reason) if by_name else reason)
        if result is VoteResult.REJECT and self.is_vote:
            return self._close(BallotEvent.REJECT_CAME, Outcome(result, reason), said.by_name)
        if result is VoteResult.TIMEOUT and self._failure_rejects:
            return self._reject(f"no answer in time from {voter}")
        if result in (VoteResult.ACCEPT, VoteResult.COMPLETE):
            self._anyone_accepted |= result is VoteResult.ACCEPT
            if reason:
                self._agreed.append(said)
        else:
            failed = VoteResult.TIMEOUT if result is VoteResult.TIMEOUT else VoteResult.ERROR
            self._failure = self._failure or Outcome(failed, reason)
            self._failures.append(said)
        return self._settle()

    def leave(self, voter: str, cause: str = "") -> Outcome | None:
        """Removes a voter that left without an answer; returns the outcome if that closes it.

        Args:
            voter: its name.
            cause: why it could not answer, to follow its name in the outcome's reason; empty for a
                voter that the outcome does not name.
        """
        if self.state is not BallotState.OPEN or voter not in self._owed:
            return None
        del self._owed[voter]
        if cause and self._failure_rejects:
            return self._reject(f"{voter} {cause}")
        if cause:
            self._abstained.append(f"{voter} {cause}")
        return self._settle()

    def expire(self) -> Outcome | None:
        """Closes the round at the end of its window; the reason names the silent voters."""
        if self.state is not BallotState.OPEN:
            return None
        silent = ", ".join(self._owed)
        if self._failure_rejects:
            return self._reject(f"no answer in time from {silent}")
        outcome = self._failure or Outcome(VoteResult.TIMEOUT, f"no answer in time from {silent}")
        return self._close_with_abstentions(BallotEvent.WINDOW_CLOSED, outcome, self._failures)

    def abort(self, reason: str) -> Outcome | None:
        """Closes the round without its answers, for a reason that is not the voters'."""
        if self.state is not BallotState.OPEN:
            return None
        return self._close(BallotEvent.ROUND_ABORTED, Outcome(VoteResult.ERROR, reason), reason)

    def _reject(self, reason: str) -> Outcome:
        """Closes a vote because a voter failed; the reason has its name."""
        return self._close(BallotEvent.REJECT_CAME, Outcome(VoteResult.REJECT, reason), reason)

    def _settle(self) -> Outcome | None:
        if self._owed:
            self.state = BALLOT_TABLE.after(self.state, BallotEvent.ANSWER_CAME)
            return None
        reasons = self._agreed if self._failure is None else self._failures
        if self._failure is not None:
            outcome = self._failure
        else:
            accepted = self.is_vote and self._anyone_accepted
            first = reasons[0].alone if reasons else ""
            outcome = Outcome(VoteResult.ACCEPT if accepted else VoteResult.COMPLETE, first)
        return self._close_with_abstentions(BallotEvent.LAST_ANSWER_CAME, outcome, reasons)

    def _close_with_abstentions(
        self, event: BallotEvent, outcome: Outcome, reasons: list[_Reason]
    ) -> Outcome:
        """Adds who could not answer, last: the wire cuts a long reason at its end."""
        alone = "; ".join(filter(None, (outcome.reason, *self._abstained)))
        by_name = [said.by_name for said in reasons] or [outcome.reason]
        return self._close(
            event, Outcome(outcome.result, alone), joined((*by_name, *self._abstained))
        )

    def _close(self, event: BallotEvent, outcome: Outcome, named_reason: str) -> Outcome:
        self.state = BALLOT_TABLE.after(self.state, event)
        self.outcome, self.named_reason = outcome, named_reason
        return outcome


def as_reported(ballot: Ballot, timeout_s: float) -> Outcome:
    """Returns the outcome of a closed round as a host reports it.

    A guest that is silent until the end of the host's window consents: a vote is accepted and a
    notice is complete (PROTOCOL.md, host behaviour). A guest's own ``timeout`` is reported as such.

    Raises:
        ValueError: the round is still open.
    """
    outcome = ballot.settled
    if ballot.state is BallotState.EXPIRED and outcome.result is VoteResult.TIMEOUT:
        agreed = VoteResult.ACCEPT if ballot.is_vote else VoteResult.COMPLETE
        return Outcome(agreed, f"no answer within {timeout_s:g} s")
    return outcome
