"""A scripted guest daemon, under any event loop."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from hbtrio.testing.application import WAIT_S, GuestApplication

#: Where a socket's path is made if the directory for temporary files has too long a name.
_SHORT_DIRECTORY: Final = "/tmp"

#: What a path may have for connect(2) to take it, in bytes.
_MAX_PATH_BYTES: Final = 107


#: The class has a property of the module's name.
_Connection = socket.socket


class ScriptedGuest:
    """A guest daemon that does what a test says; an asynchronous context manager.

    While the block runs, it listens, challenges the applications that register at their intervals,
    and asks them what the test asks.

    Args:
        socket: the path to listen at, at most 107 bytes; None: in a new temporary directory, which
            is removed when the block is left.

    Raises on entering:
        OSError: the socket can't be made, for example because the path exists.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._path = None if socket is None else os.fspath(socket)
        self._made: AsyncExitStack | None = None
        self._tasks: TaskGroup | None = None
        self._listener: _Listener | None = None
        self._applications: list[GuestApplication] = []
        self._changed = anyio.Event()
        #: Whether registrations are refused, as by a daemon to which the interval is too short.
        self.refuses = False

    @property
    def socket(self) -> str:
        """The path where applications connect.

        Raises:
            RuntimeError: it is not known before the block is entered.
        """
        if self._path is None:
            raise RuntimeError("the scripted guest has no socket before its block is entered")
        return self._path

    @property
    def applications(self) -> list[GuestApplication]:
        """The registered applications, in the order in which they connected."""
        return [one for one in self._applications if one.registered]

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("the scripted guest is running already")
        async with AsyncExitStack() as made:
            if self._path is None:
                directory = made.enter_context(socket_directory())
                made.callback(setattr, self, "_path", None)
                self._path = os.path.join(directory, "api")
            # Before the task group, which would wrap its fault.
            listener = _Listener(self._path)
            self._tasks = await made.enter_async_context(anyio.create_task_group())
            made.callback(setattr, self, "_tasks", None)
            self._listen(listener)
            self._made = made.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._made is not None
        with anyio.CancelScope(shield=True):
            await self.stop()
        made, self._made = self._made, None
        # An exception of the block is raised as it is, not in the task group's.
        await made.aclose()

    async def start(self) -> None:
        """Listens; does nothing if it listens already.

        Raises:
            OSError: the socket can't be made.
            RuntimeError: the block is not entered.
        """
        if self._tasks is None:
            raise RuntimeError("the scripted guest is not running")
        await anyio.lowlevel.checkpoint()
        if self._listener is None:
            self._listen(_Listener(self.socket))

    async def stop(self) -> None:
        """Ends as a daemon does: removes the socket, then closes the connections.

        Does nothing if it is stopped. Returns once all is closed.
        """
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.stop()
            await listener.ended.wait()

    async def restart(self) -> None:
        """Stops and starts: applications find their connection closed, and register anew."""
        await self.stop()
        await self.start()

    async def wait_registered(
        self, name: str | None = None, *, timeout_s: float = WAIT_S
    ) -> GuestApplication:
        """Waits until an application of this name is registered, and returns it.

        Args:
            name: None: any application. Of several the one that connected first is returned.
            timeout_s: the longest wait, in seconds.

        Raises:
            TimeoutError: none is registered after ``timeout_s`` seconds; the text names those that
                are.
        """
        with anyio.move_on_after(timeout_s):
            while (found := self._named(name)) is None:
                await self._changed.wait()
            return found
        raise TimeoutError(
            f"no application {'' if name is None else f'{name!r} '}registered within "
            f"{timeout_s:g} s; {self._who()}"
        )

    async def wait_gone(self, name: str, *, timeout_s: float = WAIT_S) -> None:
        """Waits until no application of this name is registered.

        Raises:
            TimeoutError: one still is after ``timeout_s`` seconds.
        """
        with anyio.move_on_after(timeout_s):
            while self._named(name) is not None:
                await self._changed.wait()
            return
        raise TimeoutError(f"{name} is still registered after {timeout_s:g} s")

    def _named(self, name: str | None) -> GuestApplication | None:
        found = (one for one in self.applications if name in (None, one.name))
        return next(found, None)

    def _who(self) -> str:
        names = ", ".join(one.name for one in self.applications) or "nobody"
        others = len(self._applications) - len(self.applications)
        return f"registered: {names}; connected without a registration: {others}"

    # -- its tasks --------------------------------------------------------------------------------

    def _listen(self, listener: _Listener) -> None:
        assert self._tasks is not None
        self._listener = listener
        self._tasks.start_soon(self._serve, listener)

    async def _serve(self, listener: _Listener) -> None:
        try:
            with listener.scope:
                async with anyio.create_task_group() as connections:
                    while True:
                        await anyio.wait_readable(listener.socket)
                        with suppress(BlockingIOError):
                            connection, _ = listener.socket.accept()
                            connection.setblocking(False)
                            connections.start_soon(self._converse, connection)
        finally:
            listener.stop()
            listener.socket.close()
            listener.ended.set()

    async def _converse(self, connection: _Connection) -> None:
        application = GuestApplication(connection, self._note_change, lambda: self.refuses)
        self._applications.append(application)
        try:
            await application.run()
        finally:
            self._applications.remove(application)
            self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class _Listener:
    """A listening socket, and the scope of its connections."""

    def __init__(self, path: str) -> None:
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind(path)
            self.socket.setblocking(False)
            self.socket.listen(128)
        except BaseException:
            self.socket.close()
            raise

    def stop(self) -> None:
        """Refuses connections, then has those that are there closed."""
        if not self.scope.cancel_called:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self.socket.shutdown(socket.SHUT_RDWR)
            self.scope.cancel()


def socket_directory() -> tempfile.TemporaryDirectory[str]:
    """Makes a temporary directory, short enough for the path of a socket in it."""
    made = tempfile.TemporaryDirectory(prefix="hbtrio-")
    if len(os.fsencode(made.name)) + len("/api") > _MAX_PATH_BYTES:
        made.cleanup()
        made = tempfile.TemporaryDirectory(prefix="hbtrio-", dir=_SHORT_DIRECTORY)
    return made
