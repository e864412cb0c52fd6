"""When lateness is an overload, when it is an alarm, and when it is over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hbtrio.policy.overload import Overload, OverloadChange

SHEDS, ALARM, OVER = OverloadChange


def changes(
    late: Callable[[float], bool], until: float, step_s: float = 0.5
) -> list[tuple[float, OverloadChange]]:
    overload, now = Overload(0.0), 0.0
    seen = []
    while now < until:
        now += step_s
        change = overload.observe(now, late=late(now))
        if change is not None:
            seen.append((now, change))
        assert overload.alarm <= overload.sheds
    assert overload.alarms == sum(change is ALARM for _, change in seen)
    return seen


@pytest.mark.parametrize(
    ("late_s", "expected"),
    [
        (0, []),
        (4.5, []),
        (5, [(5, SHEDS), (10, OVER)]),
        (9.5, [(5, SHEDS), (19, OVER)]),
        (10, [(5, SHEDS), (10, ALARM), (20, OVER)]),
        (1000, [(5, SHEDS), (10, ALARM), (1010, OVER)]),
    ],
)
def test_lateness_sheds_then_alarms_and_is_over_after_punctuality(
    late_s: float, expected: list[tuple[float, OverloadChange]]
) -> None:
    assert changes(lambda now: now <= late_s, 1100) == expected


def test_lateness_for_most_of_the_time_is_an_overload() -> None:
    seen = changes(lambda now: now % 5 < 3, 300)
    assert [change for _, change in seen] == [SHEDS, ALARM]


def test_lateness_for_less_than_half_of_the_time_is_none() -> None:
    assert changes(lambda now: now % 5 < 2, 300) == []


def test_a_stop_of_the_process_is_no_overload() -> None:
    # It is observed once after the stop, and late for two more seconds.
    overload = Overload(0.0)
    times = [1.0, 90.0, 90.5, 91.0, 91.5, 92.0]
    assert [overload.observe(now, late=now > 1) for now in times] == [None] * 6


def test_a_second_alarm_is_counted() -> None:
    seen = changes(lambda now: now % 40 < 15, 75)
    assert [change for _, change in seen] == [SHEDS, ALARM, OVER, SHEDS, ALARM, OVER]


def test_calm_is_when_no_lateness_is_left() -> None:
    overload = Overload(0.0)
    assert overload.calm
    overload.observe(1.0, late=True)
    assert not overload.calm
    overload.observe(1.5, late=False)
    assert not overload.calm
    overload.observe(2.0, late=False)
    assert overload.calm
