"""Records what operators ask for, and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from hbtrio.log.subject import fields
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault

_log = logging.getLogger("hbtrio.agent")


class ActionHistory:
    """The entries of actions in the history.

    Args:
        store: keeps them.
        history: publishes them.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        store: Store,
        history: Broadcast[HistoryEntry],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._history = history
        self._wall_clock = wall_clock

    def entry(
        self, reason: str, who: str, uuid: str, hostname: str = "", command_id: str = ""
    ) -> HistoryEntry:
        """Makes an entry of now."""
        return HistoryEntry(
            time=self._wall_clock(),
            kind="action",
            uuid=uuid,
            hostname=hostname,
            reason=reason,
            who=who,
            command_id=command_id,
        )

    def publish(self, entry: HistoryEntry) -> None:
        """Logs an entry and tells whoever follows the history."""
        about = fields(entry.kind)
        _log.info("%s: action %s by %s", entry.uuid, entry.reason, entry.who, extra=about)
        self._history.publish(entry)

    async def record(self, entry: HistoryEntry) -> None:
        """Publishes and stores an entry; a failing store loses it, and the log says so."""
        self.publish(entry)
        try:
            await self._store.record(entry)
        except StoreFault as fault:
            lost(entry, str(fault))


def lost(entry: HistoryEntry, fault: str) -> None:
    """Logs that an entry is not stored."""
    _log.error("store: %s: history entry lost: %s %s", fault, entry.uuid, entry.reason)
