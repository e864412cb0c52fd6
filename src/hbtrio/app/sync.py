"""Applications for programs made of plain threads, without an event loop of their own.

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
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from hbtrio.app.application import Application

_log = logging.getLogger("hbtrio.app")


class Background:
    """An application that runs in the background. Its methods may be called from any thread.

    anyio's portal is not used: where its event loop has ended, or is another process's after a
    fork, it raises errors of its own or waits for good.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        self._pid = os.getpid()
        #: With it the threads wait for what happens in the loop.
        self._news = threading.Condition()
        self._runs = False
        self._ended = False
        self._cause: BaseException | None = None
        # What the loop waits for; any thread may write to it, at any time, without waiting.
        self._leave, self._left = socket.socketpair()
        self._thread = threading.Thread(
            target=self._run, name=f"hbtrio.app {app.name}", daemon=True
        )

    @property
    def registered(self) -> bool:
        """Whether the guest daemon counts on the application at this moment."""
        return self._app.registered

    def wait_registered(self, timeout_s: float) -> None:
        """Blocks until the application is registered.

        Args:
            timeout_s: how long it waits at the most, in seconds.

        Raises:
            Refused: the guest daemon's last word was that it does not accept the registration.
            RuntimeError: the application is not running any more; what has ended it is its cause.
            TimeoutError: it is not registered yet.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(f"application {self._app.name} runs in another process")
        with self._news:
            if not self._news.wait_for(self._is_registered, timeout_s):
                raise TimeoutError(f"{self._app.name} is not registered after {timeout_s:g} s")

    def _is_registered(self) -> bool:
        if self._ended:
            raise RuntimeError(f"application {self._app.name} is not running") from self._cause
        return self._app._is_registered()

    # -- its thread -------------------------------------------------------------------------

    def _start(self) -> None:
        self._thread.start()
        with self._news:
            self._news.wait_for(lambda: self._runs or self._ended)
        if self._cause is not None and not self._runs:
            self._join()
            raise self._cause

    def _stop(self) -> None:
        # The thread of the loop is the parent's; so is what is said to it.
        if os.getpid() == self._pid:
            self._leave.send(b"x")
            self._join()

    def _join(self) -> None:
        self._thread.join()
        self._leave.close()
        self._left.close()

    def _run(self) -> None:
        try:
            anyio.run(self._attend, backend="asyncio")
        except BaseException as error:  # noqa: BLE001  it is raised where the block is left
            self._cause = error
            if self._runs and os.getpid() == self._pid:
                _log.error("%s runs no more, and is not registered", self._app.name, exc_info=error)
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    async def _attend(self) -> None:
        async with self._app:
            self._app._listen(self._tell)
            self._runs = True
            self._tell()
            await anyio.wait_readable(self._left)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()


@contextmanager
def in_background(app: Application) -> Iterator[Background]:
    """Runs an application in an event loop (asyncio's) in a thread of its own.

    It is registered for as long as the block runs, as with ``async with``. Functions that are its
    handlers are called in further threads, one at a time for votes and notices (a thread whose
    window has closed can't be stopped: its result is dropped), one for the health. They may block;
    coroutine functions run in the loop and must not.

    Leaving the block waits for no handler in a thread: those are daemons, which end with the
    process. A forked child that leaves it leaves the parent's application alone.

    Raises:
        RuntimeError: the application is running already.
        BaseException: what has ended the event loop, such as ``sys.exit()`` in a coroutine function
            that is a handler, when the block is left; it stands in the log as soon as it happens.
    """
    background = Background(app)
    background._start()
    try:
        yield background
    finally:
        background._stop()
    if background._cause is not None:
        raise background._cause
