"""Serves a simulated VIM on a loopback port."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import trio

from hbtrio.lab.vim_server import KEPT, VimServer


class FakeVim(VimServer):
    """A simulated VIM on a loopback port.

    Args:
        port: the port; 0 for a free one, see :attr:`port`.
        kept: requests that are kept at most.
    """

    def __init__(self, port: int = 0, kept: int = KEPT) -> None:
        super().__init__(self._listener, kept)
        # Bound but never listening: it keeps the port while the VIM is down, and the kernel refuses
        # connections to it.
        self._place = loopback_socket(port)
        self.port: int = self._place.getsockname()[1]

    @property
    def url(self) -> str:
        """The URL of this VIM, for a configuration."""
        return f"http://127.0.0.1:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled."""
        try:
            await super().run(task_status=task_status)
        finally:
            self._place.close()

    def _listener(self) -> trio.SocketListener:
        sock = loopback_socket(self.port)
        sock.listen(128)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


@contextlib.asynccontextmanager
async def fake_vim(port: int = 0) -> AsyncIterator[FakeVim]:
    """Runs a simulated VIM within the block."""
    vim = FakeVim(port)
    async with trio.open_nursery() as nursery:
        await nursery.start(vim.run)
        yield vim
        nursery.cancel_scope.cancel()


def loopback_socket(port: int = 0) -> socket.socket:
    """Makes a socket that reserves a loopback port without listening; another socket may listen."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Two sockets share the port: one reserves it and one listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
