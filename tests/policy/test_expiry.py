"""When it is warned that a certificate expires, and in which words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hbtrio.policy.expiry import ExpiryWarnings, expiry_text, threshold

EXPIRES = datetime(2026, 3, 31, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def before(days: float) -> datetime:
    return EXPIRES - timedelta(days=days)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (before(365), None),
        (before(30) - SECOND, None),
        (before(30), 30),
        (before(7) - SECOND, 30),
        (before(7), 7),
        (before(1) - SECOND, 7),
        (before(1), 1),
        (EXPIRES - SECOND, 1),
        (EXPIRES, 0),
        (before(-100), 0),
    ],
)
def test_the_threshold_that_has_passed(now: datetime, expected: int | None) -> None:
    assert threshold(EXPIRES, now) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (before(30), "expires in 30 days, on 2026-03-31"),
        (before(7), "expires in 7 days, on 2026-03-31"),
        (before(2), "expires in 2 days, on 2026-03-31"),
        (before(2) + SECOND, "expires in 47 hours, on 2026-03-31"),
        (EXPIRES - timedelta(hours=1), "expires in 1 hour, on 2026-03-31"),
        (EXPIRES - SECOND, "expires in 0 hours, on 2026-03-31"),
        (EXPIRES, "expired on 2026-03-31"),
    ],
)
def test_the_words(now: datetime, expected: str) -> None:
    assert expiry_text(EXPIRES, now) == expected


def test_each_threshold_once() -> None:
    warnings = ExpiryWarnings()
    days = 40.0
    warned = []
    while days > -3:
        if warnings.is_due("a", EXPIRES, before(days)):
            warned.append(days)
        days -= 0.25
    assert warned == [30, 7, 1, 0]


def test_a_start_between_two_thresholds_warns_of_the_last() -> None:
    warnings = ExpiryWarnings()
    assert warnings.is_due("a", EXPIRES, before(3))
    assert not warnings.is_due("a", EXPIRES, before(2))
    assert warnings.is_due("a", EXPIRES, before(1))


def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    warnings = ExpiryWarnings()
    assert warnings.is_due("a", EXPIRES, before(3))
    assert not warnings.is_due("a", EXPIRES, before(20))
    assert not warnings.is_due("a", EXPIRES, before(3))


def test_a_renewed_one_starts_anew() -> None:
    warnings = ExpiryWarnings()
    assert warnings.is_due("a", EXPIRES, before(3))
    renewed = EXPIRES + timedelta(days=2)
    assert warnings.is_due("a", renewed, before(3))
    assert not warnings.is_due("a", EXPIRES + timedelta(days=365), before(3))
    assert warnings.is_due("a", EXPIRES, before(3))


def test_others_have_warnings_of_their_own() -> None:
    warnings = ExpiryWarnings()
    assert warnings.is_due("a", EXPIRES, before(3))
    assert warnings.is_due("b", EXPIRES, before(3))
    warnings.keep_only({"b"})
    assert warnings.is_due("a", EXPIRES, before(3))
    assert not warnings.is_due("b", EXPIRES, before(3))
