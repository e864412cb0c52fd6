"""What the guest says of its health with each beat, from its script and its applications."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from hbtrio.nursery.guest.daemon import GuestSetup
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.policy.health_merge import REPEAT_S, HealthStatus
from hbtrio.wire.channel_messages import Challenge, ChallengeResponse, InitAck
from hbtrio.wire.vocabulary import CorrectiveAction, Health
from support.fake_processes import HANGS, FakeProcesses, FakeRun
from support.guest_world import SETTINGS, Applications, GuestWorld, when

pytestmark = pytest.mark.usefixtures("autojump_clock")

NONE, LOG, REBOOT, STOP = (
    CorrectiveAction.NONE,
    CorrectiveAction.LOG,
    CorrectiveAction.REBOOT,
    CorrectiveAction.STOP,
)
HEALTHY, UNHEALTHY = Health.HEALTHY, Health.UNHEALTHY
SCRIPT = "/etc/health"

#: Ill from the first run on, and every second.
ILL = FakeProcesses({SCRIPT: FakeRun(1, b"disk full\nmore\n")})

Said = tuple[float, Health, CorrectiveAction, str]


async def asked(bench: GuestWorld, *times_s: float) -> list[Said]:
    """What the guest says when it is challenged at these times."""
    answers: list[Said] = []
    for number, time_s in enumerate(times_s):
        await trio.sleep_until(time_s)
        bench.device.send(Challenge(number))
        heard = await bench.device.next()
        assert isinstance(heard.message, ChallengeResponse)
        assert heard.message.heartbeat_response == number
        said = heard.message
        answers.append((heard.at_s, said.heartbeat_health, said.corrective_action, said.log_msg))
    return answers


async def test_without_anything_it_is_healthy_with_the_configured_action() -> None:
    settings = msgspec.structs.replace(SETTINGS, corrective_action=STOP)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(settings)
        await bench.enable(nursery)
        assert await asked(bench, 1.0, 2.0) == [(1.0, HEALTHY, STOP, ""), (2.0, HEALTHY, STOP, "")]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("action", [LOG, REBOOT, STOP])
async def test_the_last_run_of_the_script_decides(action: CorrectiveAction) -> None:
    """Ill from 30.0 to 60.5, by runs at 0, 30 and 60 seconds; a run in progress decides nothing."""
    runs = iter([FakeRun(), FakeRun(1, b"disk full\nmore"), FakeRun(0, b"ok", delay_s=0.5)])
    processes = FakeProcesses(lambda argv: next(runs))
    settings = msgspec.structs.replace(SETTINGS, corrective_action=action)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(settings, processes=processes, health=SCRIPT)
        await bench.enable(nursery)
        assert await asked(bench, 29.999, 30.001, 60.499, 60.501) == [
            (29.999, HEALTHY, action, ""),
            (30.001, UNHEALTHY, action, "disk full"),
            (60.499, UNHEALTHY, NONE, "disk full"),
            (60.501, HEALTHY, action, ""),
        ]
        nursery.cancel_scope.cancel()


# -- the 60 s repeat ------------------------------------------------------------------------------


async def test_an_illness_asks_again_after_sixty_seconds() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=ILL, health=SCRIPT, health_interval_s=1000)
        await bench.enable(nursery)
        times = [2.0, 3.0, 61.999, 62.0, 121.999, 122.001, 182.0, 182.002]
        actions = [REBOOT, NONE, NONE, REBOOT, NONE, REBOOT, NONE, REBOOT]
        assert await asked(bench, *times) == [
            (time_s, UNHEALTHY, action, "disk full")
            for time_s, action in zip(times, actions, strict=True)
        ]
        nursery.cancel_scope.cancel()


async def test_each_second_for_three_minutes_it_asks_once_a_minute() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=ILL, health=SCRIPT, health_interval_s=1)
        await bench.enable(nursery)
        said = await asked(bench, *(2.5 + second for second in range(180)))
        nursery.cancel_scope.cancel()
    assert [(at, action) for at, _, action, _ in said if action is not NONE] == [
        (2.5, REBOOT),
        (62.5, REBOOT),
        (122.5, REBOOT),
    ]


async def test_an_illness_that_was_over_asks_at_once() -> None:
    applications = Applications([HealthStatus(False, REBOOT, "app a")])
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(voters=applications)
        await bench.enable(nursery)
        said = await asked(bench, 2.0, 3.0)
        applications.states = [HealthStatus(True)]
        said += await asked(bench, 4.0)
        applications.states = [HealthStatus(False, REBOOT, "app a")]
        said += await asked(bench, 5.0, 64.9, 65.0)
        nursery.cancel_scope.cancel()
    assert said == [
        (2.0, UNHEALTHY, REBOOT, "app a"),
        (3.0, UNHEALTHY, NONE, "app a"),
        (4.0, HEALTHY, REBOOT, ""),
        (5.0, UNHEALTHY, REBOOT, "app a"),
        (64.9, UNHEALTHY, NONE, "app a"),
        (65.0, UNHEALTHY, REBOOT, "app a"),
    ]


async def test_another_action_is_asked_for_at_once() -> None:
    applications = Applications([HealthStatus(False, LOG, "app a")])
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(voters=applications)
        await bench.enable(nursery)
        said = await asked(bench, 2.0)
        applications.states.append(HealthStatus(False, STOP, "app b"))
        said += await asked(bench, 3.0, 4.0)
        # The same action for another reason is the same request.
        applications.states = [HealthStatus(False, STOP, "app c")]
        said += await asked(bench, 5.0, 63.0)
        nursery.cancel_scope.cancel()
    assert said == [
        (2.0, UNHEALTHY, LOG, "app a"),
        (3.0, UNHEALTHY, STOP, "app b"),
        (4.0, UNHEALTHY, NONE, "app b"),
        (5.0, UNHEALTHY, NONE, "app c"),
        (63.0, UNHEALTHY, STOP, "app c"),
    ]


async def test_the_repeat_of_a_late_process_is_one(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=ILL, health=SCRIPT, health_interval_s=1000)
        await bench.enable(nursery)
        await asked(bench, 2.0)
        bench.device.send(*(Challenge(number) for number in range(100)))
        autojump_clock.jump(200)
        await bench.settle()
        said = [heard.message for heard in bench.device.unread()]
        nursery.cancel_scope.cancel()
    assert [one.corrective_action for one in said if isinstance(one, ChallengeResponse)] == [
        REBOOT,
        *[NONE] * 99,
    ]


async def test_the_repeat_outlives_a_new_handshake() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=ILL, health=SCRIPT, health_interval_s=1000)
        await bench.enable(nursery)
        said = await asked(bench, 2.0)
        bench.device.disconnect()
        await bench.device.next()
        bench.device.send(InitAck(102))
        said += await asked(bench, 5.0, 61.9, 62.0)
        nursery.cancel_scope.cancel()
    assert [action for _, _, action, _ in said] == [REBOOT, NONE, NONE, REBOOT]
    assert REPEAT_S == 60.0


# -- applications and script ----------------------------------------------------------------------


def ill(action: CorrectiveAction, reason: str) -> HealthStatus:
    return HealthStatus(False, action, reason)


@pytest.mark.parametrize(
    ("applications", "script_is_ill", "action", "reason"),
    [
        ([HealthStatus(True), ill(LOG, "a")], False, LOG, "a"),
        ([ill(LOG, "a"), ill(STOP, "b"), ill(REBOOT, "c")], False, STOP, "b"),
        ([ill(REBOOT, "a"), ill(REBOOT, "b")], False, REBOOT, "a"),
        ([ill(NONE, "a")], False, NONE, "a"),
        ([HealthStatus(True)], True, REBOOT, "disk full"),
        ([ill(STOP, "a")], True, STOP, "a"),
        ([ill(LOG, "a")], True, REBOOT, "disk full"),
        ([ill(REBOOT, "a")], True, REBOOT, "a"),
    ],
)
async def test_the_strongest_action_decides(
    applications: Sequence[HealthStatus],
    script_is_ill: bool,
    action: CorrectiveAction,
    reason: str,
) -> None:
    processes = ILL if script_is_ill else FakeProcesses({SCRIPT: FakeRun()})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(
            voters=Applications(list(applications)), processes=processes, health=SCRIPT
        )
        await bench.enable(nursery)
        assert await asked(bench, 2.0) == [(2.0, UNHEALTHY, action, reason)]
        nursery.cancel_scope.cancel()


# -- reload ---------------------------------------------------------------------------------------


def changed(bench: GuestWorld, script: str | None) -> GuestSetup:
    return msgspec.structs.replace(
        bench.setup,
        session=msgspec.structs.replace(SETTINGS, corrective_action=STOP),
        health_script=HealthScript(script, 10, bench.processes, 2, LOG),
    )


@pytest.mark.parametrize("script", [None, "/etc/other"])
async def test_a_reload_runs_the_new_script_and_forgets_the_old_verdict(script: str | None) -> None:
    processes = FakeProcesses(
        {SCRIPT: FakeRun(1, b"disk full"), "/etc/other": FakeRun(1, b"hot", delay_s=4)}
    )
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, health=SCRIPT)
        await bench.enable(nursery)
        said = await asked(bench, 2.0)
        bench.guest.reload(changed(bench, script))
        assert (await bench.device.next()).message.TYPE == "init"
        bench.device.send(InitAck(102))
        said += await asked(bench, 5.999, 6.001, 16.001)
        nursery.cancel_scope.cancel()
    later = [(UNHEALTHY, STOP, "hot"), (UNHEALTHY, NONE, "hot")]
    assert said == [
        (2.0, UNHEALTHY, REBOOT, "disk full"),
        (5.999, HEALTHY, STOP, ""),
        *(
            (at, *report)
            for at, report in zip(
                (6.001, 16.001), later if script else [(HEALTHY, STOP, "")] * 2, strict=True
            )
        ),
    ]
    runs = [(0.0, "health"), (2.0, "other"), (12.0, "other")]
    assert when(processes.started) == (runs if script else runs[:1])


async def test_a_reload_ends_a_run_under_way() -> None:
    processes = FakeProcesses({SCRIPT: HANGS})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, health=SCRIPT)
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.guest.reload(changed(bench, None))
        bench.guest.reload(changed(bench, "/etc/health"))
        await trio.sleep_until(3.0)
        nursery.cancel_scope.cancel()
    assert when(processes.started) == [(0.0, "health"), (2.0, "health")]
    assert when(processes.cancelled)[0] == (2.0, "health")


@pytest.mark.parametrize("attempt", range(6))  # tasks woken together run in any order
async def test_a_verdict_of_the_old_script_that_comes_with_the_reload_is_not_the_new_ones(
    attempt: int, autojump_clock: MockClock
) -> None:
    """The run ends in the very moment of the reload, before it can be cancelled."""
    processes = FakeProcesses({SCRIPT: FakeRun(1, b"disk full", delay_s=2)})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, health=SCRIPT)
        await bench.enable(nursery)
        await trio.sleep_until(1.5)
        autojump_clock.jump(0.5)
        bench.guest.reload(changed(bench, None))
        await bench.settle()
        await bench.device.next()
        bench.device.send(InitAck(102))
        assert await asked(bench, 3.0) == [(3.0, HEALTHY, STOP, "")]
        nursery.cancel_scope.cancel()


async def test_a_script_that_hangs_is_ill_until_a_run_ends() -> None:
    """Hung from 20 on, by the runs of 0 and 10; well at 35, by the run of 30."""
    runs = iter([HANGS, HANGS, HANGS, FakeRun(delay_s=5), FakeRun()])
    processes = FakeProcesses(lambda argv: next(runs))
    reason = "health script did not end within 10 s, 2 times in a row"
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, health=SCRIPT, health_interval_s=10)
        await bench.enable(nursery)
        assert await asked(bench, 19.999, 20.001, 34.999, 35.001) == [
            (19.999, HEALTHY, REBOOT, ""),
            (20.001, UNHEALTHY, LOG, reason),
            (34.999, UNHEALTHY, NONE, reason),
            (35.001, HEALTHY, REBOOT, ""),
        ]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reloaded_s", [15.0, 25.0])  # before the second timeout, and after it
async def test_a_reload_starts_the_count_of_hung_runs_again(reloaded_s: float) -> None:
    processes = FakeProcesses({SCRIPT: HANGS})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, health=SCRIPT, health_interval_s=10)
        await bench.enable(nursery)
        await trio.sleep_until(reloaded_s)
        bench.guest.reload(changed(bench, SCRIPT))
        await bench.device.next()
        bench.device.send(InitAck(102))
        said = await asked(bench, reloaded_s + 0.001, reloaded_s + 19.999, reloaded_s + 20.001)
        nursery.cancel_scope.cancel()
    assert [(health, action) for _, health, action, _ in said] == [
        (HEALTHY, STOP),
        (HEALTHY, STOP),
        (UNHEALTHY, LOG),
    ]


async def test_a_stop_ends_the_health_script(tmp_path: Path) -> None:
    processes = FakeProcesses({SCRIPT: HANGS})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, health=SCRIPT)
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.guest.stop()
    assert when(processes.cancelled) == [(2.0, "health")]
    assert bench.ended_at == 2.0


async def test_the_log_says_what_the_host_is_asked_for_and_why_in_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    applications = Applications([HealthStatus(False, REBOOT, "wedged")])
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(voters=applications)
        await bench.enable(nursery)
        await asked(bench, 1.0, 2.0)  # asked for once
        assert caplog.messages == ["asking the host for reboot: wedged"]
        applications.states = [HealthStatus(False, NONE, "a little unwell")]
        await asked(bench, 3.0)
        # With every beat another.
        for number in range(4, 50):
            action = REBOOT if number % 2 else STOP
            applications.states = [HealthStatus(False, action, f"cause {number}")]
            await asked(bench, float(number))
        assert caplog.messages[1:] == [
            f"asking the host for {'reboot' if number % 2 else 'stop'}: cause {number}"
            for number in range(4, 13)
        ]
        await asked(bench, 61.5)
        assert caplog.messages[10:] == []  # the same as at 49.0
        applications.states = [HealthStatus(False, STOP, "at last")]
        await asked(bench, 62.0)
        assert caplog.messages[10:] == ["asking the host for stop: at last"]
        nursery.cancel_scope.cancel()
