"""Who is named as a flooder: not for a burst, and once a minute for as long as it floods."""

from __future__ import annotations

from hbtrio.policy.flood import HELD_S, PERIOD_S, Flood


def test_a_burst_is_no_flood() -> None:
    flood = Flood()
    assert not any(flood.is_news((HELD_S - 0.1) / 20, now=100.0 + n / 10) for n in range(20))


def test_bursts_that_are_minutes_apart_do_not_add_up() -> None:
    flood = Flood()
    assert not any(flood.is_news(HELD_S - 0.1, now=100.0 + n * PERIOD_S) for n in range(10))


def test_a_flood_is_named_once_a_minute() -> None:
    flood = Flood()
    named = [now for now in range(1000, 1300) if flood.is_news(1.0, float(now))]
    assert named == [1004 + 60 * minute for minute in range(5)]
