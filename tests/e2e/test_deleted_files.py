"""A real agent whose store and socket are deleted while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.real_agent import real_agent
from support.real_processes import until

#: Two looks, 20 s apart, on a machine that is very busy.
NOTICED_S = 60.0


@pytest.mark.processes
async def test_a_store_and_a_socket_that_are_deleted(home: Path) -> None:
    async with real_agent(home) as agent:
        await agent.host()
        for name in ("agent.db", "agent.db-wal", "agent.db-shm", "link"):
            (home / name).unlink()
        await until(lambda: "/agent.db was deleted or moved" in agent.log, NOTICED_S)
        await until(lambda: "/link: was deleted or replaced; a new" in agent.log, NOTICED_S)
        # It goes on: a host links by the new socket, and the store takes what it reports.
        host = await agent.host()
        assert host.up
        status = (await agent.operate("GET", "/v1/status"))["agent"]
        assert "is lost at the agent's next start" in status["store_files_fault"]
        assert status["store_fault"] == ""
        assert not (home / "agent.db").exists()
        assert "Traceback" not in agent.log
