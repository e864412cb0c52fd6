"""A store without a thread, for tests on the fake clock: autojump does not wait for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import trio

from hbtrio.store.database import open_database
from hbtrio.store.lease import Lease
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.sql import Connection
from hbtrio.store.store import Store
from hbtrio.store.watched import OpenedDatabase
from hbtrio.store.worker import Job, StoreFault, perform
from hbtrio.system.boot_clock import boot_clock

T = TypeVar("T")

#: When the fake wall clock began.
EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


def wall_clock() -> datetime:
    """A wall clock that goes with trio's."""
    return EPOCH + timedelta(seconds=trio.current_time())


class InlineWorker:
    """Does the work at once, and says so ``slow_s`` later; fails it while ``fault`` is set."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        #: What happened to its files.
        self.fault_of_files = ""
        self.fault = ""
        #: Fails only what is to survive the machine.
        self.fault_of_sync = ""
        self.slow_s = 0.0
        #: How long the disk takes for what is to survive the machine.
        self.slow_sync_s = 0.0
        #: How often what was done was made to survive the machine.
        self.syncs = 0
        #: Called after each transaction: a kill leaves what one of them has left.
        self.on_commit: Callable[[Connection], None] = lambda _: None

    async def run(self, work: Callable[[Connection], T]) -> T:
        # In the order of the calls, as the thread does: before any other task may run.
        await trio.lowlevel.checkpoint_if_cancelled()
        job, fault = Job(work), self.fault
        if not fault:
            perform(self._db, [job])
            self.on_commit(self._db)
        # Whoever is cancelled does not wait for it any more.
        await trio.sleep(self.slow_s)
        if fault:
            raise StoreFault(fault)
        result: T = job.outcome()
        return result

    async def sync(self) -> None:
        await trio.sleep(self.slow_sync_s)
        if fault := self.fault or self.fault_of_sync:
            raise StoreFault(fault)
        self.syncs += 1

    async def files_fault(self) -> str:
        await trio.lowlevel.checkpoint()
        return self.fault_of_files


@contextmanager
def inline_store(place: Path | str) -> Iterator[tuple[Store, InlineWorker]]:
    """A store in a folder, or at the URL of a PostgreSQL database."""
    database: OpenedDatabase
    if isinstance(place, Path):
        database = open_database(str(place / "agent.db"), AGENT_SCHEMA)
    elif place.startswith("/"):
        database = open_database(place, AGENT_SCHEMA)
    else:
        # Imported here: most tests need no client of it.
        from hbtrio.store.postgres import open_postgres

        database = open_postgres(place, AGENT_SCHEMA, "agent", Lease(boot_clock))
    worker = InlineWorker(database.db)
    try:
        yield Store(worker, wall_clock), worker
    finally:
        database.close()
