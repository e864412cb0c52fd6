"""Reports as JSON lines in a file or on standard output, without ever holding up a heartbeat.

A pipe whose reader stalls, or a full disk, blocks a write for as long as it likes. So the writing
is done in a thread, behind a bounded queue; what does not fit is counted and said, not waited for.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from datetime import datetime
from typing import Final, NoReturn

import attrs
import trio

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.nursery.host.reports import Report, Reports

_log = logging.getLogger("hbtrio.events")

#: Reports that may wait for a stalled reader.
QUEUE: Final = 10_000

#: One write takes at most this many lines.
BATCH: Final = 256

#: Seconds that the end of the daemon waits at most for what is still queued.
FLUSH_S: Final = 0.5

_TOO_SLOW: Final = "its reader is too slow"


@attrs.frozen
class EventsFault:
    """Events are being lost: since when, reason at last, and how many so far."""

    since: datetime
    reason: str
    lost: int


class EventsFile:
    """Where events go.

    Args:
        target: a path, appended to, or "-" for standard output.
        flush_s: how many seconds a cancelled ``run`` goes on writing what is queued, at most.

    Raises:
        UserError: the file can't be opened.
    """

    def __init__(self, target: str, *, flush_s: float = FLUSH_S) -> None:
        self.target = target
        self._flush_s = flush_s
        #: What is wrong at present; None while every event is written.
        self.fault: EventsFault | None = None
        self._pending: deque[bytes] = deque()
        self._writing = threading.Lock()
        #: The last line was not written to its end.
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
        """Writes every report from now on, until cancelled; then for ``flush_s`` what is queued.

        It says it has started once it listens, so that no report is missed.
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
                # Not while some wait: a slow reader would be a new fault with each batch.
                if written and queue.statistics().current_buffer_used == 0:
                    self._mended("events are written again")
        except trio.Cancelled:
            with trio.move_on_after(self._flush_s, shield=True):
                # A batch may have been cancelled before its thread was started.
                while (rest := self._batch(None, queue)) or self._pending:
                    await self._write(rest, reports)
            raise

    async def reopen(self) -> None:
        """Opens the file anew, which may be another by now; standard output stays what it is.

        What is being written is written to its end first, into the old one. If the new one can't be
        opened, the old one goes on; the log says which.
        """
        if self.target == "-" or self._reopening:
            return
        self._reopening = True
        try:
            await trio.to_thread.run_sync(self._reopen, abandon_on_cancel=True)
        except OSError as error:
            _log.error(
                "events: %s: %s; it is not opened anew, the old one goes on",
                self.target,
                os_reason(error),
            )
        else:
            _log.info("events: %s is opened anew", self.target)
            self._mended("the file was opened anew")
        finally:
            self._reopening = False

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
            # Once: its status has what follows.
            _log.error("events: %s: %s; events are lost", self.target, reason)
        else:
            self.fault = attrs.evolve(self.fault, reason=reason, lost=self.fault.lost + count)

    def _mended(self, how: str) -> None:
        if self.fault is not None:
            lost = "1 was" if self.fault.lost == 1 else f"{self.fault.lost} were"
            _log.warning("events: %s: %s; %s lost", self.target, how, lost)
            self.fault = None

    async def _write(self, data: bytes, reports: Reports) -> bool:
        """Writes it, and what was not written before; whether all of it was written."""
        self._pending.append(data)
        lost, reason = await trio.to_thread.run_sync(self._write_pending, abandon_on_cancel=True)
        if reason:
            self._lose(lost, reason, reports.now())
        return not reason

    # -- in threads -------------------------------------------------------------------------

    def _write_pending(self) -> tuple[int, str]:
        """How many lines were lost, and reason; without a reason none."""
        # At the end the write that was cancelled may still be going on in its thread: what comes
        # after it must neither overtake it nor stand in the middle of its lines.
        with self._writing:
            lost, reason = 0, ""
            while self._pending:
                data = self._pending.popleft()
                # A disk that was full for a while must not cost the line behind the torn one.
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
            # In its place, so that there is never a moment without a file.
            os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
