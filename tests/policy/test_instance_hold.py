"""Holds on instances: their bounds, their ends, and which of two words about one counts."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.policy.instance_hold import (
    MAX_HOLD_S,
    MAX_REASON,
    HoldRefused,
    InstanceHold,
    InstanceHolds,
    checked,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
A, B = "a", "b"


def at(now: float) -> datetime:
    return T0 + timedelta(seconds=now)


def begun(holds: InstanceHolds, seconds: float, now: float = 0.0, uuid: str = A) -> InstanceHold:
    return holds.begin(uuid, seconds, "why", "who", now=now, wall=at(now))


@pytest.mark.parametrize("seconds", [1, 1.5, MAX_HOLD_S])
def test_lengths_that_are_allowed(seconds: float) -> None:
    assert checked(seconds, " why ") == "why"


@pytest.mark.parametrize("seconds", [0, 0.9, -1, MAX_HOLD_S + 1, math.inf, -math.inf, math.nan])
def test_lengths_that_are_not(seconds: float) -> None:
    with pytest.raises(HoldRefused) as refused:
        checked(seconds, "why")
    assert str(refused.value) == (
        "a hold is for 1 s to 7 days, so that a forgotten one ends; set it again before its end "
        "for longer"
    )


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "\x1b[2J", "x" * (MAX_REASON + 1)])
def test_a_hold_needs_a_reason(reason: str) -> None:
    with pytest.raises(HoldRefused, match="needs a reason, one line of at most 200 characters"):
        checked(60, reason)
    assert checked(60, "x" * MAX_REASON)


def test_a_faulty_hold_changes_nothing() -> None:
    holds = InstanceHolds()
    before = begun(holds, 60)
    with pytest.raises(HoldRefused):
        begun(holds, 0)
    assert holds.of(A) == before


def test_a_hold_ends_at_its_time_and_not_before() -> None:
    holds = InstanceHolds()
    hold = begun(holds, 60)
    assert hold.words == "on hold until 2026-01-01T00:01:00+00:00 by who: why"
    assert (holds.due_at, list(holds)) == (60, [hold])
    assert holds.expire(59.9) == ([], [])
    assert holds.of(A) is hold
    assert holds.expire(60) == ([hold], [])
    assert (holds.of(A), list(holds)) == (None, [])
    # It is known that it is over for as long as an older one may be in force elsewhere.
    assert holds.due_at == MAX_HOLD_S
    assert holds.expire(MAX_HOLD_S - 1) == ([], [])
    assert holds.expire(MAX_HOLD_S) == ([], [A])
    assert (holds.words(), holds.due_at) == ((), math.inf)


def test_an_operator_ends_it_once() -> None:
    holds = InstanceHolds()
    hold = begun(holds, 60)
    ended = holds.end(A, "other", wall=at(10))
    assert (ended.is_ended, ended.who, ended.number > hold.number) == (True, "other", True)
    assert holds.of(A) is None
    with pytest.raises(HoldRefused, match="a is not on hold"):
        holds.end(A, "other", wall=at(11))
    assert holds.expire(60) == ([], [])
    assert holds.expire(10 + MAX_HOLD_S) == ([], [A])


def test_a_hold_replaces_another_and_may_be_shorter() -> None:
    holds = InstanceHolds()
    begun(holds, 3600)
    short = begun(holds, 60, now=1)
    assert holds.expire(61) == ([short], [])
    assert holds.of(A) is None


def test_a_shorter_hold_is_not_undone_by_the_longer_one_that_is_known_elsewhere() -> None:
    here, elsewhere = InstanceHolds(), InstanceHolds()
    assert elsewhere.take(begun(here, 3600), 0)
    begun(here, 60, now=1)
    here.expire(61)
    [old] = elsewhere.words()
    assert not here.take(old, 100)
    assert here.of(A) is None


@pytest.mark.parametrize("behind_s", [0.0, 300.0])
def test_the_end_counts_where_the_clock_is_behind(behind_s: float) -> None:
    host, agent = InstanceHolds(), InstanceHolds()
    assert host.take(begun(agent, 3600), 0)
    ended = host.end(A, "who", wall=at(60 - behind_s))
    assert agent.take(ended, 60)
    assert agent.of(A) is None


def test_a_word_that_no_longer_matters_is_no_news() -> None:
    holds = InstanceHolds()
    word = begun(InstanceHolds(), MAX_HOLD_S)
    assert not holds.take(word, MAX_HOLD_S)
    assert holds.take(word, MAX_HOLD_S - 1)


#: A host and an agent, and what is said at each; None: they tell each other all they know.
_STEPS = st.lists(
    st.one_of(
        st.none(),
        st.tuples(st.booleans(), st.sampled_from([A, B]), st.sampled_from([0, 10, 100, 1000])),
    ),
    max_size=20,
)


@given(_STEPS, st.floats(-100, 100))
@settings(max_examples=200)
def test_in_any_order_both_ends_know_the_last_word(
    steps: list[tuple[bool, str, int] | None], skew_s: float
) -> None:
    """The last word of all counts once both have told each other, whatever their clocks show."""
    host, agent = InstanceHolds(), InstanceHolds()
    last: dict[str, int] = {}
    said: set[tuple[str, bool]] = set()
    for now, step in enumerate([*steps, None]):
        for holds in (host, agent):
            holds.expire(now)
        if step is None:
            for uuid in (A, B):
                for one, other in ((host, agent), (agent, host)):
                    if (word := one.word(uuid)) is not None:
                        other.take(word, now)
                words = [holds.word(uuid) for holds in (host, agent)]
                assert len({None if word is None else word.rank for word in words}) == 1
                if uuid in last:
                    in_force = [holds.of(uuid) is not None for holds in (host, agent)]
                    assert in_force == [last[uuid] > now] * 2
            said.clear()
            continue
        at_host, uuid, seconds = step
        holds = host if at_host else agent
        # Words at both ends while they don't hear of each other: the later by the clock counts.
        said.add((uuid, at_host))
        wall = at(now + (skew_s if at_host else 0.0))
        if seconds:
            holds.begin(uuid, seconds, "why", "who", now=now, wall=wall)
            last[uuid] = now + seconds
        elif holds.of(uuid) is not None:
            holds.end(uuid, "who", wall=wall)
            last[uuid] = now
        if (uuid, not at_host) in said:
            last.pop(uuid, None)
