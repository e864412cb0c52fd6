"""Stores the members of an agent's groups, which outlive their channels and the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

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
    """

    def __init__(self, worker: Watched) -> None:
        self._worker = worker

    async def all(self) -> tuple[GroupMember, ...]:
        """Returns the members of all groups."""
        text = f"SELECT {_COLUMNS} FROM members ORDER BY uuid"
        return await self._worker.run(
            lambda db: records(lambda row: GroupMember(*row), rows(db, text))
        )

    async def put(self, members: Mapping[str, GroupMember | None]) -> None:
        """Stores members by their uuids, each in place of what was known; None removes one."""

        def work(db: Connection) -> None:
            for uuid, member in members.items():
                if member is None:
                    db.execute("DELETE FROM members WHERE uuid = ?", (uuid,))
                else:
                    db.execute(
                        upsert("members", _COLUMNS, "uuid"),
                        (uuid, text_of(member.name), text_of(member.hostname)),
                    )

        await self._worker.run(work)
