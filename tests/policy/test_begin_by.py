"""Until when a command may begin: the arithmetic of two clocks, and the bound itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.policy.begin_by import (
    BEGIN_S,
    DRIFT,
    REPLY_S,
    BeginBy,
    Expired,
    PeerClock,
    ProcessClock,
)

#: Room for the rounding of sums of numbers up to 10**7.
ROUNDING_S = 1e-6

seconds = st.floats(0, 1e5)


@attrs.frozen
class Step:
    """The peer makes a reading after a while, and it is received after another one."""

    pause_s: float
    rate: float
    delay_s: float


steps = st.lists(
    st.builds(Step, st.floats(0, 100), st.floats(1 - DRIFT, 1 + DRIFT), st.floats(0, 200)),
    min_size=1,
    max_size=8,
)


def test_the_times_of_a_command_follow_each_other() -> None:
    """A reply to a command that began at the last moment has a second to come back."""
    assert 0 < BEGIN_S < REPLY_S
    assert REPLY_S - BEGIN_S >= 1.0


@given(own=seconds, peer=seconds, walked=steps, ahead_s=st.floats(0, 60), rate=st.floats(0.9, 1.1))
def test_never_ahead_of_the_peers_clock(
    own: float, peer: float, walked: Sequence[Step], ahead_s: float, rate: float
) -> None:
    """Whatever was delayed, and however the two clocks drift: what expires is never revived."""
    clock = PeerClock()
    for step in walked:
        own, peer = own + step.pause_s, peer + step.pause_s * step.rate
        reading = peer
        own, peer = own + step.delay_s, peer + step.delay_s * step.rate
        clock.read(reading, own)
    found = clock.at(own + ahead_s, own)
    assert found is not None
    assert found <= peer + ahead_s * rate + ROUNDING_S


@given(own=seconds, peer=seconds, walked=steps, last_s=st.floats(0, 100))
def test_a_reading_that_was_delayed_does_not_spoil_a_good_one(
    own: float, peer: float, walked: Sequence[Step], last_s: float
) -> None:
    """What it loses is the drift since the best reading, however long this process was stopped."""
    clock = PeerClock()
    clock.read(peer, own)
    best_at = own
    for step in walked:
        own, peer = own + step.pause_s, peer + step.pause_s
        reading = peer
        own, peer = own + step.delay_s, peer + step.delay_s
        clock.read(reading, own)
    own, peer = own + last_s, peer + last_s
    found = clock.at(own, own)
    assert found is not None
    assert found >= peer - DRIFT * (own - best_at) - ROUNDING_S


def test_without_a_reading_there_is_no_moment() -> None:
    assert PeerClock().at(5.0, 5.0) is None


def test_a_reading_that_came_at_once() -> None:
    clock = PeerClock()
    clock.read(1000.0, 10.0)
    assert clock.at(10.0, 10.0) == 1000.0
    assert clock.at(12.0, 10.0) == pytest.approx(1002.0 - 2 * DRIFT)
    assert clock.at(12.0, 12.0) == pytest.approx(1002.0 - 2 * DRIFT)


def test_a_moment_is_never_below_zero() -> None:
    clock = PeerClock()
    clock.read(0.0, 1000.0)
    assert clock.at(1000.0, 1000.0) == 0.0
    assert clock.at(2000.0, 2000.0) == pytest.approx(1000.0 - 1000 * DRIFT)


@pytest.mark.parametrize(("now", "in_time"), [(0.0, True), (7.0, True), (7.001, False)])
def test_the_moment_itself_is_in_time(now: float, in_time: bool) -> None:
    bound = BeginBy(lambda: now, 7.0)
    if in_time:
        bound.check()
        return
    with pytest.raises(Expired, match=r"^expired 0\.0 s ago: nothing was done$"):
        bound.check()


def test_a_moment_on_the_clock_of_another_process_has_passed() -> None:
    clock = ProcessClock(lambda: 5.0, "boot-2")
    clock.begin_by(5.0, "boot-2").check()
    with pytest.raises(Expired, match=r"^expired, it was for another process: nothing was done$"):
        clock.begin_by(1e9, "boot-1").check()


def test_a_sender_that_names_no_moment_is_never_too_late() -> None:
    bound = ProcessClock(lambda: 1e9, "boot-2").begin_by(None, "")
    bound.check()
    assert bound.left_s == math.inf


def test_a_wait_that_was_announced_extends_the_bound() -> None:
    now = 100.0
    bound = BeginBy(lambda: now, 101.0)
    assert bound.extended(40.0).until_s == 140.0 + BEGIN_S
    assert BeginBy(lambda: now, 1e9).extended(40.0).until_s == 1e9
