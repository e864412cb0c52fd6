"""The VIM's side of the agent's requests, on a blocking poll: whoever measures must be quick."""

from __future__ import annotations

import select
import socket
import sys
import time
from typing import Final

from bench.vim_wire import is_whole
from hbtrio.lab.fake_vim import loopback_socket

_BACKLOG: Final = 1024

#: Nothing more is waiting for the VIM once it has heard nothing for so long, in seconds.
_QUIET_S: Final = 1.5


class WireVim:
    """A VIM on a port of the loopback, which closes what comes without an answer, as the VIM does.

    Args:
        port: where it listens.
    """

    def __init__(self, port: int) -> None:
        self.poll = select.poll()
        self._listener = loopback_socket(port)
        self._listener.listen(_BACKLOG)
        self.poll.register(self._listener, select.POLLIN)
        self._callers: dict[int, tuple[socket.socket, bytearray]] = {}

    def until_told(self) -> None:
        """Hears what comes until there is a line on standard input, and then until it is quiet."""
        told = sys.stdin.fileno()
        self.poll.register(told, select.POLLIN)
        while told not in (ready := [fd for fd, _ in self.poll.poll()]):
            for fd in ready:
                self.hear(fd)
        self.poll.unregister(told)
        while waiting := self.poll.poll(_QUIET_S * 1e3):
            for fd, _ in waiting:
                self.hear(fd)

    def rest(self, seconds: float) -> None:
        """Hears what comes for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for fd, _ in self.poll.poll(left * 1e3):
                self.hear(fd)

    def hear(self, fd: int) -> bytes:
        """Reads of a caller; what it had to say, once that is whole."""
        if fd == self._listener.fileno():
            caller, _ = self._listener.accept()
            self._callers[caller.fileno()] = caller, bytearray()
            self.poll.register(caller, select.POLLIN)
            return b""
        caller, said = self._callers[fd]
        data = caller.recv(65536)
        said += data
        if data and not is_whole(said):
            return b""
        del self._callers[fd]
        self.poll.unregister(fd)
        caller.close()
        return bytes(said)

    def close(self) -> None:
        """Ends it."""
        for caller, _ in self._callers.values():
            caller.close()
        self._listener.close()
