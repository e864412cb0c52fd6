"""The ticking of the on-time guard, and waits that are only believed while the process is on time."""

from __future__ import annotations

from typing import NoReturn

import trio

from hbtrio.fsm.ontime import OnTimeGuard


async def keep_time(guard: OnTimeGuard) -> NoReturn:
    """Ticks ``guard`` until cancelled. Every daemon runs it once."""
    due = trio.current_time()
    while True:
        due = guard.tick(trio.current_time())
        await trio.sleep_until(due)


async def believe_after(deadline: float, guard: OnTimeGuard, *, at_most_s: float) -> None:
    """Returns once ``deadline`` has passed and this process is on time.

    A process that was frozen finds its deadlines passed and the answers unread. It gets the guard's
    time of calm to read them first.

    Args:
        deadline: on trio's clock.
        guard: the process's guard.
        at_most_s: how far the deadline may be put off altogether, in seconds: a host that is
            always late must still come to an end.
    """
    end = deadline + at_most_s
    while True:
        await trio.sleep_until(deadline)
        now = trio.current_time()
        if now >= end or not guard.is_late(now):
            return
        deadline = min(guard.calm_at(now), end)
