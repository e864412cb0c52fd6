"""Lets what is outside of a process call something inside of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from hbtrio.simulate.process import Process, Waiters


class Inbox:
    """Calls that one of a process's tasks makes.

    Args:
        process: whose.
    """

    def __init__(self, process: Process) -> None:
        self._calls: list[Callable[[], object]] = []
        self._waiters = Waiters(process)

    def put(self, call: Callable[[], object]) -> None:
        """Has ``call`` called soon, in the process."""
        self._calls.append(call)
        self._waiters.wake()

    async def run(self) -> NoReturn:
        """Makes the calls, until cancelled."""
        while True:
            while self._calls:
                self._calls.pop(0)()
            await self._waiters.wait()
