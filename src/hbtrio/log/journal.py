"""Sends log records to systemd's journal by its native protocol, with fields to search by.

systemd connects a service's standard error to the journal and tells in ``JOURNAL_STREAM`` which
file that is, see systemd.exec(5). A line that is written there has a text only; by the protocol
that systemd.io/JOURNAL_NATIVE_PROTOCOL describes it has an instance, a name, a host and an event.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from errno import EMSGSIZE, ENOBUFS
from typing import Final

from hbtrio.log.lines import Lines, fields_of, severity
from hbtrio.log.subject import Subject
from hbtrio.log.targets import LogTarget

#: The journal's socket.
JOURNAL: Final = "/run/systemd/journal/socket"

#: The journal's names of our fields.
_NAMES: Final = {"uuid": "INSTANCE", "name": "NAME", "host": "HOST", "event": "EVENT"}

#: What the journal wants of a file that it is sent: nobody can change it any more.
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Journal:
    """Sends records to the journal, and those that fail to another target.

    A journal that is busy or stopped makes the send wait; the log's thread is made for that.

    Args:
        path: the journal's socket.
        ident: the name of the program.
        lines: what a message looks like.
        own: whom lines are about that name nobody else.
        instead: takes the records that the journal doesn't.
    """

    def __init__(
        self, path: str, ident: str, lines: Lines, own: Subject, instead: LogTarget
    ) -> None:
        self._path = path
        self._ident = ident
        self._lines = lines
        self._own = own
        self._instead = instead
        self._socket: socket.socket | None = None

    def write(self, record: logging.LogRecord) -> None:
        """See :class:`LogTarget`."""
        fields = {
            "MESSAGE": self._lines.message(record),
            "PRIORITY": str(severity(record.levelno)),
            "SYSLOG_IDENTIFIER": self._ident,
        }
        for key, value in fields_of(record, self._own).items():
            fields[_NAMES[key]] = value
        try:
            self._send(encoded(fields))
        except OSError:
            self._instead.write(record)

    def close(self) -> None:
        """See :class:`LogTarget`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, data: bytes) -> None:
        # Unconnected, so that a journal that was started anew gets the next record.
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in (EMSGSIZE, ENOBUFS):
                raise
            self._send_file(self._socket, data)

    def _send_file(self, sender: socket.socket, data: bytes) -> None:
        fd = os.memfd_create("hbtrio-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            sender.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)


def encoded(fields: Mapping[str, str]) -> bytes:
    """Returns the fields of one entry in the journal's format.

    Args:
        fields: by their names in upper case. A value may have several lines.
    """
    parts = []
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            parts.append(b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), value))
    return b"".join(parts)


def is_standard_error(environment: Mapping[str, str], fd: int = 2) -> bool:
    """Returns whether systemd has connected standard error to the journal.

    Args:
        environment: whose ``JOURNAL_STREAM`` names the journal's stream, as device and inode. A
            child of a service inherits it, with another standard error perhaps.
        fd: the descriptor of standard error.
    """
    with suppress(OSError, ValueError):
        device, inode = map(int, environment.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) == (device, inode)
    return False
