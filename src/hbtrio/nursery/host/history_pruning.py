"""Removes old entries from a host's history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

import trio

from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.store.faults import StoreFault
from hbtrio.store.host_store import HostStore

#: Seconds between two removals of old history.
_EVERY_S: Final = 3600.0


async def prune_history(
    store: HostStore, settings: MemorySettings, on_fault: Callable[[str], None]
) -> NoReturn:
    """Removes what is too old, now and every hour, until cancelled.

    Args:
        store: the store.
        settings: for how long entries are kept, and the clock.
        on_fault: called with the reason if the store fails; tried again an hour later.
    """
    keep = timedelta(days=settings.history_days)
    while True:
        try:
            now = datetime.fromtimestamp(settings.moment().epoch_s, UTC)
            while await store.prune(now - keep):
                pass
        except StoreFault as fault:
            on_fault(str(fault))
        await trio.sleep(_EVERY_S)
