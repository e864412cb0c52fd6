"""Configures logging so that a slow log never delays a heartbeat.

Writing to a stalled syslog socket or a paused terminal blocks. So records go through a bounded
queue to a thread that writes them. Records that don't fit are dropped and counted, and the count is
logged as soon as the queue has room. So are records beyond the bounds of
:mod:`hbtrio.log_limits`, and, while the daemon is overloaded, those below level warning.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Final

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.log_limits import LineLimits, Withheld
from hbtrio.log_targets import LogTarget, StandardError, Syslog, syslog_fault

#: The syslog daemon's socket.
_DEV_LOG: Final = "/dev/log"

#: The most queued records.
QUEUE: Final = 10_000

#: How long the queued records may take to be written at the end, in seconds.
_FLUSH_S: Final = 0.5


#: Seconds between two lines about a shortage; and without a refusal until it is over.
SHORTAGE_S: Final = 60.0


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


class ShortageLog:
    """Counts what is refused for want of a resource, and logs it once a minute.

    Args:
        log: the logger.
        what: what the shortage causes: ``"channels are not connected"``.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._refused = 0
        self._logged = -math.inf
        self._last = -math.inf

    def refused(self, reason: str, now: float) -> None:
        """Counts a refusal, and logs it unless a line was logged within the last minute.

        Args:
            reason: what there is too little of.
            now: the time, in seconds.
        """
        self._refused += 1
        self._last = now
        if now - self._logged >= SHORTAGE_S:
            self._logged = now
            self._log.error("%s: %s (%d since the last line)", self._what, reason, self._refused)
            self._refused = 0

    def served(self, now: float) -> None:
        """Logs the end of a shortage that has refused nothing for a minute."""
        if self._last > -math.inf and now - self._last >= SHORTAGE_S:
            self._log.warning("no longer: %s", self._what)
            self._logged = self._last = -math.inf
            self._refused = 0


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

    Leaving the block writes the queued records, for up to 0.5 s; a writer that is still blocked
    then doesn't keep the process from ending. While syslog can't be reached, records go to standard
    error.

    Raises:
        UserError: FAILED; no thread can be started.
    """
    output: LogTarget = StandardError(prefix)
    fault = ""
    if target == "syslog":
        fault = syslog_fault(_DEV_LOG)
        output = Syslog(_DEV_LOG, ident, prefix, instead=output)
    records = LogQueue(limits or LineLimits())
    writer = threading.Thread(target=_write, args=(records, output), name="log", daemon=True)
    try:
        writer.start()
    except RuntimeError as error:
        raise UserError(f"log: {error}", ExitStatus.FAILED) from error
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    root.handlers[:] = [records]
    root.setLevel(level.upper())
    # Log only the problems of libraries.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if fault:
        logging.getLogger("hbtrio.log").error("syslog: %s; logging to standard error", fault)
    try:
        yield records
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        records.shed(False)  # so that what was dropped is counted in the end
        records.end()
        # Don't wait longer for a stalled reader: the thread is a daemon thread.
        writer.join(_FLUSH_S)
        if not writer.is_alive():
            output.close()


def _write(records: LogQueue, output: LogTarget) -> None:
    lost, reason = 0, ""
    while (record := records.next()) is not None:
        try:
            if lost:
                output.write(_note(f"{lost} log records could not be written: {reason}"))
                lost = 0
            output.write(record)
        except OSError as error:
            lost, reason = lost + 1, os_reason(error)
        except Exception as error:  # noqa: BLE001 - one record must not end the log
            lost, reason = lost + 1, repr(error)


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
        #: All lines that were dropped, because the writer is slow or in an overload.
        self.lines_dropped = 0
        #: Taken from the queue, or due besides, and not yet returned by :meth:`next`.
        self._taken: deque[logging.LogRecord] = deque()
        self._ended = False

    def shed(self, shedding: bool) -> None:  # noqa: FBT001 - a callback with this one argument
        """Drops and counts lines below level warning from now on, or logs them again."""
        with self._locked():
            self._shedding = shedding
            if self._shed and not shedding:
                self._put(_note(f"{self._shed} log lines below level warning dropped"))
                self._shed = 0

    def end(self) -> None:
        """Makes :meth:`next` return None once it has returned what is queued."""
        while True:
            try:
                self._queue.put_nowait(_Signal.END)
            except queue.Full:
                # The writer is blocked. It ends, should it go on later.
                with suppress(queue.Empty):
                    self._queue.get_nowait()
            else:
                return

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a record that is within the bounds; see :class:`logging.Handler`."""
        if self._shedding and record.levelno < logging.WARNING:
            self._shed += 1
            self.lines_dropped += 1
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
            self.lines_dropped += 1


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
