"""Opens the agent's store, wherever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import Final

import attrs
import trio

from hbtrio.store.lease import Lease
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.store import Store
from hbtrio.store.worker import open_store_thread

#: How long the end of a session whose server may be gone may take, in seconds.
_CLOSE_S: Final = 1.0


@attrs.define
class LastSession:
    """What an agent remembers of its last session with a database.

    Args:
        epoch: its epoch; None: there was none.
    """

    epoch: int | None = None


@asynccontextmanager
async def open_store(
    place: str,
    wall_clock: Callable[[], datetime],
    *,
    agent: str,
    clock: Callable[[], float],
    last: LastSession | None = None,
) -> AsyncIterator[Store]:
    """Opens a store while the block runs; creates a missing file, or the tables.

    Args:
        place: a file, or the URL of a PostgreSQL database.
        wall_clock: returns the current time; timezone-aware.
        agent: the agent's name, which no other one has; for a database.
        clock: CLOCK_BOOTTIME, by which the lease of a database ends.
        last: the agent's last session with the database, which is replaced by this one; None:
            there was none, and there will be no other one.

    Raises:
        UserError: as for :func:`~hbtrio.store.database.open_database`, or
            :func:`~hbtrio.store.postgres.open_postgres`.
    """
    if not place.startswith("postgresql:"):
        async with Store.open(place, wall_clock) as store:
            yield store
        return
    # Imported here: it needs a package that whoever has a file may not have.
    from hbtrio.store.postgres import PostgresDatabase, open_postgres

    last = LastSession() if last is None else last
    lease, trio_token = Lease(clock), trio.lowlevel.current_trio_token()
    sessions: list[PostgresDatabase] = []

    def connect() -> PostgresDatabase:
        try:
            sessions.append(open_postgres(place, AGENT_SCHEMA, agent, lease, last.epoch))
        finally:
            if lease.epoch is not None:
                last.epoch = lease.epoch
        return sessions[0]

    with ExitStack() as closing:
        async with open_store_thread(connect) as thread:
            store = Store(thread, wall_clock, restart_s=0.0, lease=lease)

            def note_loss() -> None:
                with suppress(trio.RunFinishedError):
                    trio_token.run_sync_soon(store.note_lease)

            lease.on_lost = note_loss
            try:
                yield store
            finally:
                if store.is_unsure:
                    # Nothing that waits for a server that is gone may hold up the next session.
                    closing.enter_context(sessions[0].at_most(_CLOSE_S))
