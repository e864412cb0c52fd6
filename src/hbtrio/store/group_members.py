"""Stores the members of an agent's groups, which outlive their channels and the agent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final

import attrs

from hbtrio.store import history
from hbtrio.store.records import HistoryEntry
from hbtrio.store.sql import Connection, records, rows, text_of, upsert
from hbtrio.store.watched import Watched

_COLUMNS: Final = "uuid, name, hostname"


@attrs.frozen
class GroupMember:
    """A member: its uuid, libvirt's name of it if that is known, and the host that had it last."""

    uuid: str
    name: str
    hostname: str


class StoredMembers:
    """Reads and writes members, with the rules of a :class:`~hbtrio.store.store.Store`.

    Args:
        worker: the store's worker.
        wall_clock: returns the current time; timezone-aware.
    """

    def __init__(self, worker: Watched, wall_clock: Callable[[], datetime]) -> None:
        self._worker = worker
        self._wall_clock = wall_clock

    async def all(self) -> tuple[GroupMember, ...]:
        """Returns the members of all groups."""
        text = f"SELECT {_COLUMNS} FROM members ORDER BY uuid"
        return await self._worker.run(
            lambda db: records(lambda row: GroupMember(*row), rows(db, text))
        )

    async def forget(self, uuid: str, history_entry: HistoryEntry) -> None:
        """Removes a member, with this entry in the history."""
        now = self._wall_clock().timestamp()

        def work(db: Connection) -> None:
            remove(db, [uuid])
            history.record(db, history_entry, now)

        await self._worker.run(work)

    async def put(self, members: Mapping[str, GroupMember | None]) -> None:
        """Stores members by their uuids, each in place of what was known; None removes one."""

        def work(db: Connection) -> None:
            remove(db, [uuid for uuid, member in members.items() if member is None])
            for uuid, member in members.items():
                if member is not None:
                    db.execute(
                        upsert("members", _COLUMNS, "uuid"),
                        (uuid, text_of(member.name), text_of(member.hostname)),
                    )

        await self._worker.run(work)


def remove(db: Connection, uuids: Iterable[str]) -> None:
    """Removes members, within a transaction of the store's worker."""
    for uuid in uuids:
        db.execute("DELETE FROM members WHERE uuid = ?", (uuid,))
