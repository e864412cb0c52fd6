"""Stores the inventory: the hosts and instances that the VIM has named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from hbtrio.store import group_members, history, links
from hbtrio.store.records import HistoryEntry, HostRecord, InstanceRecord
from hbtrio.store.sql import Connection, changed, rows, text_of, upsert
from hbtrio.store.watched import Watched


class Inventory:
    """Reads and writes hosts and instances, with the rules of a :class:`~hbtrio.store.store.Store`.

    Args:
        worker: the store's worker.
        wall_clock: returns the current time; timezone-aware.
    """

    def __init__(self, worker: Watched, wall_clock: Callable[[], datetime]) -> None:
        self._worker = worker
        self._wall_clock = wall_clock

    async def hosts(self) -> tuple[HostRecord, ...]:
        """Returns all hosts."""
        return tuple(
            HostRecord(*row) for row in await self._worker.run(lambda db: _inventory(db, "hosts"))
        )

    async def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host and removes others of its name; synced to the disk."""
        name = text_of(host.hostname)

        def work(db: Connection) -> None:
            db.execute("DELETE FROM hosts WHERE hostname = ? AND uuid <> ?", (name, host.uuid))
            _put(db, "hosts", host.uuid, name, reporting=host.reporting)

        await self._worker.run(work)
        await self._worker.sync()

    async def delete_host(self, uuid: str) -> bool:
        """Removes a host; False if the host is unknown. Synced to the disk."""
        return await self._delete("hosts", uuid)

    async def forget_host(
        self, hostname: str, members: Iterable[str], history_entry: HistoryEntry
    ) -> None:
        """Removes all hosts of a name, their instances and the records of their links.

        The change is synced to the disk. The history stays, with this entry as its end.

        Args:
            hostname: the name.
            members: of groups, which are none any more.
            history_entry: the entry.
        """
        now = self._wall_clock().timestamp()

        def work(db: Connection) -> None:
            for table in ("hosts", "instances"):
                db.execute(f"DELETE FROM {table} WHERE hostname = ?", (text_of(hostname),))
            links.forget(db, hostname)
            group_members.remove(db, members)
            history.record(db, history_entry, now)

        await self._worker.run(work)
        await self._worker.sync()

    async def instances(self) -> tuple[InstanceRecord, ...]:
        """Returns all instances."""
        return tuple(
            InstanceRecord(*row)
            for row in await self._worker.run(lambda db: _inventory(db, "instances"))
        )

    async def put_instance(self, instance: InstanceRecord) -> None:
        """Adds or changes an instance, or binds it to another host; synced to the disk."""
        name = text_of(instance.hostname)
        await self._worker.run(
            lambda db: _put(db, "instances", instance.uuid, name, reporting=instance.reporting)
        )
        await self._worker.sync()

    async def delete_instance(self, uuid: str) -> bool:
        """Removes an instance but not its queued entries; False if the instance is unknown."""
        return await self._delete("instances", uuid)

    async def _delete(self, table: str, uuid: str) -> bool:
        text = f"DELETE FROM {table} WHERE uuid = ?"
        found = await self._worker.run(lambda db: changed(db, text, uuid) == 1)
        await self._worker.sync()
        return found


def _put(db: Connection, table: str, uuid: str, hostname: str, *, reporting: bool) -> None:
    db.execute(upsert(table, "uuid, hostname, reporting", "uuid"), (uuid, hostname, reporting))


def _inventory(db: Connection, table: str) -> list[tuple[str, str, bool]]:
    found = rows(db, f"SELECT uuid, hostname, reporting FROM {table} ORDER BY uuid")
    return [(uuid, hostname, bool(reporting)) for uuid, hostname, reporting in found]
