"""Opens the agent's store, wherever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.store import Store
from hbtrio.store.worker import open_store_thread


@asynccontextmanager
async def open_store(place: str, wall_clock: Callable[[], datetime]) -> AsyncIterator[Store]:
    """Opens a store while the block runs; creates a missing file, or the tables.

    Args:
        place: a file, or the URL of a PostgreSQL database.
        wall_clock: returns the current time; timezone-aware.

    Raises:
        UserError: as for :func:`~hbtrio.store.database.open_database`, or
            :func:`~hbtrio.store.postgres.open_postgres`.
    """
    if not place.startswith("postgresql:"):
        async with Store.open(place, wall_clock) as store:
            yield store
        return
    # Imported here: it needs a package that whoever has a file may not have.
    from hbtrio.store.postgres import open_postgres

    async with open_store_thread(lambda: open_postgres(place, AGENT_SCHEMA)) as thread:
        yield Store(thread, wall_clock, restart_s=0.0)
