"""The inventory: the hosts and instances that the VIM has told of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime

from hbtrio.store import history, rounds
from hbtrio.store.records import HistoryEntry, HostRecord, InstanceRecord
from hbtrio.store.sql import changed, rows, text_of
from hbtrio.store.worker import Watched


class Inventory:
    """Part of a :class:`~hbtrio.store.store.Store`, and used like it.

    Args:
        worker: runs its transactions.
        wall_clock: the time with its zone.
    """

    def __init__(self, worker: Watched, wall_clock: Callable[[], datetime]) -> None:
        self._worker = worker
        self._wall_clock = wall_clock

    async def hosts(self) -> tuple[HostRecord, ...]:
        """All hosts."""
        return tuple(
            HostRecord(*row) for row in await self._worker.run(lambda db: _inventory(db, "hosts"))
        )

    async def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host, in place of others of its name; survives the machine."""
        name = text_of(host.hostname)

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM hosts WHERE hostname = ? AND uuid <> ?", (name, host.uuid))
            _put(db, "hosts", host.uuid, name, reporting=host.reporting)

        await self._worker.run(work)
        await self._worker.sync()

    async def delete_host(self, uuid: str) -> bool:
        """Removes a host; False if it was not there."""
        return await self._delete("hosts", uuid)

    async def forget_host(self, hostname: str, history_entry: HistoryEntry) -> None:
        """Removes all hosts of that name, the instances on them and that they ever had a link.

        Survives the machine; so does what happened there, with this as the end of it.
        """
        now = self._wall_clock().timestamp()

        def work(db: sqlite3.Connection) -> None:
            for table in ("hosts", "instances"):
                db.execute(f"DELETE FROM {table} WHERE hostname = ?", (text_of(hostname),))
            rounds.forget_links(db, hostname)
            history.record(db, history_entry, now)

        await self._worker.run(work)
        await self._worker.sync()

    async def instances(self) -> tuple[InstanceRecord, ...]:
        """All instances."""
        return tuple(
            InstanceRecord(*row)
            for row in await self._worker.run(lambda db: _inventory(db, "instances"))
        )

    async def put_instance(self, instance: InstanceRecord) -> None:
        """Adds or changes an instance, or binds it to another host; survives the machine."""
        name = text_of(instance.hostname)
        await self._worker.run(
            lambda db: _put(db, "instances", instance.uuid, name, reporting=instance.reporting)
        )
        await self._worker.sync()

    async def delete_instance(self, uuid: str) -> bool:
        """Removes an instance; False if it was not there. What is queued for it stays queued."""
        return await self._delete("instances", uuid)

    async def _delete(self, table: str, uuid: str) -> bool:
        text = f"DELETE FROM {table} WHERE uuid = ?"
        found = await self._worker.run(lambda db: changed(db, text, uuid) == 1)
        await self._worker.sync()
        return found


def _put(db: sqlite3.Connection, table: str, uuid: str, hostname: str, *, reporting: bool) -> None:
    text = (
        f"INSERT INTO {table} VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
        " SET hostname = excluded.hostname, reporting = excluded.reporting"
    )
    db.execute(text, (uuid, hostname, reporting))


def _inventory(db: sqlite3.Connection, table: str) -> list[tuple[str, str, bool]]:
    found = rows(db, f"SELECT uuid, hostname, reporting FROM {table}")
    return [(uuid, hostname, bool(reporting)) for uuid, hostname, reporting in found]
