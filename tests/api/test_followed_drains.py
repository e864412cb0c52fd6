"""A drain at an agent whose link was lost in an action, or itself: it asks the host for the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.fsm.drain import DrainItem
from hbtrio.fsm.drain_rules import DrainRules
from hbtrio.fsm.drain_table import DrainState
from hbtrio.nursery.agent.drained_instances import NOT_REPORTED, SETTLES_S
from hbtrio.nursery.agent.followed_actions import ASK_S
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.wire.vocabulary import ActionName
from support.drain_cases import COMMANDS, heard, over, plan, rejects, states
from support.fake_processes import FakeRun
from support.fleet_world import FleetWorld, fleet_world
from support.host_world import ScriptedGuest
from support.memory_store import MemoryStore, memory_store

from .test_fleet_drains import drains_of

pytestmark = pytest.mark.usefixtures("autojump_clock")

NEVER_BACK_S = ASK_S + 30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    (tmp_path / "host").mkdir()
    with memory_store(tmp_path / "host") as made:
        yield made


@asynccontextmanager
async def drained_fleet(
    folder: Path, store: MemoryStore | None, guests: int = 1
) -> AsyncIterator[tuple[FleetWorld, list[ScriptedGuest]]]:
    """A host that remembers, unless it has no store, and migrates within 20 s."""
    config = {} if store is None else {"memory": store.memory()}
    runs = {"migrate": FakeRun(delay_s=20.0)}
    async with fleet_world(folder, actions=COMMANDS, runs=runs, **config) as world:
        made = [world.host.guest(name=f"vm-{number + 1}").appear() for number in range(guests)]
        await world.host.sleep(3)
        yield world, made


async def told(world: FleetWorld) -> list[str]:
    """The agent's history of actions, the oldest first; it is written soon after a drain's end."""
    await world.host.sleep(1)
    entries = [one.entry for one in await world.agent.store.history()]
    return [one.reason for one in reversed(entries) if one.kind == "action"]


def begun(world: FleetWorld) -> DrainRun:
    return world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")


@asynccontextmanager
async def next_agent(
    world: FleetWorld, state: DrainState, *, reason: str = ""
) -> AsyncIterator[DrainRun]:
    """The drain of an agent that was killed when its instance was in this state.

    The drain itself was of no instance that is there: what its host knows, the test decides.
    """
    agent = world.agent
    await agent.drains.kept.write()  # the drain's end, which it would write over what follows
    (stored,) = await agent.store.drains()
    places = [
        attrs.evolve(one, item=DrainItem(one.item.uuid, state, reason)) for one in stored.places
    ]
    await agent.store.keep_drains([attrs.evolve(stored.record, ended_at=None)], places)
    async with trio.open_nursery() as nursery:
        drains = drains_of(agent, nursery, agent.groups)
        await drains.load()
        (run,) = drains.runs.last
        yield run
        await drains.kept.write()
        nursery.cancel_scope.cancel()


async def test_a_link_that_is_lost_in_the_command_and_comes_back(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path, None) as (world, guests):
        run = begun(world)
        await world.host.sleep(5)
        assert states(run) == ["acting"]
        await world.cut()
        await world.host.sleep(5)
        assert states(run) == ["acting"]
        world.reachable = True
        assert await over(run) == "drained"
        assert await told(world) == ["live-migrate: asked", "live-migrate: done"]
        assert len(world.host.processes.started) == 1
        assert heard(guests[0])[-1] == "notice live_migrate_end"


async def test_a_command_that_ended_while_there_was_no_link(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with drained_fleet(tmp_path, store) as (world, _):
        run = begun(world)
        await world.host.sleep(5)
        await world.cut()
        await world.host.sleep(100)
        assert states(run) == ["acting"]
        world.reachable = True
        assert await over(run) == "drained"
        assert await told(world) == ["live-migrate: asked", "live-migrate: done"]


async def test_a_host_that_remembers_nothing_can_t_tell(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path, None) as (world, _):
        run = begun(world)
        await world.host.sleep(5)
        await world.cut()
        await world.host.sleep(100)
        world.reachable = True
        assert await over(run) == "incomplete"
        (item,) = run.machine.items.values()
        assert item.state is DrainState.FAILED
        assert item.reason.startswith("the outcome is unknown: no state directory is configured")


@pytest.mark.parametrize(("away_s", "outcome"), [(ASK_S - 5, "drained"), (0.0, "incomplete")])
async def test_a_host_is_waited_for_within_a_bound(
    tmp_path: Path, store: MemoryStore, away_s: float, outcome: str
) -> None:
    async with drained_fleet(tmp_path, store) as (world, _):
        run = begun(world)
        await world.host.sleep(5)
        await world.cut()
        await world.host.sleep(away_s or NEVER_BACK_S)
        assert run.is_over is not bool(away_s)
        world.reachable = True
        assert await over(run) == outcome
        if not away_s:
            await world.host.sleep(10)  # what it tells later is no second decision
            assert [one.partition(": ")[2][:22] for one in await told(world)] == [
                "asked",
                "the outcome is unknown",
            ]


async def test_a_host_too_old_to_tell(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drained_fleet(tmp_path, store) as (world, _):
        monkeypatch.setattr("hbtrio.nursery.agent.followed_actions._AGAIN_S", 20.0)
        run = begun(world)
        await world.host.sleep(5)
        await world.cut()
        world.reachable = True
        await world.host.sleep(10)
        session = world.agent.fleet.sessions["compute-0"]
        session.hello = attrs.evolve(session.hello, follows=False)
        assert await over(run) == "incomplete"
        (item,) = run.machine.items.values()
        assert item.reason.endswith("compute-0 runs an older version, which can't tell")


async def test_cancelled_while_there_is_no_link(tmp_path: Path, store: MemoryStore) -> None:
    async with drained_fleet(tmp_path, store, guests=2) as (world, guests):
        run = begun(world)
        await world.host.sleep(5)
        await world.cut()
        world.agent.drains.runs.cancel(run.record.id, "uid 7")
        assert states(run) == ["acting", "cancelled"]
        world.reachable = True
        assert await over(run) == "cancelled"
        assert states(run) == ["done", "cancelled"]  # its command had begun
        assert heard(guests[0])[-1] == "notice live_migrate_end"


async def test_an_action_that_goes_on_at_the_next_start_of_the_agent(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with drained_fleet(tmp_path, store) as (world, guests):
        run = begun(world)
        assert await over(run) == "drained"
        who = f"{run.record.actor} of the agent"
        migrate = ActionName.LIVE_MIGRATE
        world.host.host.begin_action(guests[0].uuid, migrate, (), force=False, who=who)
        await world.host.sleep(5)
        before = await told(world)
        async with next_agent(world, DrainState.ASKED) as resumed:
            await world.host.sleep(5)
            assert states(resumed) == ["acting"]
            assert await over(resumed) == "drained"
        assert (await told(world))[len(before) :] == ["live-migrate: done"]
        assert len(world.host.processes.started) == 2


async def test_an_action_that_is_over_at_the_next_start_of_the_agent(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with drained_fleet(tmp_path, store) as (world, _):
        assert await over(begun(world)) == "drained"
        async with next_agent(world, DrainState.TOLD) as resumed:
            assert await over(resumed) == "drained"
        assert len(world.host.processes.started) == 1


async def test_a_reject_that_the_last_agent_did_not_hear_of(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with drained_fleet(tmp_path, store) as (world, guests):
        guests[0].reply = rejects("a backup runs")
        rules = DrainRules(retry_for_s=0)
        run = world.agent.drains.start(plan(hosts=("compute-0",), rules=rules), "uid 0")
        assert await over(run) == "incomplete"
        async with next_agent(world, DrainState.ASKED) as resumed:
            assert await over(resumed) == "incomplete"
            assert states(resumed) == ["skipped"]
            (item,) = resumed.machine.items.values()
            assert item.reason == "rejected: a backup runs"
        assert (await told(world))[-1] == "live-migrate: rejected: a backup runs"


@pytest.mark.parametrize(
    ("state", "outcome", "starts"),
    [(DrainState.ASKED, "drained", 1), (DrainState.TOLD, "incomplete", 0)],
)
async def test_an_action_that_never_reached_its_host(
    tmp_path: Path, store: MemoryStore, state: DrainState, outcome: str, starts: int
) -> None:
    async with drained_fleet(tmp_path, store) as (world, _):
        dry = plan(hosts=("compute-0",), is_dry=True)
        run = world.agent.drains.start(dry, "uid 0")
        assert await over(run) == "dry-run"
        # As if it had been none, and the agent had been killed at the first turn.
        await world.agent.store.keep_drains([run.record], tuple(run.places.values()))
        async with next_agent(world, state) as resumed:
            assert await over(resumed) == outcome
        assert len(world.host.processes.started) == starts
        if not starts:
            (item,) = resumed.machine.items.values()
            assert item.reason == "interrupted: its outcome is unknown"


async def test_a_disk_that_has_not_taken_all_is_waited_for(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with drained_fleet(tmp_path, store) as (world, _):
        assert await over(begun(world)) == "drained"
        memory = world.host.host.memory
        memory._note_fault("the disk is full")
        async with next_agent(world, DrainState.ASKED) as resumed:
            await world.host.sleep(20)
            assert states(resumed) == ["asked"]
            memory._fault = ""
            assert await over(resumed) == "drained"
        assert len(world.host.processes.started) == 1


async def test_one_that_no_host_has_is_not_done_before_a_second_look(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with drained_fleet(tmp_path, store, guests=2) as (world, guests):
        run = begun(world)
        await world.host.sleep(5)
        guests[1].vanish()
        await world.host.sleep(30)
        assert states(run) == ["done", "blocked"]
        assert run.machine.items[guests[1].uuid].reason == NOT_REPORTED
        guests[1].appear()
        assert await over(run) == "drained"
        assert len(world.host.processes.started) == 2


async def test_one_that_no_host_has_for_long_has_left(tmp_path: Path, store: MemoryStore) -> None:
    async with drained_fleet(tmp_path, store, guests=2) as (world, guests):
        run = begun(world)
        await world.host.sleep(5)
        guests[1].vanish()
        assert await over(run) == "drained"
        assert run.machine.items[guests[1].uuid].state is DrainState.DONE
        assert len(world.host.processes.started) == 1


async def test_a_guest_that_is_new_to_its_host_is_waited_for_within_a_bound(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with drained_fleet(tmp_path, store) as (world, guests):
        ready = partial(world.agent.drains.ready, "d1")
        session = world.agent.fleet.sessions["compute-0"]

        async def taken_s() -> float:
            since = trio.current_time()
            await ready(guests[0].uuid)
            return trio.current_time() - since

        assert await taken_s() == 0
        known = session.instances[guests[0].uuid]
        session.instances[known.uuid] = attrs.evolve(known, state="waiting")
        assert await taken_s() == SETTLES_S
        del session.instances[known.uuid]
        assert await taken_s() == SETTLES_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ready, known.uuid)
            await world.host.sleep(3)
            session.instances[known.uuid] = known
            await world.host.sleep(0.5)
            assert not nursery.child_tasks
        session.instances[known.uuid] = attrs.evolve(known, state="waiting")
        await world.cut()
        assert await taken_s() == 0
