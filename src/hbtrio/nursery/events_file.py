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
from typing import Final, NoReturn

import trio

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.nursery.reports import Report, Reports

_log = logging.getLogger("hbtrio.events")

#: Reports that may wait for a stalled reader.
QUEUE: Final = 10_000

#: One write takes at most this many lines.
BATCH: Final = 256


class EventsFile:
    """Where events go.

    Args:
        target: a path, appended to, or "-" for standard output.

    Raises:
        UserError: the file can't be opened.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        #: Batches that could not be written.
        self.failures = 0
        self._pending: deque[bytes] = deque()
        self._writing = threading.Lock()
        if target == "-":
            if sys.stdout is None:
                raise UserError("events file -: standard output is closed")
            self._fd = os.dup(sys.stdout.fileno())
            return
        try:
            self._fd = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            denied = isinstance(error, PermissionError)
            raise UserError(
                f"events file {target}: {os_reason(error)}",
                ExitStatus.DENIED if denied else ExitStatus.USAGE,
            ) from error

    async def run(self, reports: Reports, *, task_status: trio.TaskStatus[None]) -> NoReturn:
        """Writes every report from now on, until cancelled; then what is queued, in short time.

        It says it has started once it follows, so that no report is missed.
        """
        started = False
        while True:
            with reports.follow(QUEUE) as queue:
                if not started:
                    task_status.started()
                    started = True
                try:
                    async for report in queue:
                        await self._write(self._batch(report, queue))
                except trio.Cancelled:
                    with trio.move_on_after(0.5, shield=True):
                        # A batch may have been cancelled before its thread was started.
                        while (rest := self._batch(None, queue)) or self._pending:
                            await self._write(rest)
                    raise
            _log.error("events: the reader of %s is too slow, some events are lost", self._target)

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

    async def _write(self, data: bytes) -> None:
        self._pending.append(data)
        try:
            await trio.to_thread.run_sync(self._write_pending, abandon_on_cancel=True)
        except OSError as error:
            self.failures += 1
            if self.failures == 1:
                _log.error("events: %s: %s", self._target, error.strerror)

    def _write_pending(self) -> None:
        # At the end the write that was cancelled may still be going on in its thread: what comes
        # after it must neither overtake it nor stand in the middle of its lines.
        with self._writing:
            while self._pending:
                data = self._pending.popleft()
                while data:
                    data = data[os.write(self._fd, data) :]
