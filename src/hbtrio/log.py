"""Configures logging so that a slow log never delays a heartbeat.

Writing to a stalled syslog socket or a paused terminal blocks. So records go through a bounded
queue to a thread that writes them. Records that don't fit are dropped and counted, and the count is
logged as soon as the queue has room.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from hbtrio.errors import os_reason
from hbtrio.text import blanked, printable_lines

#: The syslog daemon's socket.
_DEV_LOG: Final = "/dev/log"

#: The most queued records.
QUEUE: Final = 10_000

#: Longer texts are cut to this many characters, because they may contain a tenant's text.
_LENGTH: Final = 2000

#: Stands before each line of a traceback.
_INDENT: Final = "  "

#: How long the queued records may take to be written at the end, in seconds.
_FLUSH_S: Final = 0.5


class LogOnce:
    """Limits a recurring fault to one log line until its text changes or the fault ends.

    Check before logging::

        if self._fault.is_new(text):
            _log.warning("agent: %s; retrying", text)
    """

    def __init__(self) -> None:
        self._last = ""

    def is_new(self, text: str) -> bool:
        """Returns whether this text differs from the last one; must not be empty."""
        is_new = text != self._last
        self._last = text
        return is_new

    def clear(self) -> bool:
        """Ends the fault, so that any text is new again; returns whether there was a fault."""
        was_logged = bool(self._last)
        self._last = ""
        return was_logged


@contextmanager
def logging_to(target: str, *, ident: str, level: str = "info", prefix: str = "") -> Iterator[None]:
    """Sends all logging of the process to ``target`` while the block runs.

    Args:
        target: "stderr", or "syslog" (facility daemon, through /dev/log).
        ident: the name of the program in syslog.
        level: debug, info, warning or error.
        prefix: text before each message, for operators who search for it.

    Leaving the block writes the queued records, for up to 0.5 s. While syslog can't be reached,
    records go to standard error.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(prefix, bare=False))
    fault = ""
    if target == "syslog":
        fault = _syslog_fault()
        handler = _Syslog(ident, instead=handler)
        handler.setFormatter(_OneLine(prefix, bare=True))
    records: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE)
    writer = threading.Thread(target=_write, args=(records, handler), name="log", daemon=True)
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    root.handlers[:] = [_Queueing(records)]
    root.setLevel(level.upper())
    # Log only the problems of libraries.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    writer.start()
    if fault:
        logging.getLogger("hbtrio.log").error("syslog: %s; logging to standard error", fault)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        with suppress(queue.Full):
            records.put_nowait(None)
        # Don't wait longer for a stalled reader: the thread is a daemon thread.
        writer.join(_FLUSH_S)
        if not writer.is_alive():
            handler.close()


def _write(records: queue.Queue[logging.LogRecord | None], handler: logging.Handler) -> None:
    while (record := records.get()) is not None:
        handler.handle(record)


class _Queueing(logging.Handler):
    """Queues records without waiting."""

    def __init__(self, records: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__()
        self._records = records
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        # Format now, because the arguments may change before the thread writes the record.
        try:
            record.msg, record.args = record.getMessage(), None
        except (TypeError, ValueError):
            # A faulty log call must not raise in its caller.
            record.msg, record.args = f"{record.msg} {record.args!r}", None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        try:
            if self._dropped:
                note = logging.makeLogRecord(
                    {"levelname": "WARNING", "msg": f"{self._dropped} log records were dropped"}
                )
                self._records.put_nowait(note)
                self._dropped = 0
            self._records.put_nowait(record)
        except queue.Full:
            self._dropped += 1


class _OneLine(logging.Formatter):
    """Formats a record as one line, whatever a tenant's text contains, plus its traceback."""

    def __init__(self, prefix: str, *, bare: bool) -> None:
        super().__init__()
        self._prefix = f"{prefix} " if prefix else ""
        self._bare = bare

    def format(self, record: logging.LogRecord) -> str:
        text = blanked(record.getMessage()[:_LENGTH])
        # A traceback is unreadable on one line. An exception's message may hold a tenant's text:
        # indented, no line of it looks like a record.
        if record.exc_text:
            text = f"{text}\n{textwrap.indent(printable_lines(record.exc_text), _INDENT)}"
        if self._bare:
            return f"{self._prefix}{text}"
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{now}.{int(record.msecs):03d} {record.levelname} {self._prefix}{text}"


class _Syslog(logging.handlers.SysLogHandler):
    """Sends records to the syslog daemon, and those that fail to another handler.

    Each record is tried again, so no record is lost after a restart of the daemon.
    """

    def __init__(self, ident: str, *, instead: logging.Handler) -> None:
        super().__init__(_DEV_LOG, facility=logging.handlers.SysLogHandler.LOG_DAEMON)
        self.ident = f"{ident}[{os.getpid()}]: "
        self._instead = instead

    def handleError(self, record: logging.LogRecord) -> None:
        """Passes the record to the other handler; the default prints a traceback per record."""
        self._instead.handle(record)


def _syslog_fault() -> str:
    """Returns why the syslog daemon can't be reached, or ""; SysLogHandler doesn't report it."""
    fault = ""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            try:
                probe.connect(_DEV_LOG)
            except OSError as error:
                fault = os_reason(error)
            else:
                return ""
    return fault
