"""What a host does on its own takes a place in its agent's groups, as long as the host says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.config.groups import GroupSettings
from hbtrio.wire.link_messages import ActCommand
from hbtrio.wire.link_parts import LinkRound
from hbtrio.wire.vocabulary import ActionName, Event
from support.agent_world import AgentWorld, agent_world
from support.scripted_host import INSTANCE, OTHER_HOST_UUID, OTHER_VM, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

GROUPS = {"db": GroupSettings(members=("db-*",), max_unavailable=1)}
THIRD_VM = "55555555-5555-4555-8555-555555555555"

DB_1 = attrs.evolve(INSTANCE, domain="db-1")
DB_2 = attrs.evolve(INSTANCE, uuid=OTHER_VM, domain="db-2")
DB_3 = attrs.evolve(INSTANCE, uuid=THIRD_VM, domain="db-3")
MIGRATED = "group db: db-1 is being migrated, at most 1 of 3 may be unavailable"


@attrs.frozen
class Fleet:
    world: AgentWorld
    first: ScriptedHost
    second: ScriptedHost

    def refusal(self, uuid: str = OTHER_VM) -> str:
        """Why an instance must not be stopped now."""
        return self.world.agent.groups.refusal(uuid, Event.STOP)

    async def told(self, uuid: str = VM, **changes: Any) -> None:
        """The first host says that an instance is like this."""
        await self.first.send_instance(uuid, **changes)
        await self.first.settle()


@pytest.fixture
async def fleet(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Fleet]:
    """db-1 and db-3 on the first host, db-2 on the second."""
    async with agent_world(tmp_path, groups=GROUPS) as world:
        first = await world.bound_host(host=ScriptedHost(instances=(DB_1, DB_3)))
        second = ScriptedHost("compute-1", OTHER_HOST_UUID, instances=(DB_2,))
        yield Fleet(world, first, await world.bound_host(host=second))


async def test_its_action_takes_a_place_until_it_ends(fleet: Fleet) -> None:
    await fleet.told(acting=Event.LIVE_MIGRATE_BEGIN)
    assert fleet.refusal() == MIGRATED
    picture = fleet.world.agent.groups.rule.pictures()[0]
    assert [(one.name, one.words) for one in picture.unavailable] == [("db-1", "is being migrated")]
    await fleet.told(acting=None)
    assert fleet.refusal() == ""


async def test_its_notice_takes_a_place_and_its_vote_is_a_question(fleet: Fleet) -> None:
    await fleet.told(open=LinkRound(True, Event.STOP, 9.0))
    assert fleet.refusal() == ""
    await fleet.told(open=LinkRound(False, Event.STOP, 9.0))
    assert fleet.refusal() == "group db: db-1 is stopping, at most 1 of 3 may be unavailable"
    await fleet.told(open=LinkRound(False, Event.RESUME, 9.0))
    assert fleet.refusal() == ""


async def test_what_brings_a_vm_back_takes_none(fleet: Fleet) -> None:
    await fleet.told(acting=Event.LIVE_MIGRATE_END)
    assert fleet.refusal() == ""


async def test_of_one_that_the_agent_did_not_decide_on_the_rule_still_holds(fleet: Fleet) -> None:
    """It is not down already: of another action on it nothing would be known here."""
    await fleet.told(acting=Event.LIVE_MIGRATE_BEGIN)
    assert fleet.refusal(VM) == ""
    await fleet.told(THIRD_VM, state="lost", heartbeating=False)
    assert fleet.refusal(VM) == "group db: db-3 is lost, at most 1 of 3 may be unavailable"
    # And one that is lost waits for it.
    assert fleet.refusal(THIRD_VM) == MIGRATED


async def test_the_vims_place_is_not_given_back_early(fleet: Fleet) -> None:
    """A notice that is open at the host is not the instance's being down and back."""
    await fleet.world.ask(Event.REBOOT, vote=False)
    await wait_all_tasks_blocked()
    await fleet.told(open=LinkRound(False, Event.REBOOT, 9.0))
    assert fleet.refusal() != ""
    await fleet.told(open=None)
    assert fleet.refusal() == "group db: db-1 is restarting, at most 1 of 3 may be unavailable"


async def test_the_end_of_the_agents_own_action_is_the_end(fleet: Fleet) -> None:
    """The host sends the last line before the instance's next state: the next member may go."""

    async def performs(command: ActCommand) -> None:
        await fleet.first.send_instance(acting=Event.STOP)
        await fleet.first.performs(command)

    async def stop() -> None:
        action = await fleet.world.agent.actions.begin(
            VM, ActionName.STOP, (), force=True, who="operator"
        )
        async for line in action.lines.watch():
            assert line is None or line.step != "group"
        await wait_all_tasks_blocked()

    fleet.first.on_act = performs
    await stop()
    assert fleet.refusal() == ""
    # Another that the host says to be in progress after that is another.
    await fleet.told(acting=Event.LIVE_MIGRATE_BEGIN)
    assert fleet.refusal() == MIGRATED


async def test_an_action_that_the_host_refuses_says_nothing_of_the_one_there(fleet: Fleet) -> None:
    await fleet.told(acting=Event.LIVE_MIGRATE_BEGIN)
    fleet.first.refusing("live-migrate is in progress")
    with pytest.raises(Exception, match="live-migrate is in progress"):
        await fleet.world.agent.actions.begin(VM, ActionName.STOP, (), force=True, who="operator")
    assert fleet.refusal() == MIGRATED
