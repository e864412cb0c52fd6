"""Runs all work on the database in one thread.

Work is a function of the connection. It runs in a transaction, and its result is returned after the
commit. If the caller is cancelled while it waits, the work is still done as a whole. Work that
queues up shares one transaction, so a host that loses a thousand instances at once doesn't cost a
thousand syncs.

A commit survives the death of this process, because the kernel has its data. To survive the death
of the machine, the write-ahead log has to be synced. Callers request a sync where they need one;
SQLite's ``synchronous = FULL`` would sync on each commit. On a plain virtual disk a commit takes
0.02 ms and a sync 4 to 7 ms, and a verdict takes four commits between the VIM's request and the
delivery.

Data is synced before it is acknowledged to another machine. A delivery step is not synced where a
repetition does no harm (states and alarms), or where the window ends before a machine that lost its
power is up again. Windows may last ten minutes, though, so a verdict with time left is synced
before it is sent. A power cut may lose other data, such as a vote that has just started; the VIM
then waits for its own timeout. The sync has its own thread, so no commit waits for it, and touches
only the log file.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import trio

from hbtrio.errors import ExitStatus, UserError, is_thread_shortage, os_reason
from hbtrio.store.faults import StoreFault, StoreLost
from hbtrio.store.jobs import Job, perform
from hbtrio.store.sql import Connection
from hbtrio.store.watched import OpenedDatabase, StoreWorker, Watched

__all__ = [
    "Job",
    "StoreFault",
    "StoreThread",
    "StoreWorker",
    "Watched",
    "open_store_thread",
    "perform",
]

_log = logging.getLogger("hbtrio.store")

T = TypeVar("T")

#: The most queued work. Further callers wait for room; a cancelled one then does nothing.
_QUEUE: Final = 1000

#: The most work per transaction, which bounds how long its first caller waits.
_BATCH: Final = 64

#: How long closing may take, in seconds: a hung disk must not block the shutdown.
_CLOSE_S: Final = 5.0


class _Waiting(Job):
    """A job whose caller waits in trio."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        super().__init__(work)
        self.done = trio.Event()


class StoreThread:
    """The worker's thread; create it with :func:`open_store_thread`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._room = trio.Semaphore(_QUEUE)
        self._line = trio.StrictFIFOLock()
        self._trio = trio.lowlevel.current_trio_token()
        self._opened = trio.Event()
        self._fault: BaseException | None = None
        self._closing = False
        self._ended = trio.Event()
        self._database: OpenedDatabase | None = None
        self._syncing = trio.Lock()
        self._sync_limit = trio.CapacityLimiter(1)
        # Each call of sync() draws a number; a sync serves all numbers drawn before its start.
        self._drawn = 0
        self._served = 0
        self._sync_fault = ""
        self._last_files_fault = ""

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Queues ``work`` and waits for it. Work is done in the order of the calls.

        A call that is cancelled before its work is queued does nothing. Afterwards the work is
        still done, but its result is dropped.

        Raises:
            StoreFault: nothing was changed.
            trio.ClosedResourceError: the store was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Waiting(work)
        if self._line.locked() or not self._room.value:
            # Only the first waiting caller waits for room: the semaphore's order is random.
            async with self._line:
                await self._room.acquire()
                self._put(job)
        else:
            # Without a checkpoint, so that tasks woken earlier come later.
            self._room.acquire_nowait()
            self._put(job)
        await job.done.wait()
        result: T = job.outcome()
        return result

    def _put(self, job: _Waiting) -> None:
        if self._closing:
            self._room.release()
            raise trio.ClosedResourceError("the store was closed")
        self._jobs.put(job)

    async def sync(self) -> None:
        """Waits until everything committed before survives a crash of the machine.

        Calls during a sync share the next one.

        Raises:
            StoreFault: this or an earlier sync failed. The kernel reports a lost write only once,
                so a later success proves nothing.
            trio.ClosedResourceError: the store was closed.
        """
        self._drawn += 1
        number = self._drawn
        async with self._syncing:
            if self._closing or self._database is None:
                raise trio.ClosedResourceError("the store was closed")
            if self._served < number and not self._sync_fault:
                drawn = self._drawn
                await self._sync_in_thread(self._database)
                self._served = drawn
            if self._sync_fault:
                raise StoreFault(self._sync_fault)

    async def files_fault(self) -> str:
        """Returns what happened to the open files; see :meth:`OpenedDatabase.files_fault`.

        While no thread can be started this is what the last look has shown.
        """
        assert self._database is not None
        try:
            seen = await trio.to_thread.run_sync(self._files_fault, abandon_on_cancel=True)
        except RuntimeError as error:
            if not is_thread_shortage(error):
                raise
        else:
            self._last_files_fault = seen
        return self._last_files_fault

    def _files_fault(self) -> str:
        assert self._database is not None
        try:
            return self._database.files_fault()
        except OSError as error:
            return f"its files can't be looked at: {os_reason(error)}"

    async def _sync_in_thread(self, database: OpenedDatabase) -> None:
        try:
            await trio.to_thread.run_sync(
                self._sync, database, abandon_on_cancel=True, limiter=self._sync_limit
            )
        except RuntimeError as error:
            if not is_thread_shortage(error):
                raise
            # In the store's own thread, where commits wait for it.
            await self.run(lambda _: self._sync(database))

    def _sync(self, database: OpenedDatabase) -> None:
        try:
            database.sync()
        except OSError as error:
            # Stored by the thread, because the caller may have been cancelled.
            self._sync_fault = f"the disk failed to sync: {os_reason(error)}"
        except StoreLost as fault:
            self._sync_fault = str(fault)

    async def start(self, connect: Callable[[], OpenedDatabase]) -> None:
        """Starts the thread, which opens the database.

        Raises:
            UserError: the error of ``connect``; FAILED if no more threads are allowed.
        """
        # A daemon thread: a hung disk must not keep the process from ending.
        thread = threading.Thread(target=self._serve, args=(connect,), name="store", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._ended.set()
            raise UserError(f"store: {error}", ExitStatus.FAILED) from error
        await self._opened.wait()
        if self._fault is not None:
            raise self._fault

    async def close(self) -> None:
        """Does the queued work, then closes the database; gives up after 5 s."""
        self._closing = True
        self._jobs.put(None)
        with trio.move_on_after(_CLOSE_S, shield=True):
            await self._ended.wait()
            return
        _log.error("store: the disk hangs: the database was not closed")

    # -- in the thread -----------------------------------------------------------------------------

    def _serve(self, connect: Callable[[], OpenedDatabase]) -> None:
        try:
            database = self._database = connect()
        except BaseException as error:  # noqa: BLE001 - raised where start() waits
            self._fault = error
            self._call_in_trio(self._opened.set)
            self._call_in_trio(self._ended.set)
            return
        self._call_in_trio(self._opened.set)
        try:
            self._work(database.db)
        finally:
            database.close()
            self._call_in_trio(self._ended.set)

    def _work(self, db: Connection) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            with suppress(queue.Empty):
                while len(batch) < _BATCH and (job := self._jobs.get_nowait()) is not None:
                    batch.append(job)
            perform(db, batch)
            self._call_in_trio(partial(self._release, batch))
            if job is None:
                return

    def _call_in_trio(self, function: Callable[[], object]) -> None:
        # After the end of trio.run() nothing waits for the result.
        with suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(function)

    def _release(self, batch: list[_Waiting]) -> None:
        for job in batch:
            job.done.set()
            self._room.release()


@asynccontextmanager
async def open_store_thread(connect: Callable[[], OpenedDatabase]) -> AsyncIterator[StoreThread]:
    """Runs a worker while the block runs; leaving the block does the queued work first.

    Raises:
        UserError: the error of ``connect``.
    """
    thread = StoreThread()
    try:
        await thread.start(connect)
        yield thread
    finally:
        await thread.close()
