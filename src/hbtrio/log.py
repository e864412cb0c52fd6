"""Configures logging so that a slow log never delays a heartbeat.

Writing to a stalled syslog socket or a paused terminal blocks. So records go through a bounded
queue to a thread that writes them. Records that don't fit are dropped and counted, and the count is
logged as soon as the queue has room. So are records beyond the bounds of
:mod:`hbtrio.log_limits`, and, while the daemon is overloaded, those below level warning.
"""

from __future__ import annotations

import logging
import logging.handlers
import math
import os
import queue
import socket
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Final

from hbtrio.errors import os_reason
from hbtrio.log_limits import LineLimits, Withheld
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
def logging_to(
    target: str,
    *,
    ident: str,
    level: str = "info",
    prefix: str = "",
    limits: LineLimits | None = None,
) -> Iterator[LogQueue]:
    """Sends all logging of the process to ``target`` while the block runs.

    Args:
        target: "stderr", or "syslog" (facility daemon, through /dev/log).
        ident: the name of the program in syslog.
        level: debug, info, warning or error.
        prefix: text before each message, for operators who search for it.
        limits: which lines are logged; by default, those of a daemon with many peers.

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
    records = LogQueue(limits or LineLimits())
    writer = threading.Thread(target=_write, args=(records, handler), name="log", daemon=True)
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    root.handlers[:] = [records]
    root.setLevel(level.upper())
    # Log only the problems of libraries.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    writer.start()
    if fault:
        logging.getLogger("hbtrio.log").error("syslog: %s; logging to standard error", fault)
    try:
        yield records
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        records.end()
        # Don't wait longer for a stalled reader: the thread is a daemon thread.
        writer.join(_FLUSH_S)
        if not writer.is_alive():
            handler.close()


def _write(records: LogQueue, handler: logging.Handler) -> None:
    while (record := records.next()) is not None:
        handler.handle(record)


class _Signal(Enum):
    """What is queued beside records."""

    #: Lines are being withheld, so :meth:`LogQueue.next` has a line to make in a while.
    WITHHOLDING = "withholding"
    END = "end"


class LogQueue(logging.Handler):
    """Queues records without waiting; the writer's thread takes them with :meth:`next`.

    Args:
        limits: which lines are logged.
    """

    def __init__(self, limits: LineLimits) -> None:
        super().__init__()
        self._queue: queue.Queue[logging.LogRecord | _Signal] = queue.Queue(QUEUE)
        self._limits = limits
        self._dropped = 0
        self._shedding = False
        self._shed = 0
        #: Taken from the queue, or due besides, and not yet returned by :meth:`next`.
        self._taken: deque[logging.LogRecord] = deque()
        self._ended = False

    def shed(self, shedding: bool) -> None:  # noqa: FBT001 - a callback with this one argument
        """Drops and counts lines below level warning from now on, or logs them again."""
        with self._locked():
            self._shedding = shedding
            if self._shed and not shedding:
                self._put(_note(f"{self._shed} lines below level warning were dropped"))
                self._shed = 0

    def end(self) -> None:
        """Makes :meth:`next` return None once it has returned what is queued."""
        with suppress(queue.Full):
            self._queue.put_nowait(_Signal.END)

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a record that is within the bounds; see :class:`logging.Handler`."""
        if self._shedding and record.levelno < logging.WARNING:
            self._shed += 1
            return
        place, now = (record.pathname, record.lineno), time.monotonic()
        if self._limits.allows(place, _subject(record), now):
            self._put(_formatted(record))
        elif self._limits.withhold(
            place, now, lambda: Withheld(now, _formatted(record).getMessage(), record.levelno)
        ):
            with suppress(queue.Full):  # else the writer is busy, and will look
                self._queue.put_nowait(_Signal.WITHHOLDING)

    def next(self) -> logging.LogRecord | None:
        """Waits for a record; returns None after the last one."""
        while not self._taken:
            if self._ended:
                return None
            with self._locked():
                due = self._limits.due
            wait_s = None if math.isinf(due) else max(0.0, due - time.monotonic())
            try:
                taken: logging.LogRecord | _Signal = self._queue.get(timeout=wait_s)
            except queue.Empty:
                taken = _Signal.WITHHOLDING
            self._ended = taken is _Signal.END
            now = math.inf if self._ended else time.monotonic()
            with self._locked():
                withheld = self._limits.take_withheld(now)
            self._taken.extend(_note(one.text, one.level) for one in withheld)
            if not isinstance(taken, _Signal):
                self._taken.append(taken)
        return self._taken.popleft()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _put(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                self._queue.put_nowait(_note(f"{self._dropped} log records were dropped"))
                self._dropped = 0
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1


def _formatted(record: logging.LogRecord) -> logging.LogRecord:
    """Formats now, because the arguments may change before the thread writes the record."""
    try:
        record.msg, record.args = record.getMessage(), None
    except (TypeError, ValueError):
        # A faulty log call must not raise in its caller.
        record.msg, record.args = f"{record.msg} {record.args!r}", None
    if record.exc_info:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    return record


def _subject(record: logging.LogRecord) -> str:
    """Whom a line is about: its first argument, if that is text."""
    args = record.args
    return args[0] if args and isinstance(args, tuple) and isinstance(args[0], str) else ""


def _note(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"levelname": logging.getLevelName(level), "levelno": level, "msg": text}
    )


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
