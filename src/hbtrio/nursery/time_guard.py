"""The ticking of the on-time guard, and waits that are believed only while it says on time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import trio

from hbtrio.policy.time_guard import OnTimeGuard


def _never() -> bool:
    return False


async def run_guard(guard: OnTimeGuard, resting: Callable[[], bool] = _never) -> NoReturn:
    """Ticks ``guard`` until cancelled. Every daemon runs it once.

    Args:
        guard: the process's guard.
        resting: whether no timeout is waiting to be judged; asked at each tick.
    """
    while True:
        due = guard.tick(trio.current_time(), resting=resting())
        await trio.sleep_until(due)


async def sleep_until_on_time(deadline: float, guard: OnTimeGuard, *, at_most_s: float) -> None:
    """Returns once ``deadline`` has passed and this process is on time.

    A process that was frozen finds its deadlines passed and the answers unread. It gets the guard's
    time of calm to read them first. On time, what comes at the very deadline is still in time.

    Args:
        deadline: on trio's clock.
        guard: the process's guard.
        at_most_s: how long the deadline may be put off once it was found passed, in seconds: a
            host that is always late must still come to an end.
    """
    await trio.sleep_until(deadline)
    # Not from the deadline: a freeze longer than at_most_s would use all of it up.
    end = trio.current_time() + at_most_s
    while True:
        now = trio.current_time()
        if now >= end or not guard.is_late(now):
            break
        await trio.sleep_until(min(guard.calm_at(now), end))
    # Tasks woken together run in any order: those with an answer in hand go first.
    await trio.lowlevel.checkpoint()
