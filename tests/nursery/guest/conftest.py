"""A running guest that serves applications, on the fake clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from trio.testing import MockClock

from support.raw_application import AppWorld, app_world


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[AppWorld]:
    """A guest that is enabled and has no applications yet."""
    async with app_world() as world:
        yield world
