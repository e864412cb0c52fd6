"""Stores the alarms that are held back and the hosts whose alarms are held.

A held alarm is an entry of the outbox that is not sent until it is released. Later states and
verdicts of the instance don't wait for it. :mod:`hbtrio.fsm.host_alarms` decides when an alarm is
released or withdrawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

import attrs

from hbtrio.fsm.delivery import OutboxState
from hbtrio.store import history, outbox
from hbtrio.store.records import Entry, HistoryEntry
from hbtrio.store.sql import Connection, changed, moment, rows, text_of, upsert
from hbtrio.store.worker import StoreWorker

# Nearly all instances of a host that is back have no alarm.
_HELD_AMONG: Final = (
    "SELECT DISTINCT uuid FROM outbox WHERE hostname = ? AND state = 'held'"
    " AND uuid IN (SELECT value FROM json_each(?)) ORDER BY uuid"
)


@attrs.frozen
class HoldRecord:
    """A host whose alarms are held back, since when and for which reason."""

    hostname: str
    since: datetime
    reason: str


@attrs.frozen
class Held:
    """All holds and held alarms.

    Args:
        holds: the hosts whose alarms are held back.
        alarms: the instances with held alarms, by host; a host may have held alarms without a hold.
    """

    holds: tuple[HoldRecord, ...]
    alarms: dict[str, frozenset[str]]


class HeldAlarms:
    """Reads and writes holds and held alarms; each method is one transaction.

    Every method may raise :class:`~hbtrio.store.faults.StoreFault`; nothing was changed then.

    Args:
        worker: the store's worker.
        wall_clock: returns the current time; timezone-aware.
    """

    def __init__(self, worker: StoreWorker, wall_clock: Callable[[], datetime]) -> None:
        self._worker = worker
        self._wall_clock = wall_clock

    async def all(self) -> Held:
        """Returns all holds and held alarms."""

        def work(db: Connection) -> Held:
            holds = rows(db, "SELECT hostname, since, why FROM holds ORDER BY hostname")
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
        """Starts a host's hold, which also holds its queued alarms."""
        now = self._wall_clock().timestamp()

        def work(db: Connection) -> None:
            db.execute(
                upsert("holds", "hostname, since, why", "hostname"),
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
        """Returns the instances of a host with held alarms."""
        text = "SELECT DISTINCT uuid FROM outbox WHERE hostname = ? AND state = 'held'"
        found = await self._worker.run(lambda db: rows(db, text, hostname))
        return frozenset(uuid for (uuid,) in found)

    async def end_hold(
        self, hostname: str, uuids: Collection[str], history_entry: HistoryEntry
    ) -> int:
        """Ends a host's hold and queues the alarms of these instances; returns how many."""
        now = self._wall_clock().timestamp()

        def work(db: Connection) -> int:
            db.execute("DELETE FROM holds WHERE hostname = ?", (hostname,))
            history.record(db, history_entry, now)
            return _let_go(db, hostname, uuids)

        return await self._worker.run(work)

    async def let_go(self, hostname: str, uuids: Collection[str]) -> int:
        """Queues the host's held alarms of these instances; returns how many."""
        return await self._worker.run(lambda db: _let_go(db, hostname, uuids))

    async def withdraw(
        self, hostname: str, uuids: Collection[str], reason: str
    ) -> tuple[Entry, ...]:
        """Ends the host's held alarms of these instances as undelivered, and returns them."""
        now = self._wall_clock().timestamp()

        def work(db: Connection) -> tuple[Entry, ...]:
            return tuple(
                entry
                for (uuid,) in rows(db, _HELD_AMONG, hostname, json.dumps(sorted(uuids)))
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


def _let_go(db: Connection, hostname: str, uuids: Collection[str]) -> int:
    # The VIM can't have refused an alarm while it was held.
    text = (
        "UPDATE outbox SET state = 'queued', refused_since = NULL"
        " WHERE hostname = ? AND uuid = ? AND state = 'held'"
    )
    return sum(changed(db, text, hostname, uuid) for uuid in sorted(uuids))
