"""A store of an agent in a file of its own, with a clock to set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hbtrio.store.store import Store
from support.store_cases import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.db")


@pytest.fixture
async def store(path: str, clock: Clock) -> AsyncIterator[Store]:
    async with Store.open(path, clock) as store:
        yield store
