"""Runs a world one step after the other, for tests that are not coroutines.

Rules of a hypothesis state machine are plain functions. Here each of them hands its step to a trio
of its own, and waits: between two steps nothing happens, and the fake clock stands still.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

import trio
import trio.testing

W = TypeVar("W")
T = TypeVar("T")


class SteppedWorld(Generic[W]):
    """A world that is open from its first step until :meth:`close`.

    Args:
        world: opens it.
    """

    def __init__(self, world: Callable[[], AbstractAsyncContextManager[W]]) -> None:
        self._world = world
        self._steps: SimpleQueue[Callable[[W], Awaitable[Any]] | None] = SimpleQueue()
        #: What a step has returned or raised; the last one, with True, is the end of the world.
        self._results: SimpleQueue[tuple[Any, BaseException | None, bool]] = SimpleQueue()
        self._is_over = False
        self._thread = Thread(target=self._run, name="stepped world")
        self._thread.start()
        self._result()

    def take(self, step: Callable[[W], Awaitable[T]]) -> T:
        """Takes one step; raises what it raises, or what has ended the world."""
        self._steps.put(step)
        result: T = self._result()
        return result

    def close(self) -> None:
        """Closes the world; raises what that raises."""
        try:
            if not self._is_over:
                self._steps.put(None)
                self._result()
        finally:
            self._thread.join()

    def _result(self) -> Any:
        result, error, self._is_over = self._results.get()
        if error is not None:
            raise error
        return result

    def _run(self) -> None:
        clock = trio.testing.MockClock(autojump_threshold=0)
        error: BaseException | None = None
        try:
            trio.run(self._serve, clock=clock)
        except BaseException as raised:  # noqa: BLE001 - raised in the thread of the test
            error = raised
        self._results.put((None, error, True))

    async def _serve(self) -> None:
        async with self._world() as world:
            self._results.put((None, None, False))
            # Blocks the loop, so that no task runs between two steps.
            while (step := self._steps.get()) is not None:
                try:
                    result = await step(world)
                except Exception as error:  # noqa: BLE001 - raised in the thread of the test
                    self._results.put((None, error, False))
                else:
                    self._results.put((result, None, False))
