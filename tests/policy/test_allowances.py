"""How the time beyond a window is shared out: each allowance ends before the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.policy.allowances import (
    AGENT_ALLOWS_S,
    AGENT_LATE_S,
    HOST_ALLOWS_S,
    MARGIN_S,
    agrees_after_s,
    answer_within_s,
    guest_allows_s,
    guest_window_s,
    told_timeout_s,
)

#: What a late process reads on top of its allowance, in seconds (``take_in`` twice, and the pause
#: between).
READING_S = 0.15

ANY_INT = st.integers(-(2**31), 2**31 - 1)


@pytest.mark.parametrize(
    ("timeout_ms", "window_s", "allows_s"),
    [
        (-(2**31), 0.0, 0.0),
        (-1, 0.0, 0.0),
        (0, 0.0, 0.0),
        (1, 0.001, 0.0),
        (1000, 1.0, 0.0),
        (1001, 0.001, 0.8),
        (2000, 1.0, 0.8),
        (11_000, 10.0, 0.8),
        (2**31 - 1, 2_147_482.647, 0.8),
    ],
)
def test_the_guest(timeout_ms: int, window_s: float, allows_s: float) -> None:
    assert guest_window_s(timeout_ms) == window_s
    assert guest_allows_s(timeout_ms) == pytest.approx(allows_s)


@given(ANY_INT)
def test_the_guest_is_done_by_the_end_of_the_host_s_window(timeout_ms: int) -> None:
    window_s = max(0, timeout_ms) / 1000
    done_s = guest_window_s(timeout_ms) + guest_allows_s(timeout_ms)
    assert 0 <= done_s <= window_s
    if timeout_ms > 1000:
        assert done_s == pytest.approx(window_s - 0.2)
        assert done_s + READING_S < window_s


@pytest.mark.parametrize(
    ("window_s", "told_s", "agrees_s"),
    [
        (1, 4, 3.75),
        (3, 6, 5.75),
        (11, 14, 13.75),
        (40, 43, 42.75),
        (41, 44, 43.75),
        (42, 44, 43.75),
        (44, 44, 43.75),
        (600, 44, 43.75),
    ],
)
def test_the_vim_s_timer(window_s: int, told_s: int, agrees_s: float) -> None:
    assert told_timeout_s(window_s) == answer_within_s(window_s, for_vim=True) == told_s
    assert agrees_after_s(window_s, for_vim=True) == agrees_s


@pytest.mark.parametrize("window_s", [1, 41, 42, 600])
def test_an_operator_waits_for_a_long_window_too(window_s: int) -> None:
    assert answer_within_s(window_s, for_vim=False) == window_s + 3
    assert agrees_after_s(window_s, for_vim=False) == window_s + 2.75


def test_an_instance_that_takes_no_part() -> None:
    assert told_timeout_s(0) == 0


@given(st.integers(1, 41))
def test_a_late_host_and_a_late_agent_are_waited_for(window_s: int) -> None:
    host_s = window_s + HOST_ALLOWS_S + READING_S
    report_s = host_s + AGENT_ALLOWS_S
    agrees_s = agrees_after_s(window_s, for_vim=True)
    assert host_s <= window_s + 2 < report_s < agrees_s


def test_most_of_the_margin_is_left_for_the_verdict() -> None:
    assert AGENT_LATE_S + 2 * READING_S / 3 < MARGIN_S * 2 / 3
