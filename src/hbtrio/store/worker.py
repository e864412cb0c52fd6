"""The one thread that touches the database.

Work is a function of the connection; it is run inside a transaction and its result handed back once
that is committed. A caller that is cancelled while it waits does not see the result, but the work
is done all the same, whole. Work that came in meanwhile shares one transaction, so that a host that
loses a thousand instances at once does not cost a thousand syncs.

A commit survives the death of this process at any moment: what it wrote is in the kernel's hands.
To survive the machine's it takes a sync of the write-ahead log, and that is asked for, not done
with each commit as SQLite's ``synchronous = FULL`` would: measured on a plain virtual disk a commit
takes 0.02 ms and a sync 4 to 7, and a verdict has four commits between the VIM's question and its
answer. What is acknowledged to another machine is synced before. A step of a delivery is not, where
to repeat it does no harm, as with states and alarms, or nobody could, as with a verdict whose
window is over before a machine that lost its power is up again. Windows may be ten minutes, though,
so that a verdict with time left is marked on the disk before it is sent. What else a power cut
takes, such as that a vote has begun, costs the VIM an answer, which its own timer gives. The sync
has a thread of its own, so that no commit stands behind it; it touches the log's file and not the
database.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import trio

from hbtrio.errors import os_reason
from hbtrio.store.schema import Database

_log = logging.getLogger("hbtrio.store")

T = TypeVar("T")

#: Work that may wait; who comes with more waits before it is taken, where cancelling undoes it.
_QUEUE: Final = 1000

#: Work that shares one transaction, which bounds how long the first of it waits for the last.
_BATCH: Final = 64

#: How long the end may take, in seconds: a disk that hangs must not hang the shutdown.
_CLOSE_S: Final = 5.0

#: Faults in our SQL or in its arguments, not of the disk.
_PROGRAMMING: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)


class StoreFault(Exception):
    """The file can't be written or read now (a full disk, say); nothing was changed."""


class StoreWorker(Protocol):
    """Runs work on the database, each in a transaction."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs ``work`` and returns what it returned, once that is committed.

        Work is done in the order in which it was asked for: what a task asks for after another one
        has woken it is done after what that one goes on to ask for without waiting.

        Raises:
            StoreFault: nothing was changed.
        """

    async def sync(self) -> None:
        """Returns when all that was committed before survives the machine.

        Raises:
            StoreFault: that can't be said.
        """


class Watched:
    """A worker of which it is known whether it can write.

    Args:
        worker: does the work.
    """

    def __init__(self, worker: StoreWorker) -> None:
        #: Why the last work that failed did; "" since something was written again.
        self.fault = ""
        #: Why nobody can say what survives the machine, from now on; "" as long as one can.
        self.unsure = ""
        #: Set when that is so.
        self.is_unsure = trio.Event()
        self._worker = worker

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """See :class:`StoreWorker`."""
        wrote = False

        def watched(db: sqlite3.Connection) -> T:
            nonlocal wrote
            before = db.total_changes
            result = work(db)
            # What only reads succeeds on a full disk, too.
            wrote = db.total_changes > before
            return result

        try:
            result = await self._worker.run(watched)
        except StoreFault as fault:
            self.fault = str(fault)
            raise
        if wrote:
            self.fault = ""
        return result

    async def sync(self) -> None:
        """See :class:`StoreWorker`."""
        try:
            await self._worker.sync()
        except StoreFault as fault:
            self.unsure = str(fault)
            self.is_unsure.set()
            raise


class Job:
    """A piece of work and what came of it; ``work`` may be run again after a rollback."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: Exception | None = None

    def outcome(self) -> Any:
        """The result.

        Raises:
            StoreFault: nothing was changed.
            Exception: whatever the work raised; nothing was changed.
        """
        if self.error is not None:
            raise self.error
        return self.result


def perform(db: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Does jobs in one transaction; if any of them fails, each in one of its own."""
    if _perform(db, jobs) or len(jobs) == 1:
        return
    for job in jobs:
        _perform(db, [job])


def _perform(db: sqlite3.Connection, jobs: Sequence[Job]) -> bool:
    try:
        db.execute("BEGIN")
        for job in jobs:
            job.error = None
            job.result = job.work(db)
        db.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - handed to the caller, whose work it was
        for job in jobs:
            job.error = _fault(error)
        # A full disk has rolled it back already.
        if db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        return False
    return True


def _fault(error: Exception) -> Exception:
    if isinstance(error, sqlite3.Error) and not isinstance(error, _PROGRAMMING):
        fault = StoreFault(str(error))
        fault.__cause__ = error
        return fault
    return error


class _Waiting(Job):
    """A job whose caller waits in trio."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        super().__init__(work)
        self.done = trio.Event()


class StoreThread:
    """The worker's real form. Made by :func:`open_store_thread`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._room = trio.Semaphore(_QUEUE)
        self._line = trio.StrictFIFOLock()
        self._trio = trio.lowlevel.current_trio_token()
        self._opened = trio.Event()
        self._fault: BaseException | None = None
        self._closing = False
        self._ended = trio.Event()
        self._database: Database | None = None
        self._syncing = trio.Lock()
        self._sync_limit = trio.CapacityLimiter(1)
        # Those who ask for a sync draw a number; one that begins serves all drawn before.
        self._drawn = 0
        self._served = 0
        self._sync_fault = ""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Queues ``work`` and waits for it. It is done in the order of the calls.

        Cancelled before it was queued, nothing is done; afterwards it is done without a witness.

        Raises:
            StoreFault: nothing was changed.
            trio.ClosedResourceError: the store was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Waiting(work)
        if self._line.locked() or not self._room.value:
            # Only the first of those who wait waits for room, or they would be let in at random.
            async with self._line:
                await self._room.acquire()
                self._put(job)
        else:
            # Without a turn of the event loop, so that whoever is woken before comes behind.
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
        """Returns when all that was committed before survives the machine.

        All who come while a sync is under way share the next one.

        Raises:
            StoreFault: it failed, now or once before: the kernel tells of a write that was lost
                only once, so that a later success means nothing.
            trio.ClosedResourceError: the store was closed.
        """
        self._drawn += 1
        number = self._drawn
        async with self._syncing:
            if self._closing or self._database is None:
                raise trio.ClosedResourceError("the store was closed")
            if self._served < number and not self._sync_fault:
                drawn = self._drawn
                await trio.to_thread.run_sync(
                    self._sync, self._database, abandon_on_cancel=True, limiter=self._sync_limit
                )
                self._served = drawn
            if self._sync_fault:
                raise StoreFault(self._sync_fault)

    def _sync(self, database: Database) -> None:
        try:
            database.sync()
        except OSError as error:
            # Noted in its thread: who waited for it may have been cancelled.
            self._sync_fault = f"the disk failed to sync: {os_reason(error)}"

    async def start(self, connect: Callable[[], Database]) -> None:
        """Starts the thread, which opens the database.

        Raises:
            UserError: what ``connect`` raised.
        """
        # A daemon: a disk that hangs must not keep the process from ending.
        thread = threading.Thread(target=self._serve, args=(connect,), name="store", daemon=True)
        thread.start()
        await self._opened.wait()
        if self._fault is not None:
            raise self._fault

    async def close(self) -> None:
        """Does what is queued, then closes the database; gives up after some seconds."""
        self._closing = True
        self._jobs.put(None)
        with trio.move_on_after(_CLOSE_S, shield=True):
            await self._ended.wait()
            return
        _log.error("the store's disk does not answer: it was left open")

    # -- in the thread -----------------------------------------------------------------------------

    def _serve(self, connect: Callable[[], Database]) -> None:
        try:
            database = self._database = connect()
        except BaseException as error:  # noqa: BLE001 - raised where start() waits
            self._fault = error
            self._tell(self._opened.set)
            self._tell(self._ended.set)
            return
        self._tell(self._opened.set)
        try:
            self._work(database.db)
        finally:
            database.close()
            self._tell(self._ended.set)

    def _work(self, db: sqlite3.Connection) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            with suppress(queue.Empty):
                while len(batch) < _BATCH and (job := self._jobs.get_nowait()) is not None:
                    batch.append(job)
            perform(db, batch)
            self._tell(partial(self._release, batch))
            if job is None:
                return

    def _tell(self, function: Callable[[], object]) -> None:
        # Once the run is over nobody is left to be told.
        with suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(function)

    def _release(self, batch: list[_Waiting]) -> None:
        for job in batch:
            job.done.set()
            self._room.release()


@asynccontextmanager
async def open_store_thread(connect: Callable[[], Database]) -> AsyncIterator[StoreThread]:
    """A worker for as long as the block runs; at its end what was queued is done first.

    Raises:
        UserError: what ``connect`` raised.
    """
    thread = StoreThread()
    try:
        await thread.start(connect)
        yield thread
    finally:
        await thread.close()
