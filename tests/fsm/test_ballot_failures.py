"""A ballot whose votes a failed voter rejects; see tests/fsm/test_ballot.py for all others."""

from __future__ import annotations

import pytest

from hbtrio.fsm.ballot import Ballot, BallotState, Outcome
from hbtrio.wire.vocabulary import NotificationType, VoteResult

VOTE, NOTICE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
REJECT = VoteResult.REJECT


def ballot(notification: NotificationType = VOTE, *, rejects: bool = True) -> Ballot:
    return Ballot(notification, ["a", "b", "c"], failure_rejects=rejects)


def test_one_that_could_not_answer_rejects_at_once() -> None:
    vote = ballot()
    assert vote.answer("a", VoteResult.ACCEPT, "fine") is None
    expected = Outcome(REJECT, "b could not be run: Permission denied")
    assert vote.leave("b", "could not be run: Permission denied") == expected
    assert (vote.state, vote.named_reason) == (BallotState.REFUSED, expected.reason)


def test_one_whose_own_window_ends_rejects_at_once() -> None:
    vote = ballot()
    expected = Outcome(REJECT, "no answer in time from c")
    assert vote.answer("c", VoteResult.TIMEOUT, "") == expected
    assert (vote.state, vote.named_reason) == (BallotState.REFUSED, expected.reason)


def test_the_end_of_the_window_rejects_for_all_that_are_silent() -> None:
    vote = ballot()
    vote.answer("b", VoteResult.ACCEPT, "fine")
    expected = Outcome(REJECT, "no answer in time from a, c")
    assert vote.expire() == expected
    assert (vote.state, vote.named_reason) == (BallotState.REFUSED, expected.reason)
    assert vote.leave("a", "was killed by signal SIGKILL") is None
    assert vote.settled == expected


def test_one_that_takes_no_part_any_more_does_not_reject() -> None:
    vote = ballot()
    assert vote.leave("a") is None
    assert vote.answer("b", VoteResult.ACCEPT, "") is None
    assert vote.leave("c") == Outcome(VoteResult.ACCEPT, "")


def test_an_aborted_vote_is_not_rejected() -> None:
    assert ballot().abort("superseded") == Outcome(VoteResult.ERROR, "superseded")


@pytest.mark.parametrize(("notification", "rejects"), [(NOTICE, True), (VOTE, False)])
def test_a_notice_and_another_vote_go_on(notification: NotificationType, rejects: bool) -> None:
    other = ballot(notification, rejects=rejects)
    assert other.leave("a", "was killed by signal SIGKILL") is None
    assert other.answer("b", VoteResult.TIMEOUT, "") is None
    outcome = other.expire()
    assert outcome is not None
    assert outcome.result is VoteResult.TIMEOUT
    assert other.state is BallotState.EXPIRED
