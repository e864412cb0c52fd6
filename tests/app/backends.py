"""Runs a test under trio and under asyncio, on clocks that jump to the next deadline.

The tests are plain functions to pytest: pytest-trio, which takes every coroutine function for its
own, never sees them. Trio has its MockClock; asyncio gets an event loop of the same behaviour here.
With both, time passes only when nothing else can happen, and so tests take no time and know when
things happen to the millisecond. Threads are invisible to such clocks: what has to do with them
runs in real time.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
import pytest
import sniffio
import trio.testing

#: What no test comes near, in seconds of its clock.
_BOUND_S: Final = 500

#: How to let time pass while nothing runs, as if the machine had stood still.
_JUMPS: Final[dict[str, Callable[[float], None]]] = {
    "trio": lambda seconds: trio.lowlevel.current_clock().jump(seconds),
    "asyncio": lambda seconds: asyncio.get_running_loop().jump(seconds),
}

AsyncTest = Callable[..., Coroutine[Any, Any, None]]


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing but sockets; a timeout passes at once if none of them is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        # Without any deadline there is only the world outside to wait for.
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def jump(self, seconds: float) -> None:
        self._jumping.now += seconds


def _trio_clock() -> dict[str, Any]:
    return {"clock": trio.testing.MockClock(autojump_threshold=0)}


_FAKE: Final = {"trio": _trio_clock, "asyncio": lambda: {"loop_factory": _JumpingLoop}}
_REAL: Final[dict[str, Callable[[], dict[str, Any]]]] = {"trio": dict, "asyncio": dict}


def _on_each(options: dict[str, Callable[[], dict[str, Any]]], test: AsyncTest) -> Callable:
    signature = inspect.signature(test)

    @functools.wraps(test)
    def run(*arguments: object, backend: str, **fixtures: object) -> None:
        async def bounded() -> None:
            with anyio.fail_after(_BOUND_S):
                await test(*arguments, **fixtures)

        anyio.run(bounded, backend=backend, backend_options=options[backend]())

    backend = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), backend])
    return pytest.mark.parametrize("backend", options)(run)


def on_both(test: AsyncTest) -> Callable:
    """Under trio and under asyncio, on clocks that jump."""
    return _on_each(_FAKE, test)


def jump(seconds: float) -> None:
    """Time passes on a clock that jumps, and nobody sees it pass."""
    _JUMPS[sniffio.current_async_library()](seconds)


def on_both_in_real_time(test: AsyncTest) -> Callable:
    """Under trio and under asyncio, for tests with threads or processes."""
    return _on_each(_REAL, test)
