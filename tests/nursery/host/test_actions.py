"""Actions from vote to post-notice: every row of the event table, line by line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import groupby
from typing import Any

import pytest
from trio.testing import MockClock

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.fsm.action import ActionState
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import ActionName, VoteResult
from support.actions_cases import (
    ALL,
    BEGUN,
    DOWN_S,
    RESTARTING,
    ROWS,
    TAKES_S,
    VOTED,
    Line,
    Row,
    after,
    asked,
    before,
    begun,
    cancelled,
    downed,
    end,
    never_down,
    not_down,
    ran,
    skipped,
    voted,
    waited,
    world_of,
)
from support.fake_processes import FakeRun
from support.host_world import (
    HostWorld,
    Reply,
    ScriptedGuest,
    host_world,
    stay_silent,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[HostWorld]:
    """A host with the commands of these tests."""
    async with world_of() as world:
        yield world


# -- every row ------------------------------------------------------------------------------


@ALL
async def test_accepted_it_is_done(row: Row, world: HostWorld) -> None:
    guest, acted = await begun(world, row.name)
    await world.at(60)
    expected = [*voted(row), *before(row)] if row.before else []
    expected += ran(guest)
    if row.restarts:
        expected += waited(119.0, "back", "answers challenges")
    expected += downed(row)
    if row.after:
        expected += after(row)
    assert acted.lines == [*expected, end("done")]
    assert acted.run.state is ActionState.DONE
    assert acted.ended
    assert world.host.actions == {}
    back_at = BEGUN + 20 if row.restarts else BEGUN + TAKES_S
    if row.name in (ActionName.PAUSE, ActionName.SUSPEND):
        # Two challenges in a row were missed, which were sent after the notice.
        assert 7.0 <= acted.times[-1] <= 7.25
    else:
        assert acted.times[-1] == back_at
    wanted = [(BEGUN, row.before, "revocable"), (BEGUN, row.before, "irrevocable")]
    wanted = wanted if row.before else []
    if row.after:
        wanted.append((back_at, row.after, "irrevocable"))
    assert asked(guest) == wanted
    assert "loss" not in [told[1] for told in world.reports()]


@ALL
async def test_forced_it_skips_the_vote_and_no_notice(row: Row, world: HostWorld) -> None:
    guest, acted = await begun(world, row.name, force=True)
    await world.at(60)
    expected = [*before(row)] if row.before else []
    expected += ran(guest)
    if row.restarts:
        expected += waited(119.0, "back", "answers challenges")
    expected += downed(row)
    if row.after:
        expected += after(row)
    assert acted.lines == [*expected, end("done")]
    assert "revocable" not in [about[2] for about in asked(guest)]


@VOTED
async def test_rejected_nothing_is_done(row: Row, world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = lambda _: Reply(VoteResult.REJECT, 'disk "a" busy')
    await world.at(BEGUN)
    acted = await world.act(guest, row.name, "cmd")
    reason = "disk 'a' busy"
    assert acted.lines == [*voted(row, "reject", reason), end("rejected", reason)]
    assert acted.run.state is ActionState.REJECTED
    assert world.processes.started == []
    await world.at(20)
    assert world.channel(guest).heartbeating
    assert asked(guest) == [(BEGUN, row.before, "revocable")]


@ALL
async def test_with_a_failing_command_a_begin_is_still_followed_by_an_end(row: Row) -> None:
    run = FakeRun(3, b"out\n", b"no such domain\n", delay_s=TAKES_S)
    async with world_of(run) as world:
        guest = await world.heartbeating()
        await world.at(BEGUN)
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        await world.at(60)
        expected = [*voted(row), *before(row)] if row.before else []
        expected += ran(guest, fault="exit status 3", output="out\nno such domain")
        if row.before:
            expected += cancelled(row)
        assert acted.lines == [*expected, end("failed", "the command failed: exit status 3")]
        assert acted.run.state is ActionState.FAILED
        assert acted.times[-1] == BEGUN + TAKES_S
        # What was announced did not happen: it is heartbeating, and its silence is a loss again.
        assert world.channel(guest).heartbeating
        guest.answers_after_s = None
        await world.at(70)
        assert world.reports()[-1][1] == "loss"


@ALL
async def test_one_that_is_not_heartbeating_takes_no_part(row: Row, world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.answers_after_s = None
    guest.appear()
    await world.at(BEGUN)
    acted = await world.act(guest, row.name, "cmd", "{uuid}")
    await world.at(400)
    why = f"{guest.uuid} is not heartbeating: discovered"
    expected = []
    if row.before:
        expected = [skipped("vote", row.before, why), skipped("notice", row.before, why)]
    expected += ran(guest)
    not_back = "not back within 121 s" if row.restarts else ""
    if row.restarts:
        # It may heartbeat once it has restarted, so it is waited for.
        expected += waited(119.0, "expired", not_back)
    if row.after:
        # A VM that has just arrived must hear of it, though it has not advertised anything.
        expected += after(row, seconds=11)
    outcome = end("done", not_back)
    if row.name is ActionName.STOP:
        # Its socket is still there, and without libvirt nobody knows better.
        expected += not_down(row)
        outcome = end("failed", never_down(row))
    else:
        expected += downed(row)
    assert acted.lines == [*expected, outcome]
    assert "revocable" not in [about[2] for about in asked(guest)]


def lost(guest: ScriptedGuest) -> None:
    """It hangs: it neither answers nor says anything any more."""
    guest.answers_after_s, guest.sends_init = None, False


@RESTARTING
async def test_one_that_is_lost_is_waited_for_until_it_is_back(row: Row, world: HostWorld) -> None:
    """A VM that hangs is the one that is rebooted the most; nobody can ask or tell it."""
    guest = await world.heartbeating()
    lost(guest)
    await world.at(20)
    channel = world.channel(guest)
    assert channel.heartbeat.state is HeartbeatState.LOST
    acted = await world.act(guest, row.name, "cmd", "{uuid}")
    assert channel.why == f"{row.before} is in progress"

    def comes_back() -> None:
        guest.answers_after_s, guest.sends_init = 0.0, True
        guest.send_init()

    world.after(30, comes_back)
    await world.at(60)
    why = f"{guest.uuid} is not heartbeating: no answer for 3 s"
    expected = [skipped("vote", row.before, why), skipped("notice", row.before, why)]
    expected += [*ran(guest), *waited(119.0, "back", "answers challenges")]
    if row.after:
        expected += after(row)
    assert acted.lines == [*expected, end("done")]
    assert acted.times[-1] == 50
    assert world.reports(since=20)[0] == (50.0, "heartbeating", f"back after {row.before}")


@RESTARTING
async def test_one_that_is_lost_and_whose_command_fails_should_be_answering(row: Row) -> None:
    async with world_of(FakeRun(3, delay_s=TAKES_S)) as world:
        guest = await world.heartbeating()
        lost(guest)
        await world.at(20)
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        await world.at(60)
        failed = "the command failed: exit status 3"
        assert acted.lines[-1] == end("failed", failed)
        channel = world.channel(guest)
        assert channel.restart.window is not None
        assert channel.heartbeat.state is HeartbeatState.RETURNING
        assert channel.why == f"{row.before} did not happen: {failed}"
        told = ["loss"] + ["notice"] * bool(row.after)
        assert [one[1] for one in world.reports(since=3)] == told
        await world.at(240)
        # What was not done about its loss, as the action was in progress, is decided anew.
        assert [one[1] for one in world.reports(since=3)] == [*told, "restart-expired", "loss"]
        why = f"no answer within 121 s after {row.before}, which did not happen"
        assert world.reports()[-1][1:] == ("loss", "reboot", why)


async def never_a_guest(world: HostWorld) -> ScriptedGuest:
    guest = world.guest()
    guest.sends_init, guest.answers_after_s = False, None
    guest.appear()
    await world.at(20)
    return guest


async def exited(world: HostWorld) -> ScriptedGuest:
    guest = await world.heartbeating()
    await world.at(10)
    guest.send_exit("stopped by its administrator")
    guest.sends_init = False
    await world.at(20)
    return guest


WITHOUT_GUEST = pytest.mark.parametrize("reach", [never_a_guest, exited])
RESET = CorrectiveCommands(reboot=("reset", "{uuid}"))


def commands(failing: FakeRun | None = None) -> Any:
    """A world in which what is lost is reset at once, and an action's command may fail."""
    runs = {"cmd": failing or FakeRun(delay_s=TAKES_S), "reset": FakeRun()}
    return host_world(corrective_commands=RESET, brake=BrakeSettings(share=1.0), runs=runs)


def was_reset(world: HostWorld) -> bool:
    return "reset" in [moment.argv[0] for moment in world.processes.started]


@pytest.mark.slow
@WITHOUT_GUEST
@RESTARTING
async def test_restarted_without_a_guest_it_is_awaited_and_none_is_lost(
    row: Row, reach: Callable[[HostWorld], Awaitable[ScriptedGuest]]
) -> None:
    async with commands() as world:
        guest = await reach(world)
        why = f"{guest.uuid} is not heartbeating: {world.channel(guest).why}"
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        await world.at(200)
        not_back = "not back within 121 s"
        expected = [skipped("vote", row.before, why), skipped("notice", row.before, why)]
        expected += [*ran(guest), *waited(119.0, "expired", not_back)]
        assert acted.lines[:6] == expected
        assert acted.lines[-1] == end("done", not_back)
        ended = [told for told in world.reports(since=20) if told[1] != "notice"]
        assert ended == [(141.0, "restart-expired", not_back)]
        await world.at(2000)
        assert not was_reset(world)


@WITHOUT_GUEST
async def test_restarted_without_a_guest_it_is_waiting_again(
    reach: Callable[[HostWorld], Awaitable[ScriptedGuest]],
) -> None:
    async with commands() as world:
        guest = await reach(world)
        await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        await world.at(200)
        channel = world.channel(guest)
        assert channel.heartbeat.state is HeartbeatState.WAITING
        stop = await world.act(guest, ActionName.STOP, "cmd", "{uuid}")
        world.after(1.0, guest.vanish)
        await world.at(210)
        why = f"{guest.uuid} is not heartbeating: not back within 121 s"
        expected = [skipped("vote", "stop", why), skipped("notice", "stop", why), *ran(guest)]
        assert stop.lines == [*expected, *downed(ROWS[0]), end("done")]
        assert stop.times[-1] == 200 + TAKES_S


@WITHOUT_GUEST
async def test_with_a_failing_command_one_without_a_guest_goes_on_waiting(
    reach: Callable[[HostWorld], Awaitable[ScriptedGuest]],
) -> None:
    async with commands(FakeRun(3, delay_s=TAKES_S)) as world:
        guest = await reach(world)
        changed: list[HeartbeatState] = []
        channel = world.channel(guest)
        world.host.on_change(lambda _: changed.append(channel.heartbeat.state))
        acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        await world.at(20 + TAKES_S)
        failed = "the command failed: exit status 3"
        assert acted.lines[-1] == end("failed", failed)
        # Whoever owns the instance, and its command, are changes too.
        states = [state for state, _ in groupby(changed)]
        assert states == [HeartbeatState.RESTARTING, HeartbeatState.WAITING]
        assert channel.why == f"reboot did not happen: {failed}"
        assert channel.restart.window is None
        assert channel.restart.closed.is_set()
        stop = await world.act(guest, ActionName.STOP, "cmd", "{uuid}")
        await world.at(60)
        assert [line.get("skipped") is not None for line in stop.lines[:2]] == [True, True]
        assert stop.times[-1] == 20 + 2 * TAKES_S
        assert world.reports(since=11) == []
        # What comes later is a guest like any other.
        guest.answers_after_s = 0.0
        guest.send_init()
        await world.at(61)
        assert world.reports(since=11) == [(60.0, "heartbeating", "init answered")]


@WITHOUT_GUEST
async def test_a_guest_that_comes_within_restart_is_heartbeating_and_can_be_lost(
    reach: Callable[[HostWorld], Awaitable[ScriptedGuest]],
) -> None:
    async with commands() as world:
        guest = await reach(world)
        acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        await world.at(50)
        guest.answers_after_s, guest.sends_init = 0.0, True
        guest.send_init()
        await world.at(60)
        assert acted.lines[-2:] == [*waited(119.0, "back", "answers challenges")[1:], end("done")]
        assert acted.times[-1] == 50
        assert world.reports(since=20) == [(50.0, "heartbeating", "back after reboot")]
        # From now on it is one that is expected back.
        lost(guest)
        await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}", force=True)
        await world.at(300)
        assert [told[1] for told in world.reports(since=100)][:2] == ["restart-expired", "loss"]
        assert was_reset(world)


async def test_a_failing_command_that_took_the_socket_away_leaves_it_to_restart() -> None:
    async with commands(FakeRun(1, delay_s=5)) as world:
        guest = await world.heartbeating()
        await world.at(20)
        acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        world.after(2, guest.vanish)
        await world.at(30)
        assert acted.lines[-1] == end("failed", "the command failed: exit status 1")
        channel = world.channel(guest)
        assert channel.dialling.absent
        assert channel.heartbeat.state is HeartbeatState.RESTARTING
        await world.at(1000)
        assert world.reports(since=20) == [
            (20.0, "vote", "reboot", "accept", ""),
            (20.0, "notice", "reboot", "complete", ""),
            (20.0, "stopped", "reboot is in progress"),
            (141.0, "restart-expired", "not back within 121 s"),
            (141.0, "loss", "reboot", "not back within 121 s"),
            (141.0, "stopped", "its socket did not come back"),
        ]
        assert world.host.channels == {}


async def test_a_failing_command_whose_socket_comes_back_is_in_time() -> None:
    async with commands(FakeRun(1, delay_s=5)) as world:
        guest = await world.heartbeating()
        await world.at(20)
        await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        world.after(2, guest.vanish)
        await world.at(100)
        guest.appear()
        await world.at(105)
        assert world.channel(guest).heartbeating
        assert [told[1] for told in world.reports(since=21)] == ["heartbeating"]


async def test_one_whose_socket_is_made_anew_by_the_command_is_waited_for(world: HostWorld) -> None:
    """As with `virsh destroy` and `virsh start`: another channel, of the same instance."""
    guest = await world.heartbeating()
    lost(guest)
    await world.at(20)
    acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
    await world.at(21)
    guest.vanish()
    await world.at(25)
    guest.answers_after_s, guest.sends_init = 0.0, True
    guest.appear()
    await world.at(60)
    assert acted.lines[-2:] == [
        {"step": "restart", "result": "back", "reason": "answers challenges"},
        end("done"),
    ]


@ALL
async def test_a_silent_one_has_all_its_time(row: Row, world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(BEGUN)
    acted = await world.act(guest, row.name, "cmd", "{uuid}")
    await world.at(500)
    expected: list[Line] = []
    command_at = BEGUN
    if row.before:
        expected = voted(row, "accept", "no answer within 9 s")
        expected += before(row, f"no answer within {row.seconds} s")
        command_at += 9 + row.seconds
    expected += ran(guest)
    ends = command_at + TAKES_S
    never = never_down(row) if row.restarts or row.name in DOWN_S else ""
    if never:
        # It answers challenges all the time: whoever asked must learn that, and so must the guest.
        if row.restarts:
            expected += waited(119.0, "back", never)
            ends = command_at + 121
        else:
            expected += not_down(row)
            ends += DOWN_S[row.name]
        expected += cancelled(row, "no answer within 14 s")
        ends += 14
    elif row.after:
        expected += after(row, "no answer within 14 s")
        ends += 14
    outcome = end("failed", never) if never else end("done")
    assert acted.lines == [*expected, outcome]
    assert [moment.time_s for moment in world.processes.started] == [command_at]
    assert acted.times[-1] == ends
