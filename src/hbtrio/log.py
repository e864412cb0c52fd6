"""Logging that never holds up a heartbeat.

A syslog socket whose reader stalls, or a terminal that is scrolled back, blocks a write for as long
as it likes. So records pass through a bounded queue to a thread that writes them; what does not fit
is dropped and counted, and the count is logged when there is room again.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from hbtrio.errors import os_reason

#: Where the syslog daemon listens.
_DEV_LOG: Final = "/dev/log"

#: Records that may wait for a stalled reader.
QUEUE: Final = 10_000

#: Text of a record beyond this is cut: a tenant's words may be in it.
_LENGTH: Final = 2000

#: How long what is queued may take to be written at the end, in seconds.
_FAREWELL_S: Final = 0.5


class LogOnce:
    """Keeps a fault that is met again and again to one line: until its text changes, or it is over.

    Whoever logs asks first::

        if self._fault.is_new(text):
            _log.warning("agent: %s; retrying", text)
    """

    def __init__(self) -> None:
        self._last = ""

    def is_new(self, text: str) -> bool:
        """Whether this text, which is not empty, differs from the last one; it is the last now."""
        is_new = text != self._last
        self._last = text
        return is_new

    def clear(self) -> bool:
        """The fault is over, and any text is new again; returns whether there was one."""
        was_logged = bool(self._last)
        self._last = ""
        return was_logged


@contextmanager
def logging_to(target: str, *, ident: str, level: str = "info", prefix: str = "") -> Iterator[None]:
    """Sends all logging of the process to ``target`` for as long as the block runs.

    Args:
        target: "stderr", or "syslog" (facility daemon, through /dev/log).
        ident: the name of the program in syslog.
        level: debug, info, warning or error.
        prefix: stands before each text, for operators who search for it.

    At the end what is still queued is written, in bounded time. A syslog that can't be reached is
    said on standard error, where logging goes for as long as that lasts.
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
    # Libraries are heard only when something is wrong with them.
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
        # A reader that stalls is not waited for: the thread is a daemon's.
        writer.join(_FAREWELL_S)
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
        # What the arguments refer to may change or be freed before the thread comes to it.
        try:
            record.msg, record.args = record.getMessage(), None
        except (TypeError, ValueError):
            # A slip in a log call must not end whoever made it.
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
    """One line for each record, whatever a tenant puts into it; a traceback keeps its lines."""

    def __init__(self, prefix: str, *, bare: bool) -> None:
        super().__init__()
        self._prefix = f"{prefix} " if prefix else ""
        self._bare = bare

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()[:_LENGTH]
        text = "".join(c if c.isprintable() else " " for c in text)
        # A traceback holds source and paths, no tenant's words, and is unreadable on one line.
        if record.exc_text:
            text = f"{text}\n{record.exc_text}"
        if self._bare:
            return f"{self._prefix}{text}"
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{now}.{int(record.msecs):03d} {record.levelname} {self._prefix}{text}"


class _Syslog(logging.handlers.SysLogHandler):
    """Sends to the system's daemon, and what that does not take to another handler.

    The daemon is tried again with every record, so that its restart costs none of those after it.
    """

    def __init__(self, ident: str, *, instead: logging.Handler) -> None:
        super().__init__(_DEV_LOG, facility=logging.handlers.SysLogHandler.LOG_DAEMON)
        self.ident = f"{ident}[{os.getpid()}]: "
        self._instead = instead

    def handleError(self, record: logging.LogRecord) -> None:
        """Hands on what could not be sent; logging's own way is a traceback for each record."""
        self._instead.handle(record)


def _syslog_fault() -> str:
    """Why the daemon can't be reached, or nothing: the handler does not say it by itself."""
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
