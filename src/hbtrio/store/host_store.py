"""Stores what a host knows across its restarts: its memory and its history.

A host decides without it, so no method is called where a beat could wait for it:
:mod:`hbtrio.nursery.host.memory` collects what is to be stored. Each method is one transaction. A
commit survives the death of the process, which is what this is for; only a crash of the machine may
lose the last seconds, and after that all instances start anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Self

import attrs

from hbtrio.store import history, host_rows
from hbtrio.store.database import open_database
from hbtrio.store.host_records import (
    ActionRecord,
    CorrectiveRun,
    HoldRecord,
    KnownInstance,
    Recollection,
)
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.records import HistoryEntry, HistoryRecord
from hbtrio.store.worker import StoreWorker, Watched, open_store_thread

#: The most rows that one call returns or removes of the history.
PAGE: Final = 1000

#: The most entries of the history; beyond it the oldest are removed, whatever their age.
HISTORY: Final = 100_000


@attrs.frozen
class Changes:
    """What one transaction stores.

    Args:
        known: instances, each in place of what was known of it before.
        forgotten: instances that no longer exist.
        runs: corrective commands that were run.
        in_vain: instances whose last command, stored before, does not count.
        held: holds that have begun or changed.
        released: kind and uuid of holds that are over.
        history: entries of the history, in order.
    """

    known: tuple[KnownInstance, ...] = ()
    forgotten: tuple[str, ...] = ()
    runs: tuple[CorrectiveRun, ...] = ()
    in_vain: tuple[str, ...] = ()
    held: tuple[HoldRecord, ...] = ()
    released: tuple[tuple[str, str], ...] = ()
    history: tuple[HistoryEntry, ...] = ()


class HostStore:
    """A host's store; open it with :meth:`open`.

    Any method raises :class:`~hbtrio.store.jobs.StoreFault` if the disk is full or fails, or if
    the file is damaged; nothing was changed then. A method that is cancelled may have taken effect.

    Args:
        worker: runs the transactions.
        wall_clock: returns the current time; timezone-aware.
    """

    def __init__(self, worker: StoreWorker, wall_clock: Callable[[], datetime]) -> None:
        self._worker = Watched(worker)
        self._wall_clock = wall_clock

    @property
    def fault(self) -> str:
        """Why the store can't write now; "" if it can."""
        return self._worker.fault

    async def files_fault(self) -> str:
        """Returns what happened to the store's files while they are open; "" if nothing did."""
        return await self._worker.files_fault()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str, wall_clock: Callable[[], datetime]) -> AsyncIterator[Self]:
        """Opens the store in a file while the block runs; creates a missing file.

        Raises:
            UserError: as for :func:`~hbtrio.store.database.open_database`.
        """
        async with open_store_thread(lambda: open_database(path, HOST_SCHEMA)) as thread:
            yield cls(thread, wall_clock)

    async def recall(self) -> Recollection:
        """Returns what earlier runs of the host have left."""

        def work(db: sqlite3.Connection) -> Recollection:
            return Recollection(
                host_rows.instances(db),
                host_rows.actions(db),
                host_rows.corrective_runs(db),
                host_rows.holds(db),
            )

        return await self._worker.run(work)

    async def keep(self, changes: Changes) -> None:
        """Stores changes, all or none."""
        now = self._wall_clock().timestamp()

        def work(db: sqlite3.Connection) -> None:
            host_rows.forget_instances(db, changes.forgotten)
            host_rows.put_instances(db, changes.known)
            host_rows.remove_corrective_runs(db, changes.in_vain)
            if changes.runs:
                host_rows.add_corrective_runs(db, changes.runs, now)
            for kind, uuid in changes.released:
                host_rows.release_hold(db, kind, uuid)
            for hold in changes.held:
                host_rows.put_hold(db, hold)
            for entry in changes.history:
                history.record(db, entry, now)

        await self._worker.run(work)

    async def put_action(self, action: ActionRecord) -> None:
        """Stores an action and the step it is at, in place of its last step."""
        await self._worker.run(lambda db: host_rows.put_action(db, action))

    async def end_action(self, id_: str, outcome: HistoryEntry | None = None) -> None:
        """Removes an action that has ended; ``outcome`` goes into the history with it."""
        now = self._wall_clock().timestamp()

        def work(db: sqlite3.Connection) -> None:
            host_rows.end_action(db, id_)
            if outcome is not None:
                history.record(db, outcome, now)

        await self._worker.run(work)

    async def history(
        self, limit: int = PAGE, *, before: int | None = None, uuid: str | None = None
    ) -> tuple[HistoryRecord, ...]:
        """Returns history records, the newest first.

        Args:
            limit: the most records, up to ``PAGE``.
            before: only records older than the one with this id.
            uuid: only records of this instance.
        """
        limit = min(limit, PAGE)
        return await self._worker.run(lambda db: history.read(db, limit, before, uuid))

    async def prune(self, older_than: datetime, limit: int = PAGE) -> int:
        """Removes history that is too old or beyond ``HISTORY`` entries, up to twice ``limit``.

        Returns how many entries were removed; if not 0, there may be more.
        """
        edge = older_than.timestamp()

        def work(db: sqlite3.Connection) -> int:
            return history.prune(db, edge, limit) + history.prune_beyond(db, HISTORY, limit)

        return await self._worker.run(work)
