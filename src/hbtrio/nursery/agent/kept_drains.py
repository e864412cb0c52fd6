"""Stores the drains of an agent as they change; while the store fails, later.

What the history says of their actions is stored together with them. A restart finds both or
neither: it repeats no entry, and leaves none out.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain
from hbtrio.nursery.agent.action_history import lost
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault

_log = logging.getLogger("hbtrio.drain")

#: Entries of the history that wait for a store that fails; the oldest gives way.
WAITING: Final = 1000


class KeptDrains:
    """What is to be stored of drains.

    Args:
        store: keeps them.
        publish: tells of an entry of the history once it is stored, or is not for now.
    """

    def __init__(self, store: Store, publish: Callable[[HistoryEntry], None]) -> None:
        self._store = store
        self._publish = publish
        self._records: dict[str, DrainRecord] = {}
        self._places: dict[tuple[str, int], DrainPlace] = {}
        self._entries: list[HistoryEntry] = []
        #: Entries that were published, since the store has failed.
        self._late: deque[HistoryEntry] = deque()
        self._unwritten = WakeUp()
        #: What is older is never written over what is newer.
        self._writing = trio.Lock()

    async def load(self) -> tuple[StoredDrain, ...]:
        """Returns the drains of earlier runs.

        Raises:
            StoreFault: the store can't be read.
        """
        return await self._store.drains()

    def keep(self, record: DrainRecord) -> None:
        """Stores a drain that begins or has changed, soon."""
        self._records[record.id] = record
        self._unwritten.set()

    def keep_place(self, place: DrainPlace) -> None:
        """Stores an instance of a drain that has changed, soon."""
        self._places[place.drain, place.position] = place
        self._unwritten.set()

    def entry(self, entry: HistoryEntry) -> None:
        """Stores an entry of the history, with all else that has changed since the last checkpoint.

        It is published once it is stored.
        """
        self._entries.append(entry)
        self._unwritten.set()

    async def write_forever(self) -> NoReturn:
        """Writes what has changed, until cancelled."""
        while True:
            await self._unwritten.wait()
            if not await self.write():
                self._unwritten.set()
                await self._store.recovery.wait()

    async def write(self) -> bool:
        """Writes what has changed now; returns whether that is stored. If not, it is later."""
        async with self._writing:
            records, self._records = self._records, {}
            places, self._places = self._places, {}
            entries, self._entries = self._entries, []
            late = (*self._late, *entries)
            if not (records or places or late):
                return True
            try:
                await self._store.keep_drains(tuple(records.values()), tuple(places.values()), late)
            except StoreFault as fault:
                _log.error("store: %s: drains are stored later", fault)
                # What came meanwhile is newer.
                self._records = records | self._records
                self._places = places | self._places
                self._late.extend(entries)
                while len(self._late) > WAITING:
                    lost(self._late.popleft(), str(fault))
                return False
            else:
                self._late.clear()
                return True
            finally:
                for entry in entries:
                    self._publish(entry)
