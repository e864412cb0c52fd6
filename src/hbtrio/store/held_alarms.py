"""Alarms that are held back, and the hosts whose alarms are, as they survive a restart.

A held alarm is an entry of the outbox that is not sent until it is let go. Nothing stands behind
it: an instance's later states and verdicts pass. What lets it go or withdraws it is decided in
:mod:`hbtrio.fsm.host_alarms`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from datetime import datetime

import attrs

from hbtrio.fsm.delivery import OutboxState
from hbtrio.store import history, outbox
from hbtrio.store.records import Entry, HistoryEntry
from hbtrio.store.sql import changed, moment, rows, text_of
from hbtrio.store.worker import StoreWorker


@attrs.frozen
class HoldRecord:
    """A host whose alarms are held back: since when, and for which reason."""

    hostname: str
    since: datetime
    reason: str


@attrs.frozen
class Held:
    """What was held when the store was opened.

    Args:
        holds: hosts whose alarms are held back.
        alarms: the instances that have held alarms, by host; there may be hosts among them without
            a hold.
    """

    holds: tuple[HoldRecord, ...]
    alarms: dict[str, frozenset[str]]


class HeldAlarms:
    """The part of the store that knows what is held; each method is one transaction.

    All raise :class:`~hbtrio.store.worker.StoreFault`; nothing was changed then.

    Args:
        worker: the store's.
        wall_clock: the store's.
    """

    def __init__(self, worker: StoreWorker, wall_clock: Callable[[], datetime]) -> None:
        self._worker = worker
        self._wall_clock = wall_clock

    async def all(self) -> Held:
        """All that is held."""

        def work(db: sqlite3.Connection) -> Held:
            holds = rows(db, "SELECT hostname, since, why FROM holds")
            alarms: dict[str, set[str]] = {}
            for hostname, uuid in rows(
                db, "SELECT DISTINCT hostname, uuid FROM outbox WHERE state = 'held'"
            ):
                alarms.setdefault(hostname, set()).add(uuid)
            return Held(
                tuple(HoldRecord(name, moment(since), reason) for name, since, reason in holds),
                {name: frozenset(uuids) for name, uuids in alarms.items()},
            )

        return await self._worker.run(work)

    async def hold(self, record: HoldRecord, history_entry: HistoryEntry) -> None:
        """Holds back a host's alarms, those too that are queued already."""
        now = self._wall_clock().timestamp()

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR REPLACE INTO holds VALUES (?, ?, ?)",
                (text_of(record.hostname), record.since.timestamp(), record.reason),
            )
            history.record(db, history_entry, now)
            db.execute(
                "UPDATE outbox SET state = 'held' WHERE hostname = ? AND state = 'queued'"
                " AND kind = 'alarm'",
                (record.hostname,),
            )

        await self._worker.run(work)

    async def of(self, hostname: str) -> frozenset[str]:
        """The instances of which a host's alarms are held."""
        text = "SELECT DISTINCT uuid FROM outbox WHERE hostname = ? AND state = 'held'"
        found = await self._worker.run(lambda db: rows(db, text, hostname))
        return frozenset(uuid for (uuid,) in found)

    async def end_hold(
        self, hostname: str, uuids: Collection[str], history_entry: HistoryEntry
    ) -> int:
        """Ends a host's hold and queues these instances' alarms; returns how many those are."""
        now = self._wall_clock().timestamp()

        def work(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM holds WHERE hostname = ?", (hostname,))
            history.record(db, history_entry, now)
            return _let_go(db, hostname, uuids)

        return await self._worker.run(work)

    async def let_go(self, hostname: str, uuids: Collection[str]) -> int:
        """Queues these instances' held alarms of that host; returns how many there were."""
        return await self._worker.run(lambda db: _let_go(db, hostname, uuids))

    async def withdraw(
        self, hostname: str, uuids: Collection[str], reason: str
    ) -> tuple[Entry, ...]:
        """Ends these instances' held alarms of that host, undelivered, and returns them."""
        now = self._wall_clock().timestamp()

        def work(db: sqlite3.Connection) -> tuple[Entry, ...]:
            return tuple(
                entry
                for uuid in sorted(uuids)
                for entry in outbox.end(
                    db,
                    "hostname = ? AND uuid = ? AND state = 'held'",
                    (hostname, uuid),
                    OutboxState.UNDELIVERED,
                    reason,
                    now,
                )
            )

        return await self._worker.run(work)


def _let_go(db: sqlite3.Connection, hostname: str, uuids: Collection[str]) -> int:
    # It was refused by nobody meanwhile.
    text = (
        "UPDATE outbox SET state = 'queued', refused_since = NULL"
        " WHERE hostname = ? AND uuid = ? AND state = 'held'"
    )
    return sum(changed(db, text, hostname, uuid) for uuid in uuids)
