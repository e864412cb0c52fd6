"""Where log records are written: standard error, or the syslog daemon.

The log's own thread writes, and may block for as long as nobody reads. So none of this is a
``logging.Handler``: the interpreter takes each handler's lock when it exits, and the thread would
hold it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from typing import Final, Protocol

from hbtrio.errors import os_reason
from hbtrio.log.lines import Lines, severity
from hbtrio.stderr import write_stderr

#: The facility "daemon" of syslog(3).
_FACILITY: Final = 3


class LogTarget(Protocol):
    """Takes the records of the log; used by one thread."""

    def write(self, record: logging.LogRecord) -> None:
        """Writes a record; blocks while nobody reads.

        Raises:
            OSError: it can't be written.
        """

    def close(self) -> None:
        """Closes what was opened for it; never during a write."""


class StandardError:
    """Writes each record as a line.

    Args:
        lines: what a line looks like.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._stream = sys.stderr

    def write(self, record: logging.LogRecord) -> None:
        """See :class:`LogTarget`."""
        write_stderr(self._stream, f"{self._lines.line(record)}\n")

    def close(self) -> None:
        """See :class:`LogTarget`."""


class Syslog:
    """Sends records to the syslog daemon, and those that fail to another target.

    Each record is tried on a new connection, so no record is lost after a restart of the daemon.

    Args:
        path: the daemon's socket, a datagram or a stream socket.
        ident: the name of the program.
        lines: what a message looks like.
        instead: takes the records that the daemon doesn't.
    """

    def __init__(self, path: str, ident: str, lines: Lines, instead: LogTarget) -> None:
        self._path = path
        self._ident = f"{ident}[{os.getpid()}]"
        self._lines = lines
        self._instead = instead
        self._socket: socket.socket | None = None

    def write(self, record: logging.LogRecord) -> None:
        """See :class:`LogTarget`."""
        text = self._lines.message(record)
        priority = 8 * _FACILITY + severity(record.levelno)
        data = f"<{priority}>{self._ident}: {text}\0".encode("utf-8", "backslashreplace")
        try:
            self._send(data)
        except OSError:
            self._instead.write(record)

    def close(self) -> None:
        """See :class:`LogTarget`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, data: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.sendall(data)
            except OSError:
                self.close()
            else:
                return
        self._socket = _connect(self._path, blocking=True)
        self._socket.sendall(data)


def syslog_fault(path: str) -> str:
    """Returns why the syslog daemon can't be reached, or ""; doesn't wait for a busy one."""
    try:
        _connect(path, blocking=False).close()
    except BlockingIOError:
        return ""
    except OSError as error:
        return os_reason(error)
    return ""


def _connect(path: str, *, blocking: bool) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        try:
            connection.connect(path)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            connection.close()
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(blocking)
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
