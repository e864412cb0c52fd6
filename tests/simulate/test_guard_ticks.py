from __future__ import annotations

from functools import partial

import pytest
import trio

from hbtrio.nursery.time_guard import GuardRunner, never_resting, run_guard
from hbtrio.policy.time_guard import BEHIND_S, CALM_S, TICK_S, OnTimeGuard
from hbtrio.simulate.guard_ticks import GuardTicks
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.process import Process
from support.simulation import Simulation


class Guarded:
    """A process that looks at its guard in each tenth of a second."""

    def __init__(self, *, lazy: bool) -> None:
        self.simulation = Simulation()
        self.machine = Machine(self.simulation.timeline, "host")
        self.process: Process = self.simulation.process("host", self.machine)
        self.late: list[float] = []
        self.stalled_s = 0.0
        ticks: GuardRunner = GuardTicks(self.process).run if lazy else run_guard
        self.process.start(partial(self._main, ticks))

    async def _main(self, ticks: GuardRunner) -> None:
        guard = OnTimeGuard(trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticks, guard, never_resting)
            while True:
                await trio.sleep(0.1)
                now = trio.current_time()
                if guard.is_late(now):
                    self.late.append(self.simulation.timeline.now)
                self.stalled_s = guard.stalled_s(now)

    def freeze(self, at_s: float, seconds: float) -> None:
        self.simulation.timeline.at(at_s, partial(self.process.freeze_for, seconds))

    def run(self, until: float) -> None:
        self.simulation.run(until)
        assert self.process.error is None


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("seconds", "is_late"), [(0.5, False), (0.79, False), (1.1, True), (9.0, True)]
)
def test_a_freeze_is_judged_as_by_regular_ticks(lazy: bool, seconds: float, is_late: bool) -> None:
    guarded = Guarded(lazy=lazy)
    guarded.freeze(2.05, seconds)
    guarded.run(20.0)
    if not is_late:
        assert guarded.late == []
    else:
        thaw = 2.05 + seconds
        assert guarded.late[0] == pytest.approx(thaw, abs=0.01)  # in the first pass
        assert guarded.late[-1] == pytest.approx(thaw + CALM_S, abs=0.11)
        assert len(guarded.late) > 15
    assert seconds - TICK_S - BEHIND_S - 0.02 <= guarded.stalled_s <= seconds + 0.01


def test_the_second_of_two_freezes_in_a_row_hides_nothing_of_the_first() -> None:
    guarded = Guarded(lazy=True)
    guarded.freeze(2.0, 5.0)
    guarded.simulation.timeline.at(7.0 + 1e-7, partial(guarded.process.freeze_for, 0.1))
    guarded.run(7.2)
    assert guarded.late


def test_a_process_that_is_on_time_is_never_late_and_never_ticks() -> None:
    regular, lazy = Guarded(lazy=False), Guarded(lazy=True)
    for guarded in (regular, lazy):
        guarded.run(60.0)
        assert guarded.late == []
        assert guarded.stalled_s == 0.0
    assert regular.process.steps - lazy.process.steps == pytest.approx(300, abs=10)


def test_a_pause_of_the_machine_is_no_lateness() -> None:
    guarded = Guarded(lazy=True)
    guarded.simulation.timeline.at(2.0, guarded.machine.pause)
    guarded.simulation.timeline.at(12.0, guarded.machine.resume)
    guarded.run(20.0)
    assert guarded.late == []


def test_it_asks_in_the_process_whether_a_timeout_is_pending() -> None:
    simulation = Simulation()
    process = simulation.process()
    asked: list[float] = []

    def resting() -> bool:
        asked.append(trio.current_time() - process.machine.monotonic())
        return True

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(GuardTicks(process).run, OnTimeGuard(trio.current_time()), resting)
            while True:
                process.effect()
                await trio.sleep(1.0)

    process.start(main)
    simulation.timeline.at(1.5, partial(process.freeze_for, 1.0))
    process.at_effect(5, partial(process.freeze_for, 1.0))  # within a step of its own
    simulation.run(10.0)
    assert process.error is None
    assert asked == [0.0, 0.0]
    assert not trio.lowlevel.in_trio_run()


def test_it_ends_with_its_task() -> None:
    simulation = Simulation()
    process = simulation.process()

    async def main() -> None:
        with trio.move_on_after(1.0):
            await GuardTicks(process).run(OnTimeGuard(trio.current_time()), never_resting)
        await trio.sleep_forever()

    process.start(main)
    simulation.run(2.0)
    assert process.at_freeze == []
    assert process.at_thaw == []
