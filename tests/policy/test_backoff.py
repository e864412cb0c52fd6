"""One second, doubling to sixty."""

from __future__ import annotations

from hbtrio.policy.backoff import Backoff


def test_the_delay_doubles_from_one_second_to_sixty() -> None:
    backoff = Backoff()
    assert [backoff.next_delay_s() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_success_starts_over() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.next_delay_s()
    backoff.reset()
    assert [backoff.next_delay_s() for _ in range(3)] == [1, 2, 4]


def test_other_bounds() -> None:
    backoff = Backoff(first_s=0.25, limit_s=0.75)
    assert [backoff.next_delay_s() for _ in range(4)] == [0.25, 0.5, 0.75, 0.75]
    backoff.reset()
    assert backoff.next_delay_s() == 0.25


def test_a_delay_that_is_cut_short_does_not_grow_behind_the_scenes() -> None:
    backoff = Backoff()
    assert [backoff.next_delay_s(3) for _ in range(5)] == [1, 2, 3, 3, 3]
    assert [backoff.next_delay_s() for _ in range(2)] == [6, 12]
    assert backoff.next_delay_s(3) == 3
    assert backoff.next_delay_s() == 6
