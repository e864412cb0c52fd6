"""What a host keeps of the voters that a guest reports, whatever it sends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.policy.reported_voters import LISTS, LISTS_S, ReportedVoters
from hbtrio.wire.channel_codec import MAX_NAME_BYTES, MAX_VOTER_REASON_BYTES
from hbtrio.wire.channel_messages import MAX_VOTERS, Exit, VoterState
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoterAnswer,
    VoterHealth,
)
from support.voters import voter_state as state


def names(known: ReportedVoters) -> list[str] | None:
    return None if known.voters is None else [one.name for one in known.voters]


def test_a_list_counts_once_it_is_whole() -> None:
    known = ReportedVoters()
    assert known.voters is None
    assert not known.received(state(1, 2, unlisted=3), 10.0)
    assert known.voters is None
    assert known.received(state(2, 2, unlisted=3), 10.0)
    assert names(known) == ["v1", "v2"]
    assert known.unlisted == 3
    assert known.received(Exit("bye"), 11.0)
    assert (known.voters, known.unlisted) == (None, 0)


def test_a_guest_may_have_no_voter() -> None:
    known = ReportedVoters()
    assert known.received(state(0, 0), 10.0)
    assert known.voters == ()
    assert not known.received(state(0, 0), 11.0)


@pytest.mark.parametrize(
    "places",
    [
        [(2, 2)],
        [(1, 2), (1, 2)],
        [(1, 3), (3, 3)],
        [(1, 3), (2, 3), (2, 3), (3, 3)],
        [(0, 1)],
        [(-1, 1)],
        [(1, MAX_VOTERS + 1)],
        [(1, -1)],
        [(place, MAX_VOTERS + 1) for place in range(1, MAX_VOTERS + 2)],
    ],
)
def test_a_list_out_of_turn_is_dropped_and_the_next_one_counts(
    places: list[tuple[int, int]],
) -> None:
    known = ReportedVoters()
    assert not any(known.received(state(*place), 10.0) for place in places)
    assert known.voters is None
    assert known.received(state(1, 1), 11.0)
    assert names(known) == ["v1"]


def test_a_restless_guest_changes_its_list_no_more_often_than_an_honest_one() -> None:
    known = ReportedVoters()
    taken = [known.received(state(name=f"v{number}"), number * 0.1) for number in range(200)]
    assert sum(taken) == LISTS * 2  # in 20 s
    assert known.received(state(name="later"), 20.0 + LISTS_S)


def test_times_of_a_repeated_list_stay() -> None:
    known = ReportedVoters()
    vote: dict[str, Any] = {
        "event_type": Event.STOP,
        "notification_type": NotificationType.REVOCABLE,
        "answer": VoterAnswer.REJECT,
    }
    assert known.received(state(health_s=4, ago_s=3, **vote), 10.0)
    # A guest counts whole seconds, and a list travels for a while.
    assert not known.received(state(health_s=63, ago_s=62, **vote), 70.9)
    assert known.voters is not None
    assert (known.voters[0].since, known.voters[0].last and known.voters[0].last.at) == (6.0, 7.0)
    # The same answer to another vote is news.
    assert known.received(state(health_s=70, ago_s=1, **vote), 77.0)
    assert (known.voters[0].since, known.voters[0].last and known.voters[0].last.at) == (6.0, 76.0)


def test_texts_are_made_plain_and_cut() -> None:
    known = ReportedVoters()
    evil = '\x1b[2J\x9b"\\\x00é' + "é" * 200
    vote = {"notification_type": NotificationType.IRREVOCABLE}
    assert known.received(state(name=evil, reason=evil, answer_reason=evil, **vote), 10.0)
    assert known.voters is not None
    [one] = known.voters
    assert one.last is not None
    for text, limit in (
        (one.name, MAX_NAME_BYTES),
        (one.reason, MAX_VOTER_REASON_BYTES),
        (one.last.reason, MAX_VOTER_REASON_BYTES),
    ):
        assert text.startswith("[2J '/ é")
        assert limit - 1 <= len(text.encode()) <= limit


NUMBERS = st.integers(-(2**31), 2**32 - 1)


@given(
    st.lists(
        st.builds(
            VoterState,
            place=NUMBERS | st.integers(0, 3),
            count=NUMBERS | st.integers(0, 3),
            unlisted=NUMBERS,
            name=st.text(),
            health=st.sampled_from(VoterHealth),
            health_s=NUMBERS,
            interval_ms=NUMBERS,
            corrective_action=st.sampled_from(CorrectiveAction),
            reason=st.text(),
            event_type=st.sampled_from(Event),
            notification_type=st.sampled_from(NotificationType),
            answer=st.sampled_from(VoterAnswer),
            answer_reason=st.text(),
            ago_s=NUMBERS,
        )
    )
)
def test_whatever_comes_is_within_bounds(states: list[VoterState]) -> None:
    known = ReportedVoters()
    for number, one in enumerate(states):
        known.received(one, 1000.0 + number)
        assert 0 <= known.unlisted < 2**31
        for voter in known.voters or ():
            assert voter.since <= 1000.0 + number
            assert 0 <= voter.interval_ms < 2**31
    assert len(known.voters or ()) <= MAX_VOTERS
