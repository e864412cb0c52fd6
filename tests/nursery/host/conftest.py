"""A running host in memory, on the fake clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from trio.testing import MockClock

from support.host_world import HostWorld, host_world


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[HostWorld]:
    """A host without guests and with the settings' defaults."""
    async with host_world() as world:
        yield world
