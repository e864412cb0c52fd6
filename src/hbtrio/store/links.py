"""Stores the links of hosts and the numbers of their reports: each report has one effect.

The functions run inside a transaction of the store's worker.
"""

from __future__ import annotations

from typing import Final

from hbtrio.store.sql import NO_LIMIT, Connection, insert, rows, text_of
from hbtrio.store.watched import Watched

#: The most host processes per host whose report numbers are kept: the current one, and earlier ones
#: whose connections may still be open.
BOOTS: Final = 4

_INSERT: Final = insert("links", "hostname, boot_id, acknowledged")


class Links:
    """Reads and writes links, with the rules of a :class:`~hbtrio.store.store.Store`.

    Args:
        worker: the store's worker.
    """

    def __init__(self, worker: Watched) -> None:
        self._worker = worker

    async def welcome(self, hostname: str, boot_id: str) -> int:
        """Records that this host process has a link.

        Returns the number of the last report taken from the process; 0 for none.
        """
        return await self._worker.run(lambda db: _welcome(db, hostname, boot_id))

    async def acknowledged(self, hostname: str, boot_id: str) -> int:
        """Returns the number of the last report taken from this host process; 0 for none."""
        return await self._worker.run(lambda db: _known(db, hostname, boot_id) or 0)

    async def linked(self) -> frozenset[str]:
        """Returns the hosts that have had a link, in this run of the agent or an earlier one."""
        return await self._worker.run(_linked)


def _welcome(db: Connection, hostname: str, boot_id: str) -> int:
    known = _known(db, hostname, boot_id)
    if known is None:  # with AUTOINCREMENT, even an insert that does nothing writes
        _insert(db, hostname, boot_id, 0)
    return known or 0


def _known(db: Connection, hostname: str, boot_id: str) -> int | None:
    found = rows(
        db,
        "SELECT acknowledged FROM links WHERE hostname = ? AND boot_id = ?",
        text_of(hostname),
        text_of(boot_id),
    )
    return int(found[0][0]) if found else None


def forget(db: Connection, hostname: str) -> None:
    """Removes all records of the host's links."""
    db.execute("DELETE FROM links WHERE hostname = ?", (text_of(hostname),))


def _linked(db: Connection) -> frozenset[str]:
    return frozenset(name for (name,) in rows(db, "SELECT DISTINCT hostname FROM links"))


def acknowledge(db: Connection, hostname: str, boot_id: str, number: int) -> bool:
    """Records that a report is taken; False if this number or a later one was taken before."""
    known = _known(db, hostname, boot_id)
    if number <= (known or 0):
        return False
    if known is None:
        _insert(db, hostname, boot_id, number)
    else:
        text = "UPDATE links SET acknowledged = ? WHERE hostname = ? AND boot_id = ?"
        db.execute(text, (number, text_of(hostname), text_of(boot_id)))
    return True


def _insert(db: Connection, hostname: str, boot_id: str, number: int) -> None:
    """Remembers a host process, and forgets the oldest ones of the host."""
    db.execute(_INSERT, (text_of(hostname), text_of(boot_id), number))
    db.execute(
        "DELETE FROM links WHERE id IN"
        " (SELECT id FROM links WHERE hostname = ? ORDER BY id DESC LIMIT ? OFFSET ?)",
        (text_of(hostname), NO_LIMIT, BOOTS),
    )
