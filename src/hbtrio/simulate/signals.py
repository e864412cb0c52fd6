"""Simulates the signals of a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Self

from hbtrio.simulate.process import Process, Waiters


class SignalQueue:
    """The signals that a process has been sent; see :data:`hbtrio.daemons.signals.Signals`.

    One that comes before the process handles signals kills it, as the default action does.

    Args:
        process: whose.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting: list[int] = []
        self._waiters = Waiters(process)
        self._handled = False

    def send(self, number: int) -> None:
        """Sends a signal; a stopped process handles it when it goes on."""
        if self._handled:
            self._waiting.append(number)
            self._waiters.wake()
        else:
            self._process.kill()

    @contextmanager
    def receive(self) -> Iterator[AsyncIterator[int]]:
        """Handles signals within the block: they are what the iterator yields."""
        self._handled = True
        try:
            yield self
        finally:
            self._handled = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        while not self._waiting:
            await self._waiters.wait()
        return self._waiting.pop(0)
