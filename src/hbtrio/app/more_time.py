"""The time that a handler has for its vote or notice, and how it gets more of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import anyio
from anyio import from_thread
from anyio.lowlevel import current_token

#: The most seconds that can be asked for at a time.
MOST_S: Final = 86_400

#: How long to wait for the guest daemon's answer, in seconds. The daemon asks the host first.
ANSWER_S: Final = 5.0

_OVER: Final = "the vote or notice is over"


class NoMoreTime(Exception):
    """No more time was granted; the text says why."""


class _Request:
    """One request, and its answer once that has come."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.seconds = 0
        self.reason = ""


class WindowTime:
    """The time of one vote or notice, which begins now.

    Args:
        window_s: the length of the window, in seconds.
        ask: sends the guest daemon a request: its number, and the seconds.
    """

    def __init__(self, window_s: float, ask: Callable[[int, int], Awaitable[None]]) -> None:
        self.window_s = window_s
        #: Ends the handler at the deadline.
        self.scope = anyio.CancelScope(deadline=anyio.current_time() + window_s)
        # The deadline on time.monotonic(), which every thread can read.
        self._ends_at = time.monotonic() + window_s
        self._ask = ask
        self._numbers = count(1)
        self._requests: dict[int, _Request] = {}
        self._is_over = False
        self._token = current_token()
        self._thread = threading.get_ident()

    @property
    def deadline(self) -> float:
        """When the window closes, on the clock of :func:`anyio.current_time`."""
        return self.scope.deadline

    @property
    def remaining_s(self) -> float:
        """Seconds until the window closes, at least 0. May be read from any thread."""
        try:
            remaining_s = self.deadline - anyio.current_time()
        except RuntimeError:  # a thread without an event loop
            remaining_s = self._ends_at - time.monotonic()
        return max(0.0, remaining_s)

    async def extend(self, seconds: int) -> int:
        """Asks for more time; see :meth:`hbtrio.app.Notice.extend`."""
        _check(seconds)
        if self._is_over:
            raise NoMoreTime(_OVER)
        number, request = next(self._numbers), _Request()
        self._requests[number] = request
        with anyio.move_on_after(ANSWER_S):
            await self._ask(number, seconds)
            await request.answered.wait()
        if not request.answered.is_set():
            raise NoMoreTime(f"the guest daemon has not answered within {ANSWER_S:g} s")
        if request.seconds == 0:
            raise NoMoreTime(request.reason)
        return request.seconds

    def extend_sync(self, seconds: int) -> int:
        """Does the same in a handler's thread; see :meth:`hbtrio.app.Notice.extend_sync`."""
        _check(seconds)
        if threading.get_ident() == self._thread:
            raise RuntimeError("extend_sync() would block the event loop: await extend() instead")
        return from_thread.run(self.extend, seconds, token=self._token)

    def granted(self, number: int, seconds: int, reason: str) -> None:
        """Takes the answer to a request, which lengthens the window; each counts once."""
        request = self._requests.pop(number, None)
        if request is None or self._is_over:
            return
        self.window_s += seconds
        self.scope.deadline += seconds
        self._ends_at += seconds
        request.seconds, request.reason = seconds, reason or "the guest daemon gives no reason"
        request.answered.set()

    def end(self) -> None:
        """Takes the end of the handler: whoever waits for more time is granted none."""
        self._is_over = True
        for request in self._requests.values():
            request.reason = _OVER
            request.answered.set()
        self._requests.clear()


def _check(seconds: object) -> None:
    if type(seconds) is not int:
        raise TypeError(f"seconds: {seconds!r} is not a whole number")
    if not 1 <= seconds <= MOST_S:
        raise ValueError(f"seconds: {seconds} is not 1 to {MOST_S}")
