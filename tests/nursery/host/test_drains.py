"""Drains of a host: turns, refusals, cancellation, and what a restart of the host finds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from hbtrio.config.groups import GroupSettings
from hbtrio.config.host import ActionCommands
from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import DrainState
from hbtrio.nursery.drains import DrainRefused
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.wire.vocabulary import ActionName
from support.drain_cases import (
    MIGRATES_S,
    drained_host,
    heard,
    lines,
    over,
    plan,
    rejects,
    states,
)
from support.host_world import HostWorld, ScriptedGuest, stay_silent, uuid_of
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

MOVED = ["vote live_migrate_begin", "notice live_migrate_begin", "notice live_migrate_end"]
ASKED = ["vote live_migrate_begin"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def history(world: HostWorld) -> list[tuple[str, str]]:
    await trio.sleep(1)
    entries = [one.entry for one in await world.host.memory.history(100)]
    return [(one.who, one.reason) for one in reversed(entries) if one.kind == "action"]


async def again(world: HostWorld, store: MemoryStore, away_s: float = 1.0) -> Any:
    """Ends the host and starts another; returns the drain as that one has it."""
    await world.restart_host(store.memory(), away_s=away_s)
    await world.sleep(1)
    return world.host.drains.runs.last[-1]


def _goes_on(action: ActionRun) -> bool:
    """Whether an action has not ended; its outcome may still wait for the disk."""
    return action.state not in (ActionState.DONE, ActionState.REJECTED, ActionState.FAILED)


async def test_all_are_drained_two_at_once_and_the_history_names_the_drain(
    store: MemoryStore,
) -> None:
    async with drained_host(store, 5) as (world, guests):
        most = 0
        run = world.host.drains.start(plan(rules=DrainRules(parallel=2)), "uid 0")
        seen: list[dict[str, Any]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lines, run, seen)
            while not run.is_over:
                await world.sleep(0.1)
                most = max(most, sum(_goes_on(one) for one in world.host.actions.values()))
        assert (most, run.outcome) == (2, "drained")
        assert sorted(one.argv[1] for one in world.processes.started) == [
            one.uuid for one in guests
        ]
        # Each was asked before the drain, for information, and again at its turn.
        assert all(heard(guest) == ASKED + MOVED for guest in guests)
        assert seen[0] == {
            "step": "drain",
            "id": run.record.id,
            "action": "live-migrate",
            "who": "uid 0",
            "parallel": 2,
            "total": 5,
        }
        assert seen[-1] == {"step": "end", "outcome": "drained"}
        first = [line["state"] for line in seen if line.get("uuid") == guests[0].uuid]
        assert first[-1] == "done"
        assert {line.get("answer") for line in seen if line.get("state") == "done"} == {"accept"}
        told = await history(world)
        who = f"drain {run.record.id} of uid 0"
        assert told.count((who, "live-migrate: asked")) == 5
        assert told.count((who, "live-migrate: done")) == 5


async def test_one_that_rejects_is_asked_every_30_s_and_holds_no_slot(store: MemoryStore) -> None:
    async with drained_host(store, 3) as (world, guests):
        guests[0].reply = rejects(until_s=70.0)
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(10)
        assert states(run) == ["rejected", "done", "done"]
        assert run.machine.items[guests[0].uuid].reason == "a backup runs"
        assert await over(run) == "drained"
        assert heard(guests[0]) == ASKED * 4 + MOVED


async def test_one_that_rejects_for_too_long_is_skipped(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        guests[0].reply = rejects()
        run = world.host.drains.start(plan(rules=DrainRules(retry_for_s=50.0)), "uid 0")
        assert await over(run) == "incomplete"
        assert states(run) == ["skipped", "done"]
        assert run.machine.items[guests[0].uuid].reason == "rejected: a backup runs"
        # The survey, its turn, 30 s later, and once more at the end of its time.
        assert heard(guests[0]) == ASKED * 4


async def test_forced_and_aborted(store: MemoryStore) -> None:
    async with drained_host(store, 3) as (world, guests):
        guests[0].reply = guests[1].reply = rejects()
        run = world.host.drains.start(
            plan(rules=DrainRules(on_reject=OnReject.FORCE), first=(guests[1].uuid,)), "uid 0"
        )
        assert await over(run) == "drained"
        assert heard(guests[0]) == [*ASKED * 2, *MOVED[1:]]
        assert world.processes.started[0].argv[1] == guests[1].uuid
        run = world.host.drains.start(plan(rules=DrainRules(on_reject=OnReject.ABORT)), "uid 0")
        assert await over(run) == "aborted"
        assert states(run) == ["skipped", "cancelled", "cancelled"]
        assert run.record.reason == "vm-1 rejects: a backup runs"


@pytest.mark.parametrize("reason", ["group db: not now", "groups: none", "groupware: busy"])
async def test_a_guest_that_speaks_of_groups_has_rejected_all_the_same(
    store: MemoryStore, reason: str
) -> None:
    async with drained_host(store, 1) as (world, (guest,)):
        guest.reply = rejects(reason)
        rules = DrainRules(on_reject=OnReject.SKIP)
        assert await over(world.host.drains.start(plan(rules=rules), "uid 0")) == "incomplete"
        await world.sleep(1)
        rules = DrainRules(on_reject=OnReject.FORCE)
        assert await over(world.host.drains.start(plan(rules=rules), "uid 0"), 10) == "drained"


async def test_its_votes_and_notices_carry_its_name(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, _):
        run = world.host.drains.start(plan(), "uid 0")
        assert await over(run) == "drained"
        recent = world.host.reports.recent
        rounds = [one for one in recent if one.kind in ("vote", "notice")]
        assert len(rounds) == 4  # for information, at its turn, the notice and its end
        assert {one.who for one in rounds} == {run.record.actor}
        await trio.sleep(1)
        entries = [one.entry for one in await world.host.memory.history(100)]
        kept = [one for one in entries if one.kind in ("vote", "notice")]
        assert {one.who for one in kept} == {run.record.actor}


async def test_a_dry_run_asks_and_does_nothing(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        guests[1].reply = rejects("primary")
        run = world.host.drains.start(plan(is_dry=True), "uid 0")
        assert await over(run) == "dry-run"
        answers = [place.answer for place in run.places.values()]
        assert answers == ["accept", "reject: primary"]
        assert [heard(guest) for guest in guests] == [ASKED, ASKED]
        assert (list(world.host.drains.runs.last), (await store.recall()).drains) == ([], ())


async def test_refusals(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, _):
        drains = world.host.drains
        run = drains.start(plan(), "uid 0")
        with pytest.raises(
            DrainRefused,
            match=f"^compute-0 is being drained since .* by uid 0 .drain {run.record.id}",
        ):
            drains.start(plan(), "uid 1")
        with pytest.raises(
            DrainRefused, match="this is compute-0; its agent knows others: compute-9"
        ):
            drains.start(plan(hosts=("compute-9",)), "uid 0")
        with pytest.raises(DrainRefused, match="resume takes no VM away"):
            drains.start(plan(action=ActionName.RESUME), "uid 0")
        with pytest.raises(DrainRefused, match="no command for reboot"):
            drains.start(plan(action=ActionName.REBOOT), "uid 0")
        with pytest.raises(DrainRefused, match="no drain d1"):
            drains.runs.cancel("d1", "uid 0")
        assert await over(run) == "drained"
        with pytest.raises(DrainRefused, match="has ended: drained"):
            drains.runs.cancel(run.record.id, "uid 0")
        drains.start(plan(), "uid 1")


async def test_an_action_of_somebody_else_blocks_and_its_turn_comes_later(
    store: MemoryStore,
) -> None:
    async with drained_host(store, 1) as (world, guests):
        guests[0].reply = stay_silent
        await world.act(guests[0], ActionName.LIVE_MIGRATE)
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(1)
        assert states(run) == ["blocked"]
        assert "live-migrate is in progress" in run.machine.items[guests[0].uuid].reason
        assert next(iter(run.places.values())).answer.startswith("not asked")
        await world.sleep(60)
        assert await over(run) == "drained"


@pytest.mark.parametrize("ignore_hold", [False, True])
async def test_one_on_hold_is_skipped_and_the_reason_says_so(
    store: MemoryStore, ignore_hold: bool
) -> None:
    async with drained_host(store, 2) as (world, guests):
        await world.host.holds.hold(guests[0].uuid, 600.0, "a disk is exchanged", "uid 7")
        run = world.host.drains.start(plan(ignore_hold=ignore_hold), "uid 0")
        if ignore_hold:
            assert await over(run) == "drained"
            return
        assert await over(run) == "incomplete"
        assert states(run) == ["skipped", "done"]
        assert "a disk is exchanged" in run.machine.items[guests[0].uuid].reason
        assert heard(guests[0]) == []


async def test_a_group_blocks_until_its_other_member_is_back(store: MemoryStore) -> None:
    groups = {"db": GroupSettings(members=(uuid_of(1), uuid_of(2)), max_unavailable=1)}
    async with drained_host(store, 3, groups=groups) as (world, guests):
        run = world.host.drains.start(
            plan(rules=DrainRules(parallel=3), action=ActionName.STOP, by_group=True), "uid 0"
        )
        assert list(run.places) == [guests[0].uuid, guests[2].uuid, guests[1].uuid]
        await world.sleep(1)
        # Three began at one moment, and of the two in the group one has the place.
        items = [run.machine.items[guest.uuid] for guest in guests[:2]]
        (blocked,) = (item.reason for item in items if item.state is DrainState.BLOCKED)
        assert re.fullmatch("group db: .* is stopping, at most 1 of 2 may be unavailable", blocked)
        assert sum(item.state is DrainState.BLOCKED for item in items) == 1


async def test_one_that_left_is_done_and_one_that_came_is_named(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, guests):
        guests[0].reply = rejects()
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(10)
        guests[0].vanish()
        late = world.guest(name="late").appear()
        seen: list[dict[str, Any]] = []
        await lines(run, seen)
        assert run.outcome == "drained"
        assert run.machine.items[guests[0].uuid].reason == "it is no longer on this host"
        assert seen[-1] == {"step": "end", "outcome": "drained", "appeared": ["late"]}
        assert heard(late) == []


async def test_a_cancelled_drain_tells_whom_it_told(store: MemoryStore) -> None:
    async with drained_host(store, 4) as (world, guests):
        guests[0].reply = rejects()
        guests[1].reply = stay_silent  # votes by silence, and its notice takes 11 s
        run = world.host.drains.start(plan(rules=DrainRules(parallel=1)), "uid 0")
        await world.sleep(9 + 9 + 2)
        assert states(run) == ["rejected", "told", "waiting", "waiting"]
        world.host.drains.runs.cancel(run.record.id, "uid 7")
        assert states(run) == ["cancelled", "told", "cancelled", "cancelled"]
        assert await over(run) == "cancelled"
        assert states(run) == ["cancelled"] * 4
        # It is told of the end of what does not happen.
        assert heard(guests[1]) == ASKED + MOVED
        assert world.processes.started == []
        assert run.machine.items[guests[1].uuid].reason == "cancelled by uid 7"
        assert ("live-migrate: failed: cancelled by uid 7") in [
            why for _, why in await history(world)
        ]


async def test_a_command_that_runs_is_not_cancelled(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, _):
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(MIGRATES_S / 2)
        assert states(run) == ["acting", "waiting"]
        world.host.drains.runs.cancel(run.record.id, "uid 0")
        assert await over(run) == "cancelled"
        assert states(run) == ["done", "cancelled"]


@pytest.mark.parametrize("at_s", [0.5, 1.5, 5.0, 9.5, 15.0, 35.0])
async def test_a_restart_of_the_host_goes_on_and_nobody_is_done_twice(
    store: MemoryStore, at_s: float
) -> None:
    async with drained_host(store, 6) as (world, guests):
        guests[0].reply = rejects(until_s=60.0)
        guests[2].reply = stay_silent
        run = world.host.drains.start(plan(rules=DrainRules(parallel=2)), "uid 0")
        await world.sleep(at_s)
        resumed = await again(world, store)
        assert resumed is not run
        assert resumed.record.id == run.record.id
        assert await over(resumed) in ("drained", "incomplete")
        _each_at_most_once(world, guests)
        done = {uuid for uuid, item in resumed.machine.items.items() if item.state.value == "done"}
        # One whose command the restart cut off may count as failed: it is not run again.
        assert len(done) >= 4
        assert resumed.record.ended_at is not None
        assert (await again(world, store)).is_over


def _each_at_most_once(world: HostWorld, guests: list[ScriptedGuest]) -> None:
    started = [one.argv[1] for one in world.processes.started]
    assert len(started) == len(set(started))
    for guest in guests:
        told = [one for one in heard(guest) if one.startswith("notice")]
        # Each was told of the end of what it was told of.
        if "notice live_migrate_begin" in told:
            assert told[-1] == "notice live_migrate_end"


async def test_a_cancelled_drain_that_was_restarted_carries_nothing_out(store: MemoryStore) -> None:
    async with drained_host(store, 3) as (world, guests):
        guests[0].reply = stay_silent
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(9 + 9 + 2)
        assert states(run) == ["told", "waiting", "waiting"]
        world.host.drains.runs.cancel(run.record.id, "uid 0")
        await world.sleep(0.5)
        guests[0].reply = rejects()
        resumed = await again(world, store)
        assert await over(resumed) == "cancelled"
        assert states(resumed) == ["cancelled"] * 3
        assert world.processes.started == []
        assert heard(guests[0])[-1] == "notice live_migrate_end"


async def test_a_restart_of_the_machine_ends_it(store: MemoryStore) -> None:
    async with drained_host(store, 2) as (world, _):
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(0.5)
        store.boot_id = "another"
        resumed = await again(world, store)
        assert resumed.record.id == run.record.id
        assert await over(resumed) == "cancelled"
        assert resumed.record.reason == "interrupted: the machine was restarted"


async def test_a_host_that_stops_takes_no_more_turns(store: MemoryStore) -> None:
    async with drained_host(store, 3) as (world, _):
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(1)
        await world.host.stopping.run(60.0, trio.sleep_forever)
        assert states(run) == ["done", "waiting", "waiting"]
        resumed = await again(world, store)
        assert await over(resumed) == "drained"
        assert len(world.processes.started) == 3


async def test_without_a_state_directory_it_drains_all_the_same() -> None:
    from support.host_world import host_world

    async with host_world(actions=ActionCommands(stop=("stop",))) as world:
        await world.heartbeating()
        run = world.host.drains.start(plan(action=ActionName.STOP), "uid 0")
        assert await over(run) == "incomplete"
        assert states(run) == ["failed"]
