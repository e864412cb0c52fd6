"""A store of an agent in a file or a database of its own, with a clock to set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hbtrio.store.store import Store
from support.postgres import Server, postgres, server, skip_or_fail
from support.store_cases import Clock, opened_at

__all__ = ["clock", "path", "place", "postgres", "server", "store"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.db")


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
    async with opened_at(place, clock) as store:
        yield store
