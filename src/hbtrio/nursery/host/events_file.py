"""Writes reports as JSON lines to a file or standard output without delaying a heartbeat.

A stalled pipe or a full disk can block a write indefinitely. So a thread does the writing, behind a
bounded queue; reports that do not fit are counted and logged as lost. A FIFO without a reader is
opened for reading, too, so that the start doesn't wait for one.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import threading
from collections import deque
from datetime import datetime
from typing import Final, NoReturn, Protocol

import attrs
import trio

from hbtrio.errors import ExitStatus, UserError, is_thread_shortage, os_reason
from hbtrio.nursery.host.reports import Report, Reports
from hbtrio.system.file_identity import FileIdentity

_log = logging.getLogger("hbtrio.events")

#: Reports that may wait for a stalled reader.
QUEUE: Final = 10_000

#: Lines of one write at most.
BATCH: Final = 256

#: Seconds that a stopping daemon waits at most until the queued reports are written.
FLUSH_S: Final = 0.5

_TOO_SLOW: Final = "the reader is too slow"


@attrs.frozen
class EventsFault:
    """Events are being lost: since when, the latest reason, and how many so far."""

    since: datetime
    reason: str
    lost: int


class EventsSink(Protocol):
    """Takes a host's reports, as :class:`EventsFile` does."""

    @property
    def target(self) -> str:
        """What it writes to: a path, or "-"."""

    @property
    def fault(self) -> EventsFault | None:
        """The present fault; None while every event is written."""

    async def run(self, reports: Reports, *, task_status: trio.TaskStatus[None]) -> object:
        """Writes every report until cancelled, then what is queued in bounded time."""

    async def reopen(self) -> None:
        """Reopens its file after a log rotation."""

    async def look(self) -> str | None:
        """Returns what happened to its file: "" if nothing did, None if nobody can look now."""


class EventsFile:
    """Writes events to a file or to standard output.

    Args:
        target: a path, appended to, or "-" for standard output.
        flush_s: seconds that a cancelled :meth:`run` goes on writing queued reports, at most.

    Raises:
        UserError: the file can't be opened.
    """

    def __init__(self, target: str, *, flush_s: float = FLUSH_S) -> None:
        self.target = target
        self._flush_s = flush_s
        #: The present fault; None while every event is written.
        self.fault: EventsFault | None = None
        self._pending: deque[bytes] = deque()
        self._writing = threading.Lock()
        #: Whether the last line is incomplete.
        self._torn = False
        self._reopening = False
        if target == "-":
            if sys.stdout is None:
                raise UserError("events file -: standard output is closed")
            self._fd = os.dup(sys.stdout.fileno())
            return
        try:
            self._fd = _open(target)
        except OSError as error:
            denied = isinstance(error, PermissionError)
            raise UserError(
                f"events file {target}: {os_reason(error)}",
                ExitStatus.DENIED if denied else ExitStatus.USAGE,
            ) from error

    async def run(self, reports: Reports, *, task_status: trio.TaskStatus[None]) -> NoReturn:
        """Writes every report until cancelled, then the queued reports for at most ``flush_s``.

        ``task_status`` is set once reports are received, so that none is missed.
        """
        send, queue = trio.open_memory_channel[Report](QUEUE)

        def put(report: Report) -> None:
            try:
                send.send_nowait(report)
            except trio.WouldBlock:
                self._lose(1, _TOO_SLOW, reports.now())

        reports.listen(put)
        task_status.started()
        try:
            while True:
                written = await self._write(self._batch(await queue.receive(), queue), reports)
                # Not while reports wait: a slow reader would make each batch a new fault.
                if written and queue.statistics().current_buffer_used == 0:
                    self._recovered("writing works again")
        except trio.Cancelled:
            with trio.move_on_after(self._flush_s, shield=True):
                # A batch may have been cancelled before its thread started.
                while (rest := self._batch(None, queue)) or self._pending:
                    await self._write(rest, reports)
            raise

    async def reopen(self) -> None:
        """Reopens the file at its path, after a log rotation; does nothing on standard output.

        A write in progress is finished first, into the old file. If the new file can't be opened,
        events go on into the old file; either result is logged.
        """
        if self.target == "-" or self._reopening:
            return
        self._reopening = True
        try:
            await trio.to_thread.run_sync(self._reopen, abandon_on_cancel=True)
        except (OSError, RuntimeError) as error:  # the latter: no more threads are allowed
            _log.error(
                "events: can't reopen %s: %s; events go on into the old file",
                self.target,
                os_reason(error) if isinstance(error, OSError) else error,
            )
        else:
            _log.info("events: %s reopened", self.target)
            self._recovered("reopened")
        finally:
            self._reopening = False

    async def look(self) -> str | None:
        """Looks at the path in a thread; see :meth:`path_fault`. None if none can be started."""
        try:
            return await trio.to_thread.run_sync(self.path_fault, abandon_on_cancel=True)
        except RuntimeError as error:
            if not is_thread_shortage(error):
                raise
            return None

    def path_fault(self) -> str:
        """Returns what happened to the file at the path since it was opened; "" if nothing did.

        Blocks as long as the file system does. Only a regular file is looked at.
        """
        if self.target == "-" or not stat.S_ISREG(os.fstat(self._fd).st_mode):
            return ""
        return FileIdentity.of(self.target, self._fd).fault()

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)

    @staticmethod
    def _batch(first: Report | None, queue: trio.MemoryReceiveChannel[Report]) -> bytes:
        lines = [] if first is None else [first.as_line()]
        while len(lines) < BATCH:
            try:
                lines.append(queue.receive_nowait().as_line())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")

    def _lose(self, count: int, reason: str, now: datetime) -> None:
        if self.fault is None:
            self.fault = EventsFault(now, reason, count)
            # Logged once; the status counts further losses.
            _log.error("events: %s: %s; events are being lost", self.target, reason)
        else:
            self.fault = attrs.evolve(self.fault, reason=reason, lost=self.fault.lost + count)

    def _recovered(self, how: str) -> None:
        if self.fault is not None:
            lost = "1 event" if self.fault.lost == 1 else f"{self.fault.lost} events"
            _log.warning("events: %s: %s; %s lost", self.target, how, lost)
            self.fault = None

    async def _write(self, data: bytes, reports: Reports) -> bool:
        """Writes ``data`` after any data still pending; returns whether all was written."""
        self._pending.append(data)
        try:
            lost, reason = await trio.to_thread.run_sync(
                self._write_pending, abandon_on_cancel=True
            )
        except RuntimeError as error:
            if not is_thread_shortage(error):
                raise
            # Not here instead: a write may block.
            lost, reason = sum(one.count(b"\n") for one in self._pending), str(error)
            self._pending.clear()
        if reason:
            self._lose(lost, reason, reports.now())
        return not reason

    # -- in threads -------------------------------------------------------------------------

    def _write_pending(self) -> tuple[int, str]:
        """Writes the pending data; returns how many lines were lost and why ("" if none)."""
        # After cancellation the last write may still run in its thread: the next write must neither
        # overtake it nor mix with its lines.
        with self._writing:
            lost, reason = 0, ""
            while self._pending:
                data = self._pending.popleft()
                # End an incomplete line first, or the next line would be lost with it.
                data = b"\n" + data if self._torn and data else data
                left = data
                try:
                    while left:
                        left = left[os.write(self._fd, left) :]
                except OSError as error:
                    lost, reason = lost + left.removeprefix(b"\n").count(b"\n"), os_reason(error)
                if written := data[: len(data) - len(left)]:
                    self._torn = not written.endswith(b"\n")
            return lost, reason

    def _reopen(self) -> None:
        fd = _open(self.target)
        with self._writing:
            self._torn = self._torn and os.path.sameopenfile(fd, self._fd)
            # Replaced in place, so that the descriptor is always valid.
            os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        # Non-blocking: opening a FIFO without a reader would wait for one.
        fd = os.open(path, flags | os.O_NONBLOCK, 0o640)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # For reading, too: events wait in the pipe until a reader comes.
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd
