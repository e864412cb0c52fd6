"""Planned actions at an agent, for instances of its hosts: `hbtrio ctl act --before` there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from api.test_fleet_drains import drains_of
from hbtrio.errors import ExitStatus
from hbtrio.fsm.drain import DrainItem, DrainPhase
from hbtrio.fsm.drain_rules import DrainRules
from hbtrio.fsm.planned_time import PlannedTime
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event
from support.control_socket import Ctl, call
from support.ctl_cases import fault_of
from support.drain_cases import COMMANDS, heard, over, rejects
from support.fake_processes import FakeRun
from support.fleet_world import FleetWorld, fleet_world
from support.host_world import ScriptedGuest
from support.voters import voter_state

pytestmark = pytest.mark.usefixtures("autojump_clock")

World = tuple[FleetWorld, list[ScriptedGuest]]

ASKED = "vote live_migrate_begin"
MOVED = ["notice live_migrate_begin", "notice live_migrate_end"]


@pytest.fixture
async def fleet(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[World]:
    runs = {"migrate": FakeRun(delay_s=2.0)}
    async with fleet_world(tmp_path, actions=COMMANDS, runs=runs) as world:
        guests = [world.host.guest(name=f"vm-{number}").appear() for number in (1, 2)]
        await world.host.sleep(3)
        yield world, guests


def times(world: FleetWorld, begin_s: float, end_s: float) -> tuple[str, ...]:
    now = world.agent.wall_clock()
    begin, end = (now + timedelta(seconds=span_s) for span_s in (begin_s, end_s))
    return "--not-before", begin.isoformat(), "--before", end.isoformat()


async def history(world: FleetWorld, kind: str) -> list[tuple[str, str]]:
    await trio.sleep(1)
    entries = [one.entry for one in await world.agent.store.history()]
    return [(one.who, one.reason) for one in reversed(entries) if one.kind == kind]


async def test_asked_from_one_time_on_and_forced_at_the_other(fleet: World) -> None:
    world, (guest, other) = fleet
    guest.report_voters(voter_state())
    guest.reply = rejects()
    words = times(world, 10, 60)
    called = await call(world.api.path, "act", "vm-1", "live-migrate", *words, "--json")
    plan = json.loads(called.text)
    assert plan["id"].startswith("p")
    status = await call(world.api.path, "status", columns=200)
    assert "vm-1: live-migrate planned by operator" in status.text
    for command in ("show", "why"):
        assert "lanned" in (await call(world.api.path, command, "vm-1", columns=200)).text
    await world.host.sleep(30)
    assert "rejected: a backup runs" in (await call(world.api.path, "status")).text
    await world.host.sleep(60)
    assert heard(guest) == [ASKED, ASKED, *MOVED]
    assert heard(other) == []
    assert "planned" not in (await call(world.api.path, "status")).text
    # The host tells its guest of the time, and reports that it passes over the reject.
    told = {one.planned_at for one in guest.messages if isinstance(one, ActionNotify)}
    assert len(told) == 2
    assert 0 in told
    words = "overridden at its planned time: a backup runs"
    assert [why for _, why in await history(world, "overridden")] == [words]
    assert world.host.host.counts.overridden == {Event.LIVE_MIGRATE_BEGIN: 1}
    actions = await history(world, "action")
    assert actions[0][1].startswith("live-migrate: planned: not before ")
    assert {who for who, _ in actions} == {f"plan {plan['id']} of {actions[0][0].split(' of ')[1]}"}
    assert actions[-1][1] == "live-migrate: done"


async def test_cancelled_nothing_happens(fleet: World) -> None:
    world, (guest, _) = fleet
    await call(world.api.path, "act", "vm-1", "stop", *times(world, 10, 60))
    cancelled = await call(world.api.path, "act", "vm-1", "--cancel-planned")
    assert cancelled.lines == ["vm-1: the planned stop is cancelled"]
    await world.host.sleep(100)
    assert heard(guest) == []
    actions = [why for _, why in await history(world, "action")]
    assert actions[-1].startswith("stop: planned, cancelled: cancelled by operator")


async def test_a_hold_only_delays_it_and_is_not_told_again_and_again(fleet: World) -> None:
    world, (guest, _) = fleet
    await call(world.api.path, "act", "vm-1", "live-migrate", *times(world, 5, 500))
    await call(world.api.path, "hold", "vm-1", "--for", "100s", "--reason", "a dump")
    await world.host.sleep(80)
    status = await call(world.api.path, "status", columns=200)
    assert "blocked: on hold until" in status.text
    await world.host.sleep(100)
    assert heard(guest) == [ASKED, *MOVED]
    assert not [why for _, why in await history(world, "action") if "refused" in why]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("unpause",), "unpause takes no VM away"),
        (("stop", "--", "halt"), "an agent takes no command"),
    ],
)
async def test_refused(fleet: World, words: tuple[str, ...], fault: str) -> None:
    world, _ = fleet
    action, *command = words
    given = ("act", "vm-1", action, *times(world, 5, 50), *command)
    assert fault in (await fault_of(world.api.path, *given))[0]


async def test_one_plan_for_an_instance_within_30_days(fleet: World) -> None:
    world, _ = fleet
    path = world.api.path
    late = ("act", "vm-1", "stop", *times(world, 5, 2_592_100))
    assert "within 30 days" in (await fault_of(path, *late))[0]
    assert (await call(path, "act", "vm-1", "stop", *times(world, 5, 50))).status == ExitStatus.DONE
    assert (
        "has a planned stop since"
        in (await fault_of(path, "act", "vm-1", "stop", *times(world, 5, 50)))[0]
    )
    assert (await call(path, "act", "vm-2", "stop", *times(world, 5, 50))).status == ExitStatus.DONE


async def test_an_unknown_instance(fleet: World) -> None:
    world, _ = fleet
    async with world.api.client() as client:
        answer = await client.post(
            "/v1/instances/6a2f0000-0000-0000-0000-000000000000/plan",
            json={"action": "stop", "before": "2099-01-01T00:00:00Z"},
        )
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("begin_s", "end_s", "outcome"),
    [(5.0, 50.0, "drained"), (-50.0, 50.0, "drained"), (-200.0, -100.0, "incomplete")],
)
async def test_the_next_run_of_the_agent_goes_on_and_carries_nothing_stale_out(
    fleet: World, begin_s: float, end_s: float, outcome: str
) -> None:
    world, (guest, _) = fleet
    agent = world.agent
    await call(world.api.path, "act", "vm-1", "live-migrate", *times(world, 5000, 6000))
    await call(world.api.path, "act", "vm-1", "--cancel-planned")
    await world.host.sleep(1)
    (stored,) = await agent.store.drains()
    now = agent.drains.now()
    rules = DrainRules(planned=PlannedTime(not_before=now + begin_s, before=now + end_s))
    record = attrs.evolve(
        stored.record, rules=rules, phase=DrainPhase.RUNNING, reason="", ended_at=None
    )
    item = DrainItem(guest.uuid, ask_at=now + begin_s)
    places = tuple(attrs.evolve(one, item=item) for one in stored.places)
    await agent.store.keep_drains([record], places)
    async with trio.open_nursery() as nursery:
        drains = drains_of(agent, nursery, agent.groups)
        await drains.load()
        assert await over(drains.runs.last[-1]) == outcome
        nursery.cancel_scope.cancel()
    assert heard(guest) == ([ASKED, *MOVED] if outcome == "drained" else [])


RETRY = ("act", "vm-1", "live-migrate", "--retry-for")


async def test_an_agent_asks_again_without_its_ctl(fleet: World) -> None:
    world, (guest, _) = fleet
    guest.reply = rejects(until_s=50.0)
    with trio.move_on_after(20):
        await Ctl().run(world.api.path, *RETRY, "5m")
    await world.host.sleep(100)
    assert heard(guest) == [ASKED, ASKED, ASKED, *MOVED]
    assert (await history(world, "action"))[-1][1] == "live-migrate: done"


async def test_ctl_follows_what_the_agent_asks_for_again(fleet: World) -> None:
    world, (guest, _) = fleet
    guest.reply = rejects(until_s=20.0)
    called = await call(world.api.path, *RETRY, "5m", columns=120)
    assert called.status == ExitStatus.DONE
    assert called.lines[:3] == [
        "vote on live_migrate_begin: VOTE window of 9 s",
        "vote on live_migrate_begin: rejected (a backup runs)",
        "vote on live_migrate_begin: waiting at most 30 s: it was rejected: a backup runs",
    ]
    assert called.lines[-1] == "live-migrate: done"


@pytest.mark.parametrize(
    ("then", "status", "last"),
    [
        ("give-up", ExitStatus.REJECTED, "live-migrate: rejected (a backup runs)"),
        ("force", ExitStatus.DONE, "live-migrate: done"),
    ],
)
async def test_what_follows_if_it_is_rejected_to_the_end(
    fleet: World, then: str, status: ExitStatus, last: str
) -> None:
    world, (guest, _) = fleet
    guest.report_voters(voter_state())
    guest.reply = rejects()
    called = await call(world.api.path, *RETRY, "40s", "--then", then)
    assert (called.status, called.lines[-1]) == (status, last)
    times_told = {one.planned_at for one in guest.messages if isinstance(one, ActionNotify)}
    assert (times_told == {0}) == (then == "give-up")
    assert len(await history(world, "overridden")) == (then == "force")


async def test_with_a_command_it_is_ctl_that_asks_an_agent_again(fleet: World) -> None:
    world, (guest, _) = fleet
    guest.reply = rejects(until_s=20.0)
    words = (*RETRY, "5m", "--", "migrate", "{uuid}")
    # A plan of the agent would have been refused: it takes no command.
    assert (await call(world.api.path, *words)).status == ExitStatus.DONE
    assert [run.argv[0] for run in world.host.processes.started] == ["migrate"]
