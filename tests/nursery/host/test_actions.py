"""Actions from vote to post-notice: every row of the event table, line by line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.host import ActionCommands, BrakeSettings, CorrectiveCommands
from hbtrio.fsm.action import ActionState
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.round import Round
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType, VoteResult
from support.fake_processes import HANGS, FakeRun
from support.host_world import (
    NOTICE,
    VOTE,
    Acted,
    HostWorld,
    Reply,
    ScriptedGuest,
    agree,
    host_world,
    now,
    stay_silent,
)
from support.lines import members

Line = dict[str, Any]

#: When actions are begun, and how long their command takes.
BEGUN, TAKES_S = 4.5, 2.0


@attrs.frozen
class Row:
    """A row of the event table as PROTOCOL.md has it, with the seconds of these tests' guest."""

    name: ActionName
    before: str = ""
    window: str = ""
    seconds: int = 0
    restarts: bool = False
    after: str = ""


ROWS = [
    Row(ActionName.STOP, "stop", "SHUTDOWN_NOTICE", 10),
    Row(ActionName.REBOOT, "reboot", "SHUTDOWN_NOTICE", 10, restarts=True),
    Row(ActionName.PAUSE, "pause", "SUSPEND_NOTICE", 11),
    Row(ActionName.UNPAUSE, after="unpause"),
    Row(ActionName.SUSPEND, "suspend", "SUSPEND_NOTICE", 11),
    Row(ActionName.RESUME, after="resume"),
    Row(ActionName.RESIZE, "resize_begin", "SUSPEND_NOTICE", 11, True, "resize_end"),
    Row(
        ActionName.LIVE_MIGRATE,
        "live_migrate_begin",
        "SUSPEND_NOTICE",
        11,
        after="live_migrate_end",
    ),
    Row(
        ActionName.COLD_MIGRATE,
        "cold_migrate_begin",
        "SUSPEND_NOTICE",
        11,
        True,
        "cold_migrate_end",
    ),
]
ALL = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.value)
VOTED = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.before], ids=lambda row: row.name.value
)
RESTARTING = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.restarts], ids=lambda row: row.name.value
)


def voted(row: Row, result: str = "accept", reason: str = "") -> list[Line]:
    about = {"step": "vote", "event": row.before}
    return [
        {**about, "window": "VOTE", "seconds": 9},
        {**about, "result": result, "reason": reason},
    ]


def noticed(event: str, window: str, seconds: int, reason: str = "") -> list[Line]:
    about = {"step": "notice", "event": event}
    return [
        {**about, "window": window, "seconds": seconds},
        {**about, "result": "complete", "reason": reason},
    ]


def before(row: Row, reason: str = "") -> list[Line]:
    return noticed(row.before, row.window, row.seconds, reason)


def after(row: Row, reason: str = "", seconds: int = 14) -> list[Line]:
    return noticed(row.after, "RESUME_NOTICE", seconds, reason)


def ran(
    guest: ScriptedGuest, *, fault: str = "", output: str = "", seconds: float = 600
) -> list[Line]:
    return [
        {"step": "command", "argv": ["cmd", guest.uuid], "seconds": seconds},
        {
            "step": "command",
            "result": "failed" if fault else "done",
            "reason": fault,
            "output": output,
        },
    ]


def waited(seconds: float, result: str, reason: str) -> list[Line]:
    return [
        {"step": "restart", "window": "RESTART", "seconds": seconds},
        {"step": "restart", "result": result, "reason": reason},
    ]


def end(outcome: str, reason: str = "") -> Line:
    return {"step": "end", "outcome": outcome, "reason": reason}


def skipped(step: str, event: str, why: str) -> Line:
    return {"step": step, "event": event, "skipped": why}


def asked(guest: ScriptedGuest) -> list[tuple[float, str, str]]:
    """The votes and notices that a guest was sent."""
    return [
        (heard.time_s, str(heard.message.event_type), str(heard.message.notification_type))
        for heard in guest.heard
        if isinstance(heard.message, ActionNotify)
    ]


def goes_down(world: HostWorld, guest: ScriptedGuest, back_in_s: float | None) -> None:
    """From its pre-notice on the guest is silent; then it says ``init`` again."""

    def reply(request: ActionNotify) -> Reply | None:
        if request.notification_type is NOTICE and guest.reply is reply:
            guest.reply = agree
            guest.answers_after_s, guest.greets = None, False
            if back_in_s is not None:
                world.after(back_in_s, comes_back)
        return agree(request)

    def comes_back() -> None:
        guest.answers_after_s, guest.greets = 0.0, True
        guest.says_init()

    guest.reply = reply


def votes_only(request: ActionNotify) -> Reply | None:
    """Agrees to votes and does not answer notices."""
    return agree(request) if request.notification_type is VOTE else None


async def begun(
    world: HostWorld, name: ActionName, *, force: bool = False, back_in_s: float | None = 20.0
) -> tuple[ScriptedGuest, Acted]:
    """An action on a guest that agrees to everything, begun at ``BEGUN``."""
    guest = await world.heartbeating()
    if name in (ActionName.REBOOT, ActionName.RESIZE, ActionName.COLD_MIGRATE):
        goes_down(world, guest, back_in_s)
    await world.at(BEGUN)
    return guest, await world.act(guest, name, "cmd", "{uuid}", force=force)


def world_of(run: FakeRun | None = None, **config: Any) -> Any:
    return host_world(runs={"cmd": run or FakeRun(delay_s=TAKES_S)}, **config)


# -- every row ------------------------------------------------------------------------------


@ALL
async def test_accepted_it_is_done(row: Row, autojump_clock: MockClock) -> None:
    async with world_of() as world:
        guest, acted = await begun(world, row.name)
        await world.at(60)
        expected = [*voted(row), *before(row)] if row.before else []
        expected += ran(guest)
        if row.restarts:
            expected += waited(119.0, "back", "answers challenges")
        if row.after:
            expected += after(row)
        assert acted.lines == [*expected, end("done")]
        assert acted.run.state is ActionState.DONE
        assert acted.ended
        assert world.host.actions == {}
        back_at = BEGUN + 20 if row.restarts else BEGUN + TAKES_S
        assert acted.times[-1] == back_at
        wanted = [(BEGUN, row.before, "revocable"), (BEGUN, row.before, "irrevocable")]
        wanted = wanted if row.before else []
        if row.after:
            wanted.append((back_at, row.after, "irrevocable"))
        assert asked(guest) == wanted
        assert "loss" not in [told[1] for told in world.told()]


@ALL
async def test_forced_it_skips_the_vote_and_no_notice(row: Row, autojump_clock: MockClock) -> None:
    async with world_of() as world:
        guest, acted = await begun(world, row.name, force=True)
        await world.at(60)
        expected = [*before(row)] if row.before else []
        expected += ran(guest)
        if row.restarts:
            expected += waited(119.0, "back", "answers challenges")
        if row.after:
            expected += after(row)
        assert acted.lines == [*expected, end("done")]
        assert "revocable" not in [about[2] for about in asked(guest)]


@VOTED
async def test_rejected_nothing_is_done(row: Row, autojump_clock: MockClock) -> None:
    async with world_of() as world:
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
async def test_with_a_failing_command_a_begin_is_still_followed_by_an_end(
    row: Row, autojump_clock: MockClock
) -> None:
    run = FakeRun(3, b"out\n", b"no such domain\n", delay_s=TAKES_S)
    async with world_of(run) as world:
        guest = await world.heartbeating()
        await world.at(BEGUN)
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        await world.at(60)
        expected = [*voted(row), *before(row)] if row.before else []
        expected += ran(guest, fault="exit status 3", output="out\nno such domain")
        if row.before and row.after:
            expected += after(row)
        assert acted.lines == [*expected, end("failed", "the command failed: exit status 3")]
        assert acted.run.state is ActionState.FAILED
        assert acted.times[-1] == BEGUN + TAKES_S
        # What was announced did not happen: it is heartbeating, and its silence is a loss again.
        assert world.channel(guest).heartbeating
        guest.answers_after_s = None
        await world.at(70)
        assert world.told()[-1][1] == "loss"


@ALL
async def test_one_that_is_not_heartbeating_takes_no_part(
    row: Row, autojump_clock: MockClock
) -> None:
    async with world_of() as world:
        guest = world.guest()
        guest.greets = False
        guest.answers_after_s = None
        guest.appears()
        await world.at(BEGUN)
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        await world.at(200)
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
        assert acted.lines == [*expected, end("done", not_back)]
        assert "revocable" not in [about[2] for about in asked(guest)]


def lost(guest: ScriptedGuest) -> None:
    """It hangs: it neither answers nor says anything any more."""
    guest.answers_after_s, guest.greets = None, False


@RESTARTING
async def test_one_that_is_lost_is_waited_for_until_it_is_back(
    row: Row, autojump_clock: MockClock
) -> None:
    """A VM that hangs is the one that is rebooted the most; nobody can ask or tell it."""
    async with world_of() as world:
        guest = await world.heartbeating()
        lost(guest)
        await world.at(20)
        channel = world.channel(guest)
        assert channel.heartbeat.state is HeartbeatState.LOST
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        assert channel.why == f"{row.before} is under way"

        def comes_back() -> None:
            guest.answers_after_s, guest.greets = 0.0, True
            guest.says_init()

        world.after(30, comes_back)
        await world.at(60)
        why = f"{guest.uuid} is not heartbeating: no answer for 3 s"
        expected = [skipped("vote", row.before, why), skipped("notice", row.before, why)]
        expected += [*ran(guest), *waited(119.0, "back", "answers challenges")]
        if row.after:
            expected += after(row)
        assert acted.lines == [*expected, end("done")]
        assert acted.times[-1] == 50
        assert world.told(since=20)[0] == (50.0, "heartbeating", f"after: {row.before}")


@RESTARTING
async def test_one_that_is_lost_and_whose_command_fails_should_be_answering(
    row: Row, autojump_clock: MockClock
) -> None:
    async with world_of(FakeRun(3, delay_s=TAKES_S)) as world:
        guest = await world.heartbeating()
        lost(guest)
        await world.at(20)
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        await world.at(60)
        failed = "the command failed: exit status 3"
        assert acted.lines[-1] == end("failed", failed)
        channel = world.channel(guest)
        assert channel.restart.window is None
        assert channel.heartbeat.state is HeartbeatState.RETURNING
        assert channel.why == f"{row.before} did not happen: {failed}"
        # Its loss was reported, once.
        assert [told[1] for told in world.told(since=3)] == ["loss"] + ["notice"] * bool(row.after)


async def never_a_guest(world: HostWorld) -> ScriptedGuest:
    guest = world.guest()
    guest.greets, guest.answers_after_s = False, None
    guest.appears()
    await world.at(20)
    return guest


async def exited(world: HostWorld) -> ScriptedGuest:
    guest = await world.heartbeating()
    await world.at(10)
    guest.exits("stopped by its administrator")
    guest.greets = False
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


@WITHOUT_GUEST
@RESTARTING
async def test_restarted_without_a_guest_it_is_awaited_and_none_is_lost(
    row: Row, reach: Callable[[HostWorld], Awaitable[ScriptedGuest]], autojump_clock: MockClock
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
        ended = [told for told in world.told(since=20) if told[1] != "notice"]
        assert ended == [(141.0, "restart-expired", not_back)]
        await world.at(2000)
        assert not was_reset(world)


@WITHOUT_GUEST
async def test_restarted_without_a_guest_it_is_waiting_again(
    reach: Callable[[HostWorld], Awaitable[ScriptedGuest]], autojump_clock: MockClock
) -> None:
    async with commands() as world:
        guest = await reach(world)
        await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        await world.at(200)
        channel = world.channel(guest)
        assert channel.heartbeat.state is HeartbeatState.WAITING
        stop = await world.act(guest, ActionName.STOP, "cmd", "{uuid}")
        await world.at(210)
        why = f"{guest.uuid} is not heartbeating: not back within 121 s"
        expected = [skipped("vote", "stop", why), skipped("notice", "stop", why), *ran(guest)]
        assert stop.lines == [*expected, end("done")]
        assert stop.times[-1] == 200 + TAKES_S


@WITHOUT_GUEST
async def test_with_a_failing_command_one_without_a_guest_goes_on_waiting(
    reach: Callable[[HostWorld], Awaitable[ScriptedGuest]], autojump_clock: MockClock
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
        assert changed == [HeartbeatState.RESTARTING, HeartbeatState.WAITING]
        assert channel.why == f"reboot did not happen: {failed}"
        assert channel.restart.window is None
        assert channel.restart.closed.is_set()
        stop = await world.act(guest, ActionName.STOP, "cmd", "{uuid}")
        await world.at(60)
        assert [line.get("skipped") is not None for line in stop.lines[:2]] == [True, True]
        assert stop.times[-1] == 20 + 2 * TAKES_S
        assert world.told(since=11) == []
        # What comes later is a guest like any other.
        guest.answers_after_s = 0.0
        guest.says_init()
        await world.at(61)
        assert world.told(since=11) == [(60.0, "heartbeating", "init answered")]


@WITHOUT_GUEST
async def test_a_guest_that_comes_within_restart_is_heartbeating_and_can_be_lost(
    reach: Callable[[HostWorld], Awaitable[ScriptedGuest]], autojump_clock: MockClock
) -> None:
    async with commands() as world:
        guest = await reach(world)
        acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        await world.at(50)
        guest.answers_after_s, guest.greets = 0.0, True
        guest.says_init()
        await world.at(60)
        assert acted.lines[-2:] == [*waited(119.0, "back", "answers challenges")[1:], end("done")]
        assert acted.times[-1] == 50
        assert world.told(since=20) == [(50.0, "heartbeating", "after: reboot")]
        # From now on it is one that is expected back.
        lost(guest)
        await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}", force=True)
        await world.at(300)
        assert [told[1] for told in world.told(since=100)][:2] == ["restart-expired", "loss"]
        assert was_reset(world)


async def test_a_failing_command_that_took_the_socket_away_leaves_it_to_restart(
    autojump_clock: MockClock,
) -> None:
    async with commands(FakeRun(1, delay_s=5)) as world:
        guest = await world.heartbeating()
        await world.at(20)
        acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        world.after(2, guest.vanishes)
        await world.at(30)
        assert acted.lines[-1] == end("failed", "the command failed: exit status 1")
        channel = world.channel(guest)
        assert (channel.absent, channel.heartbeat.state) == (True, HeartbeatState.RESTARTING)
        await world.at(1000)
        assert world.told(since=20) == [
            (20.0, "vote", "reboot", "accept", ""),
            (20.0, "notice", "reboot", "complete", ""),
            (20.0, "stopped", "reboot is under way"),
            (141.0, "restart-expired", "not back within 121 s"),
            (141.0, "loss", "reboot", "not back within 121 s"),
            (141.0, "stopped", "its socket did not come back"),
        ]
        assert world.host.channels == {}


async def test_a_failing_command_whose_socket_comes_back_is_in_time(
    autojump_clock: MockClock,
) -> None:
    async with commands(FakeRun(1, delay_s=5)) as world:
        guest = await world.heartbeating()
        await world.at(20)
        await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        world.after(2, guest.vanishes)
        await world.at(100)
        guest.appears()
        await world.at(105)
        assert world.channel(guest).heartbeating
        assert [told[1] for told in world.told(since=21)] == ["heartbeating"]


async def test_one_whose_socket_is_made_anew_by_the_command_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    """As with `virsh destroy` and `virsh start`: another channel, of the same instance."""
    async with world_of() as world:
        guest = await world.heartbeating()
        lost(guest)
        await world.at(20)
        acted = await world.act(guest, ActionName.REBOOT, "cmd", "{uuid}")
        await world.at(21)
        guest.vanishes()
        await world.at(25)
        guest.answers_after_s, guest.greets = 0.0, True
        guest.appears()
        await world.at(60)
        assert acted.lines[-2:] == [
            {"step": "restart", "result": "back", "reason": "answers challenges"},
            end("done"),
        ]


@ALL
async def test_a_silent_one_has_all_its_time(row: Row, autojump_clock: MockClock) -> None:
    async with world_of() as world:
        guest = await world.heartbeating()
        guest.reply = stay_silent
        await world.at(BEGUN)
        acted = await world.act(guest, row.name, "cmd", "{uuid}")
        await world.at(300)
        expected: list[Line] = []
        command_at = BEGUN
        if row.before:
            expected = voted(row, "accept", "no answer within 9 s")
            expected += before(row, f"no answer within {row.seconds} s")
            command_at += 9 + row.seconds
        expected += ran(guest)
        ends = command_at + TAKES_S
        if row.restarts:
            # It answers challenges all the time, and whoever asked must learn that it does.
            never = "it never went down: it still answered when RESTART expired"
            expected += waited(119.0, "back", never)
            ends = command_at + 121
        if row.after:
            expected += after(row, "no answer within 14 s")
            ends += 14
        assert acted.lines == [*expected, end("done", never if row.restarts else "")]
        assert [moment.time_s for moment in world.processes.started] == [command_at]
        assert acted.times[-1] == ends


# -- the command ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (FakeRun(1), "exit status 1"),
        (FakeRun(signal=9), "killed by signal 9"),
        (FakeRun(fault="No such file or directory"), "cmd: No such file or directory"),
    ],
)
async def test_how_a_command_can_fail(run: FakeRun, fault: str, autojump_clock: MockClock) -> None:
    async with world_of(run) as world:
        guest = await world.heartbeating()
        acted = await world.act(guest, ActionName.PAUSE, "cmd", "{uuid}", force=True)
        assert acted.lines[2:] == [
            *ran(guest, fault=fault),
            end("failed", f"the command failed: {fault}"),
        ]


async def test_a_command_that_hangs_is_ended_in_time(autojump_clock: MockClock) -> None:
    async with world_of(HANGS, actions=ActionCommands(timeout_s=30)) as world:
        guest, acted = await begun(world, ActionName.LIVE_MIGRATE)
        await world.at(BEGUN + 29.999)
        assert world.processes.cancelled == []
        await world.at(BEGUN + 30)
        assert [moment.time_s for moment in world.processes.cancelled] == [BEGUN + 30]
        fault = "timed out after 30 s"
        assert acted.lines[4:6] == ran(guest, fault=fault, seconds=30)
        assert acted.lines[-1] == end("failed", f"the command failed: {fault}")


async def test_its_output_is_shown_up_to_a_bound(autojump_clock: MockClock) -> None:
    run = FakeRun(stdout=b"moved\xff\n", stderr=b"x" * 5000)
    async with world_of(run) as world:
        guest = await world.heartbeating()
        acted = await world.act(guest, ActionName.UNPAUSE, "cmd", "{uuid}")
        assert acted.lines[1]["output"] == "moved\ufffd\n" + "x" * 2048


async def test_the_configured_command_is_run_if_none_is_given(autojump_clock: MockClock) -> None:
    actions = ActionCommands(pause=("cmd", "{uuid}", "{{x}}"))
    async with world_of(actions=actions) as world:
        guest = await world.heartbeating()
        await world.act(guest, ActionName.PAUSE)
        assert [moment.argv for moment in world.processes.started] == [("cmd", guest.uuid, "{x}")]


async def test_one_that_could_not_be_unpaused_is_still_paused(autojump_clock: MockClock) -> None:
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
async def test_not_back_in_time_it_is_told_all_the_same(
    row: Row, autojump_clock: MockClock
) -> None:
    async with world_of() as world:
        guest, acted = await begun(world, row.name, back_in_s=None)
        await world.at(BEGUN + 120.999)
        assert not acted.ended
        await world.at(BEGUN + 121)
        why = "not back within 121 s"
        expected = [*voted(row), *before(row), *ran(guest), *waited(119.0, "expired", why)]
        if row.after:
            expected += after(row)
        assert acted.lines == [*expected, end("done", why)]
        told = [told for told in world.told(since=5) if told[1] != "notice"]
        assert told == [
            (BEGUN + 121, "restart-expired", why),
            (BEGUN + 121, "loss", "reboot", why),
        ]


@RESTARTING
async def test_back_while_the_command_still_runs(row: Row, autojump_clock: MockClock) -> None:
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
async def test_expired_while_the_command_still_runs(row: Row, autojump_clock: MockClock) -> None:
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


async def test_back_with_a_new_socket(autojump_clock: MockClock) -> None:
    row = ROWS[-1]
    async with world_of() as world:
        guest, acted = await begun(world, row.name, back_in_s=None)
        await world.at(10)
        guest.vanishes()
        await world.at(40)
        guest.answers_after_s, guest.greets = 0.0, True
        guest.appears()
        await world.at(60)
        expected = [*voted(row), *before(row), *ran(guest)]
        expected += [*waited(119.0, "back", "answers challenges"), *after(row), end("done")]
        assert acted.lines == expected
        assert acted.times[-1] == 40.0


async def test_gone_for_good_the_action_ends_too(autojump_clock: MockClock) -> None:
    row = ROWS[-1]
    async with world_of() as world:
        guest, acted = await begun(world, row.name, back_in_s=None)
        await world.at(10)
        guest.vanishes()
        await world.at(200)
        why = "its socket did not come back"
        expected = [*voted(row), *before(row), *ran(guest), *waited(119.0, "expired", why)]
        expected += [skipped("notice", row.after, "the instance is not on this host")]
        assert acted.lines == [*expected, end("done", why)]
        assert acted.times[-1] == BEGUN + 121


async def test_an_init_at_the_last_moment_is_waited_for(autojump_clock: MockClock) -> None:
    async with world_of() as world:
        guest, acted = await begun(world, ActionName.REBOOT, back_in_s=None)
        await world.at(BEGUN + 120.9)
        guest.answers_after_s = 0.8
        guest.says_init()
        await world.at(200)
        assert acted.lines[6:] == [
            {"step": "restart", "window": "RESTART", "seconds": 119.0},
            *waited(3.0, "back", "answers challenges"),
            end("done"),
        ]
        assert acted.times[-1] == pytest.approx(BEGUN + 121.7)


# -- the instance goes in the middle --------------------------------------------------------


async def test_gone_in_the_middle_of_the_vote(autojump_clock: MockClock) -> None:
    async with world_of() as world:
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
            end("done"),
        ]


async def test_disconnected_in_the_middle_of_the_notice(autojump_clock: MockClock) -> None:
    async with world_of() as world:
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


async def test_gone_while_the_command_runs(autojump_clock: MockClock) -> None:
    async with world_of() as world:
        guest, acted = await begun(world, ActionName.LIVE_MIGRATE)
        await world.at(5)
        guest.vanishes()
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


async def test_another_round_is_waited_for(autojump_clock: MockClock) -> None:
    async with world_of() as world:
        guest = await world.heartbeating()
        guest.reply = stay_silent
        await world.at(BEGUN)
        world.vote(guest, Event.PAUSE)
        await world.at(6.5)
        guest.reply = agree
        acted = await world.act(guest, ActionName.STOP, "cmd", "{uuid}")
        await world.at(60)
        why = "a vote on pause is open for another 7.0 s"
        waiting = {"step": "vote", "event": "stop", "waiting": why, "seconds": 7.0}
        assert acted.lines == [
            waiting,
            *voted(ROWS[0]),
            *before(ROWS[0]),
            *ran(guest),
            end("done"),
        ]
        assert acted.times[1] == BEGUN + 9


async def test_not_for_ever(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_of() as world:
        guest = await world.heartbeating()
        guest.reply = stay_silent
        await world.at(BEGUN)
        channel = world.channel(guest)
        open_round = channel.open_round

        def always_too_late(event: Event, notification: NotificationType) -> Round:
            if event is not Event.PAUSE and channel.round is None:
                open_round(Event.PAUSE, VOTE)
            return open_round(event, notification)

        monkeypatch.setattr(channel, "open_round", always_too_late)
        acted = await world.act(guest, ActionName.UNPAUSE, "cmd", "{uuid}")
        await world.at(200)
        why = "a vote on pause is open for another 9.0 s"
        waiting = {"step": "notice", "event": "unpause", "waiting": why, "seconds": 9}
        assert acted.lines == [
            *ran(guest),
            *[waiting] * 3,
            skipped("notice", "unpause", "still busy after 3 other votes and notices"),
            end("done"),
        ]
        assert acted.times[-1] == BEGUN + TAKES_S + 27


# -- who watches ----------------------------------------------------------------------------


async def test_it_goes_on_without_anybody_watching(autojump_clock: MockClock) -> None:
    async with world_of() as world:
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


async def test_who_comes_late_sees_all_of_it(autojump_clock: MockClock) -> None:
    async with world_of() as world:
        _, acted = await begun(world, ActionName.STOP)
        await world.at(BEGUN + 1)
        late = Acted(acted.run)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.watch)
            await world.at(20)
        assert late.lines == acted.lines
        assert len(late.lines) == 7
        assert [members(line) async for line in acted.run.progress()] == late.lines


# -- the host ends --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "lines"), [("vote", 1), ("notice", 3), ("command", 5), ("restart", 7)]
)
async def test_the_host_ends_in_the_middle(
    stage: str, lines: int, autojump_clock: MockClock
) -> None:
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
        assert "loss" not in [told[1] for told in world.told()]
