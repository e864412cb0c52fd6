"""Stores the drains of an agent as they change; while the store fails, later."""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import trio

from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault

_log = logging.getLogger("hbtrio.drain")

#: Seconds until a store that has failed is tried again.
_AGAIN_S: Final = 1.0


class KeptDrains:
    """What is to be stored of drains.

    Args:
        store: keeps them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[str, DrainRecord] = {}
        self._places: dict[tuple[str, int], DrainPlace] = {}
        self._unwritten = WakeUp()

    async def load(self) -> tuple[StoredDrain, ...]:
        """Returns the drains of earlier runs.

        Raises:
            StoreFault: the store can't be read.
        """
        return await self._store.drains()

    async def put(self, drain: StoredDrain) -> None:
        """Stores a drain that begins; while the store fails, later."""
        self._records[drain.record.id] = drain.record
        self._places |= {(place.drain, place.position): place for place in drain.places}
        await self._write()

    def keep(self, record: DrainRecord) -> None:
        """Stores a drain that has changed, soon."""
        self._records[record.id] = record
        self._unwritten.set()

    def keep_place(self, place: DrainPlace) -> None:
        """Stores an instance of a drain that has changed, soon."""
        self._places[place.drain, place.position] = place
        self._unwritten.set()

    async def write_forever(self) -> NoReturn:
        """Writes what has changed, until cancelled."""
        while True:
            await self._unwritten.wait()
            if not await self._write():
                self._unwritten.set()
                await trio.sleep(_AGAIN_S)

    async def _write(self) -> bool:
        records, self._records = self._records, {}
        places, self._places = self._places, {}
        try:
            await self._store.keep_drains(tuple(records.values()), tuple(places.values()))
        except StoreFault as fault:
            _log.error("store: %s: drains are stored later", fault)
            # What came meanwhile is newer.
            self._records = records | self._records
            self._places = places | self._places
            return False
        return True
