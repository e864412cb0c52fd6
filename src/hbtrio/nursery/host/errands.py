"""Runs the tasks that a connection has now and then: the rest of a write, a pause.

Nearly every connection of a host never has one, and a nursery and its cancel scope take more than a
kilobyte. So the connection's own task waits alone until there is the first errand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Errands:
    """The errands of one connection, which run within :meth:`run`."""

    __slots__ = ("_nursery", "_parked", "_waiting", "ended")

    def __init__(self) -> None:
        #: Whether :meth:`end` was called; :meth:`run` may not have returned yet.
        self.ended = False
        #: The task in :meth:`run`, while it waits for the first errand.
        self._parked: trio.lowlevel.Task | None = None
        self._nursery: trio.Nursery | None = None
        self._waiting: list[Callable[[], Awaitable[object]]] = []

    def start_soon(self, errand: Callable[[], Awaitable[object]]) -> None:
        """Starts an errand; before :meth:`run` at its beginning, after :meth:`end` not at all."""
        if self.ended:
            return
        if self._nursery is not None:
            self._nursery.start_soon(errand)
        else:
            self._waiting.append(errand)
            self._wake()

    def end(self) -> None:
        """Makes :meth:`run` return, now or when it is called."""
        self.ended = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        else:
            # An errand is the connection's, which has these errands: that would be a cycle.
            self._waiting.clear()
            self._wake()

    async def run(self) -> None:
        """Runs the errands until :meth:`end`; a checkpoint, and called once only.

        Raises:
            ExceptionGroup: of what an errand has raised, which cancels the others.
        """
        try:
            await trio.lowlevel.checkpoint()
            if not (self.ended or self._waiting):
                # trio.sleep_forever() would add a frame, and a function to each task that waits.
                self._parked = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._unpark)
            if self.ended:
                return
            async with trio.open_nursery() as self._nursery:
                for errand in self._waiting:
                    self._nursery.start_soon(errand)
                await trio.sleep_forever()
        finally:
            self.ended = True
            self._nursery = None
            self._waiting.clear()

    def _wake(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None:
            trio.lowlevel.reschedule(parked)

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED
