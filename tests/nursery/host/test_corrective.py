"""Corrective commands: held back, braked, counted, run, and what the instance is allowed after."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from trio.testing import MockClock

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health
from support.fake_processes import HANGS, FakeRun, Moment
from support.host_world import HostWorld, ScriptedGuest, host_world, now

pytestmark = pytest.mark.usefixtures("autojump_clock")

COMMANDS = CorrectiveCommands(
    reboot=("reset", "{uuid}"), stop=("destroy", "{uuid}"), log=("note", "{uuid}")
)

#: One that never holds back, for tests of what comes after it.
NO_BRAKE = BrakeSettings(share=1.0)

#: A guest that is silent from 4.5 on is lost at 7, and its command is due one interval later.
SILENT, LOST, DUE = 4.5, 7.0, 8.0


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.corrective")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "hbtrio.corrective"
    ]


def world_of(
    commands: CorrectiveCommands = COMMANDS,
    *,
    run: FakeRun | None = None,
    brake: BrakeSettings = NO_BRAKE,
) -> Any:
    def runs(_: Sequence[str]) -> FakeRun:
        return run or FakeRun()

    return host_world(corrective_commands=commands, brake=brake, runs=runs)


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[HostWorld]:
    """A host with the commands of these tests."""
    async with world_of() as world:
        yield world


def falls_silent(*guests: ScriptedGuest) -> None:
    for guest in guests:
        guest.answers_after_s, guest.sends_init = None, False


def falls_ill(guest: ScriptedGuest, action: CorrectiveAction = CorrectiveAction.REBOOT) -> None:
    guest.health, guest.action, guest.log_msg = Health.UNHEALTHY, action, "disk full"


def comes_back(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = 0.0, True
    guest.health = Health.HEALTHY
    guest.send_init()


def started(world: HostWorld) -> list[Moment]:
    return [Moment(round(moment.time_s, 6), moment.argv) for moment in world.processes.started]


async def lost(world: HostWorld, **init: Any) -> ScriptedGuest:
    """A guest that is silent from 4.5 on."""
    guest = await world.heartbeating(**init)
    await world.at(SILENT)
    falls_silent(guest)
    return guest


# -- the hold -------------------------------------------------------------------------------


async def test_a_command_is_held_back_for_one_interval(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await lost(world)
    await world.at(DUE - 0.001)
    assert started(world) == []
    assert world.reports()[-1][:2] == (LOST, "loss")
    await world.at(DUE)
    assert started(world) == [Moment(DUE, ("reset", guest.uuid))]
    assert said(caplog) == [
        ("WARNING", f"{guest.uuid}: reboot: running ['reset', '{guest.uuid}']"),
        ("INFO", f"{guest.uuid}: reboot done"),
    ]
    assert (world.host.corrective.ran, world.host.corrective.failed) == (1, 0)


async def test_the_interval_is_the_guests(world: HostWorld) -> None:
    guest = await world.heartbeating(heartbeat_interval_ms=5000)
    await world.at(7)
    falls_silent(guest)
    await world.at(60)
    assert world.reports()[1][:2] == (21.0, "loss")
    assert [moment.time_s for moment in started(world)] == [26.0]


async def test_back_in_the_meantime_nothing_is_run(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await lost(world)
    await world.at(7.9)
    comes_back(guest)
    await world.at(60)
    assert started(world) == []
    assert said(caplog) == [
        ("INFO", f"{guest.uuid}: reboot not run: the instance is heartbeating now")
    ]


async def test_removed_in_the_meantime_nothing_is_run(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await lost(world)
    await world.at(7.5)
    guest.vanish()
    await world.at(60)
    assert started(world) == []
    assert said(caplog) == [("INFO", f"{guest.uuid}: reboot not run: the instance is gone now")]


async def test_a_freeze_in_the_hold_does_not_reboot_who_is_back(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    # What they said during the freeze is read before anything is judged.
    guests = await world.all_heartbeating(40)
    await world.at(SILENT)
    falls_silent(*guests)
    await world.at(7.5)
    for guest in guests:
        guest.answers_after_s = 0.0
        guest.send_init()
    autojump_clock.jump(60)
    await world.at(120)
    assert started(world) == []
    assert world.host.heartbeating == 40


async def test_a_freeze_in_the_hold_only_delays_it(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    """Until those that failed with it, and whose misses the freeze took back, would be lost too."""
    await lost(world)
    await world.at(7.5)
    autojump_clock.jump(60)
    await world.at(80)
    assert [moment.time_s for moment in started(world)] == [67.5 + 2 + 3]


async def test_shutdown_in_the_hold(world: HostWorld) -> None:
    await lost(world)
    await world.at(7.9)
    await world.stop_host()
    assert started(world) == []
    assert now() == 7.9


# -- which command --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "program"),
    [
        (CorrectiveAction.REBOOT, "reset"),
        (CorrectiveAction.STOP, "destroy"),
        (CorrectiveAction.LOG, "note"),
        (CorrectiveAction.NONE, None),
        (CorrectiveAction.UNKNOWN, None),
    ],
)
async def test_a_loss_has_the_advertised_action(
    action: CorrectiveAction, program: str | None, world: HostWorld
) -> None:
    guest = await lost(world, corrective_action=action)
    await world.at(60)
    assert [moment.argv for moment in started(world)] == (
        [] if program is None else [(program, guest.uuid)]
    )


@pytest.mark.parametrize(
    ("action", "program"),
    [
        (CorrectiveAction.REBOOT, "reset"),
        (CorrectiveAction.STOP, "destroy"),
        (CorrectiveAction.LOG, "note"),
        (CorrectiveAction.NONE, None),
    ],
)
async def test_ill_health_has_the_action_it_came_with(
    action: CorrectiveAction, program: str | None, world: HostWorld
) -> None:
    guest = await world.heartbeating(corrective_action=CorrectiveAction.NONE)
    await world.at(SILENT)
    falls_ill(guest, action)
    await world.at(6.5)
    # Ill with the answer of 5.0.
    expected = [] if program is None else [Moment(6.0, (program, guest.uuid))]
    assert started(world) == expected


async def test_without_a_command_nothing_is_run(caplog: pytest.LogCaptureFixture) -> None:
    async with world_of(CorrectiveCommands()) as world:
        await lost(world)
        await world.at(60)
        assert started(world) == []
        assert said(caplog) == []
        assert world.host.mass_failures.held == 0


async def test_with_reporting_off_nothing_is_run(world: HostWorld) -> None:
    guest = await lost(world)
    world.channel(guest).heartbeat.situation.reporting = False
    await world.at(60)
    assert started(world) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"disk full", "disk full"),
        (b"; rm -rf / {uuid} $(x) `y`", "; rm -rf / {uuid} $(x) `y`"),
        (b'disk "a"\tC:\\temp\x1b[0m caf\xe9', "disk 'a' C:/temp [0m caf?"),
        (b"x" * 1000, "x" * 223),
        (b"-rf /", "_-rf /"),
        ("\u2028--help \u202e\x9b\x85".encode(), "_--help"),
    ],
)
async def test_what_a_command_is_told(said: bytes, told: str) -> None:
    argv = ("do", "{action} {uuid}", "--", "{reason}")
    async with world_of(CorrectiveCommands(reboot=argv)) as world:
        guest = await world.heartbeating()
        await world.at(1.5)
        guest.answers_after_s = None
        await world.at(2.5)
        answer = ChallengeResponse(
            guest.challenges[-1].heartbeat_challenge,
            Health.UNHEALTHY,
            CorrectiveAction.REBOOT,
            "@",
        )
        # A deployed guest escapes nothing.
        guest.peer.send_bytes(encode(answer, 9).replace(b"@", said))
        await world.at(3.5)
        (moment,) = started(world)
        assert moment.argv == ("do", f"reboot {guest.uuid}", "--", told)


# -- the brake ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "failing", "acts"),
    # A share of one half of at least three; one more than the half is too many.
    [(10, 1, True), (10, 5, True), (10, 6, False), (10, 10, False), (3, 1, True), (3, 2, False)],
)
async def test_a_share_of_the_instances_is_the_most(
    total: int,
    failing: int,
    acts: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world_of(brake=BrakeSettings()) as world:
        guests = await world.all_heartbeating(total)
        await world.at(SILENT)
        falls_silent(*guests[:failing])
        await world.at(60)
        assert len([told for told in world.reports() if told[1] == "loss"]) == failing
        assert len(started(world)) == (failing if acts else 0)
        alarms = [text for level, text in said(caplog) if level == "CRITICAL"]
        assert len(alarms) == (0 if acts else 1)
        assert all("the host itself is suspected" in text for text in alarms)
        assert world.host.mass_failures.held == (0 if acts else failing)
        assert world.host.mass_failures.alarms == len(alarms)
        held = [text for level, text in said(caplog) if "held back" in text]
        assert len(held) == (0 if acts else failing - 1)


@pytest.mark.parametrize(("total", "acts"), [(1, True), (2, True), (3, False)])
async def test_below_the_minimum_it_is_off(total: int, acts: bool) -> None:
    async with world_of(brake=BrakeSettings(share=0.5, minimum=3)) as world:
        guests = await world.all_heartbeating(total)
        await world.at(SILENT)
        falls_silent(*guests)
        await world.at(60)
        assert len(started(world)) == (total if acts else 0)


async def test_those_without_a_command_count_too() -> None:
    commands = CorrectiveCommands(stop=("destroy", "{uuid}"))
    async with world_of(commands, brake=BrakeSettings()) as world:
        guests = await world.all_heartbeating(9)
        guests.append(await world.heartbeating(corrective_action=CorrectiveAction.STOP))
        await world.at(SILENT)
        falls_silent(*guests)
        await world.at(60)
        assert started(world) == []


async def test_an_hour_later_it_is_another_incident(caplog: pytest.LogCaptureFixture) -> None:
    async with world_of(brake=BrakeSettings()) as world:
        guests = await world.all_heartbeating(4)
        for start in (SILENT, 100.5):
            await world.at(start)
            falls_silent(*guests)
            await world.at(start + 20)
            for guest in guests:
                comes_back(guest)
        await world.at(140)
        assert world.host.mass_failures.alarms == 2
        assert started(world) == []
        # One by one they are the instances' own failures.
        falls_silent(guests[0])
        await world.at(160)
        assert len(started(world)) == 1


# -- the limit ------------------------------------------------------------------------------


async def test_at_most_so_many_an_hour_for_each_instance(caplog: pytest.LogCaptureFixture) -> None:
    commands = CorrectiveCommands(log=("note", "{uuid}"), per_hour=2)
    async with world_of(commands) as world:
        guest, other = await world.all_heartbeating(2, heartbeat_interval_ms=10_000)
        falls_ill(guest, CorrectiveAction.LOG)
        await world.at(200)
        # It asks again every 55 s or later; the third time is one too often.
        assert [moment.time_s for moment in started(world)] == [21.0, 81.0]
        refused = (
            "ERROR",
            f"{guest.uuid}: log not run: limit reached: 2 per hour",
        )
        assert said(caplog)[-1] == refused
        falls_ill(other, CorrectiveAction.LOG)
        await world.at(240)
        assert [moment.argv[1] for moment in started(world)] == [guest.uuid] * 2 + [other.uuid]


@pytest.mark.slow
async def test_after_an_hour_there_are_new_ones() -> None:
    commands = CorrectiveCommands(log=("note", "{uuid}"), per_hour=1)
    async with world_of(commands) as world:
        guest = await world.heartbeating(heartbeat_interval_ms=60_000)
        falls_ill(guest, CorrectiveAction.LOG)
        await world.at(4000)
        first, second = (moment.time_s for moment in started(world))
        # After the hour it has to stay ill for two intervals, and is held for one.
        assert 3780 <= second - first <= 3781
        # Asked for each minute, refused once.
        assert [told[1:] for told in world.reports() if told[1] == "not-acted"] == [
            ("not-acted", "log", "log not run: limit reached: 1 per hour")
        ]


# -- how it goes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (FakeRun(1, stderr=b"no such\ndomain\xff"), "exit 1: no such domain?"),
        (FakeRun(signal=9), "signal 9: "),
    ],
)
async def test_a_command_that_fails(
    run: FakeRun, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_of(run=run) as world:
        guest = await lost(world)
        await world.at(60)
        assert said(caplog)[-1] == ("ERROR", f"{guest.uuid}: reboot failed: {fault}")
        assert (world.host.corrective.ran, world.host.corrective.failed) == (1, 1)
        assert world.reports(since=8)[0] == (
            DUE,
            "corrective",
            "reboot",
            f"reboot failed: {fault}",
        )
        # It may have been restarted all the same.
        restart = world.channel(guest).restart.window
        assert restart is not None
        assert restart.deadline == DUE + 121


async def test_a_command_that_cannot_start_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world_of(run=FakeRun(fault="No such file or directory")) as world:
        guest = await lost(world)
        await world.at(DUE + 1)
        # It was not restarted: no RESTART window is open, and it may yet answer.
        assert world.channel(guest).restart.window is None
        assert world.channel(guest).heartbeat.state is HeartbeatState.RETURNING
        await world.at(1000)
        failed = f"{guest.uuid}: reboot failed: reset: No such file or directory"
        assert said(caplog).count(("ERROR", failed)) == 6
        outcomes = [told for told in world.reports() if told[1] == "corrective"]
        assert [told[0] for told in outcomes] == [8.0, 13.0, 23.0, 43.0, 83.0, 143.0]
        assert {one.outcome for one in world.host.reports.recent if one.outcome} == {"not-started"}
        guest.answers_after_s = 0.0
        await world.at(1002)
        assert world.channel(guest).heartbeating


async def test_one_that_answers_between_two_attempts_is_left_alone() -> None:
    async with world_of(run=FakeRun(fault="No such file or directory")) as world:
        guest = await lost(world)
        await world.at(DUE + 1)
        guest.answers_after_s = 0.0
        await world.at(1000)
        assert world.host.corrective.failed == 1
        assert world.channel(guest).heartbeating


async def test_a_command_that_hangs_is_ended_in_time(caplog: pytest.LogCaptureFixture) -> None:
    commands = CorrectiveCommands(reboot=("reset", "{uuid}"), timeout_s=30)
    async with world_of(commands, run=HANGS) as world:
        guest = await lost(world)
        await world.at(DUE + 29.999)
        assert world.processes.cancelled == []
        await world.at(DUE + 30)
        assert world.processes.cancelled == [Moment(DUE + 30, ("reset", guest.uuid))]
        assert said(caplog)[-1] == (
            "ERROR",
            f"{guest.uuid}: reboot failed: timed out after 30 s",
        )
        assert world.host.corrective.failed == 1


async def test_shutdown_ends_the_commands_under_way() -> None:
    async with world_of(run=HANGS) as world:
        guest = await lost(world)
        await world.at(20)
        await world.stop_host()
        assert world.processes.cancelled == [Moment(20.0, ("reset", guest.uuid))]
        assert now() == 20.0


async def test_at_most_sixteen_side_by_side() -> None:
    async with world_of(run=FakeRun(delay_s=5)) as world:
        guests = await world.all_heartbeating(40)
        await world.at(SILENT)
        falls_silent(*guests)
        await world.at(60)
        times = [moment.time_s for moment in started(world)]
        assert times == [8.0] * 16 + [13.0] * 16 + [18.0] * 8


async def test_one_that_came_back_while_it_waited_its_turn_is_left_alone() -> None:
    async with world_of(run=FakeRun(delay_s=5)) as world:
        guests = await world.all_heartbeating(40)
        await world.at(SILENT)
        falls_silent(*guests)
        await world.at(10)
        waiting = [g for g in guests if g.uuid not in {m.argv[1] for m in started(world)}]
        assert len(waiting) == 24
        for guest in waiting:
            comes_back(guest)
        await world.at(60)
        assert len(started(world)) == 16
        assert all(world.channel(guest).heartbeating for guest in waiting)


async def test_what_it_did_not_begin_a_failing_command_does_not_call_off() -> None:
    """The VM was back before its reboot was given up, and was paused meanwhile."""

    def runs(argv: Sequence[str]) -> FakeRun:
        return FakeRun(1, delay_s=12.0) if argv[0] == "reset" else FakeRun()

    async with host_world(corrective_commands=COMMANDS, brake=NO_BRAKE, runs=runs) as world:
        guest = await lost(world)
        await world.at(12)
        comes_back(guest)
        await world.at(14)
        world.notice(guest, Event.PAUSE)
        await world.settle()
        falls_silent(guest)
        channel = world.channel(guest)
        await world.at(200)
        assert world.host.corrective.failed == 1
        assert channel.heartbeat.state is HeartbeatState.SUSPENDED
        assert channel.why == "pause is in progress"
        # Two probes and nothing after them: no backlog builds up in the port of one that is frozen.
        assert len(guest.challenged_at(since=14.1)) == 2


async def test_a_log_command_that_fails_calls_nothing_off() -> None:
    def runs(argv: Sequence[str]) -> FakeRun:
        return FakeRun(1, delay_s=10.0) if argv[0] == "note" else FakeRun()

    async with host_world(corrective_commands=COMMANDS, brake=NO_BRAKE, runs=runs) as world:
        guest = await world.heartbeating()
        await world.at(SILENT)
        falls_ill(guest, CorrectiveAction.LOG)
        await world.at(7)
        world.notice(guest, Event.PAUSE)
        await world.settle()
        falls_silent(guest)
        await world.at(200)
        assert world.host.corrective.failed == 1
        assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED


async def test_one_whose_failing_reboot_took_the_socket_away_is_lost_and_removed() -> None:
    async with world_of(run=FakeRun(1, delay_s=5)) as world:
        guest = await lost(world)
        await world.at(10)
        guest.vanish()
        await world.at(1000)
        assert [told[:2] for told in world.reports(since=8)] == [
            (13.0, "corrective"),
            (129.0, "restart-expired"),
            (129.0, "loss"),
            (129.0, "stopped"),
        ]
        assert world.host.channels == {}


# -- what the instance is allowed after it --------------------------------------------------


async def test_a_reboot_opens_the_restart_window() -> None:
    async with world_of(run=FakeRun(delay_s=3)) as world:
        guest = await lost(world)
        await world.at(DUE)
        restart = world.channel(guest).restart.window
        assert restart is not None
        assert restart.deadline == DUE + 121
        assert world.channel(guest).heartbeat.state is HeartbeatState.RESTARTING
        await world.at(40)
        comes_back(guest)
        await world.at(300)
        assert world.reports(since=5) == [
            (LOST, "loss", "reboot", "no answer for 3 s"),
            (11.0, "corrective", "reboot", "reboot done"),
            (40.0, "heartbeating", "back after corrective action reboot"),
        ]
        assert len(started(world)) == 1


async def test_not_back_it_is_lost_again_and_rebooted_again_within_the_limit(
    world: HostWorld,
) -> None:
    await lost(world)
    await world.at(1000)
    # Eight seconds to the first; then a window of 121 s and a hold of 1 s each.
    assert [moment.time_s for moment in started(world)] == [8.0, 130.0, 252.0]
    assert [told[:2] for told in world.reports(since=8)] == [
        (8.0, "corrective"),
        (129.0, "restart-expired"),
        (129.0, "loss"),
        (130.0, "corrective"),
        (251.0, "restart-expired"),
        (251.0, "loss"),
        (252.0, "corrective"),
        (373.0, "restart-expired"),
        (373.0, "loss"),
        (374.0, "not-acted"),
    ]


async def test_an_ill_instance_that_is_rebooted_is_not_also_lost(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(SILENT)
    falls_ill(guest)
    await world.at(6.0)
    assert len(started(world)) == 1
    falls_silent(guest)
    await world.at(60)
    comes_back(guest)
    await world.at(100)
    assert world.reports(since=2) == [
        (5.0, "unhealthy", "reboot", "disk full"),
        (6.0, "stopped", "corrective action reboot is in progress"),
        (6.0, "corrective", "reboot", "reboot done"),
        (60.0, "heartbeating", "back after corrective action reboot"),
    ]


async def test_an_ill_instance_that_is_stopped_is_not_lost(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(SILENT)
    falls_ill(guest, CorrectiveAction.STOP)
    await world.at(6.0)
    falls_silent(guest)
    await world.at(400)
    assert world.reports(since=2) == [
        (5.0, "unhealthy", "stop", "disk full"),
        (6.0, "stopped", "corrective action stop is in progress"),
        (6.0, "corrective", "stop", "stop done"),
    ]


async def test_a_log_command_changes_nothing(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(SILENT)
    falls_ill(guest, CorrectiveAction.LOG)
    await world.at(6.5)
    assert len(started(world)) == 1
    falls_silent(guest)
    await world.at(20)
    assert world.reports(since=6)[:2] == [
        (6.0, "corrective", "log", "log done"),
        (9.0, "loss", "reboot", "no answer for 3 s"),
    ]


# -- under an owner -------------------------------------------------------------------------


async def test_a_log_command_runs_while_another_owns_the_instance(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    """It does nothing to the VM, so it crosses nobody's plans and ends nobody's."""
    guest = await world.heartbeating()
    world.host.owners.vote_accepted(guest.uuid, "stop")
    falls_ill(guest, CorrectiveAction.LOG)
    await world.at(DUE + 5)
    assert [moment.argv for moment in started(world)] == [("note", guest.uuid)]
    assert not world.host.owners.of(guest.uuid).free
    assert world.host.supervisor.crashes == 0


async def test_a_programming_error_in_a_correction_is_counted_and_the_host_goes_on(
    caplog: pytest.LogCaptureFixture, world: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = await lost(world)

    def fail(*_: object) -> None:
        raise RuntimeError("a fault in the tests")

    monkeypatch.setattr(world.host.owners, "command_begins", fail)
    world.crashes = 1
    await world.at(DUE + 5)
    assert started(world) == []
    assert world.host.supervisor.crashes == 1
    assert ("ERROR", f"{guest.uuid}: the corrective action failed") in said(caplog)
    caplog.clear()
    # Another instance is corrected as ever.
    monkeypatch.undo()
    other = await world.heartbeating()
    falls_silent(other)
    await world.at(DUE + 20)
    assert [moment.argv[1] for moment in started(world)] == [other.uuid]
