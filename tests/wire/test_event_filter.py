"""Which events a filter takes, and how it travels in a URL's query."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from hbtrio.wire.operator import EventFilter, FilterFault

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
VOTE: dict[str, str] = {
    "uuid": "u-1",
    "kind": "vote",
    "time": "2026-01-31T12:00:00.000+00:00",
    "who": "operator uid 1000",
}


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({}, True),
        ({"uuid": "u-1"}, True),
        ({"uuid": "u-2"}, False),
        ({"kinds": frozenset({"loss", "vote"})}, True),
        ({"kinds": frozenset({"loss"})}, False),
        ({"since": NOON}, True),
        ({"since": NOON.astimezone(timezone(timedelta(hours=5)))}, True),
        ({"since": NOON + timedelta(milliseconds=1)}, False),
        ({"by": "uid 1000"}, True),
        ({"by": "vim"}, False),
        ({"uuid": "u-1", "kinds": frozenset({"vote"}), "since": NOON, "by": "vim"}, False),
    ],
)
def test_what_is_taken(asked: dict[str, Any], taken: bool) -> None:
    assert EventFilter(**asked).takes(**VOTE) is taken


def test_the_end_of_a_stream_is_always_taken() -> None:
    wanted = EventFilter(uuid="u-2", kinds=frozenset({"vote"}), since=NOON, by="vim")
    assert wanted.takes(uuid="", kind="lost", time="", who="")


def test_an_event_whose_time_is_unreadable_is_not_hidden() -> None:
    assert EventFilter(since=NOON).takes(**VOTE | {"time": "soon"})


@pytest.mark.parametrize(
    "wanted",
    [
        EventFilter(),
        EventFilter(uuid="u-1", kinds=frozenset({"loss", "vote"}), since=NOON, by="CN=a&b +c"),
        EventFilter(since=NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))),
    ],
)
def test_a_filter_survives_the_query_of_a_url(wanted: EventFilter) -> None:
    query = dict(parse_qsl(urlencode(wanted.as_query())))
    assert EventFilter.of_query(query) == wanted


@pytest.mark.parametrize("text", ["", "noon", "2026-01-31T12:00:00", "9" * 60])
def test_a_moment_needs_an_offset(text: str) -> None:
    with pytest.raises(FilterFault) as caught:
        EventFilter.of_query({"since": text})
    assert str(caught.value) == f"since: not a time with an offset: {text[:40]!r}"
