"""Stores over a database in memory and a worker without a thread, as a simulation has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from hbtrio.errors import UserError
from hbtrio.store.database import prepare_database
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.host_store import Changes, HostStore
from hbtrio.store.records import HistoryEntry
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.store import Store
from support.inline_store import InlineWorker, wall_clock

pytestmark = pytest.mark.usefixtures("autojump_clock")

ENTRY = HistoryEntry(datetime(2025, 1, 1, tzinfo=UTC), "loss", "u-1", "h", "silent")


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


async def test_an_agent_s_store(db: sqlite3.Connection) -> None:
    prepare_database(db, "memory", AGENT_SCHEMA)
    store = Store(InlineWorker(db), wall_clock)
    await store.links.welcome("compute-0", "boot-1")
    await store.sync()
    prepare_database(db, "memory", AGENT_SCHEMA)  # the next process
    assert await Store(InlineWorker(db), wall_clock).links.linked() == {"compute-0"}


async def test_a_host_s_store(db: sqlite3.Connection) -> None:
    prepare_database(db, "memory", HOST_SCHEMA)
    await HostStore(InlineWorker(db), wall_clock).keep(Changes(history=(ENTRY,)))
    prepare_database(db, "memory", HOST_SCHEMA)  # the next process
    (record,) = await HostStore(InlineWorker(db), wall_clock).history()
    assert record.entry == ENTRY


def test_one_of_another_program(db: sqlite3.Connection) -> None:
    prepare_database(db, "memory", HOST_SCHEMA)
    with pytest.raises(UserError, match="memory: is a database of another program"):
        prepare_database(db, "memory", AGENT_SCHEMA)
