"""Runs windows as tasks in a nursery of their owner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from hbtrio.nursery.windows import BallotWindow, Handler


class WindowTasks:
    """Runs windows as tasks, and keeps those that are opened while no nursery is open."""

    def __init__(self) -> None:
        #: Windows with handlers that have not ended.
        self.count = 0
        #: Open during one run of the owner, which may be restarted after a failure.
        self._nursery: trio.Nursery | None = None
        self._waiting: list[tuple[BallotWindow, Mapping[str, Handler]]] = []

    def hold(self, window: BallotWindow, handlers: Mapping[str, Handler]) -> None:
        """Runs a window as a task; outside :meth:`running`, from the next :meth:`running` on."""
        self.count += 1
        if self._nursery is None:
            self._waiting.append((window, handlers))
        else:
            self._nursery.start_soon(self._hold, window, handlers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs windows within the block. A failed window cancels it; its end aborts the rest."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            waiting, self._waiting = self._waiting, []
            for window, handlers in waiting:
                nursery.start_soon(self._hold, window, handlers)
            try:
                yield
            finally:
                # The nursery takes no more after its last task, and this block ends later.
                self._nursery = None
            nursery.cancel_scope.cancel()

    def end(self) -> None:
        """Ends :meth:`running`, if the owner runs, by cancelling the block."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _hold(self, window: BallotWindow, handlers: Mapping[str, Handler]) -> None:
        try:
            await window.hold(handlers)
        finally:
            self.count -= 1
