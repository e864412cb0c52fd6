"""How actions end: their command, the RESTART window, and what interrupts them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.host import ActionCommands
from hbtrio.fsm.action import ActionState
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.round import RoundOpen
from hbtrio.wire.vocabulary import ActionName, Event
from support.actions_cases import (
    BEGUN,
    RESTARTING,
    ROWS,
    Row,
    after,
    asked,
    before,
    begun,
    downed,
    end,
    goes_down,
    noticed,
    ran,
    skipped,
    voted,
    votes_only,
    waited,
    world_of,
)
from support.fake_processes import HANGS, FakeRun
from support.host_world import (
    VOTE,
    Acted,
    HostWorld,
    agree,
    now,
    stay_silent,
)
from support.lines import members

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[HostWorld]:
    """A host with the commands of these tests."""
    async with world_of() as world:
        yield world


# -- the command ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (FakeRun(1), "exit status 1"),
        (FakeRun(signal=9), "killed by signal 9"),
        (FakeRun(fault="No such file or directory"), "cmd: No such file or directory"),
    ],
)
async def test_how_a_command_can_fail(run: FakeRun, fault: str) -> None:
    async with world_of(run) as world:
        guest = await world.heartbeating()
        acted = await world.act(guest, ActionName.PAUSE, "cmd", "{uuid}", force=True)
        assert acted.lines[2:] == [
            *ran(guest, fault=fault),
            *noticed("unpause", "RESUME_NOTICE", 14),
            end("failed", f"the command failed: {fault}"),
        ]


async def test_a_command_that_hangs_is_ended_in_time() -> None:
    async with world_of(HANGS, actions=ActionCommands(timeout_s=30)) as world:
        guest, acted = await begun(world, ActionName.LIVE_MIGRATE)
        await world.at(BEGUN + 29.999)
        assert world.processes.cancelled == []
        await world.at(BEGUN + 30)
        assert [moment.time_s for moment in world.processes.cancelled] == [BEGUN + 30]
        fault = "timed out after 30 s"
        assert acted.lines[4:6] == ran(guest, fault=fault, seconds=30)
        assert acted.lines[-1] == end("failed", f"the command failed: {fault}")


async def test_its_output_is_shown_up_to_a_bound() -> None:
    run = FakeRun(stdout=b"moved\xff\n", stderr=b"x" * 5000)
    async with world_of(run) as world:
        guest = await world.heartbeating()
        acted = await world.act(guest, ActionName.UNPAUSE, "cmd", "{uuid}")
        assert acted.lines[1]["output"] == "moved\ufffd\n" + "x" * 2048


async def test_the_configured_command_is_run_if_none_is_given() -> None:
    actions = ActionCommands(pause=("cmd", "{uuid}", "{{x}}"))
    async with world_of(actions=actions) as world:
        guest = await world.heartbeating()
        await world.act(guest, ActionName.PAUSE)
        assert [moment.argv for moment in world.processes.started] == [("cmd", guest.uuid, "{x}")]


async def test_one_that_could_not_be_unpaused_is_still_paused() -> None:
    async with world_of(FakeRun(1)) as world:
        guest = await world.heartbeating()
        await world.at(BEGUN)
        world.notice(guest, Event.PAUSE)
        await world.settle()
        guest.answers_after_s = None
        await world.at(50)
        acted = await world.act(guest, ActionName.UNPAUSE, "cmd")
        assert acted.lines[-1] == end("failed", "the command failed: exit status 1")
        assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED
        await world.at(100)
        # Nothing piles up in the port of a VM that is frozen.
        assert guest.challenged_at(since=20) == []


# -- RESTART --------------------------------------------------------------------------------


@RESTARTING
async def test_not_back_in_time_it_is_told_all_the_same(row: Row, world: HostWorld) -> None:
    guest, acted = await begun(world, row.name, back_in_s=None)
    await world.at(BEGUN + 120.999)
    assert not acted.ended
    await world.at(BEGUN + 121)
    why = "not back within 121 s"
    expected = [*voted(row), *before(row), *ran(guest), *waited(119.0, "expired", why)]
    if row.after:
        expected += after(row)
    assert acted.lines == [*expected, end("done", why)]
    told = [told for told in world.reports(since=5) if told[1] != "notice"]
    assert told == [
        (BEGUN + 121, "restart-expired", why),
        (BEGUN + 121, "loss", "reboot", why),
    ]


@RESTARTING
async def test_back_while_the_command_still_runs(row: Row) -> None:
    async with world_of(FakeRun(delay_s=40)) as world:
        guest, acted = await begun(world, row.name)
        await world.at(100)
        expected = [*voted(row), *before(row), *ran(guest)]
        expected.append({"step": "restart", "result": "back", "reason": "answers challenges"})
        if row.after:
            expected += after(row)
        assert acted.lines == [*expected, end("done")]
        assert acted.times[-1] == BEGUN + 40


@RESTARTING
async def test_expired_while_the_command_still_runs(row: Row) -> None:
    async with world_of(FakeRun(delay_s=200)) as world:
        guest, acted = await begun(world, row.name, back_in_s=None)
        await world.at(300)
        why = "not back within 121 s"
        expected = [*voted(row), *before(row), *ran(guest)]
        expected.append({"step": "restart", "result": "expired", "reason": why})
        if row.after:
            expected += after(row)
        assert acted.lines == [*expected, end("done", why)]
        assert acted.times[-1] == BEGUN + 200


async def test_back_with_a_new_socket(world: HostWorld) -> None:
    row = ROWS[-1]
    guest, acted = await begun(world, row.name, back_in_s=None)
    await world.at(10)
    guest.vanish()
    await world.at(40)
    guest.answers_after_s, guest.sends_init = 0.0, True
    guest.appear()
    await world.at(60)
    expected = [*voted(row), *before(row), *ran(guest)]
    expected += [*waited(119.0, "back", "answers challenges"), *after(row), end("done")]
    assert acted.lines == expected
    assert acted.times[-1] == 40.0


async def test_gone_for_good_the_action_ends_too(world: HostWorld) -> None:
    row = ROWS[-1]
    guest, acted = await begun(world, row.name, back_in_s=None)
    await world.at(10)
    guest.vanish()
    await world.at(200)
    why = "its socket did not come back"
    expected = [*voted(row), *before(row), *ran(guest), *waited(119.0, "expired", why)]
    expected += [skipped("notice", row.after, "the instance is not on this host")]
    assert acted.lines == [*expected, end("done", why)]
    assert acted.times[-1] == BEGUN + 121


async def test_an_init_at_the_last_moment_is_waited_for(world: HostWorld) -> None:
    guest, acted = await begun(world, ActionName.REBOOT, back_in_s=None)
    await world.at(BEGUN + 120.9)
    guest.answers_after_s = 0.8
    guest.send_init()
    why = "its guest has said init"
    await world.at(200)
    assert acted.lines[6:] == [
        {"step": "restart", "window": "RESTART", "seconds": 119.0},
        {"step": "restart", "window": "RESTART", "seconds": 3.0, "reason": why},
        {"step": "restart", "result": "back", "reason": "answers challenges"},
        # The history has it so, too.
        end("done", f"RESTART began anew: {why}"),
    ]
    assert acted.times[-1] == pytest.approx(BEGUN + 121.7)


async def test_a_host_that_stands_still_in_restart_says_so(
    world: HostWorld, autojump_clock: MockClock
) -> None:
    _, acted = await begun(world, ActionName.REBOOT, back_in_s=None)
    for at_s in (20, 60):
        await world.at(BEGUN + at_s)
        autojump_clock.jump(10.0)
    await world.at(BEGUN + 300)
    begins = [line["reason"] for line in acted.lines if line.get("window") and "reason" in line]
    assert begins == ["this host did not run for 19.9 s"]
    assert acted.lines[-1]["reason"].endswith(f"; RESTART began anew: {begins[0]}")


# -- the instance goes in the middle --------------------------------------------------------


async def test_gone_in_the_middle_of_the_vote(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(BEGUN)
    acted = await world.act(guest, ActionName.STOP, "cmd", "{uuid}")
    await world.at(6.25)
    world.directory.remove(guest.name)
    await world.at(20)
    why = f"the channel is gone: {guest.path} was removed"
    assert acted.lines == [
        *voted(ROWS[0], "error", why),
        skipped("notice", "stop", "the instance is not on this host"),
        *ran(guest),
        *downed(ROWS[0]),
        end("done"),
    ]


async def test_disconnected_in_the_middle_of_the_notice(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = votes_only
    await world.at(BEGUN)
    acted = await world.act(guest, ActionName.LIVE_MIGRATE, "cmd", "{uuid}")
    await world.at(6.25)
    guest.peer.close()
    await world.at(60)
    row = ROWS[7]
    opened, closed = before(row)
    closed |= {"result": "error", "reason": "the channel was closed: closed by the peer"}
    assert acted.lines[:6] == [*voted(row), opened, closed, *ran(guest)]
    assert acted.lines[-1] == end("done")


async def test_gone_while_the_command_runs(world: HostWorld) -> None:
    guest, acted = await begun(world, ActionName.LIVE_MIGRATE)
    await world.at(5)
    guest.vanish()
    await world.at(20)
    row = ROWS[7]
    assert acted.lines == [
        *voted(row),
        *before(row),
        *ran(guest),
        skipped("notice", row.after, "the instance is not on this host"),
        end("done"),
    ]


# -- another round is open ------------------------------------------------------------------


async def test_another_round_is_waited_for(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(BEGUN)
    world.vote(guest, Event.PAUSE)
    await world.at(6.5)
    guest.reply = agree
    acted = await world.act(guest, ActionName.STOP, "cmd", "{uuid}")
    world.after(9.5, guest.vanish)
    await world.at(60)
    why = "a vote on pause is open for another 7.0 s"
    waiting = {"step": "vote", "event": "stop", "waiting": why, "seconds": 7.0}
    assert acted.lines == [
        waiting,
        *voted(ROWS[0]),
        *before(ROWS[0]),
        *ran(guest),
        *downed(ROWS[0]),
        end("done"),
    ]
    assert acted.times[1] == BEGUN + 9


async def test_nobody_opens_another_while_an_action_waits(world: HostWorld) -> None:
    """So it waits no longer than it said, however many want to be the next."""
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(BEGUN)
    world.vote(guest, Event.PAUSE)
    acted = await world.act(guest, ActionName.STOP, "cmd", "{uuid}", force=True)
    refusals = []

    async def want_to_be_next() -> None:
        while len(refusals) < 100:
            current = world.channel(guest).round
            if current is not None and current.event is Event.STOP:
                return
            try:
                world.notice(guest, Event.SUSPEND)
            except RoundOpen as refusal:
                refusals.append(str(refusal))
            if current is not None:
                await current.done.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(want_to_be_next)
        await world.at(60)
    why = "a vote on pause is open for another 9.0 s"
    assert acted.lines[0] == {"step": "notice", "event": "stop", "waiting": why, "seconds": 9.0}
    assert acted.times[:2] == [BEGUN, BEGUN + 9]
    assert [event for _, event, _ in asked(guest)] == ["pause", "stop"]
    assert refusals.count(why) == 20
    # One or both, depending on who was woken first.
    reserved = "an action on the instance is about to open the next vote or notice"
    stopping = "a notice on stop is open for another 10.0 s"
    assert set(refusals) <= {why, reserved, stopping}


async def test_an_instance_that_goes_away_meanwhile_is_not_waited_for(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(BEGUN)
    world.vote(guest, Event.PAUSE)
    acted = await world.act(guest, ActionName.STOP, "cmd", "{uuid}", force=True)
    await world.sleep(1)
    guest.vanish()
    await world.at(60)
    assert acted.lines[1:] == [
        skipped("notice", "stop", "the instance is not on this host"),
        *ran(guest),
        *downed(ROWS[0]),
        end("done"),
    ]
    assert acted.times[1] == BEGUN + 1


# -- who watches ----------------------------------------------------------------------------


async def test_it_goes_on_without_anybody_watching(world: HostWorld) -> None:
    guest = await world.heartbeating()
    goes_down(world, guest, 20)
    await world.at(BEGUN)
    run = world.host.begin_action(guest.uuid, ActionName.COLD_MIGRATE, ("cmd",), force=False)
    with trio.move_on_after(1):
        async for _ in run.progress():
            pass
    assert now() == BEGUN + 1
    await world.at(100)
    assert run.state is ActionState.DONE
    assert asked(guest)[-1] == (BEGUN + 20, "cold_migrate_end", "irrevocable")


async def test_who_comes_late_sees_all_of_it(world: HostWorld) -> None:
    _, acted = await begun(world, ActionName.STOP)
    await world.at(BEGUN + 1)
    late = Acted(acted.run)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.watch)
        await world.at(20)
    assert late.lines == acted.lines
    assert len(late.lines) == 9
    assert [members(line) async for line in acted.run.progress()] == late.lines


# -- the host ends --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "lines"), [("vote", 1), ("notice", 3), ("command", 5), ("restart", 7)]
)
async def test_the_host_ends_in_the_middle(stage: str, lines: int) -> None:
    async with world_of(HANGS if stage == "command" else None) as world:
        guest = await world.heartbeating()
        goes_down(world, guest, None)
        if stage == "vote":
            guest.reply = stay_silent
        elif stage == "notice":
            guest.reply = lambda request: (
                agree(request) if request.notification_type is VOTE else None
            )
        await world.at(BEGUN)
        acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        await world.at(10)
        assert len(acted.lines) == lines
        assert acted.lines[-1]["step"] == stage
        await world.stop_host()
        await world.settle()
        assert now() == 10.0
        assert acted.ended
        assert "outcome" not in acted.lines[-1]
        assert world.host.actions == {}
        assert len(world.processes.cancelled) == (1 if stage == "command" else 0)
        assert "loss" not in [told[1] for told in world.reports()]
