"""How many requests a VIM is sent at once, from how it takes them."""

from __future__ import annotations

import pytest

from hbtrio.policy.vim_attempts import FOR_VERDICTS, VimAttempts
from hbtrio.policy.vim_pace import LEAST, VimPace
from hbtrio.wire.vim_result import (
    Delivered,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    SendResult,
    Unconfirmed,
)


def take(pace: VimPace, requests: int, now: float = 0.0, within_s: float = 0.01) -> None:
    """The VIM takes so many, one after the other, of as many at once as it may get."""
    for _ in range(requests):
        pace.ended(began=now, now=now + within_s, failed=False, in_progress=pace.limit)


def test_it_grows_by_one_for_each_round_that_is_taken_well_up_to_the_bound() -> None:
    pace = VimPace(8)
    take(pace, LEAST - 1)
    assert pace.limit == LEAST
    take(pace, 1)
    assert pace.limit == LEAST + 1
    take(pace, LEAST + 1, within_s=0.5)
    assert pace.limit == 8
    take(pace, 100)
    assert pace.limit == 8


def test_what_was_not_tried_is_not_known() -> None:
    pace = VimPace(32)
    for _ in range(100):
        pace.ended(began=0.0, now=0.01, failed=False, in_progress=LEAST - 1)
    assert pace.limit == LEAST


@pytest.mark.parametrize(("took_s", "failed"), [(0.51, False), (0.01, True)])
def test_a_failure_and_slowness_halve_it_once_for_all_that_were_on_their_way(
    took_s: float, failed: bool
) -> None:
    pace = VimPace(40)
    while pace.limit < 40:
        take(pace, 1)
    for _ in range(40):
        pace.ended(began=1.0, now=1.0 + took_s, failed=failed, in_progress=40)
    assert pace.limit == 20
    # What began after that does it again, but never below the least.
    for began in (2.0, 3.0, 4.0):
        pace.ended(began=began, now=began + took_s, failed=failed, in_progress=20)
    assert pace.limit == LEAST
    take(pace, LEAST, now=5.0)
    assert pace.limit == LEAST + 1


@pytest.mark.parametrize(
    ("result", "grows"),
    [
        (Delivered(200, b""), True),
        (Unconfirmed(MissingAnswer.CLOSED), True),
        (Unconfirmed(MissingAnswer.RESET), False),
        (Unconfirmed(MissingAnswer.STALLED), False),
        (Unconfirmed(MissingAnswer.GARBLED), False),
        (ErrorStatus(503), False),
        (NotSent("connection refused"), False),
    ],
)
def test_what_the_vim_takes_well(result: SendResult, grows: bool) -> None:
    attempts = VimAttempts(32)
    for entry in range(LEAST):
        attempts.begin(entry, f"u{entry}", is_verdict=False, now=1.0)
    for entry in range(LEAST):
        attempts.learn(entry, result, 1.01)
    for entry in range(LEAST):
        attempts.end(entry)
    turn = attempts.turn(1000.0)
    if isinstance(result, NotSent):
        assert (turn.limit, turn.others) == (2, 1)
    else:
        others = LEAST + grows
        assert (turn.limit, turn.others) == (others + FOR_VERDICTS, others)
