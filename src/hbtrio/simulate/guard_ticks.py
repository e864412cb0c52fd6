"""Ticks a process's on-time guard only when that matters: after the process has stood still.

The guards' regular ticks, five a second in each daemon, would be a quarter of all task steps. In
the simulation a process is late only after a freeze, so only the first tick after one says more
than that all is well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from hbtrio.policy.time_guard import REST_S, TICK_S, OnTimeGuard
from hbtrio.simulate.process import Process, Waiters


class GuardTicks:
    """Ticks a guard after each freeze.

    Args:
        process: whose guard it is.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._random = process.timeline.random(f"ticks of {process.name}")

    async def run(self, guard: OnTimeGuard, resting: Callable[[], bool]) -> None:
        """Ticks ``guard`` until cancelled; see :data:`hbtrio.nursery.time_guard.GuardRunner`."""
        process = self._process
        waiters = Waiters(process)
        expected = False

        def stand_still() -> None:
            # A regular tick would come some time later. If the process stands still again before
            # it has ticked, that tick is still due.
            nonlocal expected
            if not expected:
                expected = True
                tick_s = REST_S if process.call(resting) else TICK_S
                guard.expect(process.machine.monotonic() + self._random.uniform(0.0, tick_s))

        guard.tick(trio.current_time())
        guard.expect(math.inf)
        process.at_freeze.append(stand_still)
        process.at_thaw.append(waiters.wake)
        try:
            while True:
                await waiters.wait()
                guard.tick(trio.current_time())
                guard.expect(math.inf)
                expected = False
        finally:
            process.at_freeze.remove(stand_still)
            process.at_thaw.remove(waiters.wake)
