"""Stores the holds that operators set on instances, and the history of them.

Only the wall clock is the same after a restart, perhaps on another controller; so a hold that is
found ends by it, and never later than it would from now on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from hbtrio.policy.instance_hold import InstanceHold
from hbtrio.store import history
from hbtrio.store.records import HistoryEntry
from hbtrio.store.sql import Connection, changed, moment, records, rows, text_of, upsert
from hbtrio.store.worker import StoreWorker

_COLUMNS = "uuid, number, since, until, who, reason, is_ended"


class StoredHolds:
    """Reads and writes holds; each method is one transaction.

    Every method may raise :class:`~hbtrio.store.faults.StoreFault`; nothing was changed then.

    Args:
        worker: the store's worker.
        wall_clock: returns the current time; timezone-aware.
    """

    def __init__(self, worker: StoreWorker, wall_clock: Callable[[], datetime]) -> None:
        self._worker = worker
        self._wall_clock = wall_clock

    async def all(self, now: float) -> tuple[InstanceHold, ...]:
        """Returns the last word about each instance; ``now`` is the time on the caller's clock."""
        wall = self._wall_clock()

        def made(row: tuple[Any, ...]) -> InstanceHold:
            uuid, number, since, until, who, reason, is_ended = row
            left_s = min(until - wall.timestamp(), until - since)
            return InstanceHold(
                uuid=uuid,
                number=number,
                since=moment(since),
                until=moment(until),
                ends_at=now + left_s,
                who=who,
                reason=reason,
                is_ended=bool(is_ended),
            )

        text = f"SELECT {_COLUMNS} FROM instance_holds ORDER BY uuid"
        return await self._worker.run(lambda db: records(made, rows(db, text)))

    async def put(self, word: InstanceHold, entry: HistoryEntry) -> None:
        """Stores a word and its history entry; a hold also holds the instance's queued alarms."""
        now = self._wall_clock().timestamp()

        def work(db: Connection) -> None:
            self._put(db, word)
            history.record(db, entry, now)
            if not word.is_ended:
                db.execute(
                    "UPDATE outbox SET state = 'held' WHERE uuid = ? AND state = 'queued'"
                    " AND kind = 'alarm'",
                    (word.uuid,),
                )

        await self._worker.run(work)

    async def note(self, word: InstanceHold) -> None:
        """Stores a word that is no news."""
        await self._worker.run(lambda db: self._put(db, word))

    async def forget(self, uuid: str) -> None:
        """Removes the word about an instance."""
        text = "DELETE FROM instance_holds WHERE uuid = ?"
        await self._worker.run(lambda db: changed(db, text, uuid))

    @staticmethod
    def _put(db: Connection, word: InstanceHold) -> None:
        db.execute(
            upsert("instance_holds", _COLUMNS, "uuid"),
            (
                word.uuid,
                word.number,
                word.since.timestamp(),
                word.until.timestamp(),
                text_of(word.who),
                text_of(word.reason),
                word.is_ended,
            ),
        )
