"""A host's store that outlives the memories that use it, without a thread."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from hbtrio.errors import UserError
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.store.database import open_database
from hbtrio.store.host_records import Moment, Recollection
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.host_store import Changes, HostStore
from support.inline_store import InlineWorker, wall_clock

PATH = "/var/host.db"


class _CountedStore(HostStore):
    writes = 0

    async def keep(self, changes: Changes) -> None:
        self.writes += 1
        await super().keep(changes)


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
        self._store = _CountedStore(self.worker, wall_clock)

    @property
    def writes(self) -> int:
        """How often changes were written."""
        return self._store.writes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[HostStore]:
        """Opens it."""
        if self.refusals:
            self.refusals -= 1
            raise UserError(f"{PATH}: is damaged")
        yield self._store

    def memory(self) -> HostMemory:
        """Makes the memory of another run of the host."""
        return HostMemory(
            MemorySettings(
                open_store=self.open,
                moment=self._moment,
                path=PATH,
                history_days=1.0,
                socket_of=lambda path: self.sockets.get(path, "made"),
            )
        )

    async def recall(self) -> Recollection:
        """What the next run of the host would be given."""
        return await self._store.recall()

    async def forget(self, uuid: str) -> None:
        """Forgets an instance, as a run does for which it is gone."""
        await self._store.keep(Changes(forgotten=(uuid,)))

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
