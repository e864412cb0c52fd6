"""What counts as flat: the last quarter of the samples beside the second, however they start."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from soak.__main__ import FEWEST, Sample, faults

FLAT = (20, 4, 50_000)


def samples(values: Iterable[tuple[int, int, int]]) -> list[Sample]:
    return [Sample(*one) for one in values]


def of_quarters(*quarters: tuple[int, int, int]) -> list[Sample]:
    return samples(one for one in quarters for _ in range(5))


def test_a_flat_series_has_no_fault() -> None:
    assert faults("host", samples([FLAT] * FEWEST)) == []


def test_warming_up_does_not_count() -> None:
    assert faults("host", of_quarters((8, 2, 30_000), FLAT, FLAT, FLAT)) == []


def test_a_peak_does_not_count() -> None:
    """A connection that is open during a sample; one sample of a large RSS."""
    last = [(27, 6, 90_000), FLAT, (21, 5, 50_100), FLAT, (24, 4, 50_000)]
    assert faults("host", of_quarters(FLAT, FLAT, FLAT) + samples(last)) == []


def test_what_falls_is_no_fault() -> None:
    assert faults("host", of_quarters(FLAT, FLAT, FLAT, (10, 2, 20_000))) == []


@pytest.mark.parametrize(
    ("step", "found"),
    [
        pytest.param((1, 0, 0), ["host: descriptors rose from 25 to 35"], id="descriptors"),
        pytest.param((0, 1, 0), ["host: threads rose from 9 to 19"], id="threads"),
        pytest.param((0, 0, 300), ["host: RSS rose from 52100 to 55100 KiB"], id="rss"),
    ],
)
def test_a_rising_series_is_a_fault(step: tuple[int, int, int], found: list[str]) -> None:
    rising = (tuple(FLAT[i] + number * step[i] for i in range(3)) for number in range(20))
    assert faults("host", samples((a, b, c) for a, b, c in rising)) == found


@pytest.mark.parametrize(("last_kib", "number"), [(52_524, 0), (52_525, 1)])
def test_the_rss_may_rise_by_3_percent_and_1_mib(last_kib: int, number: int) -> None:
    assert len(faults("host", of_quarters(FLAT, FLAT, FLAT, (20, 4, last_kib)))) == number


def test_one_descriptor_and_one_thread_more_are_two_faults() -> None:
    assert faults("vm-1", of_quarters(FLAT, FLAT, FLAT, (21, 5, 50_000))) == [
        "vm-1: descriptors rose from 20 to 21",
        "vm-1: threads rose from 4 to 5",
    ]
