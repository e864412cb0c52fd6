"""The health script by itself: when it runs, when a run is given up, what counts as its verdict."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.guest.scripts import ScriptAnswer, ScriptVerdict
from hbtrio.nursery.time_guard import run_guard
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.vocabulary import CorrectiveAction
from support.fake_processes import HANGS, FakeProcesses, FakeRun
from support.guest_world import when

pytestmark = pytest.mark.usefixtures("autojump_clock")

SCRIPT = "/etc/health"
REBOOT = CorrectiveAction.REBOOT

#: Neither ends by itself nor at once when it is told to.
STUBBORN = FakeRun(delay_s=math.inf, dies_in_s=3)


@attrs.define
class Runs:
    """Does something else at each run; the last one is repeated."""

    runs: Sequence[FakeRun]
    number: int = 0

    def __call__(self, argv: Sequence[str]) -> FakeRun:
        assert list(argv) == [SCRIPT]
        run = self.runs[min(self.number, len(self.runs) - 1)]
        self.number += 1
        return run


@attrs.define
class Health:
    """A health script that runs, and what it said."""

    processes: FakeProcesses
    verdicts: list[tuple[float, bool, str]] = attrs.field(factory=list)
    hung: list[tuple[float, HealthStatus]] = attrs.field(factory=list)
    timeouts: int = 2

    async def run(self, interval_s: float, guard: OnTimeGuard) -> None:
        script = HealthScript(SCRIPT, interval_s, self.processes, self.timeouts, REBOOT)
        await script.run(self._note, self._note_hung, guard)

    def _note(self, answer: ScriptAnswer) -> None:
        healthy = answer.verdict is ScriptVerdict.OK
        self.verdicts.append((round(trio.current_time(), 6), healthy, answer.reason))

    def _note_hung(self, status: HealthStatus) -> None:
        self.hung.append((round(trio.current_time(), 6), status))


async def health(
    nursery: trio.Nursery,
    *runs: FakeRun,
    interval_s: float = 30.0,
    timeouts: int = 2,
    guard: OnTimeGuard,
) -> Health:
    one = Health(FakeProcesses(Runs(runs)), timeouts=timeouts)
    nursery.start_soon(one.run, interval_s, guard)
    return one


async def timekeeper(nursery: trio.Nursery) -> OnTimeGuard:
    guard = OnTimeGuard(trio.current_time())
    nursery.start_soon(run_guard, guard)
    return guard


def starts(one: Health) -> list[float]:
    return [at for at, _ in when(one.processes.started)]


async def test_it_runs_at_once_and_every_interval() -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        runs = [FakeRun(0, b"fine\n"), FakeRun(1, b"ill\nmore", delay_s=2), FakeRun(255)]
        one = await health(nursery, *runs, guard=guard)
        await trio.sleep_until(119.999)
        assert starts(one) == [0.0, 30.0, 60.0, 90.0]
        await trio.sleep_until(120.001)
        assert starts(one)[4:] == [120.0]
        nursery.cancel_scope.cancel()
    assert one.verdicts[:4] == [
        (0.0, True, "fine"),
        (32.0, False, "ill"),
        (60.0, False, ""),
        (90.0, False, ""),
    ]


@pytest.mark.parametrize(
    ("delay_s", "verdict_at"), [(0.5, 0.5), (29.999, 29.999), (30.0, 30.0), (30.001, None)]
)
async def test_a_run_may_take_its_interval(
    delay_s: float,
    verdict_at: float | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = await health(nursery, FakeRun(1, b"ill", delay_s=delay_s), HANGS, guard=guard)
        await trio.sleep_until(45)
        nursery.cancel_scope.cancel()
    assert one.verdicts == ([] if verdict_at is None else [(verdict_at, False, "ill")])
    assert starts(one) == [0.0, 30.0]
    cut = [] if verdict_at else [30.0]
    assert [at for at, _ in when(one.processes.cancelled)] == [*cut, 45.0]
    said = f"health script {SCRIPT} did not end within 30 s"
    assert caplog.messages == ([] if verdict_at else [said])


@pytest.mark.parametrize(
    "silent", [HANGS, FakeRun(signal=9, stdout=b"ill"), FakeRun(fault="Permission denied")]
)
async def test_a_run_without_a_verdict_changes_nothing(silent: FakeRun) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        runs = [FakeRun(1, b"ill"), silent, FakeRun(0)]
        one = await health(nursery, *runs, interval_s=10, guard=guard)
        await trio.sleep_until(25)
        nursery.cancel_scope.cancel()
    assert one.verdicts == [(0.0, False, "ill"), (20.0, True, "")]


async def test_without_a_script_nothing_runs() -> None:
    processes = FakeProcesses({})

    def never(_: object) -> None:
        raise AssertionError("a verdict of nobody")

    script = HealthScript(None, 0, processes, 1, REBOOT)
    await script.run(never, never, OnTimeGuard(trio.current_time()))
    assert processes.started == []


async def test_cancelled_it_ends_the_run() -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = await health(nursery, HANGS, guard=guard)
        await trio.sleep_until(5)
        nursery.cancel_scope.cancel()
    assert when(one.processes.cancelled) == [(5.0, "health")]
    assert one.verdicts == []


@pytest.mark.parametrize("frozen_s", [40.0, 3600.0])
async def test_a_late_process_takes_the_verdict_at_hand(
    frozen_s: float, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = await health(nursery, FakeRun(1, b"ill", delay_s=20), FakeRun(0), guard=guard)
        await trio.sleep_until(10)
        autojump_clock.jump(frozen_s)
        await trio.sleep_until(10 + frozen_s + 31.999)
        nursery.cancel_scope.cancel()
    # The next run is due; it starts when the process has proved to be on time.
    assert starts(one) == [0.0, 10 + frozen_s + CALM_S]
    assert one.verdicts == [
        (10 + frozen_s, False, "ill"),
        (10 + frozen_s + CALM_S, True, ""),
    ]
    assert caplog.messages == []


@pytest.mark.parametrize("frozen_s", [40.0, 3600.0])
async def test_after_a_freeze_a_run_has_its_whole_interval_again(
    frozen_s: float, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = await health(nursery, FakeRun(0), FakeRun(1, b"ill", delay_s=29), guard=guard)
        await trio.sleep_until(10)
        autojump_clock.jump(frozen_s)
        woken = 10 + frozen_s + CALM_S
        await trio.sleep_until(woken + 58)
        nursery.cancel_scope.cancel()
    assert starts(one) == [0.0, woken, woken + 30]
    assert one.verdicts[1:] == [(woken + 29, False, "ill")]
    assert caplog.messages == []


async def test_runs_never_overlap_and_each_has_its_interval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = Health(FakeProcesses(Runs([STUBBORN, FakeRun(1, b"ill", delay_s=3.5)])))
        nursery.start_soon(one.run, 4.0, guard)
        await trio.sleep_until(14.0)
        nursery.cancel_scope.cancel()
    assert starts(one) == [0.0, 7.0, 11.0]
    assert one.verdicts == [(10.5, False, "ill")]
    assert caplog.record_tuples[0] == (
        "hbtrio.health",
        logging.ERROR,
        f"health script {SCRIPT} did not end within 4 s",
    )


# -- runs that outlive their interval --------------------------------------------------------------


def hung(reason: str) -> HealthStatus:
    return HealthStatus(False, REBOOT, reason)


@pytest.mark.parametrize(
    ("timeouts", "first_s", "reason"),
    [
        (1, 30.0, "health script did not end within 30 s"),
        (2, 60.0, "health script did not end within 30 s, 2 times in a row"),
        (3, 90.0, "health script did not end within 30 s, 3 times in a row"),
    ],
)
async def test_it_hangs_from_the_limit_on(timeouts: int, first_s: float, reason: str) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = await health(nursery, HANGS, timeouts=timeouts, guard=guard)
        await trio.sleep_until(first_s - 0.001)
        assert one.hung == []
        await trio.sleep_until(first_s + 30.001)
        nursery.cancel_scope.cancel()
    assert one.hung == [(first_s, hung(reason)), (first_s + 30, hung(reason))]
    assert one.verdicts == []


@pytest.mark.parametrize(
    "between",
    [FakeRun(), FakeRun(1), FakeRun(delay_s=30.0), FakeRun(signal=9), FakeRun(fault="no memory")],
)
async def test_a_run_that_ends_in_time_starts_the_row_again(between: FakeRun) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = await health(nursery, HANGS, between, HANGS, guard=guard)
        await trio.sleep_until(125)
        nursery.cancel_scope.cancel()
    assert [at for at, _ in one.hung] == [120.0]


async def test_runs_that_a_late_process_ends_are_no_hang(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        guard = await timekeeper(nursery)
        one = await health(nursery, HANGS, guard=guard)
        await trio.sleep_until(30.001)  # the first run counts
        for _ in range(3):
            await trio.sleep(10)
            autojump_clock.jump(40.0)
            await trio.sleep(CALM_S + 0.001)
        assert one.hung == []
        after = starts(one)[-1]
        assert len(starts(one)) == 5
        await trio.sleep_until(after + 30.001)
        nursery.cancel_scope.cancel()
    assert [at for at, _ in one.hung] == [after + 30.0]
