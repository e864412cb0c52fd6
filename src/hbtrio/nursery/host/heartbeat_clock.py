"""Gives one instance's heartbeat the time, less the time in which this process did not run.

A host that was stopped for 89 s has not listened for 89 s. Its guests may have stood still with it,
and no time that means silence may have passed in it.
"""

from __future__ import annotations

import trio

from hbtrio.fsm.heartbeat.machine import Heartbeat
from hbtrio.policy.time_guard import OnTimeGuard


class HeartbeatClock:
    """Reports each stall of this process to one heartbeat, once.

    Args:
        heartbeat: is told of the stalls.
        guard: the process's on-time guard, which measures them.
    """

    __slots__ = ("_guard", "_heartbeat", "_stalled_s")

    def __init__(self, heartbeat: Heartbeat, guard: OnTimeGuard) -> None:
        self._heartbeat = heartbeat
        self._guard = guard
        self._stalled_s = guard.stalled_s(trio.current_time())

    def now(self) -> float:
        """Returns the time, after the heartbeat got to know the stalls before it."""
        now = trio.current_time()
        self.account(now)
        return now

    def account(self, now: float) -> bool:
        """Reports the stalls since the last call; returns whether there was one."""
        stalled_s = self._guard.stalled_s(now)
        if stalled_s <= self._stalled_s:
            return False
        self._heartbeat.stood_still(stalled_s - self._stalled_s)
        self._stalled_s = stalled_s
        return True
