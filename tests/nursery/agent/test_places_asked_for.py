"""An agent answers hosts that ask before they act: of two members on two hosts one may go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
from trio.testing import MockClock

from hbtrio.config.groups import GroupSettings
from hbtrio.wire.link_places import PlaceAnswer, PlaceOver, PlaceRequest
from hbtrio.wire.vocabulary import ActionName, Event
from support.agent_world import AgentWorld, agent_world
from support.scripted_host import INSTANCE, OTHER_HOST_UUID, OTHER_VM, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

GROUPS = {"db": GroupSettings(members=("db-*",), max_unavailable=1)}
DB_1 = attrs.evolve(INSTANCE, domain="db-1")
DB_2 = attrs.evolve(INSTANCE, uuid=OTHER_VM, domain="db-2")
STOPPING = "group db: {} is stopping, at most 1 of 2 may be unavailable"


@attrs.frozen
class Fleet:
    world: AgentWorld
    first: ScriptedHost
    second: ScriptedHost

    def refusal(self, uuid: str) -> str:
        """Why an instance must not be stopped now."""
        return self.world.agent.groups.refusal(uuid, Event.STOP)


async def ask(host: ScriptedHost, number: int, uuid: str, event: Event = Event.STOP) -> None:
    await host.send(PlaceRequest(number, uuid, event))


def answers(host: ScriptedHost) -> list[tuple[int, str]]:
    told = [one for one in host.received if isinstance(one, PlaceAnswer)]
    return [(one.number, one.denial) for one in told]


@pytest.fixture
async def fleet(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Fleet]:
    """db-1 on the first host, db-2 on the second."""
    async with agent_world(tmp_path, groups=GROUPS) as world:
        first = await world.bound_host(host=ScriptedHost(instances=(DB_1,)))
        second = ScriptedHost("compute-1", OTHER_HOST_UUID, instances=(DB_2,))
        yield Fleet(world, first, await world.bound_host(host=second))


async def test_of_two_hosts_that_ask_at_once_one_may_act(fleet: Fleet) -> None:
    await ask(fleet.first, 1, VM)
    await ask(fleet.second, 1, OTHER_VM)
    await fleet.first.settle()
    await fleet.second.settle()
    told = answers(fleet.first) + answers(fleet.second)
    assert sorted(told) in (
        [(1, ""), (1, STOPPING.format("db-1"))],
        [(1, ""), (1, STOPPING.format("db-2"))],
    )


async def test_the_place_is_taken_from_the_answer_to_the_end(fleet: Fleet) -> None:
    await ask(fleet.first, 1, VM)
    await fleet.first.settle()
    assert answers(fleet.first) == [(1, "")]
    assert fleet.refusal(OTHER_VM) == STOPPING.format("db-1")
    # A state that was sent before the answer came says nothing of it.
    await fleet.first.send_instance(VM, acting=None)
    await fleet.first.settle()
    assert fleet.refusal(OTHER_VM) == STOPPING.format("db-1")
    await fleet.second.send(PlaceOver(VM))  # it is not its own
    await fleet.second.settle()
    assert fleet.refusal(OTHER_VM) == STOPPING.format("db-1")
    await fleet.first.send(PlaceOver(VM))
    await fleet.first.settle()
    assert fleet.refusal(OTHER_VM) == ""


async def test_an_action_of_the_agent_keeps_a_host_from_acting(fleet: Fleet) -> None:
    fleet.first.silent()
    fleet.world.nursery.start_soon(begin, fleet)
    await fleet.first.until(lambda: bool(fleet.first.acts))
    await ask(fleet.second, 1, OTHER_VM)
    await fleet.second.settle()
    assert answers(fleet.second) == [(1, STOPPING.format("db-1"))]


async def begin(fleet: Fleet) -> None:
    begin = fleet.world.agent.actions.begin
    await begin(VM, ActionName.STOP, (), force=True, who="uid 0")


async def test_what_takes_nothing_down_and_who_is_no_member(fleet: Fleet) -> None:
    await ask(fleet.first, 1, VM, Event.RESUME)
    await ask(fleet.first, 2, "no-such-instance")
    await fleet.first.settle()
    assert answers(fleet.first) == [(1, ""), (2, "")]
    assert fleet.refusal(OTHER_VM) == ""


async def test_after_a_loss_of_the_link_what_the_host_says_counts(fleet: Fleet) -> None:
    await ask(fleet.first, 1, VM)
    await fleet.first.cut()
    assert "db-1" in fleet.refusal(OTHER_VM)
    fleet.first.instances[VM] = attrs.evolve(DB_1, acting=Event.STOP)
    await fleet.world.bound_host(host=fleet.first)
    assert fleet.refusal(OTHER_VM) == STOPPING.format("db-1")
    await fleet.first.send_instance(VM, acting=None)
    await fleet.first.settle()
    assert fleet.refusal(OTHER_VM) == ""


async def test_hosts_are_told_whether_there_are_groups(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.first.welcome is not None
    assert fleet.first.welcome.places
    (tmp_path / "other").mkdir()
    async with agent_world(tmp_path / "other") as world:
        host = await world.bound_host()
        assert host.welcome is not None
        assert not host.welcome.places
