"""`hbtrio ctl drain` at an agent: its hosts' instances, its restart, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.config.groups import GroupSettings
from hbtrio.errors import ExitStatus
from hbtrio.fsm.drain import ASK_AGAIN_S, DrainItem
from hbtrio.fsm.drain_rules import DrainRules
from hbtrio.fsm.drain_table import DrainState
from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.fleet_drains import FleetDrains
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.kept_members import KeptMembers
from hbtrio.wire.channel_messages import ActionNotify, RejectWithdrawn
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType, VoteResult
from support.control_socket import Ctl, call
from support.ctl_cases import fault_of
from support.drain_cases import COMMANDS, heard, over, plan, rejects, states
from support.fake_processes import FakeRun
from support.fleet_world import FleetWorld, fleet_world
from support.host_world import VOTE, Reply, ScriptedGuest, agree

pytestmark = pytest.mark.usefixtures("autojump_clock")

MIGRATE = ("drain", "--action", "live-migrate", "compute-0")


@asynccontextmanager
async def drained_fleet(folder: Path) -> AsyncIterator[tuple[FleetWorld, list[ScriptedGuest]]]:
    runs = {"migrate": FakeRun(delay_s=2.0)}
    async with fleet_world(folder, actions=COMMANDS, runs=runs) as world:
        guests = [world.host.guest(name=f"vm-{number}").appear() for number in (1, 2, 3)]
        await world.host.sleep(3)
        yield world, guests


def drains_of(agent: Agent, nursery: trio.Nursery, groups: FleetGroups) -> FleetDrains:
    """The drains as another run of the agent has them."""
    return FleetDrains(
        nursery,
        agent.supervisor,
        agent.fleet,
        agent.actions,
        agent.rounds,
        groups,
        agent.store,
        agent.wall_clock,
    )


async def test_a_host_is_drained_and_the_histories_name_the_drain(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        guests[1].reply = rejects("primary")
        called = await call(world.api.path, *MIGRATE, "--on-reject", "skip", "--parallel", "2")
        assert called.status == ExitStatus.INCOMPLETE
        assert called.lines[-2:] == [
            "drain: incomplete: 2 done, 1 skipped",
            "  vm-2 on compute-0: skipped (rejected: primary)",
        ]
        assert "vm-2: asked before: reject: primary" in called.lines
        assert len(world.host.processes.started) == 2
        for guest in (guests[0], guests[2]):
            assert heard(guest)[-1] == "notice live_migrate_end"
        entries = [one.entry for one in await world.agent.store.history()]
        (done, *_) = [one for one in entries if one.reason == "live-migrate: done"]
        assert done.who.startswith("drain d")


async def test_one_that_rejects_is_asked_again(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        guests[0].reply = rejects(until_s=60.0)
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        await world.host.sleep(15)
        assert states(run) == ["rejected", "done", "done"]
        assert await over(run) == "drained"


@pytest.mark.parametrize("reason", ["group db: not now", "groups: none", "groupware: busy"])
async def test_a_guest_that_speaks_of_groups_has_rejected_all_the_same(
    tmp_path: Path, reason: str
) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        guests[0].reply = rejects(reason)
        called = await call(world.api.path, *MIGRATE, "--on-reject", "force", "--parallel", "3")
        assert called.status == ExitStatus.DONE


async def test_one_that_withdraws_its_reject_is_asked_at_once(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        guests[0].reply = rejects()
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        await world.host.sleep(15)
        asked = len(heard(guests[0]))
        guests[0].peer.send(RejectWithdrawn(Event.STOP, "orders"))
        await world.host.sleep(2)
        assert (states(run)[0], len(heard(guests[0]))) == ("rejected", asked)
        guests[0].reply = agree
        guests[0].peer.send(RejectWithdrawn(Event.LIVE_MIGRATE_BEGIN, "orders"))
        await world.host.sleep(2)
        assert heard(guests[0])[asked] == "vote live_migrate_begin"
        assert await over(run) == "drained"


async def test_cancelled_what_has_begun_comes_to_its_end(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, _):
        left = Ctl()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.run, world.api.path, *MIGRATE)
            await world.host.sleep(1)
            status = (await call(world.api.path, "status")).lines
            begins = "drain of compute-0: live-migrate, 0 of 3 ended: 2 waiting, 1 "
            assert [one for one in status if one.startswith(begins)]
            cancelled = await call(world.api.path, "drain", "--cancel", "--json")
            assert json.loads(cancelled.text)["phase"] == "cancelled"
        assert left.status == ExitStatus.ABORTED
        (run,) = world.agent.drains.runs.last
        assert states(run) == ["done", "cancelled", "cancelled"]


def slow_to_answer(kind: NotificationType, after_s: float = 3.0) -> Callable[[ActionNotify], Reply]:
    """Agrees to everything, to votes or to notices after a while."""

    def reply(asked: ActionNotify) -> Reply:
        is_slow = asked.notification_type is kind
        is_vote = asked.notification_type is VOTE
        result = VoteResult.ACCEPT if is_vote else VoteResult.COMPLETE
        return Reply(result, after_s=after_s if is_slow else 0.0)

    return reply


async def test_cancelled_one_that_was_told_gets_its_end_and_no_action(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        guests[0].reply = slow_to_answer(NotificationType.IRREVOCABLE)
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        await world.host.sleep(1)
        assert states(run) == ["told", "waiting", "waiting"]
        world.agent.drains.runs.cancel(run.record.id, "uid 7")
        assert await over(run) == "cancelled"
        assert states(run) == ["cancelled"] * 3
        assert run.machine.items[guests[0].uuid].reason == "cancelled by uid 7"
        await world.host.sleep(1)
        assert heard(guests[0])[-2:] == ["notice live_migrate_begin", "notice live_migrate_end"]
        assert world.host.processes.started == []
        reasons = [one.entry.reason for one in await world.agent.store.history()]
        assert "live-migrate: failed: cancelled by uid 7" in reasons


async def test_cancelled_one_that_is_asked_is_not_told(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        run = world.agent.drains.start(plan(hosts=("compute-0",), is_dry=True), "uid 0")
        assert await over(run) == "dry-run"
        guests[0].reply = slow_to_answer(VOTE, after_s=2.0)
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        await world.host.sleep(3)  # the first two seconds ask it for information
        assert states(run)[0] == "asked"
        world.agent.drains.runs.cancel(run.record.id, "uid 7")
        assert await over(run) == "cancelled"
        assert states(run) == ["cancelled"] * 3
        assert not [one for one in heard(guests[0]) if one.startswith("notice")]
        assert world.host.processes.started == []


async def test_cancelled_one_whose_action_is_on_its_way_to_the_host(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        guests[0].reply = slow_to_answer(NotificationType.IRREVOCABLE)
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        # What is recorded before it is sent takes a while.
        world.api.worker.slow_s = 0.5
        async with aclosing(run.watch()) as lines:
            async for line in lines:
                if line is not None and line.state == "asked":
                    break
        assert states(run)[0] == "asked"
        world.agent.drains.runs.cancel(run.record.id, "uid 7")
        assert await over(run) == "cancelled"
        world.api.worker.slow_s = 0.0
        assert states(run) == ["cancelled"] * 3
        assert world.host.processes.started == []


async def test_a_host_too_old_to_call_off_acts_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        session = world.agent.fleet.sessions["compute-0"]
        session.hello = attrs.evolve(session.hello, call_offs=False)
        guests[0].reply = slow_to_answer(NotificationType.IRREVOCABLE)
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        await world.host.sleep(1)
        world.agent.drains.runs.cancel(run.record.id, "uid 7")
        assert await over(run) == "cancelled"
        assert states(run) == ["done", "cancelled", "cancelled"]
    said = f"{guests[0].uuid}: compute-0 is too old to call its action off: it goes on"
    assert said in [record.getMessage() for record in caplog.records]


async def test_members_of_a_group_come_far_from_each_other(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests), trio.open_nursery() as nursery:
        settings = GroupSettings(members=(guests[0].uuid, guests[1].uuid), max_unavailable=1)
        groups = FleetGroups(
            {"db": settings}, world.agent.fleet, KeptMembers(world.agent.store.members)
        )
        drains = drains_of(world.agent, nursery, groups)
        run = drains.start(plan(hosts=("compute-0",), by_group=True, is_dry=True), "uid 0")
        assert list(run.places) == [guests[0].uuid, guests[2].uuid, guests[1].uuid]
        nursery.cancel_scope.cancel()


async def test_members_of_a_group_go_one_after_the_other_without_a_pause(tmp_path: Path) -> None:
    runs = {"migrate": FakeRun(delay_s=2.0)}
    rule = {"db": GroupSettings(members=("0000*",), max_unavailable=1)}
    async with fleet_world(tmp_path, actions=COMMANDS, runs=runs, agent_groups=rule) as world:
        for number in (1, 2, 3):
            world.host.guest(name=f"vm-{number}").appear()
        await world.host.sleep(3)
        run = world.agent.drains.start(
            plan(hosts=("compute-0",), rules=DrainRules(parallel=3)), "uid 0"
        )
        await world.host.sleep(1)
        # The first in the order is first.
        assert states(run) == ["acting", "blocked", "blocked"]
        reasons = [item.reason for item in run.machine.items.values() if item.reason]
        assert all(one.startswith("group db: ") for one in reasons)
        began = trio.current_time()
        assert await over(run) == "drained"
        assert trio.current_time() - began < ASK_AGAIN_S
        # Nobody was asked in vain.
        reasons = [one.entry.reason for one in await world.agent.store.history()]
        assert [one for one in reasons if "rejected" in one] == []


async def test_a_dry_run_knows_of_groups_and_holds(tmp_path: Path) -> None:
    rule = {"db": GroupSettings(members=("0000*",), max_unavailable=0)}
    async with fleet_world(tmp_path, actions=COMMANDS, agent_groups=rule) as world:
        guest = world.host.guest(name="vm-1").appear()
        await world.host.sleep(3)
        dry = (*MIGRATE, "--dry-run")
        asked = (await call(world.api.path, *dry)).lines[-1]
        assert asked.startswith("  1. vm-1 on compute-0: not asked: group db: ")
        await world.agent.holds.hold(guest.uuid, 600.0, "a disk is exchanged", "uid 7")
        asked = (await call(world.api.path, *dry)).lines[-1]
        assert asked.startswith("  1. vm-1 on compute-0: not asked: on hold until ")
        asked = (await call(world.api.path, *dry, "--ignore-hold")).lines[-1]
        assert asked.startswith("  1. vm-1 on compute-0: not asked: group db: ")


async def test_a_host_without_a_link_blocks_its_instances(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, _):
        await world.cut()
        run = world.agent.drains.start(
            plan(hosts=("compute-0",), rules=DrainRules(retry_for_s=45.0, parallel=3)), "uid 0"
        )
        assert await over(run) == "incomplete"
        assert states(run) == ["skipped"] * 3
        assert "has no link to this agent" in next(iter(run.machine.items.values())).reason
        # Each was refused at two turns for one reason.
        found = [
            one.entry for one in await world.agent.store.history() if one.entry.kind == "action"
        ]
        reason = "live-migrate: refused: compute-0 has no link to this agent"
        assert [one.reason for one in found] == [reason] * 3


async def test_each_reason_of_a_refusal_is_in_the_history_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        host = world.host.host
        guests[0].reply = lambda _: Reply(VoteResult.ACCEPT, after_s=100.0)
        host.begin_action(guests[0].uuid, ActionName.PAUSE, ("pause",), force=False)
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        await over(run)
        refusals = [one for one in caplog.messages if "refused: pause is in progress" in one]
        assert len(refusals) > 1
        found = [
            one.entry.reason.removeprefix("live-migrate: ")
            for one in reversed(await world.agent.store.history())
            if (one.entry.kind, one.entry.uuid) == ("action", guests[0].uuid)
        ]
        refused = "refused: pause is in progress on " + guests[0].uuid
        assert found == ["asked", refused, "asked", "done"]


@pytest.mark.parametrize("ignored", [False, True])
async def test_one_on_hold_is_skipped_unless_holds_are_ignored(
    tmp_path: Path, ignored: bool
) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        await world.agent.holds.hold(guests[0].uuid, 600.0, "a disk is exchanged", "uid 7")
        await world.host.settle()
        assert world.host.host.holds.of(guests[0].uuid) is not None
        options = ("--ignore-hold",) if ignored else ()
        called = await call(world.api.path, *MIGRATE, *options)
        (run,) = world.agent.drains.runs.last
        if ignored:
            assert (called.status, states(run)) == (ExitStatus.DONE, ["done"] * 3)
            assert run.record.ignore_hold
        else:
            assert (called.status, states(run)[0]) == (ExitStatus.INCOMPLETE, "skipped")
            assert "a disk is exchanged" in called.lines[-1]
            assert len(world.host.processes.started) == 2


async def test_after_a_restart_of_the_agent_holds_are_still_ignored(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        agent = world.agent
        run = agent.drains.start(plan(hosts=("compute-0",), ignore_hold=True), "uid 0")
        assert await over(run) == "drained"
        await world.host.sleep(1)
        (stored,) = await agent.store.drains()
        waiting = tuple(attrs.evolve(one, item=DrainItem(one.item.uuid)) for one in stored.places)
        await agent.store.keep_drains([attrs.evolve(stored.record, ended_at=None)], waiting)
        await agent.holds.hold(guests[0].uuid, 600.0, "a disk is exchanged", "uid 7")
        async with trio.open_nursery() as nursery:
            drains = drains_of(agent, nursery, agent.groups)
            await drains.load()
            (resumed,) = drains.runs.last
            assert await over(resumed) == "drained"
            nursery.cancel_scope.cancel()


async def test_what_an_agent_refuses(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, _):
        for words, reason in (
            (MIGRATE[:3], "name the hosts: an agent has many"),
            ((*MIGRATE[:3], "compute-9"), "no host compute-9"),
            ((*MIGRATE, "--", "true"), "an agent takes no command"),
        ):
            fault, status = await fault_of(world.api.path, *words)
            assert reason in fault
            assert status == ExitStatus.FAILED
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        assert "compute-0 is being drained since" in (await fault_of(world.api.path, *MIGRATE))[0]
        assert await over(run) == "drained"


async def test_a_restart_of_the_agent_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    async with drained_fleet(tmp_path) as (world, guests):
        agent = world.agent
        run = agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        assert await over(run) == "drained"
        await world.host.sleep(1)
        (stored,) = await agent.store.drains()
        assert stored.record == run.record
        # As a kill in the middle leaves it: one is done, one had begun, one waits.
        begun = [DrainState.DONE, DrainState.ASKED, DrainState.WAITING]
        places = tuple(
            attrs.evolve(one, item=DrainItem(one.item.uuid, state, ask_at=0.0))
            for one, state in zip(stored.places, begun, strict=True)
        )
        record = attrs.evolve(stored.record, ended_at=None)
        await agent.store.keep_drains([record], places)
        before = len(world.host.processes.started)
        async with trio.open_nursery() as nursery:
            next_run = drains_of(agent, nursery, agent.groups)
            await next_run.load()
            (resumed,) = next_run.runs.last
            assert await over(resumed) == "incomplete"
            assert states(resumed) == ["done", "failed", "done"]
            nursery.cancel_scope.cancel()
        started = [one.argv[1] for one in world.host.processes.started[before:]]
        assert started == [guests[2].uuid]
        assert world.host.host.supervisor.crashes == 0


async def test_two_drains_may_follow_an_action_on_one_instance(tmp_path: Path) -> None:
    """The one still asks what became of its action; meanwhile the instance has moved."""
    async with drained_fleet(tmp_path) as (world, _):
        agent = world.agent
        run = agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        assert await over(run) == "drained"
        await world.host.sleep(1)
        (stored,) = await agent.store.drains()
        for id_ in (stored.record.id, f"{stored.record.id}0"):
            place = stored.places[0]
            item = DrainItem(place.item.uuid, DrainState.ASKED, ask_at=0.0)
            record = attrs.evolve(stored.record, id=id_, ended_at=None)
            begun = attrs.evolve(place, drain=id_, item=item)
            await agent.store.keep_drains([record], stored.places[1:])
            await agent.store.keep_drains([record], (begun,))
        async with trio.open_nursery() as nursery:
            drains = drains_of(agent, nursery, agent.groups)
            await drains.load()
            both = [one for one in drains.runs.last if not one.is_over]
            assert len(both) == 2
            for one in both:
                await over(one)
                assert states(one)[0] == "failed"
            await world.host.sleep(1)
            nursery.cancel_scope.cancel()
