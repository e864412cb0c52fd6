"""Who gets how much more time: what the host grants of a window, and what the guest asks for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.policy.more_time import (
    FOR_THE_VIM,
    MOST_S,
    NOT_A_TIME,
    OFF,
    REQUESTS,
    TOO_MANY,
    WAITING,
    AnswerVoter,
    AskHost,
    Effect,
    Extension,
    Extensions,
    Grant,
    Lengthen,
    VoterTime,
    seconds_of,
)

LIMIT = "the limit is 50 s in all"

# -- the host -------------------------------------------------------------------------------


def test_it_grants_up_to_the_limit_of_the_window_in_all() -> None:
    window = Extensions(50)
    assert window.ask(30, "orders") == Grant(30)
    assert window.possible
    assert window.ask(30, "db") == Grant(20, LIMIT)
    assert window.ask(1, "db") == Grant(0, LIMIT)
    assert not window.possible
    assert window.granted == [Extension(30, "orders"), Extension(20, "db")]


def test_it_is_off_by_default() -> None:
    assert Extensions().ask(30, "orders") == Grant(0, OFF)


def test_the_reason_of_a_refusal_goes_before_the_limit() -> None:
    window = Extensions(50, FOR_THE_VIM)
    assert window.ask(30, "orders") == Grant(0, FOR_THE_VIM)
    assert not window.possible


@pytest.mark.parametrize("seconds", [0, -1, -(2**31), MOST_S + 1, 2**32 - 1])
def test_a_number_out_of_range_is_granted_nothing(seconds: int) -> None:
    window = Extensions(MOST_S)
    assert window.ask(seconds, "orders") == Grant(0, NOT_A_TIME)
    assert window.granted == []


def test_requests_without_end_are_refused() -> None:
    window = Extensions(MOST_S)
    assert [window.ask(1, "orders").seconds for _ in range(REQUESTS)] == [1] * REQUESTS
    assert window.ask(1, "orders") == Grant(0, TOO_MANY)
    assert not window.possible
    assert len(window.granted) == REQUESTS


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ""),
        ([""], "extended by 10 s"),
        (["orders"], "extended by 10 s by orders"),
        (["orders", "db", "orders"], "extended by 30 s by orders, db"),
        (["a", "b", "c", "d", "e"], "extended by 50 s by a, b, c and 2 more"),
    ],
)
def test_the_words_name_who_asked(names: list[str], words: str) -> None:
    window = Extensions(MOST_S)
    for name in names:
        window.ask(10, name)
    assert window.words == words


# -- the guest ------------------------------------------------------------------------------


def guest() -> VoterTime:
    return VoterTime(offered=True)


def test_it_asks_for_what_is_missing_and_answers_when_the_host_has() -> None:
    time = guest()
    assert time.ask(1, "orders", 30, 10.0, 10.0) == [AskHost(1, 30, "orders")]
    assert time.awaits_host
    assert time.answered(1, 30, "", 10.0) == [Lengthen(30), AnswerVoter(1, Grant(30.0))]
    assert not time.awaits_host


def test_a_voter_whose_own_time_ends_earlier_has_what_is_left_of_the_window() -> None:
    time = guest()
    assert time.ask(1, "orders", 3, 5.0, 10.0) == [AnswerVoter(1, Grant(3.0))]
    assert time.ask(2, "orders", 8, 5.0, 10.0) == [AskHost(1, 3, "orders")]
    assert time.answered(1, 3, "", 10.0) == [Lengthen(3), AnswerVoter(2, Grant(8.0))]


def test_two_voters_at_once_are_merged() -> None:
    time = guest()
    assert time.ask(1, "orders", 30, 10.0, 10.0) == [AskHost(1, 30, "orders")]
    assert time.ask(2, "db", 20, 10.0, 10.0) == []
    assert time.answered(1, 30, "", 10.0) == [
        Lengthen(30),
        AnswerVoter(1, Grant(30.0)),
        AnswerVoter(2, Grant(20.0)),
    ]


def test_a_voter_that_wants_more_than_the_open_request_has_one_of_its_own() -> None:
    time = guest()
    time.ask(1, "orders", 20, 10.0, 10.0)
    assert time.ask(2, "db", 50, 10.0, 10.0) == []
    assert time.answered(1, 20, "", 10.0) == [
        Lengthen(20),
        AnswerVoter(1, Grant(20.0)),
        AskHost(2, 30, "db"),
    ]
    assert time.answered(2, 10, LIMIT, 30.0) == [Lengthen(10), AnswerVoter(2, Grant(30.0, LIMIT))]


def test_a_refusal_is_told_to_all_whom_it_was_for() -> None:
    time = guest()
    time.ask(1, "orders", 30, 10.0, 10.0)
    time.ask(2, "db", 20, 5.0, 10.0)
    assert time.answered(1, 0, OFF, 10.0) == [
        AnswerVoter(1, Grant(0.0, OFF)),
        AnswerVoter(2, Grant(0.0, OFF)),
    ]


def test_less_than_asked_for_is_shared_by_those_who_fit_into_it() -> None:
    time = guest()
    time.ask(1, "orders", 30, 10.0, 10.0)
    time.ask(2, "db", 5, 10.0, 10.0)
    assert time.answered(1, 8, LIMIT, 10.0) == [
        Lengthen(8),
        AnswerVoter(1, Grant(8.0, LIMIT)),
        AnswerVoter(2, Grant(5.0)),
    ]


@pytest.mark.parametrize(
    ("granted", "effects"),
    [
        (2**31 - 1, [Lengthen(30), AnswerVoter(1, Grant(30.0))]),
        (-5, [AnswerVoter(1, Grant(0.0, "why"))]),
    ],
)
def test_a_host_can_t_grant_more_than_was_asked_for_nor_less_than_nothing(
    granted: int, effects: list[Effect]
) -> None:
    time = guest()
    time.ask(1, "orders", 30, 10.0, 10.0)
    assert time.answered(1, granted, "why", 10.0) == effects


def test_answers_to_no_open_request_are_ignored() -> None:
    time = guest()
    assert time.answered(1, 30, "", 10.0) == []
    time.ask(1, "orders", 30, 10.0, 10.0)
    assert time.answered(2, 30, "", 10.0) == []
    assert time.answered(1, 30, "", 10.0) != []
    assert time.answered(1, 30, "", 40.0) == []


@pytest.mark.parametrize("seconds", [0, -1, MOST_S + 1])
def test_a_voter_s_number_out_of_range_is_not_passed_on(seconds: int) -> None:
    assert guest().ask(1, "orders", seconds, 10.0, 10.0) == [AnswerVoter(1, Grant(0, NOT_A_TIME))]


def test_a_host_that_does_not_offer_it_is_not_asked() -> None:
    time = VoterTime(offered=False)
    assert time.ask(1, "orders", 1, 5.0, 10.0) == [AnswerVoter(1, Grant(0, OFF))]


def test_a_host_that_refuses_the_message_is_not_asked_again() -> None:
    time = guest()
    time.ask(1, "orders", 30, 10.0, 10.0)
    assert time.refused(OFF) == [AnswerVoter(1, Grant(0, OFF))]
    assert time.ask(2, "orders", 30, 10.0, 10.0) == [AnswerVoter(2, Grant(0, OFF))]
    assert time.answered(1, 30, "", 10.0) == []


def test_waiting_voters_and_requests_are_bounded() -> None:
    time = guest()
    for key in range(WAITING):
        time.ask(key, "orders", 30, 10.0, 10.0)
    assert time.ask(99, "orders", 30, 10.0, 10.0) == [AnswerVoter(99, Grant(0, TOO_MANY))]
    time = guest()
    end = 10.0
    for number in range(1, REQUESTS + 1):
        assert time.ask(number, "orders", 1, end, end) == [AskHost(number, 1, "orders")]
        time.answered(number, 1, "", end)
        end += 1
    assert time.ask(99, "orders", 1, end, end) == [AnswerVoter(99, Grant(0, TOO_MANY))]


@given(
    st.lists(st.tuples(st.integers(-5, 100), st.integers(0, 10)), max_size=20),
    st.integers(0, 120),
)
def test_both_ends_agree_and_nobody_waits_for_ever(
    asked: list[tuple[int, int]], most_s: int
) -> None:
    """Whatever is asked in whatever order, the ends move alike, and each gets one answer."""
    host, time = Extensions(most_s), guest()
    begin = 10.0
    window_end, host_end = begin, begin + 1
    answers: dict[int, Grant] = {}
    own_ends: dict[int, float] = {}
    sent: list[AskHost] = []

    def apply(effects: list[Effect]) -> None:
        nonlocal window_end
        for effect in effects:
            match effect:
                case AskHost():
                    sent.append(effect)
                case Lengthen(seconds):
                    window_end += seconds
                case AnswerVoter(key, grant):
                    assert key not in answers
                    answers[key] = grant
                    assert own_ends[key] + grant.seconds <= window_end

    for key, (seconds, before_s) in enumerate(asked):
        own_ends[key] = window_end - before_s
        apply(time.ask(key, "voter", seconds, own_ends[key], window_end))
        if key % 2 and sent:
            request = sent.pop(0)
            grant = host.ask(request.seconds, request.name)
            host_end += grant.seconds
            apply(time.answered(request.number, int(grant.seconds), grant.reason, window_end))
        assert host_end >= window_end
    while sent:
        request = sent.pop(0)
        grant = host.ask(request.seconds, request.name)
        host_end += grant.seconds
        apply(time.answered(request.number, int(grant.seconds), grant.reason, window_end))
    assert set(answers) == set(range(len(asked)))
    assert host_end == window_end + 1
    assert window_end - begin <= most_s
    assert all(math.isfinite(grant.seconds) and grant.seconds >= 0 for grant in answers.values())


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (f"the vote on stop was {Extension(30, 'orders').words}", 30),
        (Extension(30, "extended by 7 s").words, 30),
        (Extension(86_400, "").words, 86_400),
        ("extended by 999999 s", 86_400),
        ("extended by 12345678 s", 0),
        ("extended", 0),
    ],
)
def test_the_words_say_how_much(words: str, seconds: int) -> None:
    assert seconds_of(words) == seconds
