"""Real agents on one PostgreSQL: one works, another one takes over, and the first one says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import psycopg
import pytest
import trio

from hbtrio.errors import UserError
from hbtrio.lab.daemon import DaemonDied
from hbtrio.store.lease import Lease
from hbtrio.store.postgres import open_postgres
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.system.boot_clock import boot_clock
from support.postgres import Server, postgres_server
from support.real_agent import RealAgent, real_agent
from support.real_processes import SOON_S
from support.scripted_host import HOST_UUID, HOSTNAME, VM

pytestmark = pytest.mark.processes


async def lease_is_over(url: str) -> None:
    """Waits until no agent has a lease."""
    with psycopg.connect(url, autocommit=True) as other, trio.fail_after(SOON_S):
        text = "SELECT count(*) FROM agents WHERE lease_until > clock_timestamp()"
        while other.execute(text).fetchall() != [(0,)]:  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.05)


def another(home: Path, url: str) -> AbstractAsyncContextManager[RealAgent]:
    """That of another controller."""
    (home / "second").mkdir()
    return real_agent(home / "second", name="controller-1", url=url)


async def knows_the_instance(agent: RealAgent) -> bool:
    return (await agent.ask("GET", f"/v1/instances/{VM}")).status == 200


async def introduce(agent: RealAgent) -> None:
    """The VIM tells of a host and its instance."""
    about = {"uuid": HOST_UUID, "hostname": HOSTNAME}
    assert (await agent.ask("POST", f"/v1/hosts/{HOST_UUID}", about)).status == 200
    about = {"uuid": VM, "hostname": HOSTNAME, "services": ["heartbeat"]}
    assert (await agent.ask("POST", f"/v1/instances/{VM}", about)).status == 200


async def ended(agent: RealAgent) -> str:
    """Waits until it has ended by itself; how it did."""
    with trio.fail_after(SOON_S):
        try:
            await agent.daemon.watch()
        except DaemonDied as died:
            return str(died).partition("\n")[0]
    raise AssertionError("it was ended")


async def test_one_that_is_frozen_is_fenced(postgres: Server, home: Path) -> None:
    url = postgres.schema()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(real_agent(home, url=url))
        await introduce(first)
        first.daemon.freeze()
        with pytest.raises(UserError, match="agent controller-0 has it open"):
            open_postgres(url, AGENT_SCHEMA, "controller-1", Lease(boot_clock))
        await lease_is_over(url)
        second = await stack.enter_async_context(another(home, url))
        assert await knows_the_instance(second)
        first.daemon.thaw()
        assert await ended(first) == "the agent ended unexpectedly with status 12"
        assert "another agent has taken over" in first.log
        assert await knows_the_instance(second)
        assert await second.daemon.stop() == 0


async def test_one_that_ends_leaves_at_once(postgres: Server, home: Path) -> None:
    url = postgres.schema()
    async with AsyncExitStack() as stack:
        async with real_agent(home, url=url) as first:
            await introduce(first)
            assert await first.daemon.stop() == 0
        second = await stack.enter_async_context(another(home, url))
        assert await knows_the_instance(second)
        assert await second.daemon.stop() == 0


async def until_it_says(agent: RealAgent, text: str, times: int = 1) -> None:
    """Waits until its log has a text as often."""
    with trio.fail_after(SOON_S):
        while agent.log.count(text) < times:  # noqa: ASYNC110 - a file tells nobody
            await trio.sleep(0.05)


async def vote(agent: RealAgent) -> int:
    """How the VIM's vote is answered; -1 if nobody answers."""
    about = {"uuid": VM, "event": "vote", "action": "stop"}
    try:
        return int((await agent.ask("POST", f"/v1/instances/{VM}/vote", about)).status)
    except (OSError, ValueError, IndexError):
        return -1


async def test_one_that_has_lost_its_connection_begins_again(postgres: Server, home: Path) -> None:
    url = postgres.schema()
    async with real_agent(home, url=url) as agent:
        await introduce(agent)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'hbtrio-agent'"
            )
        await until_it_says(agent, "votes and notices are refused until the database is back")
        assert "the connection is lost" in agent.log
        await until_it_says(agent, "agent controller-0: hosts at", 2)
        assert await knows_the_instance(agent)
        await agent.host()
        [line] = (await agent.operate("GET", "/v1/status"))["hosts"]
        assert line["link"] == "up"
        assert await agent.daemon.stop() == 0


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server of its own; before ``home``, into which its user can't look."""
    with postgres_server() as server:
        yield server
        server.thaw()


async def test_while_the_database_is_away_votes_are_refused(own_server: Server, home: Path) -> None:
    """Its server answers nothing, neither to the session nor to a new one."""
    async with real_agent(home, url=own_server.schema()) as agent:
        await introduce(agent)
        own_server.freeze()
        await until_it_says(agent, "votes and notices are refused until the database is back")
        with trio.fail_after(SOON_S):
            while (status := await vote(agent)) != 503:
                assert status == -1
                await trio.sleep(0.05)
        told = await agent.operate("GET", "/v1/status")
        assert "the lease of the database could not be renewed" in told["agent"]["store_fault"]
        assert [one["hostname"] for one in told["hosts"]] == [HOSTNAME]
        own_server.thaw()
        await until_it_says(agent, "agent controller-0: hosts at", 2)
        assert await knows_the_instance(agent)
        assert (await agent.operate("GET", "/v1/status"))["agent"]["store_fault"] == ""
        assert await agent.daemon.stop() == 0
