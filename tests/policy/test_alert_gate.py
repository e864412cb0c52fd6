"""Which alerts are sent."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hbtrio.policy import alert_gate
from hbtrio.policy.alert_gate import REPEAT_S, AlertGate


def test_the_same_alert_is_not_repeated_for_a_while() -> None:
    gate = AlertGate(10)
    assert gate.admits("loss", "a", 0.0)
    assert not gate.admits("loss", "a", REPEAT_S - 0.1)
    assert gate.admits("loss", "b", REPEAT_S - 0.1)
    assert gate.admits("loss", "a", REPEAT_S)
    assert (gate.repeated, gate.withheld()) == (1, {})


def test_what_is_over_may_be_told_again() -> None:
    gate = AlertGate(10)
    assert gate.admits("loss", "a", 0.0)
    assert gate.forget("a")
    assert not gate.forget("a")
    assert gate.admits("loss", "a", 1.0)


def test_more_than_the_rate_is_counted_by_kind_and_told_after_a_minute() -> None:
    gate = AlertGate(2)
    admitted = [gate.admits("loss", number, 10.0) for number in range(5)]
    assert admitted == [True, True, False, False, False]
    assert not gate.admits("unhealthy", "x", 12.0)
    assert gate.due == 70.0
    assert gate.withheld() == {"loss": 3, "unhealthy": 1}
    assert (gate.due, gate.withheld()) == (math.inf, {})


def test_what_was_withheld_is_told_once_there_is_room() -> None:
    gate = AlertGate(1)
    assert gate.admits("loss", "a", 0.0)
    assert not gate.admits("loss", "b", 0.0)
    assert gate.admits("loss", "b", 60.0)


def test_only_so_many_are_remembered() -> None:
    gate = AlertGate(1_000_000)
    for number in range(alert_gate._REMEMBERED + 1):
        assert gate.admits("loss", number, 0.0)
    assert gate.admits("loss", 0, 1.0)  # the oldest
    assert not gate.admits("loss", 2, 1.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100)), max_size=60), st.integers(1, 5))
def test_never_more_than_the_rate_and_nothing_is_forgotten(
    asked: list[tuple[int, float]], rate: int
) -> None:
    gate, now, sent = AlertGate(rate), 0.0, []
    for key, later_s in asked:
        now += later_s
        if gate.admits("loss", key, now):
            sent.append(now)
    for at in sent:
        assert sum(at <= other < at + 60 for other in sent) <= rate
    assert len(sent) + gate.repeated + sum(gate.withheld().values()) == len(asked)
