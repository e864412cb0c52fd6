"""Windows as tasks: they end with their owner's nursery, and with it they fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from hbtrio.nursery.windows import BallotWindow, Handler


class WindowTasks:
    """Runs windows; none is lost while nobody runs them."""

    def __init__(self) -> None:
        #: Windows whose handlers are not all gone.
        self.count = 0
        #: One nursery is one run of the owner, who may be started again after a failure.
        self._nursery: trio.Nursery | None = None
        self._waiting: list[tuple[BallotWindow, Mapping[str, Handler]]] = []

    def hold(self, window: BallotWindow, handlers: Mapping[str, Handler]) -> None:
        """Runs a window as a task; outside of :meth:`running` it waits for the next."""
        self.count += 1
        if self._nursery is None:
            self._waiting.append((window, handlers))
        else:
            self._nursery.start_soon(self._hold, window, handlers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Windows run in this block, and one that fails cancels it; its end aborts them."""
        try:
            async with trio.open_nursery() as self._nursery:
                waiting, self._waiting = self._waiting, []
                for window, handlers in waiting:
                    self._nursery.start_soon(self._hold, window, handlers)
                yield
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None

    async def _hold(self, window: BallotWindow, handlers: Mapping[str, Handler]) -> None:
        try:
            await window.hold(handlers)
        finally:
            self.count -= 1
