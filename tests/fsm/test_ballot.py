"""One round of asking: whatever the order of the answers, there is exactly one outcome."""

from __future__ import annotations

from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.fsm.ballot import Ballot, BallotState, Outcome, as_reported
from hbtrio.wire.vocabulary import NotificationType, VoteResult

VOTE, NOTICE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
ACCEPT, REJECT, COMPLETE, TIMEOUT, ERROR, UNKNOWN = VoteResult
OPEN, REFUSED, ANSWERED, EXPIRED, ABORTED = BallotState

BOTH = pytest.mark.parametrize("notification", [VOTE, NOTICE], ids=["vote", "notice"])


def whole(ballot: Ballot) -> tuple[BallotState, Outcome | None, tuple[str, ...]]:
    return ballot.state, ballot.outcome, ballot.owed


# -- one voter, every answer ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notification", "answer", "state", "result"),
    [
        (VOTE, ACCEPT, ANSWERED, ACCEPT),
        (VOTE, COMPLETE, ANSWERED, COMPLETE),
        (VOTE, REJECT, REFUSED, REJECT),
        (VOTE, TIMEOUT, ANSWERED, TIMEOUT),
        (VOTE, ERROR, ANSWERED, ERROR),
        (VOTE, UNKNOWN, ANSWERED, ERROR),
        (NOTICE, ACCEPT, ANSWERED, COMPLETE),
        (NOTICE, COMPLETE, ANSWERED, COMPLETE),
        (NOTICE, REJECT, ANSWERED, ERROR),
        (NOTICE, TIMEOUT, ANSWERED, TIMEOUT),
        (NOTICE, ERROR, ANSWERED, ERROR),
        (NOTICE, UNKNOWN, ANSWERED, ERROR),
    ],
)
def test_the_only_answer_is_the_outcome(
    notification: NotificationType, answer: VoteResult, state: BallotState, result: VoteResult
) -> None:
    ballot = Ballot(notification, ["guest"])
    assert whole(ballot) == (OPEN, None, ("guest",))
    outcome = Outcome(result, "because")
    assert ballot.answer("guest", answer, "because") == outcome
    assert whole(ballot) == (state, outcome, ())
    assert ballot.settled == as_reported(ballot, 8.0) == outcome


@BOTH
def test_with_nobody_to_ask_the_round_is_complete_at_once(notification: NotificationType) -> None:
    ballot = Ballot(notification, [])
    assert whole(ballot) == (ANSWERED, Outcome(COMPLETE, ""), ())
    assert ballot.expire() is None
    assert ballot.abort("too late") is None
    assert whole(ballot) == (ANSWERED, Outcome(COMPLETE, ""), ())


@BOTH
def test_an_unknown_kind_of_notification_is_no_vote(notification: NotificationType) -> None:
    assert Ballot(notification, []).is_vote is (notification is VOTE)
    assert not Ballot(NotificationType.UNKNOWN, []).is_vote


# -- several voters, step by step -----------------------------------------------------------------


def test_a_reject_ends_a_vote_at_once_and_those_left_are_still_named() -> None:
    ballot = Ballot(VOTE, ["script", "a", "b"])
    assert ballot.answer("a", ACCEPT, "fine") is None
    assert whole(ballot) == (OPEN, None, ("script", "b"))
    assert ballot.answer("b", REJECT, "disk busy") == Outcome(REJECT, "disk busy")
    assert whole(ballot) == (REFUSED, Outcome(REJECT, "disk busy"), ("script",))
    assert ballot.answer("script", ACCEPT, "fine") is None
    assert whole(ballot) == (REFUSED, Outcome(REJECT, "disk busy"), ("script",))


def test_a_failed_handler_of_a_notice_does_not_stop_the_others() -> None:
    ballot = Ballot(NOTICE, ["script", "a", "b"])
    assert ballot.answer("script", REJECT, "exit 1") is None
    assert whole(ballot) == (OPEN, None, ("a", "b"))
    assert ballot.answer("a", TIMEOUT, "slow") is None
    assert ballot.answer("b", COMPLETE, "done") == Outcome(ERROR, "exit 1")
    assert whole(ballot) == (ANSWERED, Outcome(ERROR, "exit 1"), ())


@pytest.mark.parametrize(("notification", "result"), [(VOTE, ACCEPT), (NOTICE, COMPLETE)])
def test_the_first_reason_given_is_the_one(
    notification: NotificationType, result: VoteResult
) -> None:
    ballot = Ballot(notification, ["a", "b", "c"])
    assert ballot.answer("a", ACCEPT, "") is None
    assert ballot.answer("b", COMPLETE, "ready") is None
    assert ballot.answer("c", ACCEPT, "also ready") == Outcome(result, "ready")


def test_who_answers_twice_or_was_never_asked_does_not_count() -> None:
    ballot = Ballot(VOTE, ["a", "b"])
    assert ballot.answer("a", ACCEPT, "") is None
    assert ballot.answer("a", REJECT, "changed my mind") is None
    assert ballot.answer("stranger", REJECT, "no") is None
    assert ballot.leave("stranger") is None
    assert whole(ballot) == (OPEN, None, ("b",))


def test_a_voter_named_twice_owes_one_answer() -> None:
    ballot = Ballot(VOTE, ["a", "a"])
    assert ballot.answer("a", ACCEPT, "") == Outcome(ACCEPT, "")


def test_who_went_away_no_longer_counts() -> None:
    ballot = Ballot(VOTE, ["a", "b", "c"])
    assert ballot.leave("a") is None
    assert ballot.answer("a", REJECT, "from the grave") is None
    assert whole(ballot) == (OPEN, None, ("b", "c"))
    assert ballot.answer("b", ACCEPT, "fine") is None
    assert ballot.leave("c") == Outcome(ACCEPT, "fine")
    assert whole(ballot) == (ANSWERED, Outcome(ACCEPT, "fine"), ())


@BOTH
def test_when_everybody_went_away_the_round_is_complete(notification: NotificationType) -> None:
    ballot = Ballot(notification, ["a", "b"])
    assert ballot.leave("b") is None
    assert ballot.leave("a") == Outcome(COMPLETE, "")
    assert ballot.leave("a") is None
    assert whole(ballot) == (ANSWERED, Outcome(COMPLETE, ""), ())


@BOTH
def test_who_could_not_answer_is_named_after_the_reason(notification: NotificationType) -> None:
    ballot = Ballot(notification, ["a", "b", "c", "d"])
    assert ballot.leave("a", "could not be run") is None
    assert ballot.leave("a", "twice") is None
    assert ballot.leave("b", "was killed") is None
    assert ballot.leave("c") is None
    named = "a could not be run; b was killed"
    assert ballot.answer("d", COMPLETE, "fine") == Outcome(COMPLETE, f"fine; {named}")


@BOTH
def test_when_nobody_could_answer_the_round_is_complete_and_says_so(
    notification: NotificationType,
) -> None:
    ballot = Ballot(notification, ["a"])
    assert ballot.leave("a", "could not be run") == Outcome(COMPLETE, "a could not be run")


def test_a_reject_does_not_name_who_could_not_answer() -> None:
    ballot = Ballot(VOTE, ["a", "b"])
    ballot.leave("a", "could not be run")
    assert ballot.answer("b", REJECT, "busy") == Outcome(REJECT, "busy")


@BOTH
def test_at_the_end_of_the_window_who_could_not_answer_is_named_last(
    notification: NotificationType,
) -> None:
    ballot = Ballot(notification, ["a", "b"])
    ballot.leave("a", "could not be run")
    named = "no answer in time from b; a could not be run"
    assert ballot.expire() == Outcome(TIMEOUT, named)


# -- reasons with names ---------------------------------------------------------------------------


def test_a_reject_is_named_if_its_voter_is_to_be() -> None:
    for by_name, text in ((True, "orders: busy"), (False, "busy")):
        ballot = Ballot(VOTE, ["orders", "web"])
        assert ballot.named_reason == ""
        ballot.answer("web", ACCEPT, "fine", by_name=True)
        assert ballot.answer("orders", REJECT, "busy", by_name=by_name) == Outcome(REJECT, "busy")
        assert ballot.named_reason == text


def test_a_reject_without_a_reason_is_at_least_named() -> None:
    ballot = Ballot(VOTE, ["orders"])
    assert ballot.answer("orders", REJECT, "", by_name=True) == Outcome(REJECT, "")
    assert ballot.named_reason == "orders"


def test_all_who_agree_with_a_reason_are_named_and_who_could_not_answer_is_last() -> None:
    ballot = Ballot(NOTICE, ["a", "b", "c", "script"])
    ballot.leave("script", "was killed")
    ballot.answer("b", COMPLETE, "flushed", by_name=True)
    ballot.answer("c", COMPLETE, "", by_name=True)
    outcome = Outcome(COMPLETE, "flushed; script was killed")
    assert ballot.answer("a", COMPLETE, "drained") == outcome
    assert ballot.named_reason == "b: flushed; drained; script was killed"


@pytest.mark.parametrize("ends", [False, True])
def test_all_failures_are_named_and_agreement_is_not(*, ends: bool) -> None:
    ballot = Ballot(NOTICE, ["a", "b", "c", "d"])
    ballot.answer("a", COMPLETE, "drained", by_name=True)
    ballot.answer("b", REJECT, "disk full", by_name=True)
    ballot.answer("c", ERROR, "", by_name=True)
    outcome = ballot.expire() if ends else ballot.answer("d", TIMEOUT, "no answer from d")
    assert outcome == Outcome(ERROR, "disk full")
    assert ballot.named_reason == "b: disk full; c" + ("" if ends else "; no answer from d")


def test_an_end_that_is_not_the_voters_has_no_names() -> None:
    silent, aborted = Ballot(VOTE, ["a", "b"]), Ballot(VOTE, ["a"])
    silent.answer("a", ACCEPT, "fine", by_name=True)
    silent.expire()
    assert silent.named_reason == "no answer in time from b"
    aborted.abort("superseded")
    assert aborted.named_reason == "superseded"


# -- the end of the window ------------------------------------------------------------------------


@BOTH
def test_who_is_silent_at_the_end_of_the_window_is_named(notification: NotificationType) -> None:
    ballot = Ballot(notification, ["script", "a", "b"])
    ballot.answer("a", ACCEPT, "fine")
    outcome = Outcome(TIMEOUT, "no answer in time from script, b")
    assert ballot.expire() == outcome
    assert whole(ballot) == (EXPIRED, outcome, ("script", "b"))
    assert ballot.answer("b", REJECT, "too late") is None
    assert ballot.expire() is None
    assert whole(ballot) == (EXPIRED, outcome, ("script", "b"))


def test_a_failure_in_hand_outlives_the_window() -> None:
    ballot = Ballot(NOTICE, ["script", "a"])
    ballot.answer("script", REJECT, "exit 1")
    assert ballot.expire() == Outcome(ERROR, "exit 1")
    assert whole(ballot) == (EXPIRED, Outcome(ERROR, "exit 1"), ("a",))
    assert as_reported(ballot, 8.0) == Outcome(ERROR, "exit 1")


@pytest.mark.parametrize(
    ("notification", "timeout_s", "reported"),
    [
        (VOTE, 9.0, Outcome(ACCEPT, "no answer within 9 s")),
        (NOTICE, 1.5, Outcome(COMPLETE, "no answer within 1.5 s")),
    ],
)
def test_a_host_reports_a_silent_guest_as_agreed(
    notification: NotificationType, timeout_s: float, reported: Outcome
) -> None:
    ballot = Ballot(notification, ["guest"])
    ballot.expire()
    assert as_reported(ballot, timeout_s) == reported


@BOTH
def test_a_guest_that_says_timeout_itself_keeps_its_word(notification: NotificationType) -> None:
    ballot = Ballot(notification, ["guest"])
    ballot.answer("guest", TIMEOUT, "script too slow")
    assert as_reported(ballot, 9.0) == Outcome(TIMEOUT, "script too slow")


def test_an_open_round_has_nothing_to_report() -> None:
    ballot = Ballot(VOTE, ["guest"])
    for ask in (lambda: ballot.settled, lambda: as_reported(ballot, 9.0)):
        with pytest.raises(ValueError, match="the round is still open"):
            ask()


@BOTH
def test_an_aborted_round_says_why(notification: NotificationType) -> None:
    ballot = Ballot(notification, ["a", "b"])
    ballot.answer("a", COMPLETE, "fine")
    assert ballot.abort("the channel is down") == Outcome(ERROR, "the channel is down")
    assert whole(ballot) == (ABORTED, Outcome(ERROR, "the channel is down"), ("b",))
    assert ballot.abort("again") is None
    assert ballot.leave("b") is None
    assert as_reported(ballot, 9.0) == Outcome(ERROR, "the channel is down")


# -- every order ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("answers", [*product(VoteResult, repeat=3)], ids="-".join)
def test_the_order_of_the_answers_does_not_matter(
    notification: NotificationType, answers: tuple[VoteResult, ...]
) -> None:
    failed = {TIMEOUT, ERROR, UNKNOWN} | ({REJECT} if notification is NOTICE else set())
    for order in permutations(range(3)):
        ballot = Ballot(notification, "abc")
        outcomes = [
            outcome
            for n in order
            if (outcome := ballot.answer("abc"[n], answers[n], f"{n}")) is not None
        ]
        assert outcomes == [ballot.settled]
        in_order = [answers[n] for n in order]
        if notification is VOTE and REJECT in answers:
            first = order[in_order.index(REJECT)]
            assert ballot.settled == Outcome(REJECT, f"{first}")
        elif failed & set(answers):
            number, first_failed = next((n, answers[n]) for n in order if answers[n] in failed)
            said = TIMEOUT if first_failed is TIMEOUT else ERROR
            assert ballot.settled == Outcome(said, f"{number}")
        else:
            agreed = ACCEPT if notification is VOTE and ACCEPT in answers else COMPLETE
            assert ballot.settled == Outcome(agreed, f"{order[0]}")


VOTERS = ("script", "a", "b", "c")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from(VOTERS), st.sampled_from(VoteResult)),
        st.tuples(st.just("leave"), st.sampled_from(VOTERS), st.none()),
        st.tuples(st.sampled_from(["expire", "abort"]), st.none(), st.none()),
    ),
    max_size=12,
)


@settings(deadline=None)  # a shared machine may be slow
@given(st.sampled_from([VOTE, NOTICE]), st.sets(st.sampled_from(VOTERS), min_size=1), STEPS)
def test_whatever_happens_there_is_one_outcome_and_a_reject_wins(
    notification: NotificationType,
    voters: set[str],
    steps: list[tuple[str, str | None, VoteResult | None]],
) -> None:
    ballot = Ballot(notification, sorted(voters))
    counted: dict[str, VoteResult | None] = {}
    end: str | None = None
    for kind, voter, result in steps:
        before = whole(ballot)
        match kind, voter, result:
            case "answer", str(), VoteResult():
                outcome = ballot.answer(voter, result, "reason")
            case "leave", str(), None:
                outcome = ballot.leave(voter)
            case "expire", _, _:
                outcome = ballot.expire()
            case _:
                outcome = ballot.abort("aborted")
        if end is not None:
            assert (outcome, whole(ballot)) == (None, before)
            continue
        if voter in voters:
            counted.setdefault(str(voter), result)
        results = set(counted.values())
        if kind in ("expire", "abort"):
            end = kind
        elif notification is VOTE and REJECT in results:
            end = "reject"
        elif set(counted) == voters:
            end = "answered"
        assert set(ballot.owed) == voters - set(counted)
        assert ballot.outcome == outcome
        match end:
            case None:
                assert (ballot.state, outcome) == (OPEN, None)
            case "reject":
                assert (ballot.state, outcome) == (REFUSED, Outcome(REJECT, "reason"))
            case "abort":
                assert (ballot.state, outcome) == (ABORTED, Outcome(ERROR, "aborted"))
            case "expire":
                assert ballot.state is EXPIRED
                assert outcome is not None
                assert outcome.result in (TIMEOUT, ERROR)
            case "answered":
                assert ballot.state is ANSWERED
                assert outcome is not None
                good = results <= {ACCEPT, COMPLETE, None}
                accepted = notification is VOTE and ACCEPT in results
                agreed = {ACCEPT} if accepted else {COMPLETE}
                assert outcome.result in (agreed if good else {ERROR, TIMEOUT})
