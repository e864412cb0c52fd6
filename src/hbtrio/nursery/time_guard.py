"""Ticks the on-time guard and waits for deadlines that can be trusted.

:func:`sleep_until_on_time` implements the rule of :mod:`hbtrio.nursery.windows`, for windows and
for every other timer that decides something.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NoReturn, Protocol

import trio

from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.time_guard import BEHIND_S, CALM_S, OnTimeGuard

#: Reads what has arrived in one place (a socket, a channel, a queue): a bounded amount, without
#: waiting. Returns whether a task of the source is still at work on more.
Source = Callable[[], bool]

#: Ticks a guard until cancelled: :func:`run_guard`, or what a simulation has in its place, which
#: knows when a process has stood still.
GuardRunner = Callable[[OnTimeGuard, Callable[[], bool]], Awaitable[object]]

#: Longest wait for sources that are still at work, in seconds. A peer that sends without end
#: postpones a decision by this much and no more.
TAKE_IN_S: Final = 0.05

#: Passes of trio's loop (poll for I/O, run what that woke) with no source at work. The longest path
#: of an answer is a script's exit: the process's descriptor, the tasks that read its output, the
#: task that ran it, and the handler's task.
_PASSES: Final = 8

#: Seconds between looks at a source that is at work.
_LOOK_S: Final = 0.001


def never_resting() -> bool:
    """Says that a timeout may always be waiting."""
    return False


def _never() -> bool:
    return False


async def run_guard(guard: OnTimeGuard, resting: Callable[[], bool] = never_resting) -> NoReturn:
    """Ticks ``guard`` until cancelled. Every daemon runs it once.

    Args:
        guard: the process's guard.
        resting: whether no timeout decides anything within ``FAR_S``; called at each tick.
    """
    near = WakeUp()
    guard.end_rest = near.set
    while True:
        due = guard.tick(trio.current_time(), resting=resting())
        with trio.move_on_at(due):
            await near.wait()


async def sleep_until_on_time(
    deadline: float,
    guard: OnTimeGuard,
    *,
    at_most_s: float,
    allows_s: float = math.inf,
    sources: Iterable[Source] = (),
    unless: Callable[[], bool] = _never,
) -> None:
    """Sleeps until ``deadline`` has passed, this process is on time, and what has arrived is read.

    A process that was stopped finds its deadlines passed and the answers unread. So the sources are
    read first. If the process woke up more than ``BEHIND_S`` late, it reads on for ``TAKE_IN_S``:
    its threads, the store and its peers were delayed too. While a source is at work on what has
    arrived meanwhile, such as thirty reports on their way into the store, it reads on for as long
    as the process was late. If the guard reports that the process is late, it reads until the guard
    is calm. In a process that is on time, an answer that arrives exactly at the deadline still
    counts.

    Args:
        deadline: on trio's clock.
        guard: the process's guard.
        at_most_s: how long the decision may be postponed after the wake-up, in seconds, apart from
            the reading: a host that is always late must still decide.
        allows_s: how long after ``deadline`` the decision may be postponed, in seconds, for one
            that others wait for; a process that wakes up later only reads.
        sources: read the answers that this deadline decides about; iterated again for each reading.
        unless: asked once the deadline has passed: whether nothing is left to decide, so that
            nothing has to be read. Reading takes eight passes of the loop.
    """
    due = max(deadline, trio.current_time())
    await trio.sleep_until(deadline)
    if unless():
        return
    woken = trio.current_time()
    # Not counted from the deadline: a freeze longer than at_most_s would use it all up.
    reads_until = woken + min(TAKE_IN_S, at_most_s)
    end = min(woken + at_most_s, max(deadline + allows_s, reads_until))
    await take_in(sources)
    if woken - due > BEHIND_S:
        await trio.sleep_until(reads_until)
        caught_up = min(due + 2 * (woken - due), end)
        while await take_in(sources) and trio.current_time() < caught_up:
            pass
    while (now := trio.current_time()) < end and guard.is_late(now):
        await trio.sleep_until(min(guard.calm_at(now), end))
        await take_in(sources)


class Sleep(Protocol):
    """What :func:`sleep_on_time` returns; the arguments are :func:`sleep_until_on_time`'s."""

    def __call__(
        self, deadline: float, source: Source, unless: Callable[[], bool] = ...
    ) -> Awaitable[None]:
        """Sleeps until ``deadline`` and reads ``source``."""


def sleep_on_time(guard: OnTimeGuard) -> Sleep:
    """Returns :func:`sleep_until_on_time` for one source, postponed by ``CALM_S`` at most."""

    async def sleep(deadline: float, source: Source, unless: Callable[[], bool] = _never) -> None:
        await sleep_until_on_time(
            deadline, guard, at_most_s=CALM_S, sources=[source], unless=unless
        )

    return sleep


async def take_in(sources: Iterable[Source]) -> bool:
    """Reads what has arrived and lets the woken tasks run, for at most ``TAKE_IN_S``.

    One checkpoint is not enough: after a stop, epoll may return without events; trio then expires
    the deadlines, and only its next pass finds what has arrived. Tasks woken in one pass run in any
    order, and an answer may pass through several tasks.

    Returns:
        Whether a source was still at work at the end.
    """
    end = trio.current_time() + TAKE_IN_S
    idle = 0
    while idle < _PASSES:
        await trio.lowlevel.checkpoint()
        # Not any(): every source has to be read.
        if not sum(source() for source in tuple(sources)):
            idle += 1
        elif trio.current_time() < end:
            idle = 0
            await trio.sleep(_LOOK_S)
        else:
            return True
    return False
