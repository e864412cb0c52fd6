"""An agent's groups with a real host at the other end of its link."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbtrio.config.groups import GroupSettings
from hbtrio.config.host import ActionCommands
from hbtrio.nursery.agent.fleet_actions import FleetActionRefused
from hbtrio.wire.vocabulary import ActionName, Event, VoteResult
from support.fake_processes import FakeRun
from support.fleet_world import fleet_world
from support.host_world import Reply

pytestmark = pytest.mark.usefixtures("autojump_clock")

RULE = {"db": GroupSettings(members=("0000*",), max_unavailable=1)}


async def test_what_an_operator_does_at_a_host_takes_a_place_at_its_agent(tmp_path: Path) -> None:
    actions = ActionCommands(live_migrate="migrate {uuid}", pause="pause {uuid}")
    runs = {"migrate": FakeRun(delay_s=5.0)}
    async with fleet_world(tmp_path, actions=actions, runs=runs, agent_groups=RULE) as world:
        guests = [world.host.guest(name=f"vm-{number}").appear() for number in (1, 2)]
        first, second = (guest.uuid for guest in guests)
        await world.host.sleep(3)
        agent = world.api.agent
        assert agent.groups.refusal(second, Event.STOP) == ""
        guests[0].reply = lambda _: Reply(VoteResult.ACCEPT, after_s=5.0)
        world.host.host.begin_action(first, ActionName.LIVE_MIGRATE, (), force=False)
        await world.host.sleep(1)  # its vote is open
        assert "is being migrated" in agent.groups.refusal(second, Event.STOP)
        action = await agent.actions.begin(second, ActionName.PAUSE, (), force=True, who="operator")
        lines = [line async for line in action.lines.watch() if line is not None]
        assert lines[-1].outcome == "rejected"
        # The host refuses another action on the same one, and nothing is forgotten by that.
        with pytest.raises(FleetActionRefused, match="live-migrate is in progress"):
            await agent.actions.begin(first, ActionName.PAUSE, (), force=True, who="operator")
        assert "is being migrated" in agent.groups.refusal(second, Event.STOP)
        await world.host.sleep(60)
        assert world.host.host.actions == {}
        assert agent.groups.refusal(second, Event.STOP) == ""


async def test_a_host_asks_its_agents_groups_before_it_acts(tmp_path: Path) -> None:
    actions = ActionCommands(live_migrate=("migrate", "{uuid}"))
    runs = {"migrate": FakeRun(delay_s=5.0)}
    async with fleet_world(tmp_path, actions=actions, runs=runs, agent_groups=RULE) as world:
        host = world.host.host
        first, second = (world.host.guest(name=f"vm-{number}").appear().uuid for number in (1, 2))
        await world.host.sleep(3)
        migrate = ActionName.LIVE_MIGRATE
        # At once: one of them goes.
        begun = [host.begin_action(uuid, migrate, (), force=False) for uuid in (first, second)]
        await world.host.sleep(1)
        goes, stays = sorted(begun, key=lambda one: one.denial)
        assert (goes.denial, stays.denial) == (
            "",
            f"group db: {goes.uuid} is being migrated, at most 1 of 2 may be unavailable",
        )
        await world.host.sleep(60)
        assert (goes.outcome, stays.outcome) == ("done", f"rejected: {stays.denial}")
        assert host.actions == {}
        again = host.begin_action(stays.uuid, migrate, (), force=False)
        await world.host.sleep(60)
        assert again.outcome == "done"
        assert world.agent.groups.refusal(goes.uuid, Event.STOP) == ""


async def test_the_agents_history_has_who_asked_for_an_actions_vote_and_notice(
    tmp_path: Path,
) -> None:
    actions = ActionCommands(pause="pause {uuid}")
    async with fleet_world(tmp_path, actions=actions) as world:
        guest = world.host.guest(name="vm-1").appear()
        await world.host.sleep(3)
        agent = world.api.agent
        action = await agent.actions.begin(guest.uuid, ActionName.PAUSE, (), force=False, who="Kim")
        assert [line async for line in action.lines.watch()]
        await world.host.sleep(1)
        world.host.host.begin_action(
            guest.uuid, ActionName.PAUSE, (), force=False, who="operator uid 7"
        )
        await world.host.sleep(60)
        found = [one.entry for one in reversed(await agent.store.history())]
        asked = [(one.kind, one.who) for one in found if one.kind in ("vote", "notice")]
        assert list(dict.fromkeys(asked)) == [
            *[(kind, "Kim of the agent") for kind in ("vote", "notice")],
            *[(kind, "operator uid 7") for kind in ("vote", "notice")],
        ]
