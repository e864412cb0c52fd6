"""How many rejects of an event stand."""

from __future__ import annotations

import pytest

from hbtrio.policy.veto import Veto, VetoRule
from hbtrio.wire.vocabulary import Event


def stands(veto: Veto, *times: float, event: Event = Event.STOP) -> list[bool]:
    return [veto.stands(event, now) for now in times]


def test_by_default_all_stand() -> None:
    assert stands(Veto(VetoRule()), *range(5000)) == [True] * 5000


def test_one_too_many_in_the_time_does_not_and_the_count_begins_anew() -> None:
    veto = Veto(VetoRule(3, 60.0))
    assert stands(veto, 0, 10, 20, 30, 31, 32, 33, 34) == [True] * 3 + [False] + [True] * 3 + [
        False
    ]


def test_those_that_are_long_ago_do_not_count() -> None:
    veto = Veto(VetoRule(2, 60.0))
    assert stands(veto, 0, 59, 60, 118.9, 119) == [True, True, True, False, True]


def test_each_event_counts_by_itself() -> None:
    veto = Veto(VetoRule(1, 60.0))
    assert stands(veto, 0) == [True]
    assert stands(veto, 0, 1, event=Event.REBOOT) == [True, False]
    assert stands(veto, 2) == [False]


@pytest.mark.parametrize(
    ("rule", "words"),
    [(VetoRule(1, 60), "1 reject in 60 s"), (VetoRule(3, 0.5), "3 rejects in 0.5 s")],
)
def test_words(rule: VetoRule, words: str) -> None:
    assert rule.words == words


def test_those_before_a_restart_count_as_ever() -> None:
    veto = Veto(VetoRule(3, 60.0))
    assert stands(veto, 100) == [True]
    veto.restore(Event.STOP, [90, 30, 80], 101)
    assert veto.counted(Event.STOP, 101) == [80, 90, 100]
    assert stands(veto, 139.9, event=Event.STOP) == [False]
    assert (veto.events, veto.counted(Event.STOP, 140)) == ((), [])
    veto.restore(Event.STOP, [80, 90, 100], 140)
    assert stands(veto, 140, 140) == [True, False]


def test_without_a_limit_nothing_counts() -> None:
    veto = Veto(VetoRule())
    veto.restore(Event.STOP, [1, 2], 3)
    assert veto.events == ()
