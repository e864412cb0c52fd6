"""Durations by size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.policy.histogram import DURATIONS_S, Histogram


def test_an_empty_one() -> None:
    one = Histogram((0.1, 1))
    assert one.buckets() == [("0.1", 0), ("1", 0), ("+Inf", 0)]
    assert (one.count, one.total_s) == (0, 0)


def test_a_bound_counts_what_is_as_long() -> None:
    one = Histogram((0.1, 1))
    for seconds in (0.0, 0.1, 0.100001, 1.0, 1.5, 60.0):
        one.add(seconds)
    assert one.buckets() == [("0.1", 2), ("1", 4), ("+Inf", 6)]
    assert one.count == 6
    assert one.total_s == pytest.approx(62.700001)


@given(st.lists(st.floats(0, 1e6)))
def test_each_bucket_has_all_that_are_at_most_as_long(durations: list[float]) -> None:
    one = Histogram()
    for seconds in durations:
        one.add(seconds)
    *bounded, (last, count) = one.buckets()
    assert [float(bound) for bound, _ in bounded] == list(DURATIONS_S)
    assert [number for _, number in bounded] == [
        sum(seconds <= bound for seconds in durations) for bound in DURATIONS_S
    ]
    assert (last, count) == ("+Inf", len(durations))
