"""Opens the agent's store, wherever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial

import trio

from hbtrio.store.lease import Lease
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.store import Store
from hbtrio.store.worker import open_store_thread


@asynccontextmanager
async def open_store(
    place: str, wall_clock: Callable[[], datetime], *, agent: str, clock: Callable[[], float]
) -> AsyncIterator[Store]:
    """Opens a store while the block runs; creates a missing file, or the tables.

    Args:
        place: a file, or the URL of a PostgreSQL database.
        wall_clock: returns the current time; timezone-aware.
        agent: the agent's name, which no other one has; for a database.
        clock: CLOCK_BOOTTIME, by which the lease of a database ends.

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

    lease, trio_token = Lease(clock), trio.lowlevel.current_trio_token()
    connect = partial(open_postgres, place, AGENT_SCHEMA, agent, lease)
    async with open_store_thread(connect) as thread:
        store = Store(thread, wall_clock, restart_s=0.0, lease=lease)

        def note_loss() -> None:
            with suppress(trio.RunFinishedError):
                trio_token.run_sync_soon(store.note_lease)

        lease.on_lost = note_loss
        yield store
