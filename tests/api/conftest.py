"""A running agent: in memory on the fake clock, or on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from support.agent_world import AgentWorld, SocketAgentWorld, agent_world, socket_agent_world


@pytest.fixture
async def world(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[AgentWorld]:
    """An agent in memory, without hosts and with a VIM that accepts everything."""
    async with agent_world(tmp_path) as world:
        yield world


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[SocketAgentWorld]:
    """An agent on real sockets, without hosts."""
    async with socket_agent_world(tmp_path) as agent:
        yield agent
