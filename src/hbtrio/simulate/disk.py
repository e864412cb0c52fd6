"""Simulates a disk with a database, and the store's thread that works on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import trio

from hbtrio.simulate.process import Process, Waiters
from hbtrio.simulate.timeline import Timeline
from hbtrio.store.database import prepare_database
from hbtrio.store.faults import StoreFault
from hbtrio.store.jobs import Job, perform
from hbtrio.store.migration import Schema
from hbtrio.store.sql import Connection

T = TypeVar("T")

#: How long things take on a plain virtual disk, in seconds: the least and the most.
_COMMIT_S: Final = (20e-6, 320e-6)
_TELL_S: Final = (10e-6, 100e-6)
_SYNC_S: Final = (0.002, 0.008)

#: The most work per transaction, as of the real thread.
_BATCH: Final = 64


class Disk:
    """A disk with one database, which survives processes, and power cuts up to the last sync.

    Args:
        timeline: has the time.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.db = _memory()
        #: How many syncs have ended.
        self.syncs = 0
        #: Why syncs fail; "" if they don't.
        self.sync_fault = ""
        #: What happened to the database's files, see :meth:`StoreWorker.files_fault`.
        self.files_fault = ""
        #: Called after each commit.
        self.on_commit: Callable[[], object] = _nothing
        self._timeline = timeline
        self._synced = _memory()
        self._stalled_until = 0.0
        self._full = False
        self._slow_s = 0.0

    def prepare(self, schema: Schema) -> None:
        """Creates an empty database with a daemon's schema, which survives power cuts."""
        prepare_database(self.db, ":memory:", schema)
        self._synced.close()
        self._synced = self.image()

    def slow(self, seconds: float = 0.0) -> None:
        """Makes each sync take so much longer from now on; 0: no longer than usual."""
        self._slow_s = seconds

    @property
    def sync_s(self) -> float:
        """How much longer than usual a sync takes that begins now, in seconds."""
        return self.stalled_s() + self._slow_s

    def stall(self, seconds: float) -> None:
        """Makes all commits and syncs that begin from now on wait; the later end counts."""
        self._stalled_until = max(self._stalled_until, self._timeline.now + seconds)

    def stalled_s(self) -> float:
        """Returns how long it still stalls, in seconds."""
        return max(0.0, self._stalled_until - self._timeline.now)

    def fill(self) -> None:
        """Makes the disk full: nothing is written, as the write-ahead log can't grow."""
        self._full = True
        self.db.execute("PRAGMA query_only = ON")

    def free(self) -> None:
        """Makes room again."""
        self._full = False
        self.db.execute("PRAGMA query_only = OFF")

    def image(self) -> sqlite3.Connection:
        """Returns a copy of what is committed."""
        copy = _memory()
        self.db.backup(copy)
        return copy

    def synced(self, image: sqlite3.Connection) -> None:
        """Makes a copy, made when a sync began, what survives a power cut."""
        self._synced.close()
        self._synced = image
        self.syncs += 1

    def power_cut(self) -> None:
        """Loses what was committed after the last sync; no process may use the disk any more."""
        lost, self.db = self.db, _memory()
        lost.close()
        self._synced.backup(self.db)
        if self._full:
            self.fill()


class SimulatedWorker:
    """Implements :class:`~hbtrio.store.worker.StoreWorker` as the store's thread behaves.

    Work is done in order, up to 64 pieces in a transaction, and stands still with its process.
    What was not committed at a kill is lost.

    Args:
        process: whose thread it is.
        timeline: has the time.
        disk: has the database.
    """

    def __init__(self, process: Process, timeline: Timeline, disk: Disk) -> None:
        self._process = process
        self._timeline = timeline
        self._disk = disk
        self._random = timeline.random(f"store of {process.name}")
        self._jobs: list[_Waiting] = []
        self._busy = False
        # Each call of sync() draws a number; a sync serves all numbers drawn before its start.
        self._drawn = 0
        self._served = 0
        self._syncing = False
        self._sync_fault = ""
        self._synced = Waiters(process)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """See :class:`~hbtrio.store.worker.StoreWorker`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Waiting(work, self._process)
        self._jobs.append(job)
        self._begin()
        while not job.over:
            await job.waiters.wait()
        result: T = job.outcome()
        return result

    async def sync(self) -> None:
        """See :class:`~hbtrio.store.worker.StoreWorker`; after a fault each sync fails."""
        await trio.lowlevel.checkpoint()
        self._drawn += 1
        number = self._drawn
        while self._served < number:
            if self._sync_fault:
                raise StoreFault(self._sync_fault)
            if not self._syncing:
                self._syncing = True
                delay = self._disk.sync_s + self._between(_SYNC_S)
                end = partial(self._end_sync, self._drawn, self._disk.image())
                self._after(delay, end)
            await self._synced.wait()

    async def files_fault(self) -> str:
        """See :class:`~hbtrio.store.worker.StoreWorker`."""
        await trio.lowlevel.checkpoint()
        return self._disk.files_fault

    # -- in the thread -----------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._busy and self._jobs:
            self._busy = True
            self._after(self._disk.stalled_s() + self._between(_COMMIT_S), self._commit)

    def _commit(self) -> None:
        if self._process.effect():
            batch, self._jobs = self._jobs[:_BATCH], self._jobs[_BATCH:]
            perform(self._disk.db, batch)
            self._disk.on_commit()
            self._after(self._between(_TELL_S), partial(self._tell, batch))

    def _tell(self, batch: list[_Waiting]) -> None:
        for job in batch:
            job.over = True
            job.waiters.wake()
        self._busy = False
        self._begin()

    def _end_sync(self, served: int, image: sqlite3.Connection) -> None:
        if not self._process.effect():
            return
        if self._disk.sync_fault:
            self._sync_fault = f"the disk failed to sync: {self._disk.sync_fault}"
        else:
            self._disk.synced(image)
            self._served = served
        self._syncing = False
        self._synced.wake()

    def _after(self, delay_s: float, action: Callable[[], object]) -> None:
        self._timeline.after(delay_s, partial(self._process.when_running, action))

    def _between(self, bounds: tuple[float, float]) -> float:
        return self._random.uniform(*bounds)


class _Waiting(Job):
    """A job whose caller waits."""

    def __init__(self, work: Callable[[Connection], Any], process: Process) -> None:
        super().__init__(work)
        self.over = False
        self.waiters = Waiters(process)


def _memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def _nothing() -> None:
    pass
