"""The verbs of time that every world on the fake clock has."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked


class FakeTime:
    """A world whose time passes only while every task waits."""

    async def at(self, time_s: float) -> None:
        """Waits until that time, and until all that happens at that time has happened."""
        assert time_s > trio.current_time() - 1e-6, "that time has passed"
        await trio.sleep_until(time_s)
        await wait_all_tasks_blocked()

    async def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        await self.at(trio.current_time() + seconds)

    async def settle(self) -> None:
        """Waits until all that happens now has happened."""
        await wait_all_tasks_blocked()
