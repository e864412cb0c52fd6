"""How many requests to the VIM may be in progress: the bounds, one by one."""

from __future__ import annotations

import math

import pytest

from hbtrio.policy.vim_attempts import FOR_VERDICTS, MOST, SLOTS, Reach, Turn, VimAttempts
from hbtrio.wire.vim_result import Delivered, NotSent

OK = Delivered(200, b"")
REFUSED = NotSent("connection refused")


def began(*kinds: str, now: float = 0.0) -> VimAttempts:
    """With a request in progress for each, about `u0`, `u1`, ...: `v` is a verdict."""
    attempts = VimAttempts()
    for number, kind in enumerate(kinds):
        attempts.begin(number, f"u{number}", is_verdict=kind == "v", now=now)
    return attempts


def room(attempts: VimAttempts, now: float = 0.0) -> tuple[int, int]:
    turn = attempts.turn(now)
    return turn.limit, turn.others


def test_at_first_all_slots_are_free_but_some_are_kept_for_verdicts() -> None:
    attempts = VimAttempts()
    assert attempts.turn(0.0) == Turn(SLOTS, SLOTS - FOR_VERDICTS, set(), set())
    assert (attempts.wait_s(0.0), attempts.reachable, len(attempts)) == (math.inf, True, 0)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("s" * (SLOTS - FOR_VERDICTS), (FOR_VERDICTS, 0)),
        ("s" * (SLOTS - FOR_VERDICTS - 1), (FOR_VERDICTS + 1, 1)),
        ("v" * SLOTS, (0, 0)),
        ("v" * FOR_VERDICTS, (SLOTS - FOR_VERDICTS, SLOTS - FOR_VERDICTS)),
        ("v" * (FOR_VERDICTS + 1), (SLOTS - FOR_VERDICTS - 1, SLOTS - FOR_VERDICTS - 1)),
    ],
)
def test_room_beside_what_is_under_way(kinds: str, expected: tuple[int, int]) -> None:
    assert room(began(*kinds)) == expected


def test_an_instance_is_busy_until_its_state_hangs_and_as_long_as_its_verdict_lasts() -> None:
    attempts = began("s", "v")
    assert attempts.turn(0.09) == Turn(6, 5, {"u0", "u1"}, {"u0", "u1"})
    assert attempts.wait_s(0.04) == pytest.approx(0.06)
    assert attempts.turn(0.1) == Turn(7, 5, {"u1"}, {"u0", "u1"})
    assert attempts.wait_s(0.1) == math.inf
    attempts.end(1)
    assert attempts.turn(0.1) == Turn(7, 5, set(), {"u0"})
    attempts.forget_all()
    assert attempts.turn(0.1) == Turn(8, 6, set(), set())


def test_verdicts_that_hang_take_no_slot_up_to_a_bound() -> None:
    attempts = began(*"v" * SLOTS)
    assert room(attempts, 0.09) == (0, 0)
    assert attempts.wait_s(0.09) == pytest.approx(0.01)
    assert room(attempts, 0.1) == (SLOTS, SLOTS - FOR_VERDICTS)
    assert room(began(*"v" * (MOST - 1)), 0.1) == (1, 1)
    assert room(began(*"v" * MOST), 0.1) == (0, 0)
    # States that hang keep theirs.
    hanging = began(*"s" * (SLOTS - FOR_VERDICTS), *"v" * FOR_VERDICTS)
    assert room(hanging, 0.1) == (FOR_VERDICTS, 0)


def test_a_vim_that_can_t_be_reached_is_left_alone_and_then_tried_with_one() -> None:
    attempts = began("s", "s", "v")
    assert attempts.learn(0, REFUSED, 10.0) is Reach.LOST
    attempts.end(0)
    # Attempts that began before do not lengthen the wait.
    assert attempts.learn(1, REFUSED, 10.0) is Reach.UNCHANGED
    attempts.end(1)
    assert (room(attempts, 10.99), attempts.wait_s(10.0)) == ((0, 0), 1.0)
    assert room(attempts, 11.0) == (2, 1)
    attempts.begin(3, "u3", is_verdict=False, now=11.0)
    assert room(attempts, 11.0) == (1, 0)
    attempts.begin(4, "u4", is_verdict=True, now=11.0)
    assert room(attempts, 11.0) == (0, 0)
    assert attempts.learn(3, REFUSED, 11.0) is Reach.UNCHANGED
    assert (room(attempts, 12.99), room(attempts, 13.0)) == ((0, 0), (2, 1))
    assert attempts.reachable is False


def test_one_that_gets_through_ends_that() -> None:
    attempts = began("s", "s")
    attempts.learn(0, REFUSED, 0.0)
    attempts.end(0)
    assert attempts.learn(1, OK, 0.5) is Reach.GAINED
    assert (attempts.reachable, attempts.reachable_since) == (True, 0.5)
    assert room(attempts, 0.5) == (7, 5)
    assert attempts.learn(1, OK, 0.7) is Reach.UNCHANGED
    assert attempts.reachable_since == 0.5
    attempts.end(1)
    # And the next wait is as short as the first.
    attempts.begin(2, "u2", is_verdict=False, now=1.0)
    assert attempts.learn(2, REFUSED, 1.0) is Reach.LOST
    attempts.end(2)
    assert attempts.wait_s(1.0) == 1.0


def test_a_vim_that_speaks_is_tried_at_once() -> None:
    attempts = began("s")
    assert attempts.vim_spoke() is False
    attempts.learn(0, REFUSED, 0.0)
    attempts.end(0)
    assert room(attempts, 0.5) == (0, 0)
    assert attempts.vim_spoke() is True
    assert room(attempts, 0.5) == (2, 1)


def test_what_hangs_since_before_is_bounded_too() -> None:
    attempts = began(*"s" * 4)
    for spell in range(12):
        number = 100 + spell
        attempts.begin(number, f"w{spell}", is_verdict=False, now=float(spell))
        attempts.learn(number, REFUSED, float(spell))
        attempts.vim_spoke()
    # Those were never ended: as many as there may be at most.
    assert (len(attempts), room(attempts, 99.0)) == (2 * SLOTS, (0, 0))
    attempts.end(100)
    assert room(attempts, 99.0) == (1, 1)


def test_an_instance_rests_longer_each_time_and_is_forgotten() -> None:
    attempts = VimAttempts()
    attempts.rest("u", 0.0)
    assert (attempts.turn(0.99).resting, attempts.turn(1.0).resting) == ({"u"}, set())
    assert attempts.wait_s(0.25) == 0.75
    attempts.rest("u", 1.0)
    assert (attempts.turn(2.99).resting, attempts.turn(3.0).resting) == ({"u"}, set())
    attempts.turn(303.0)
    assert set(attempts.rests) == {"u"}
    # Not while something of it is in progress.
    attempts.begin(1, "u", is_verdict=False, now=303.0)
    attempts.turn(303.1)
    assert set(attempts.rests) == {"u"}
    attempts.end(1)
    attempts.turn(303.2)
    assert set(attempts.rests) == set()


def test_what_is_done_with_ends_the_rest() -> None:
    attempts = VimAttempts()
    attempts.rest("u", 0.0)
    attempts.end_rest("u")
    attempts.end_rest("never rested")
    assert attempts.turn(0.0).resting == set()
    attempts.rest("u", 0.0)
    assert attempts.wait_s(0.0) == 1.0
