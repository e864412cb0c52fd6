"""What guests are told of planned actions, and what of an overridden reject is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drains import DrainPlan
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event
from support.drain_cases import drained_host, heard, over, plan, rejects
from support.host_world import HostWorld, ScriptedGuest
from support.memory_store import MemoryStore, memory_store
from support.voters import voter_state

MOVED = ["notice live_migrate_begin", "notice live_migrate_end"]

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


def at(world: HostWorld, in_s: float) -> datetime:
    return datetime.fromtimestamp(world.host.memory.moment.epoch_s + in_s, UTC)


def told(guest: ScriptedGuest) -> list[tuple[str, int]]:
    asked = [one for one in guest.messages if isinstance(one, ActionNotify)]
    return [(str(one.event_type), one.planned_at) for one in asked]


async def planned(world: HostWorld, guest: ScriptedGuest, end_s: float) -> DrainRun:
    one: DrainPlan = plan(instance=guest.uuid)
    return await world.host.drains.plans.plan(one, None, at(world, end_s), "uid 0")


async def overridden(world: HostWorld) -> list[tuple[str, str, str]]:
    await trio.sleep(1)
    entries = [one.entry for one in await world.host.memory.history(100)]
    return [(one.who, str(one.event), one.reason) for one in entries if one.kind == "overridden"]


async def test_a_guest_with_extensions_is_told_when_it_happens(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.report_voters(voter_state())
        guest.reply = rejects()
        time = round(at(world, 15).timestamp())
        assert await over(await planned(world, guest, 15)) == "drained"
        # What is over is not planned any more.
        assert told(guest) == [
            ("live_migrate_begin", time),
            ("live_migrate_begin", time),
            ("live_migrate_end", 0),
        ]


async def test_a_guest_that_has_not_used_the_extensions_is_told_nothing_new(
    store: MemoryStore,
) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        assert await over(await planned(world, guest, 15)) == "drained"
        assert len(told(guest)) == 3
        assert all(b"planned_at" not in one.line for one in guest.received)


async def test_another_run_of_the_guest_may_be_a_deployed_one(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.report_voters(voter_state())
        await world.settle()
        guest.send_init()
        await world.sleep(2)
        assert await over(await planned(world, guest, 15)) == "drained"
        assert {planned_at for _, planned_at in told(guest)} == {0}


async def test_what_is_not_forced_has_no_time(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        for guest in guests:
            guest.report_voters(voter_state())
            guest.reply = rejects()
        await world.settle()
        plans = world.host.drains.plans
        run = await plans.retry(plan(instance=guests[0].uuid), 40, "uid 0", gives_up=True)
        assert await over(run) == "incomplete"
        drain = world.host.drains.start(plan(rules=DrainRules(on_reject=OnReject.SKIP)), "uid 1")
        assert await over(drain) == "incomplete"
        for guest in guests:
            assert {planned_at for _, planned_at in told(guest)} == {0}


async def test_the_reject_that_does_not_stand_is_reported_once(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.reply = rejects()
        run = await planned(world, guest, 40)
        assert await over(run) == "drained"
        who = f"plan {run.record.id} of uid 0"
        words = "overridden at its planned time: a backup runs"
        assert await overridden(world) == [(who, "live_migrate_begin", words)]
        assert world.host.counts.overridden == {Event.LIVE_MIGRATE_BEGIN: 1}


async def test_a_reject_in_the_last_vote_is_overridden_too(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        answer = rejects()
        guest.reply = lambda asked: attrs.evolve(answer(asked), after_s=5.0)
        run = await planned(world, guest, 3)
        assert await over(run) == "drained"
        assert heard(guest) == ["vote live_migrate_begin", *MOVED]
        assert len(await overridden(world)) == 1


async def test_the_history_has_the_other_overridden_rejects(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.reply = rejects()
        plans = world.host.drains.plans
        run = await plans.retry(plan(instance=guest.uuid), 40, "uid 0", gives_up=False)
        assert await over(run) == "drained"
        rules = DrainRules(on_reject=OnReject.FORCE)
        assert await over(world.host.drains.start(plan(rules=rules), "uid 1")) == "drained"
        reasons = [reason for _, _, reason in reversed(await overridden(world))]
        assert reasons == [
            "overridden at its planned time: a backup runs",
            "overridden by --on-reject: a backup runs",
        ]
        assert world.host.counts.overridden == {Event.LIVE_MIGRATE_BEGIN: 2}


async def test_nothing_is_overridden_where_nobody_rejects(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        await world.host.holds.hold(guests[0].uuid, 20.0, "a dump", "uid 7")
        blocked = await planned(world, guests[0], 40)
        guests[1].reply = rejects()
        plans = world.host.drains.plans
        given_up = await plans.retry(plan(instance=guests[1].uuid), 40, "uid 0", gives_up=True)
        assert await over(blocked) == "drained"
        assert await over(given_up) == "incomplete"
        assert given_up.machine.items[guests[1].uuid].reason == "rejected: a backup runs"
        assert await overridden(world) == []


async def test_a_reject_is_overridden_if_the_time_comes_while_a_turn_waits_for_its_guest(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drained_host(store, 1) as (world, (guest,)):

        async def settles(*_: object, **__: object) -> None:
            await trio.sleep(10)

        monkeypatch.setattr(world.host.drains.sightings, "until_settled", settles)
        guest.reply = rejects()
        # It is asked after 10 s, and has its turn again 30 s later, which begins 5 s too late.
        run = await planned(world, guest, 45)
        assert await over(run) == "drained"
        assert heard(guest) == ["vote live_migrate_begin", *MOVED]
        who = f"plan {run.record.id} of uid 0"
        reason = "overridden at its planned time: a backup runs"
        assert await overridden(world) == [(who, "live_migrate_begin", reason)]
