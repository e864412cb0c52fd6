"""What the stores of agent and host have in common: the file, its faults, and the history."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import ClassVar, Final, Self

import trio

from hbtrio.store import history
from hbtrio.store.database import open_database
from hbtrio.store.faults import StoreLost
from hbtrio.store.lease import RENEW_S, Lease
from hbtrio.store.migration import Schema
from hbtrio.store.records import HistoryRecord
from hbtrio.store.recovery import Recovery
from hbtrio.store.worker import StoreWorker, Watched, open_store_thread

#: The most rows that one call returns of an unbounded list.
PAGE: Final = 1000


class DaemonStore:
    """The store of one daemon; open it with :meth:`open`.

    Args:
        worker: runs the transactions.
        wall_clock: returns the current time; timezone-aware.
        lease: bounds how long the daemon may act; None: for good.
    """

    #: The schema of its file.
    schema: ClassVar[Schema]

    def __init__(
        self,
        worker: StoreWorker,
        wall_clock: Callable[[], datetime],
        *,
        lease: Lease | None = None,
    ) -> None:
        self._worker = Watched(worker, lease)
        #: Whether it may be opened again by the same process, which is to forget what it has read.
        self.is_in_sessions = lease is not None
        self._wall_clock = wall_clock

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str, wall_clock: Callable[[], datetime]) -> AsyncIterator[Self]:
        """Opens the store in a file while the block runs; creates a missing file.

        Raises:
            UserError: as for :func:`~hbtrio.store.database.open_database`.
        """
        async with open_store_thread(lambda: open_database(path, cls.schema)) as thread:
            yield cls(thread, wall_clock)

    @property
    def is_unsure(self) -> bool:
        """Whether it is unknown what is stored, see :meth:`unsure`."""
        return self._worker.is_unsure.is_set()

    @property
    def is_fenced(self) -> bool:
        """Whether another agent has taken over the database, or may do so."""
        return self._worker.is_fenced

    def note_lease(self) -> None:
        """Notes that the lease is lost, if it is."""
        with suppress(StoreLost):
            self._worker.check_lease()

    async def unsure(self) -> None:
        """Waits until it is unknown what is stored, as a sync failed or the connection is lost.

        The kernel reports a lost write only once, so the daemon has to read everything again to
        find out. A lease that is over while nothing answers is noticed as well.
        """
        while not self.is_unsure:
            with trio.move_on_after(RENEW_S if self.is_in_sessions else math.inf):
                await self._worker.is_unsure.wait()
            self.note_lease()

    @property
    def recovery(self) -> Recovery:
        """What those wait for whose work has failed."""
        return self._worker.recovery

    async def files_fault(self) -> str:
        """Returns what happened to the store's files while they are open; "" if nothing did.

        They may have been deleted, moved, replaced, or their file system made read-only.
        """
        return await self._worker.files_fault()

    async def history(
        self,
        limit: int = PAGE,
        *,
        before: int | None = None,
        uuid: str | None = None,
        kept_since: float | None = None,
    ) -> tuple[HistoryRecord, ...]:
        """Returns history records, the newest first.

        Args:
            limit: the most records, up to ``PAGE``.
            before: only records older than the one with this id.
            uuid: only records of this instance.
            kept_since: only records inserted since then, in seconds since the epoch.

        Raises:
            StoreFault: the file can't be read.
        """
        limit = min(limit, PAGE)
        return await self._worker.run(lambda db: history.read(db, limit, before, uuid, kept_since))

    def _now(self) -> float:
        """Seconds since the epoch, by the wall clock."""
        return self._wall_clock().timestamp()
