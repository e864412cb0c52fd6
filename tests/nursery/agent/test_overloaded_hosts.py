"""A host that is overloaded says so to its agent, which shows and logs it."""

from __future__ import annotations

import logging
from pathlib import Path

import attrs
import pytest
from trio.testing import MockClock

from hbtrio.wire.link_messages import OverloadReport, Welcome
from support.control_socket import call
from support.fleet_world import fleet_world
from support.linked_host import ScriptedAgent, linked
from support.overload import be_late

pytestmark = pytest.mark.usefixtures("autojump_clock")

TAKES_IT = Welcome(1, "controller-0", 0, overloads=True)


def told(agent: ScriptedAgent) -> list[tuple[bool, bool]]:
    """Of each report whether the host is overloaded, and whether its alarm is on."""
    return [(bool(one.since), one.alarm) for one in agent.of(OverloadReport)]


async def test_a_host_tells_each_change(autojump_clock: MockClock) -> None:
    agent = ScriptedAgent()
    agent.welcome = TAKES_IT
    async with linked(agent) as on:
        await on.world.sleep(5)
        assert told(agent) == []
        await be_late(on.world, autojump_clock, 8)
        assert told(agent) == [(True, False)]
        await be_late(on.world, autojump_clock, 4)
        since = on.world.host.overload.since
        assert since is not None
        assert agent.of(OverloadReport)[1] == OverloadReport(since.isoformat("T", "seconds"), True)
        await on.world.sleep(20)
        assert told(agent) == [(True, False), (True, True), (False, False)]


async def test_a_new_link_begins_with_it(autojump_clock: MockClock) -> None:
    agent = ScriptedAgent()
    agent.welcome = TAKES_IT
    async with linked(agent) as on:
        await be_late(on.world, autojump_clock, 12)
        agent.received.clear()
        await agent.cut()
        await be_late(on.world, autojump_clock, 4)
        assert told(agent) == [(True, True)]
        assert len(agent.dialled) == 2
        # Between two links it is on time again: an agent knows that of a new link.
        await agent.cut()
        agent.away = "no route"
        agent.received.clear()
        await on.world.sleep(60)
        agent.away = ""
        await on.world.sleep(60)
        assert on.world.host.link.is_up
        assert told(agent) == []


async def test_an_older_agent_is_not_told(autojump_clock: MockClock) -> None:
    agent = ScriptedAgent()
    async with linked(agent) as on:
        await be_late(on.world, autojump_clock, 12)
        await on.world.sleep(20)
        assert told(agent) == []
        assert len(agent.dialled) == 1


async def test_the_agent_shows_and_logs_it(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.links")
    async with fleet_world(tmp_path) as world, world.api.client() as http:

        async def shown() -> list[str]:
            status = await call(world.api.path, "status")
            return [line for line in status.lines if "overloaded" in line]

        await be_late(world.host, autojump_clock, 12)
        since = world.host.host.overload.since
        assert since is not None
        [host] = (await http.get("/v1/status")).json()["hosts"]
        assert host["overload"] == {"since": since.isoformat("T", "seconds"), "alarm": True}
        [line] = await shown()
        assert line.startswith("ALARM: compute-0: overloaded since ")
        assert line.endswith(": losses come late")
        await world.host.sleep(20)
        [host] = (await http.get("/v1/status")).json()["hosts"]
        assert host["overload"] is None
        assert await shown() == []
    said = [text for text in caplog.messages if text.startswith("compute-0: ")]
    assert [text for text in said if "link" not in text] == [
        "compute-0: the host is overloaded: only heartbeats are served",
        "compute-0: ALARM: the host is overloaded: losses come late",
        "compute-0: the host is on time again",
    ]


async def test_without_its_link_nothing_is_known(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        await be_late(world.host, autojump_clock, 12)
        assert attrs.asdict(world.agent.fleet.sessions["compute-0"].overload)["alarm"] is True
        await world.cut()
        [host] = (await http.get("/v1/status")).json()["hosts"]
        assert host["overload"] is None
