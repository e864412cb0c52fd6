"""Calling what the application's author wrote: coroutine functions in the loop, others in threads.

A handler that raises, is not done in time or returns something else has given no answer. That is
logged, and what follows is what the guest does about silence: a vote or a notice counts as agreed
when its window ends, and a health check that says nothing leaves the challenge open until the guest
takes the application for hung (PROTOCOL.md, section 4). An answer of our own instead would hide
from the operator that the application is broken.
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

#: Threads of one handler that may be running at once. One is the rule; more are those whose window
#: has closed, for a thread can't be stopped.
MAX_THREADS: Final = 4


class NoAnswer(Enum):
    """What :meth:`Handler.answer` returns when there is no answer."""

    SILENT = "silent"


SILENT: Final = NoAnswer.SILENT

_Answer = TypeVar("_Answer")


class _FailedInThread(Exception):
    """A function in a thread has raised its cause: whatever that is, it ends no event loop."""


class Handler(Generic[_Answer]):
    """One of the author's functions.

    Args:
        function: a coroutine function, which runs in the event loop, or any other callable, which
            is called in a thread of its own: it may block.
        what: its name in the log, such as ``vote``.
        application: the name of its application in the log.
        takes: the classes of its arguments.
        returns: the classes that its result may have.
        every_failure: whether each failure is an error in the log. Otherwise only the first in a
            row is, and the rest are there for debugging.

    Raises:
        TypeError: it can't be called, or not with these arguments.
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

    async def answer(self, *arguments: object, deadline: float) -> _Answer | NoAnswer:
        """Calls it and returns what it says, or :data:`SILENT`.

        Args:
            arguments: what it is called with.
            deadline: when it is cancelled, in terms of :func:`anyio.current_time`.

        Cancelled from outside, it cancels the handler. A thread goes on, and its result is dropped.
        """
        about = " ".join([self._what, *(str(getattr(a, "event", "")) for a in arguments)])
        try:
            with anyio.CancelScope(deadline=deadline) as scope:
                result = await self._call(*arguments)
        except _FailedInThread as failure:
            return self._silent(f"{about}: the handler failed", failure.__cause__)
        except Exception as error:  # noqa: BLE001  whatever the author's code raises ends here
            return self._silent(f"{about}: the handler failed", error)
        except anyio.get_cancelled_exc_class() as error:
            if _is_being_cancelled():
                raise
            # On asyncio that is what awaiting a cancelled future or task raises.
            return self._silent(f"{about}: the handler was cancelled by its own code", error)
        except BaseExceptionGroup as group:
            return self._silent(f"{about}: the handler failed", _faults_alone(group))
        # The clock too: what has blocked the event loop was never cancelled.
        if scope.cancel_called or anyio.current_time() >= deadline:
            return self._silent(f"{about}: the handler was not done in time")
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
        _log.log(level, "%s: %s; it is not answered", self._application, text, exc_info=error)
        return SILENT

    async def _call(self, *arguments: object) -> Any:
        if self._in_loop:
            return await self._function(*arguments)
        result = await self._call_in_thread(*arguments)
        # Such as of a lambda that calls a coroutine function.
        return await result if inspect.isawaitable(result) else result

    async def _call_in_thread(self, *arguments: object) -> Any:
        # anyio's own threads would keep a process from ending for as long as a handler hangs (on
        # asyncio they are no daemons), and on asyncio no limit holds for those that are abandoned.
        if not self._threads.acquire(blocking=False):
            raise RuntimeError(f"{MAX_THREADS} earlier calls have not returned")
        done, token, pid = anyio.Event(), current_token(), os.getpid()
        results: list[Any] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(self._function(*arguments))
            except BaseException as error:
                # sys.exit() too: whoever wants to end the program has to do it in its own thread.
                errors.append(error)
                if os.getpid() != pid:
                    raise
            finally:
                self._threads.release()
            if os.getpid() != pid:
                return  # a child that the function has forked: there is no loop to tell
            try:
                from_thread.run_sync(done.set, token=token)
            except RuntimeError:  # the loop has ended meanwhile: nobody waits for this
                _log.debug(
                    "%s: the %s handler returned after its event loop had ended",
                    self._application,
                    self._what,
                )

        context = contextvars.copy_context()
        if _library is not None:
            # Here is no event loop, so that the function may run one of its own.
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
        raise TypeError(f"on_{what}: {function!r} can't be called")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins don't tell
        return
    try:
        signature.bind(*takes)
    except TypeError as error:
        wanted = ", ".join(f"a {cls.__name__}" for cls in takes) or "nothing"
        raise TypeError(f"on_{what}: {function!r} is called with {wanted}: {error}") from None


def _is_being_cancelled() -> bool:
    """Whether a scope around this is cancelled, so that the cancellation has to pass."""
    return anyio.current_effective_deadline() == -math.inf


def _faults_alone(group: BaseExceptionGroup) -> BaseException:
    """What a handler's own tasks have raised.

    Raises:
        BaseException: it is more than exceptions, or cancellations from around the handler: those
            go on, without the rest.
    """
    cancelled, faults = group.split(anyio.get_cancelled_exc_class())
    if faults is not None and not isinstance(faults, Exception):
        raise group
    if cancelled is not None and _is_being_cancelled():
        raise cancelled
    return faults or group
