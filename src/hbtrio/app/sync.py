"""Runs an application in the background of a program without an event loop.

::

    from hbtrio.app import Application, Notice
    from hbtrio.app.sync import in_background

    def drain(notice: Notice) -> None: ...

    with in_background(Application("web", on_notice=drain)):
        server.serve_forever()
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from hbtrio.app.application import Application, votable
from hbtrio.wire.vocabulary import Event

_log = logging.getLogger("hbtrio.app")

#: What wakes the event loop: the application is ready for an event; the block is left.
_READY: Final = b"r"
_LEAVE: Final = b"x"


class Background:
    """An application that runs in the background. Its methods may be called from any thread.

    anyio's portal is not used: if its event loop has ended, or belongs to another process after a
    fork, the portal raises its own errors or waits for ever.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        self._pid = os.getpid()
        #: Notified on each change in the event loop.
        self._changed = threading.Condition()
        self._runs = False
        self._ended = False
        self._cause: BaseException | None = None
        self._ready: deque[Event] = deque()
        # Wakes the event loop, or ends it; any thread can write without waiting.
        self._leave, self._left = socket.socketpair()
        self._thread = threading.Thread(
            target=self._run, name=f"hbtrio.app {app.name}", daemon=True
        )

    @property
    def registered(self) -> bool:
        """Whether the application is registered with the guest daemon now."""
        return self._app.registered

    def wait_registered(self, timeout_s: float) -> None:
        """Blocks until the application is registered.

        Args:
            timeout_s: the longest wait, in seconds.

        Raises:
            Refused: the guest daemon refused the last attempt to register.
            RuntimeError: the application is no longer running; the cause is the error that ended
                it.
            TimeoutError: the application is not registered after ``timeout_s``.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(f"application {self._app.name} runs in another process")
        with self._changed:
            if not self._changed.wait_for(self._is_registered, timeout_s):
                raise TimeoutError(f"{self._app.name} is not registered after {timeout_s:g} s")

    def ready_for(self, event: Event | str) -> None:
        """Says what :meth:`hbtrio.app.Application.ready_for` does, soon; does not block.

        Raises:
            ValueError: the event can't be voted on.
            RuntimeError: the application is no longer running, or runs in another process.
        """
        known = votable(event)
        if self._ended or os.getpid() != self._pid:
            raise RuntimeError(f"application {self._app.name} is not running") from self._cause
        if known not in self._ready:  # so there are few
            self._ready.append(known)
            self._leave.send(_READY)

    def _is_registered(self) -> bool:
        if self._ended:
            raise RuntimeError(f"application {self._app.name} is not running") from self._cause
        return self._app._is_registered()

    # -- its thread -------------------------------------------------------------------------

    def _start(self) -> None:
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._runs or self._ended)
        if self._cause is not None and not self._runs:
            self._join()
            raise self._cause

    def _stop(self) -> None:
        # A forked child must not stop the parent's event loop.
        if os.getpid() == self._pid:
            self._leave.send(_LEAVE)
            self._join()

    def _join(self) -> None:
        self._thread.join()
        self._leave.close()
        self._left.close()

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend="asyncio")
        except BaseException as error:  # noqa: BLE001  it is raised when the block is left
            self._cause = error
            if self._runs and os.getpid() == self._pid:
                _log.error(
                    "%s has stopped and is no longer registered", self._app.name, exc_info=error
                )
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    async def _serve(self) -> None:
        async with self._app:
            self._app._listen(self._notify)
            self._runs = True
            self._notify()
            while True:
                await anyio.wait_readable(self._left)
                words = self._left.recv(64)
                while self._ready:
                    await self._app.ready_for(self._ready.popleft())
                if _LEAVE in words:
                    return

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


@contextmanager
def in_background(app: Application) -> Iterator[Background]:
    """Runs an application in a thread with its own asyncio event loop.

    The application is registered while the block runs, as with ``async with``. Handlers that are
    plain functions are called in further threads and may block: one thread for votes and notices,
    one for the health. A thread whose window has closed can't be stopped; its result is dropped.
    Coroutine functions run in the event loop and must not block.

    Leaving the block doesn't wait for handlers in threads, which are daemon threads and end with
    the process. A forked child that leaves the block doesn't affect the parent's application.

    Raises:
        RuntimeError: the application is running already.
        BaseException: the error that ended the event loop, such as ``sys.exit()`` in a coroutine
            handler. It is logged at once and raised when the block is left.
    """
    background = Background(app)
    background._start()
    try:
        yield background
    finally:
        background._stop()
    if background._cause is not None:
        raise background._cause
