"""A host's store that outlives the memories that use it, without a thread."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from hbtrio.errors import UserError
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.store.database import open_database
from hbtrio.store.host_records import Moment, Recollection
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.host_store import Changes, HostStore
from support.inline_store import InlineWorker, wall_clock

T = TypeVar("T")

PATH = "/var/host.db"


class _CountedStore(HostStore):
    writes = 0
    #: Its run is killed before one more transaction than these.
    left = math.inf
    #: Set once that is so.
    killed: trio.Event

    async def keep(self, changes: Changes) -> None:
        if self.writes == self.left:
            self.killed.set()
            await trio.sleep_forever()
        self.writes += 1
        await super().keep(changes)


class _Run:
    """The store's worker as one run of the host has it: once that was killed, nothing is done."""

    def __init__(self, worker: InlineWorker) -> None:
        self.is_killed = False
        self._worker = worker

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self.is_killed:
            await trio.sleep_forever()
        return await self._worker.run(work)

    async def sync(self) -> None:
        await self._worker.sync()

    async def files_fault(self) -> str:
        return await self._worker.files_fault()


class MemoryStore:
    """The store, and what may go wrong with it.

    Args:
        db: its database.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.worker = InlineWorker(db)
        #: The machine's boot.
        self.boot_id = "boot"
        #: How far its wall clock was set back.
        self.set_back_s = 0.0
        #: What identifies each socket as a file, by its path.
        self.sockets: dict[str, str] = {}
        #: How often it can't be opened yet.
        self.refusals = 0
        self._runs: list[_Run] = []
        self._stores: list[_CountedStore] = []
        self._own = HostStore(self.worker, wall_clock)

    @property
    def writes(self) -> int:
        """How often changes were written."""
        return sum(store.writes for store in self._stores)

    @asynccontextmanager
    async def open(self, run: _Run | None = None) -> AsyncIterator[HostStore]:
        """Opens it, for one run of the host or for the test itself."""
        if self.refusals:
            self.refusals -= 1
            raise UserError(f"{PATH}: is damaged")
        self._stores.append(_CountedStore(run or self.worker, wall_clock))
        yield self._stores[-1]

    def memory(self) -> HostMemory:
        """Makes the memory of another run of the host."""
        self._runs.append(_Run(self.worker))
        return HostMemory(
            MemorySettings(
                open_store=partial(self.open, self._runs[-1]),
                moment=self._moment,
                path=PATH,
                history_days=1.0,
                socket_of=lambda path: self.sockets.get(path, "made"),
            )
        )

    def kill_runs(self) -> None:
        """All runs so far end as SIGKILL ends them: what they have not written is lost."""
        for run in self._runs:
            run.is_killed = True

    def kill_at_write(self, number: int) -> trio.Event:
        """The present run is killed once it has written so often from now on.

        Returns what is set then: nothing more is written. To be followed by another run at once.
        """
        store = self._stores[-1]
        store.left, store.killed = store.writes + number, trio.Event()
        return store.killed

    async def recall(self) -> Recollection:
        """What the next run of the host would be given."""
        return await self._own.recall()

    async def forget(self, uuid: str) -> None:
        """Forgets an instance, as a run does for which it is gone."""
        await self._own.keep(Changes(forgotten=(uuid,)))

    def _moment(self) -> Moment:
        return Moment(self.boot_id, trio.current_time(), wall_clock().timestamp() - self.set_back_s)


@contextmanager
def memory_store(folder: Path) -> Iterator[MemoryStore]:
    """A store in a file of ``folder``."""
    database = open_database(str(folder / "host.db"), HOST_SCHEMA)
    try:
        yield MemoryStore(database.db)
    finally:
        database.close()
