"""Planned actions of a host: their times, refusals, cancellation, and what a restart finds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from hbtrio.config.groups import GroupSettings
from hbtrio.fsm.planned_time import STALE
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drains import DrainPlan, DrainRefused
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.wire.vocabulary import ActionName
from support.drain_cases import drained_host, heard, over, plan, rejects, states
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, stay_silent, uuid_of
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

ASKED = ["vote live_migrate_begin"]
MOVED = ["notice live_migrate_begin", "notice live_migrate_end"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


def at(world: HostWorld, in_s: float) -> datetime:
    return datetime.fromtimestamp(world.host.memory.moment.epoch_s + in_s, UTC)


async def planned(
    world: HostWorld, guest: ScriptedGuest, begin_s: float, end_s: float, **options: object
) -> DrainRun:
    one: DrainPlan = plan(instance=guest.uuid, **options)
    return await world.host.drains.plans.plan(one, at(world, begin_s), at(world, end_s), "uid 0")


async def again(world: HostWorld, store: MemoryStore, away_s: float = 1.0) -> DrainRun:
    """Ends the host and starts another; returns the plan as that one has it."""
    await world.restart_host(store.memory(), away_s=away_s)
    await world.sleep(1)
    return world.host.drains.runs.last[-1]


async def history(world: HostWorld) -> list[tuple[str, str]]:
    await trio.sleep(1)
    entries = [one.entry for one in await world.host.memory.history(100)]
    return [(one.who, one.reason) for one in reversed(entries) if one.kind == "action"]


async def test_one_that_accepts_is_asked_at_its_time_and_the_others_are_left_alone(
    store: MemoryStore,
) -> None:
    async with drained_host(store, 2) as (world, guests):
        run = await planned(world, guests[0], 600, 1200)
        # What is stored was stored before the answer.
        assert [one.record for one in (await store.recall()).drains] == [run.record]
        await world.sleep(590)
        assert (states(run), heard(guests[0]), run.stuck_s) == (["waiting"], [], 0.0)
        # Until it begins it owns nothing.
        assert world.host.owners.words(guests[0].uuid) == ""
        assert world.host.actions == {}
        assert await over(run, 700) == "drained"
        assert [heard(guest) for guest in guests] == [ASKED + MOVED, []]
        assert run.appeared() == ()
        who = f"plan {run.record.id} of uid 0"
        told = await history(world)
        assert told[0][0] == who
        assert told[0][1].startswith("live-migrate: planned: not before ")
        assert told[1:] == [(who, "live-migrate: asked"), (who, "live-migrate: done")]


async def test_one_that_rejects_is_asked_again_and_at_the_end_not_asked(
    store: MemoryStore,
) -> None:
    async with drained_host(store, 1) as (world, guests):
        guests[0].reply = rejects()
        run = await planned(world, guests[0], 10, 100)
        await world.sleep(50)
        assert states(run) == ["rejected"]
        assert await over(run) == "drained"
        # At 10, 40 and 70 s.
        assert heard(guests[0]) == ASKED * 3 + MOVED
        assert ("live-migrate: asked, without its vote") in [why for _, why in await history(world)]


async def test_a_time_that_comes_while_a_turn_waits_for_its_guest_leaves_out_the_vote(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drained_host(store, 1) as (world, guests):

        async def settles(*_: object, **__: object) -> None:
            await trio.sleep(10)

        monkeypatch.setattr(world.host.drains.sightings, "until_settled", settles)
        run = await planned(world, guests[0], 10, 15)
        assert await over(run) == "drained"
        assert heard(guests[0]) == MOVED


async def test_a_time_that_is_over_is_now(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, guests):
        run = await planned(world, guests[0], -1000, 60)
        await world.sleep(1)
        assert states(run) == ["acting"]


async def test_refusals_stand_in_the_history(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        month_s = 2_592_000
        for begin_s, end_s in ((10, 10), (10, 5), (-20, -10), (0, month_s + 1)):
            with pytest.raises(DrainRefused, match="before: must be to come"):
                await planned(world, guests[0], begin_s, end_s)
        with pytest.raises(DrainRefused, match="resume takes no VM away"):
            await planned(world, guests[0], 0, 10, action=ActionName.RESUME)
        with pytest.raises(DrainRefused, match="no command for reboot"):
            await planned(world, guests[0], 0, 10, action=ActionName.REBOOT)
        first = await planned(world, guests[0], 50, month_s)
        with pytest.raises(DrainRefused, match=r"has a planned live-migrate since .* by uid 0"):
            await planned(world, guests[0], 60, 90, action=ActionName.STOP)
        await planned(world, guests[1], 1e5, 2e5)
        nobody = plan(instance=uuid_of(9))
        with pytest.raises(UnknownInstance):
            await world.host.drains.plans.plan(nobody, at(world, 0), at(world, 9), "uid 0")
        refused = [why for _, why in await history(world) if ": refused: " in why]
        assert len(refused) == 8
        assert await over(first) == "drained"
        # One that has ended is in nobody's way.
        await planned(world, guests[0], 60, 90)


async def test_without_a_state_directory_nothing_is_planned() -> None:
    async with host_world() as world:
        guest = world.guest().appear()
        await world.sleep(3)
        with pytest.raises(DrainRefused, match="a planned action needs a state directory"):
            await planned(world, guest, 0, 10, command=("true",))


async def test_cancelled_nothing_happens_and_the_history_says_who(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, guests):
        run = await planned(world, guests[0], 60, 90)
        world.host.drains.runs.cancel(run.record.id, "uid 7")
        assert await over(run) == "cancelled"
        await world.sleep(200)
        assert heard(guests[0]) == []
        told = await history(world)
        assert told[-1][1] == "live-migrate: planned, cancelled: cancelled by uid 7"
        assert (await again(world, store)).is_over


async def test_a_drain_of_the_host_and_a_plan_go_on_side_by_side(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        guests[0].reply = stay_silent
        run = await planned(world, guests[0], 5, 300)
        drain = world.host.drains.start(plan(), "uid 1")
        assert await over(drain) == "drained"
        # Blocked by the action of the drain, then done at its own turn.
        assert await over(run) == "drained"
        started = [one.argv[1] for one in world.processes.started]
        assert started.count(guests[0].uuid) == 2


async def test_a_hold_that_ends_in_time_only_delays_it(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, guests):
        await world.host.holds.hold(guests[0].uuid, 100.0, "a dump", "uid 7")
        run = await planned(world, guests[0], 10, 300)
        await world.sleep(60)
        assert states(run) == ["blocked"]
        assert await over(run) == "drained"


async def test_a_group_is_not_overridden_at_the_end(store: MemoryStore) -> None:
    groups = {"db": GroupSettings(members=(uuid_of(1), uuid_of(2)), max_unavailable=0)}
    async with drained_host(store, 2, groups=groups) as (world, guests):
        run = await planned(world, guests[0], 10, 100, action=ActionName.STOP)
        assert await over(run) == "incomplete"
        assert world.processes.started == []
        assert "blocked: group db: " in (await history(world))[-1][1]


async def test_one_that_is_gone_is_left_alone(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        run = await planned(world, guests[0], 100, 200)
        guests[0].vanish()
        assert await over(run) == "incomplete"
        assert run.machine.items[guests[0].uuid].reason == "it is no longer on this host"


@pytest.mark.parametrize("at_s", [5.0, 30.0, 65.0])
async def test_a_restart_of_the_host_goes_on(store: MemoryStore, at_s: float) -> None:
    async with drained_host(store, 1) as (world, guests):
        guests[0].reply = rejects()
        run = await planned(world, guests[0], 20, 90)
        due = run.due
        await world.sleep(at_s)
        resumed = await again(world, store)
        assert (resumed.record.id, resumed.is_over) == (run.record.id, False)
        assert due is not None
        assert resumed.due == pytest.approx(due, abs=0.01)
        assert await over(resumed) == "drained"
        assert len(world.processes.started) == 1
        assert heard(guests[0])[-2:] == MOVED


async def test_a_host_that_was_away_beyond_the_end_does_nothing(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, guests):
        guests[0].reply = rejects()
        await planned(world, guests[0], 20, 90)
        resumed = await again(world, store, away_s=200)
        assert await over(resumed) == "incomplete"
        assert world.processes.started == []
        assert heard(guests[0]) == []
        assert (await history(world))[-1][1] == f"live-migrate: planned, skipped: {STALE}"


@pytest.mark.parametrize(("gives_up", "outcome"), [(True, "incomplete"), (False, "drained")])
async def test_an_action_that_is_asked_for_again_goes_on_after_a_restart(
    store: MemoryStore, gives_up: bool, outcome: str
) -> None:
    async with drained_host(store, 1) as (world, guests):
        guests[0].reply = rejects()
        one: DrainPlan = plan(instance=guests[0].uuid)
        await world.host.drains.plans.retry(one, 70.0, "uid 0", gives_up=gives_up)
        await world.sleep(20)
        resumed = await again(world, store)
        assert await over(resumed) == outcome
        assert len(world.processes.started) == (0 if gives_up else 1)
        told = [why for _, why in await history(world)]
        end = "given up at" if gives_up else "without its vote at"
        assert end in told[0]
        if gives_up:
            last = "live-migrate: planned, skipped: rejected: a backup runs"
            assert last in told


async def test_without_a_state_directory_an_action_is_asked_for_again_all_the_same() -> None:
    async with host_world(runs={"true": FakeRun()}) as world:
        guest = world.guest().appear()
        await world.sleep(3)
        guest.reply = rejects()
        one: DrainPlan = plan(instance=guest.uuid, command=("true",))
        run = await world.host.drains.plans.retry(one, 40.0, "uid 0", gives_up=False)
        assert await over(run) == "drained"


async def test_a_restart_of_the_machine_ends_it(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, guests):
        await planned(world, guests[0], 20, 90)
        store.boot_id = "another"
        resumed = await again(world, store)
        assert await over(resumed) == "cancelled"
        assert resumed.record.reason == "interrupted: the machine was restarted"


async def test_a_step_of_the_wall_clock_does_not_move_it(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, guests):
        run = await planned(world, guests[0], 20, 90)
        store.set_back_s = 3600.0
        await world.sleep(25)
        assert states(run) == ["done"]
