"""Moments on the command line: how long ago, or a date and time."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta, timezone

import pytest

from hbtrio.cli.ctl.argument_types import moment_after, moment_before
from hbtrio.cli.ctl.options import _KINDS
from hbtrio.nursery.host.reports import ReportKind

HERE = timezone(timedelta(hours=1))
NOW = datetime(2026, 1, 31, 12, 30, tzinfo=HERE)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("1h30m", NOW - timedelta(minutes=90)),
        ("2d", NOW - timedelta(days=2)),
        ("0s", NOW),
        ("09:05", datetime(2026, 1, 31, 9, 5, tzinfo=HERE)),
        ("09:05:30", datetime(2026, 1, 31, 9, 5, 30, tzinfo=HERE)),
        ("2026-01-30", datetime(2026, 1, 30, tzinfo=HERE)),
        ("2026-01-30 23:00", datetime(2026, 1, 30, 23, tzinfo=HERE)),
        ("2026-01-30T23:00Z", datetime(2026, 1, 30, 23, tzinfo=UTC)),
    ],
)
def test_a_moment(text: str, moment: datetime) -> None:
    assert moment_before(NOW)(text) == moment


@pytest.mark.parametrize(
    "text", ["", "1", "h", "1x", "-1h", "1h 2m", "30m1h", "25:00", "999999d", "٣h", "2026-13-01"]
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="not a time"):
        moment_before(NOW)(text)


def test_every_kind_of_event_can_be_asked_for() -> None:
    fleet = {"action", "undelivered", "host-unreachable", "host-forgotten"}
    alarms = {"host-alarm", "host-alarm-over"}
    assert set(_KINDS) == {str(kind) for kind in ReportKind} | fleet | alarms


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW + timedelta(seconds=90)),
        ("1h30m", NOW + timedelta(minutes=90)),
        ("0s", NOW),
        # The next one of that name.
        ("12:31", datetime(2026, 1, 31, 12, 31, tzinfo=HERE)),
        ("12:30", datetime(2026, 2, 1, 12, 30, tzinfo=HERE)),
        ("09:05:30", datetime(2026, 2, 1, 9, 5, 30, tzinfo=HERE)),
        ("2026-02-03 23:00", datetime(2026, 2, 3, 23, tzinfo=HERE)),
        ("2026-02-03T23:00Z", datetime(2026, 2, 3, 23, tzinfo=UTC)),
    ],
)
def test_a_moment_to_come(text: str, moment: datetime) -> None:
    assert moment_after(NOW)(text) == moment


@pytest.mark.parametrize("text", ["", "1", "-1h", "25:00", "999999d", "2026-13-01", "tomorrow"])
def test_what_is_no_moment_to_come(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="give in how long"):
        moment_after(NOW)(text)
