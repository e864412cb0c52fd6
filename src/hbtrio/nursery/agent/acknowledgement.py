"""Acknowledges what a host has reported."""

from __future__ import annotations

import logging
from typing import Final

import trio

from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Ack, FromHost

_log = logging.getLogger("hbtrio.links")

#: Reports within this time share a sync, in seconds. A verdict is being sent to the VIM meanwhile,
#: and an immediate sync would delay it.
_GATHER_S: Final = 0.005


class Acknowledgement:
    """Acknowledges reports once they are synced to disk, many with one sync.

    Args:
        link: the host's.
        store: has the reports.
    """

    def __init__(self, link: LinkSession[FromHost], store: Store) -> None:
        self._link = link
        self._store = store
        self._owed = 0
        self._reports = WakeUp()

    def owe(self, number: int) -> None:
        """Takes that the report of this number, and all before it, are stored."""
        self._owed = number
        self._reports.set()

    async def run(self) -> None:
        """Acknowledges until the session or the store fails, or until cancelled."""
        acknowledged = 0
        try:
            while True:
                await self._reports.wait()
                await trio.sleep(_GATHER_S)
                owed = self._owed
                if owed > acknowledged:
                    await self._store.sync()
                    await self._link.send(Ack(owed))
                    acknowledged = owed
        except SessionEnded:
            pass  # the host sends unacknowledged reports again
        except StoreFault as fault:
            # The reports are stored, but not synced; the host keeps them until an agent
            # acknowledges.
            _log.error("store: %s: reports can't be acknowledged", fault)
