"""Guests that withdraw a reject: who asks at once, and what such guests can't bring about."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from hbtrio.fsm.drain import WITHDRAWN_S
from hbtrio.fsm.drain_rules import DrainRules
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.host.round import WITHDRAWALS, WITHDRAWALS_S
from hbtrio.wire.channel_messages import Nack, RejectWithdrawn
from hbtrio.wire.vocabulary import Event
from support.drain_cases import drained_host, heard, over, plan, rejects, states
from support.host_world import HostWorld, ScriptedGuest, agree
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

MIGRATION = RejectWithdrawn(Event.LIVE_MIGRATE_BEGIN, "orders")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def planned(world: HostWorld, guest: ScriptedGuest, end_s: float = 1000.0) -> DrainRun:
    before = datetime.fromtimestamp(world.host.memory.moment.epoch_s + end_s, UTC)
    one = plan(instance=guest.uuid)
    return await world.host.drains.plans.plan(one, None, before, "uid 0")


async def reported(world: HostWorld) -> list[tuple[str, str]]:
    await trio.sleep(1)
    entries = [one.entry for one in await world.host.memory.history(100)]
    return [(str(one.event), one.reason) for one in entries if one.kind == "withdrawn"]


async def test_a_plan_asks_at_once_and_the_answer_counts(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.reply = rejects()
        run = await planned(world, guest)
        await world.sleep(10)
        guest.peer.send(MIGRATION)
        await world.sleep(1)
        # It is asked anew, and has changed its mind.
        assert (states(run), heard(guest)) == (["rejected"], ["vote live_migrate_begin"] * 2)
        await world.sleep(10)
        guest.reply = agree
        guest.peer.send(MIGRATION)
        await world.sleep(1)
        assert states(run) == ["acting"]
        assert await over(run) == "drained"
        said = ("live_migrate_begin", "orders is ready for it")
        assert await reported(world) == [said, said]


async def test_a_drain_asks_at_once_and_the_others_at_their_time(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        for guest in guests:
            guest.reply = rejects()
        run = world.host.drains.start(plan(rules=DrainRules(parallel=2)), "uid 0")
        await world.sleep(10)
        before = [len(heard(guest)) for guest in guests]
        guests[0].peer.send(MIGRATION)
        await world.sleep(1)
        assert [len(heard(guest)) for guest in guests] == [before[0] + 1, before[1]]
        world.host.drains.runs.cancel(run.record.id, "uid 0")


@pytest.mark.parametrize("said", [Event.STOP, Event.LIVE_MIGRATE_END, Event.UNKNOWN])
async def test_what_is_about_another_event_changes_nothing(store: MemoryStore, said: Event) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.reply = rejects()
        await planned(world, guest)
        await world.sleep(10)
        guest.peer.send(RejectWithdrawn(said, "orders"))
        await world.sleep(10)
        assert heard(guest) == ["vote live_migrate_begin"]
        assert len(await reported(world)) == (said is Event.STOP)
        assert not any(isinstance(one, Nack) for one in guest.messages)


async def test_a_guest_that_says_it_in_a_loop_is_asked_every_few_seconds(
    store: MemoryStore,
) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.reply = rejects()
        await planned(world, guest)
        for _ in range(600):
            guest.peer.send(MIGRATION)
            await world.sleep(0.1)
        assert 2 < len(heard(guest)) <= 60 / WITHDRAWN_S + 1
        assert len(await reported(world)) <= WITHDRAWALS * 60 / WITHDRAWALS_S


async def test_after_a_restart_of_the_host_it_counts_as_well(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.reply = rejects()
        await planned(world, guest)
        await world.sleep(5)
        await world.restart_host(store.memory(), away_s=1)
        await world.sleep(5)
        guest.peer.send(MIGRATION)
        await world.sleep(1)
        assert heard(guest)[-1] == "vote live_migrate_begin"
        (run,) = world.host.drains.runs.in_progress
        assert states(run) == ["rejected"]
        assert run.again_s(guest.uuid) == pytest.approx(29, abs=1)
