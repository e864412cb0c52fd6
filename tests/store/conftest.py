"""A store of an agent in a file or a database of its own, with a clock to set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hbtrio.store.places import open_store
from hbtrio.store.store import Store
from support.postgres import Server, is_installed, postgres_server, skip_or_fail
from support.store_cases import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.db")


@pytest.fixture(scope="session")
def server() -> Iterator[Server | None]:
    """A server for all tests of a run; None where PostgreSQL is not installed."""
    if not is_installed():
        yield None
        return
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(server: Server | None) -> Server:
    if server is None:
        skip_or_fail()
    return server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, server: Server | None, path: str) -> Iterator[str]:
    """Where a store can be opened: with each of the engines."""
    if request.param == "sqlite":
        yield path
    elif server is None:
        skip_or_fail()
    else:
        with server.tables() as url:
            yield url


@pytest.fixture
async def store(place: str, clock: Clock) -> AsyncIterator[Store]:
    async with open_store(place, clock) as store:
        yield store
