"""Calls an application's handlers: coroutine functions in the event loop, others in threads.

If a handler raises, doesn't finish in time or returns something else, that is logged and no
response is sent. The guest then treats the application as silent (PROTOCOL.md, section 4): a vote
or notice counts as consent when its window ends, and a challenge without a response makes the
application count as hung. A default response would hide a broken application from the operator.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
import os
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Generic, TypeVar

import anyio
from anyio import from_thread
from anyio.lowlevel import current_token

try:
    from sniffio import current_async_library_cvar as _library
except ModuleNotFoundError:  # it came with older versions of anyio; trio still has it
    _library = None  # type: ignore[assignment]

_log = logging.getLogger("hbtrio.app")

#: The most running threads of one handler. Usually there is one; others are calls whose window has
#: closed, because a thread can't be stopped.
MAX_THREADS: Final = 4


class NoAnswer(Enum):
    """The result of :meth:`Handler.answer` if no response is to be sent."""

    SILENT = "silent"


SILENT: Final = NoAnswer.SILENT

_Answer = TypeVar("_Answer")


class _FailedInThread(Exception):
    """Carries the exception of a function in a thread as its cause, to not end the event loop."""


class Handler(Generic[_Answer]):
    """One of the application's handlers.

    Args:
        function: a coroutine function, which runs in the event loop, or another callable, which is
            called in a thread of its own and may block.
        what: the handler's name in the log, such as ``vote``.
        application: the application's name in the log.
        takes: the classes of its arguments.
        returns: the classes of its valid results.
        every_failure: whether each failure is logged as an error. Otherwise only the first of
            several in a row is, and the others as debug.

    Raises:
        TypeError: the function is not callable, or not with these arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        *,
        application: str,
        takes: tuple[type, ...],
        returns: tuple[type[_Answer], ...],
        every_failure: bool,
    ) -> None:
        _check_call(function, what, takes)
        self._function = function
        self._what = what
        self._application = application
        self._returns = returns
        self._every_failure = every_failure
        self._failed = False
        self._threads = threading.BoundedSemaphore(MAX_THREADS)
        self._in_loop = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        )

    async def answer(self, *arguments: object, scope: anyio.CancelScope) -> _Answer | NoAnswer:
        """Calls the handler and returns its result, or :data:`SILENT` if it failed.

        Args:
            arguments: the handler's arguments.
            scope: cancels the handler at its deadline, which may be put off meanwhile.

        Cancellation cancels the handler. A thread goes on, but its result is dropped.
        """
        about = " ".join([self._what, *(str(getattr(a, "event", "")) for a in arguments)])
        try:
            with scope:
                result = await self._call(*arguments)
        except _FailedInThread as failure:
            return self._silent(f"{about}: the handler failed", failure.__cause__)
        except Exception as error:  # noqa: BLE001  no error of a handler may end the application
            return self._silent(f"{about}: the handler failed", error)
        except anyio.get_cancelled_exc_class() as error:
            if _is_being_cancelled():
                raise
            # On asyncio, awaiting a cancelled future or task raises this.
            return self._silent(f"{about}: the handler was cancelled by its own code", error)
        except BaseExceptionGroup as group:
            return self._silent(f"{about}: the handler failed", _faults_alone(group))
        # Compare the clock too: code that blocked the event loop was not cancelled.
        if scope.cancel_called or anyio.current_time() >= scope.deadline:
            return self._silent(f"{about}: the handler did not finish in time")
        if not isinstance(result, self._returns):
            wanted = " or ".join(
                "None" if cls is type(None) else f"{cls.__name__}(...)" for cls in self._returns
            )
            return self._silent(f"{about}: the handler returned {result!r:.100}, not {wanted}")
        self._failed = False
        return result

    def _silent(self, text: str, error: BaseException | None = None) -> NoAnswer:
        known = self._failed and not self._every_failure
        self._failed = True
        level = logging.DEBUG if known else logging.ERROR
        _log.log(level, "%s: %s; no response is sent", self._application, text, exc_info=error)
        return SILENT

    async def _call(self, *arguments: object) -> Any:
        if self._in_loop:
            return await self._function(*arguments)
        result = await self._call_in_thread(*arguments)
        # For example a lambda that calls a coroutine function.
        return await result if inspect.isawaitable(result) else result

    async def _call_in_thread(self, *arguments: object) -> Any:
        # anyio's own threads are not daemons on asyncio, so a handler that hangs would keep the
        # process from ending; and asyncio doesn't limit the number of abandoned threads.
        if not self._threads.acquire(blocking=False):
            raise RuntimeError(f"{MAX_THREADS} earlier calls have not returned")
        done, token, pid = anyio.Event(), current_token(), os.getpid()
        results: list[Any] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(self._function(*arguments))
            except BaseException as error:
                # Also SystemExit: sys.exit() in another thread doesn't end the program.
                errors.append(error)
                if os.getpid() != pid:
                    raise
            finally:
                self._threads.release()
            if os.getpid() != pid:
                return  # a child that the function forked: there is no event loop to notify
            try:
                from_thread.run_sync(done.set, token=token)
            except RuntimeError:  # the event loop has ended meanwhile
                _log.debug(
                    "%s: the %s handler returned after its event loop had ended",
                    self._application,
                    self._what,
                )

        context = contextvars.copy_context()
        if _library is not None:
            # The thread has no event loop, so the function may run its own.
            context.run(_library.set, None)
        threading.Thread(
            target=context.run, args=(run,), name=f"hbtrio.app {self._what}", daemon=True
        ).start()
        await done.wait()
        if errors:
            raise _FailedInThread from errors[0]
        return results[0]


def _check_call(function: Any, what: str, takes: tuple[type, ...]) -> None:
    if not callable(function):
        raise TypeError(f"on_{what}: {function!r} is not callable")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have no signature
        return
    try:
        signature.bind(*takes)
    except TypeError as error:
        wanted = ", ".join(f"a {cls.__name__}" for cls in takes) or "nothing"
        raise TypeError(f"on_{what}: {function!r} must take {wanted}: {error}") from None


def _is_being_cancelled() -> bool:
    """Returns whether an enclosing scope is cancelled, so that the cancellation must propagate."""
    return anyio.current_effective_deadline() == -math.inf


def _faults_alone(group: BaseExceptionGroup) -> BaseException:
    """Returns the exceptions of a handler's own tasks.

    Raises:
        BaseException: the group contains more than exceptions, or a cancellation from outside the
            handler; the latter propagates without the exceptions.
    """
    cancelled, faults = group.split(anyio.get_cancelled_exc_class())
    if faults is not None and not isinstance(faults, Exception):
        raise group
    if cancelled is not None and _is_being_cancelled():
        raise cancelled
    return faults or group
