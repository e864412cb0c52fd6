"""Which lines of a flood are logged, and what of the others is kept."""

from __future__ import annotations

import math
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.log.limits import PERIOD_S, SUBJECTS, LineLimits, LineRate, Withheld

HERE: Final = ("channel.py", 12)
THERE: Final = ("channel.py", 34)

#: Of a place and of a subject, in these tests.
PLACE: Final = LineRate(burst=20, per_minute=6)
NONE: Final = LineRate(burst=0, per_minute=0)
SUBJECT: Final = LineRate(burst=5, per_minute=2)


@pytest.fixture
def limits() -> LineLimits:
    return LineLimits(PLACE, SUBJECT, NONE)


def logged(limits: LineLimits, count: int, subject: str = "vm", *, now: float = 0.0) -> int:
    return sum(limits.allows(HERE, subject, now) for _ in range(count))


def test_a_subject_has_its_burst_and_then_its_rate(limits: LineLimits) -> None:
    assert logged(limits, 100) == 5
    assert logged(limits, 100, now=29.9) == 0
    assert logged(limits, 100, now=30.0) == 1
    assert logged(limits, 100, now=90.0) == 2
    assert logged(limits, 100, now=10_000.0) == 5


def test_a_place_has_its_burst_and_then_its_rate(limits: LineLimits) -> None:
    assert sum(logged(limits, 1, f"vm-{number}") for number in range(100)) == 20
    assert sum(logged(limits, 1, f"vm-{number}", now=60.0) for number in range(100)) == 6


def test_a_place_used_up_still_has_lines_for_rare_subjects() -> None:
    limits = LineLimits(LineRate(1, 0), SUBJECT, LineRate(burst=3, per_minute=3))
    assert logged(limits, 9, "vm-1") == 1
    assert [logged(limits, 9, f"vm-{number}") for number in range(2, 7)] == [1, 1, 1, 0, 0]
    assert logged(limits, 9, "vm-2", now=59.9) == 0
    assert logged(limits, 9, "vm-2", now=60.0) == 1


def test_a_flood_about_one_subject_leaves_room_for_others(limits: LineLimits) -> None:
    logged(limits, 1000, "hostile")
    assert [logged(limits, 1, f"vm-{number}") for number in range(15)] == [1] * 15


def test_places_are_counted_apart(limits: LineLimits) -> None:
    logged(limits, 1000)
    assert limits.allows(THERE, "vm", 0.0)


def test_the_connections_of_one_client_are_one_subject(limits: LineLimits) -> None:
    assert sum(logged(limits, 1, f"192.0.2.1:{port}") for port in range(4000, 4100)) == 5
    assert sum(logged(limits, 1, f"[2001:db8::1]:{port}") for port in range(4000, 4100)) == 5


def test_subjects_are_bounded_and_the_place_holds_for_those_forgotten() -> None:
    limits = LineLimits(LineRate(3 * SUBJECTS, 0), LineRate(1, 0), NONE)
    assert sum(logged(limits, 1, str(number)) for number in range(2 * SUBJECTS)) == 2 * SUBJECTS
    assert logged(limits, 1, str(2 * SUBJECTS - 1)) == 0
    assert len(limits._subjects) == SUBJECTS
    assert sum(logged(limits, 1, str(number)) for number in range(2 * SUBJECTS)) == SUBJECTS


def test_a_long_subject_is_cut(limits: LineLimits) -> None:
    assert sum(logged(limits, 1, "x" * 1000 + str(number)) for number in range(100)) == 5


def withhold(limits: LineLimits, text: str, now: float) -> bool:
    return limits.withhold(HERE, now, lambda: Withheld(now, text, 20))


def test_withheld_lines_are_counted_per_place_and_shown_after_a_while(limits: LineLimits) -> None:
    assert limits.due == math.inf
    assert withhold(limits, "first", 100.0)
    assert not withhold(limits, "second", 101.0)
    assert limits.due == 100.0 + PERIOD_S
    assert limits.take_withheld(99.9 + PERIOD_S) == []
    assert limits.take_withheld(100.0 + PERIOD_S) == [Withheld(100.0, "first", 20, 2)]
    assert limits.due == math.inf
    assert withhold(limits, "third", 200.0)


def test_at_the_end_all_are_shown(limits: LineLimits) -> None:
    withhold(limits, "first", 100.0)
    assert limits.take_withheld(math.inf) == [Withheld(100.0, "first", 20)]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 30)), max_size=300),
)
def test_no_minute_has_more_than_burst_and_rate(lines: list[tuple[int, float]]) -> None:
    limits, now, times = LineLimits(PLACE, SUBJECT, NONE), 0.0, list[float]()
    for subject, pause_s in lines:
        now += pause_s / 10
        if limits.allows(HERE, str(subject), now):
            times.append(now)
    for at in times:
        assert sum(at <= other < at + 60 for other in times) <= PLACE.burst + PLACE.per_minute


def test_each_of_a_hundred_hostile_subjects_is_named_every_minute() -> None:
    limits, named = LineLimits(), dict.fromkeys(range(100), 0.0)
    for step in range(600):
        now = float(step)
        for subject, before in named.items():
            if limits.allows(HERE, f"vm-{subject}", now):
                assert now - before <= 61.0
                named[subject] = now
    assert min(named.values()) > 539.0
