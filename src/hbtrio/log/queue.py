"""Queues log records for the thread that writes them, so that who logs never waits.

Records that don't fit are dropped and counted, and the count is logged as soon as the queue has
room. So are records beyond the bounds of :mod:`hbtrio.log.limits`, and, while the daemon is
overloaded, those below level warning.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Final

from hbtrio.log.limits import LineLimits, Withheld
from hbtrio.log.subject import NOBODY, Find, Subject, by_uuid, note_subject, subject_of

#: The most queued records.
QUEUE: Final = 10_000


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
        self._lines_dropped = 0
        #: How many lines were taken, and could not be written; counted by the writer's thread.
        self.lines_unwritten = 0
        #: What is known of whom a line names. A daemon sets it to what knows its instances.
        self.find: Find = by_uuid
        #: Taken from the queue, or due besides, and not yet returned by :meth:`next`.
        self._taken: deque[logging.LogRecord] = deque()
        self._ended = False

    @property
    def lines_dropped(self) -> int:
        """All lines that were lost: a slow writer, an overload, or a target that takes nothing."""
        return self._lines_dropped + self.lines_unwritten

    def shed(self, shedding: bool) -> None:  # noqa: FBT001 - a callback with this one argument
        """Drops and counts lines below level warning from now on, or logs them again."""
        with self._locked():
            self._shedding = shedding
            if self._shed and not shedding:
                self._put(note(f"{self._shed} log lines below level warning dropped"))
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
            self._lines_dropped += 1
            return
        place, now = (record.pathname, record.lineno), time.monotonic()
        if self._limits.allows(place, _subject(record), now):
            self._put(_formatted(record, self.find))
        elif self._limits.withhold(place, now, lambda: _withheld(record, self.find, now)):
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
            self._taken.extend(note(one.text, one.level, one.subject) for one in withheld)
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
                self._queue.put_nowait(note(f"{self._dropped} log records were dropped"))
                self._dropped = 0
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1
            self._lines_dropped += 1


def _formatted(record: logging.LogRecord, find: Find) -> logging.LogRecord:
    """Formats now, because the arguments may change before the thread writes the record."""
    note_subject(record, find)
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


def _withheld(record: logging.LogRecord, find: Find, now: float) -> Withheld:
    record = _formatted(record, find)
    return Withheld(now, record.getMessage(), record.levelno, subject=subject_of(record))


def note(text: str, level: int = logging.WARNING, subject: Subject = NOBODY) -> logging.LogRecord:
    """Returns a record of the log about itself, or one that stands for others.

    Args:
        text: its text.
        level: a number of :mod:`logging`.
        subject: whom it is about.
    """
    fields = {"levelname": logging.getLevelName(level), "levelno": level, "msg": text}
    return logging.makeLogRecord({**fields, "subject": subject})
