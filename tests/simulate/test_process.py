from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import trio

from hbtrio.simulate.machine import Machine
from hbtrio.simulate.process import CURRENT, Process, Waiters
from support.simulation import Simulation, busy_digest, digests_across_hash_seeds


async def tick(seen: list[float], simulation: Simulation, pause_s: float = 1.0) -> None:
    """Notes the time once a second."""
    while True:
        await trio.sleep(pause_s)
        seen.append(round(simulation.timeline.now, 2))


# -- life ------------------------------------------------------------------------------------------


def test_a_process_starts_sleeps_and_ends() -> None:
    simulation = Simulation()
    process = simulation.process()
    assert not process.alive
    process.start(partial(trio.sleep, 2.0))
    died: list[float] = []
    process.at_death.append(lambda: died.append(simulation.timeline.now))
    simulation.run(1.9)
    assert process.alive
    assert process in process.machine.processes
    simulation.run(2.1)
    assert not process.alive
    assert process.error is None
    assert process.machine.processes == []
    assert [round(time, 2) for time in died] == [2.0]
    assert [line.split(" ", 1)[1] for line in simulation.trace.events] == [
        "process started",
        "process ended error=NoneType",
    ]


def test_a_process_that_was_not_started_cannot_be_asked() -> None:
    with pytest.raises(RuntimeError, match="was not started"):
        Simulation().process().call(trio.current_time)


def test_a_process_is_started_once() -> None:
    process = Simulation().start(trio.sleep_forever)
    with pytest.raises(RuntimeError, match="started before"):
        process.start(trio.sleep_forever)


def test_the_error_that_ends_a_process_is_kept() -> None:
    async def main() -> None:
        raise ValueError("broken")

    simulation = Simulation()
    process = simulation.start(main)
    simulation.run(1.0)
    assert repr(process.error) == "ValueError('broken')"
    assert simulation.trace.events[-1].endswith("error=ValueError")


def test_each_task_knows_its_process() -> None:
    simulation = Simulation()
    seen: list[Process] = []

    async def note() -> None:
        seen.append(CURRENT.get())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note)
        trio.lowlevel.spawn_system_task(note)
        await trio.sleep(0.1)

    processes = [simulation.start(main, name) for name in ("host", "agent")]
    simulation.run(1.0)
    assert {process.name: seen.count(process) for process in processes} == {"host": 2, "agent": 2}
    assert CURRENT.get(None) is None


def test_steps_take_time() -> None:
    simulation = Simulation()
    times: list[float] = []

    async def main() -> None:
        for _ in range(100):
            times.append(simulation.timeline.now)
            await trio.lowlevel.checkpoint()

    simulation.start(main)
    simulation.run(1.0)
    gaps = [after - before for before, after in pairwise(times)]
    assert 10e-6 <= min(gaps) <= max(gaps) <= 200e-6


# -- determinism -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    assert len({busy_digest(7) for _ in range(20)}) == 1
    assert len({busy_digest(seed) for seed in range(20)}) == 20


def test_the_tasks_of_a_pass_run_in_the_seeds_order() -> None:
    def order(seed: int) -> str:
        simulation, seen = Simulation(seed), list[str]()
        pass_of_three(simulation, seen)
        simulation.run(2.0)
        return "".join(seen)

    assert {order(seed) for seed in range(40)} == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert order(1) == order(1)


def test_the_order_of_hashes_does_not_show() -> None:
    assert digests_across_hash_seeds("busy_digest") == {busy_digest(1)}


# -- freeze and thaw -------------------------------------------------------------------------------


def test_a_frozen_process_takes_no_step_while_others_do() -> None:
    simulation = Simulation()
    seen: dict[str, list[float]] = {"frozen": [], "other": []}
    for name, times in seen.items():
        process = simulation.start(partial(tick, times, simulation), name)
        if name == "frozen":
            simulation.timeline.at(1.5, process.freeze)
            simulation.timeline.at(4.5, process.thaw)
    simulation.run(6.4)
    assert seen["other"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert seen["frozen"] == [1.0, 4.5, 5.5]


def test_what_arrives_in_a_freeze_and_a_deadline_meet_in_the_first_pass() -> None:
    simulation = Simulation()
    process = simulation.process()
    arrival = Waiters(process)
    passes: list[tuple[str, int]] = []

    async def read() -> None:
        await arrival.wait()
        passes.append(("read", process.steps))

    async def wait() -> None:
        await trio.sleep(2.0)
        passes.append(("deadline", process.steps))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(wait)

    process.start(main)
    simulation.timeline.at(1.0, process.freeze)
    simulation.timeline.at(1.5, arrival.wake)
    simulation.timeline.at(3.0, process.thaw)
    simulation.run(2.9)
    assert passes == []
    simulation.run(4.0)
    assert sorted(name for name, _ in passes) == ["deadline", "read"]
    assert abs(passes[0][1] - passes[1][1]) == 1  # neighbours in one pass


def test_bytes_that_arrived_before_the_deadline_was_seen_are_not_lost_to_it() -> None:
    simulation = Simulation()
    process = simulation.process()
    arrival = Waiters(process)
    seen: list[str] = []

    async def main() -> None:
        with trio.move_on_after(2.0) as scope:
            await arrival.wait()
            seen.append("arrived")
            await trio.lowlevel.checkpoint()
        seen.append(f"timed out: {scope.cancelled_caught}")

    process.start(main)
    simulation.timeline.at(1.0, process.freeze)
    simulation.timeline.at(2.5, arrival.wake)  # late, but the process finds it first
    simulation.timeline.at(3.0, process.thaw)
    simulation.run(4.0)
    assert seen == ["arrived", "timed out: True"]


def test_it_goes_on_when_no_reason_is_left_to_stand_still() -> None:
    simulation = Simulation()
    process = simulation.start(trio.sleep_forever)
    process.freeze("SIGSTOP")
    process.freeze("pause")
    process.thaw("SIGSTOP")
    assert process.frozen
    process.thaw("pause")
    assert not process.frozen


def test_of_two_freezes_for_a_time_the_later_end_counts() -> None:
    simulation = Simulation()
    process = simulation.start(trio.sleep_forever)
    simulation.timeline.at(1.0, partial(process.freeze_for, 5.0))
    simulation.timeline.at(2.0, partial(process.freeze_for, 1.0))
    simulation.run(5.9)
    assert process.frozen
    simulation.run(6.1)
    assert not process.frozen


def test_a_freeze_without_end_outlasts_one_for_a_time() -> None:
    simulation = Simulation()
    process = simulation.start(trio.sleep_forever)
    process.freeze()
    process.freeze_for(1.0)
    simulation.run(2.0)
    assert process.frozen


def test_the_clock_goes_on_in_a_freeze_and_stands_still_in_a_pause() -> None:
    simulation = Simulation()
    machine = Machine(simulation.timeline, "vm")
    seen: list[float] = []
    simulation.start(partial(tick, seen, simulation), machine=machine)
    simulation.timeline.at(1.5, machine.pause)
    simulation.timeline.at(11.2, machine.resume)
    simulation.run(13.0)
    assert seen == [1.0, 11.7, 12.7]  # half a second was left


def test_a_process_that_is_started_in_a_pause_waits_for_its_end() -> None:
    simulation = Simulation()
    machine = Machine(simulation.timeline, "vm")
    machine.pause()
    seen: list[float] = []
    simulation.start(partial(tick, seen, simulation), machine=machine)
    simulation.run(5.0)
    machine.resume()
    simulation.run(6.1)
    assert seen == [6.0]


# -- kill ------------------------------------------------------------------------------------------


def test_a_killed_process_unwinds_nothing_and_its_kernel_closes() -> None:
    simulation = Simulation()
    seen: list[str] = []

    async def main() -> None:
        try:
            await trio.sleep(5.0)
        finally:
            seen.append("unwound")

    process = simulation.start(main)
    process.at_death.append(lambda: seen.append("closed"))
    simulation.timeline.at(1.0, process.kill)
    simulation.timeline.at(2.0, process.kill)  # there is only one death
    simulation.run(10.0)
    assert seen == ["closed"]
    assert not process.alive
    assert process.machine.processes == []


def test_nothing_wakes_a_dead_process() -> None:
    simulation = Simulation()
    process = simulation.process()
    waiters = Waiters(process)
    process.start(waiters.wait)
    simulation.run(1.0)
    process.freeze()
    process.kill()
    process.thaw()
    waiters.wake()
    steps = process.steps
    simulation.run(2.0)
    assert process.steps == steps
    assert not process.effect()


def test_a_new_process_runs_beside_the_dead_one() -> None:
    simulation = Simulation()
    machine = Machine(simulation.timeline, "host")
    seen: list[float] = []
    first = simulation.start(trio.sleep_forever, "host 1", machine)
    simulation.run(1.0)
    first.kill()
    simulation.start(partial(tick, seen, simulation), "host 2", machine)
    simulation.run(3.5)
    assert seen == [2.0, 3.0]


def test_a_cancelled_task_waits_no_more() -> None:
    simulation = Simulation()
    process = simulation.process()
    waiters = Waiters(process)

    async def main() -> None:
        with trio.move_on_after(1.0):
            await waiters.wait()
        await trio.sleep(2.0)

    process.start(main)
    simulation.run(1.5)
    waiters.wake()
    simulation.run(2.9)
    assert process.alive
    simulation.run(3.1)
    assert not process.alive


# -- faults at a step or an effect -----------------------------------------------------------------


def pass_of_three(simulation: Simulation, seen: list[str]) -> Process:
    """Three tasks that run in one pass at 1 s."""
    process = simulation.process()
    start = Waiters(process)

    async def work(name: str) -> None:
        await start.wait()
        seen.append(name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(work, name)

    process.start(main)
    simulation.run(0.9)
    simulation.timeline.at(1.0, start.wake)
    return process


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_process_is_killed_between_two_task_steps_of_one_pass(number: int) -> None:
    simulation, seen = Simulation(), list[str]()
    process = pass_of_three(simulation, seen)
    process.at_step(number, process.kill)
    simulation.run(2.0)
    assert len(seen) == number - 1
    assert not process.alive


def test_a_process_is_frozen_between_two_task_steps_and_goes_on_there() -> None:
    simulation, seen = Simulation(), list[str]()
    process = pass_of_three(simulation, seen)
    process.at_step(2, partial(process.freeze_for, 1.0))
    simulation.run(1.9)
    assert len(seen) == 1
    assert process.frozen
    simulation.run(2.1)
    assert sorted(seen) == ["a", "b", "c"]


def test_others_run_between_two_task_steps_of_one_pass() -> None:
    simulation, seen = Simulation(), list[str]()
    pass_of_three(simulation, seen)
    for microseconds in range(1, 200):
        simulation.timeline.at(1.0 + microseconds * 1e-6, partial(seen.append, "."))
    simulation.run(2.0)
    assert "." in "".join(seen).strip(".")


def effects(simulation: Simulation, made: list[int]) -> Process:
    """Makes three effects in each task step, a step a second."""
    process = simulation.process()

    async def main() -> None:
        number = 0
        while True:
            await trio.sleep(1.0)
            for _ in range(3):
                number += 1
                if process.effect():
                    made.append(number)

    process.start(main)
    return process


def test_of_a_process_that_dies_at_an_effect_that_and_all_later_ones_vanish() -> None:
    simulation, made = Simulation(), list[int]()
    process = effects(simulation, made)
    process.at_effect(5, process.kill)
    simulation.run(9.0)
    assert made == [1, 2, 3, 4]
    assert not process.alive


def test_a_process_that_is_frozen_at_an_effect_ends_its_step_first() -> None:
    simulation, made = Simulation(), list[int]()
    process = effects(simulation, made)
    process.at_effect(5, partial(process.freeze_for, 10.0))
    simulation.run(9.0)
    assert made == [1, 2, 3, 4, 5, 6]
    simulation.run(12.5)
    assert made == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_two_faults_at_different_effects() -> None:
    simulation, made = Simulation(), list[int]()
    process = effects(simulation, made)
    process.at_effect(2, partial(process.freeze_for, 3.0))
    process.at_effect(4, process.kill)
    simulation.run(9.0)
    assert made == [1, 2, 3]


@pytest.mark.parametrize("plan", [Process.at_effect, Process.at_step])
def test_steps_and_effects_are_counted_from_1(
    plan: Callable[[Process, int, Callable[[], None]], None],
) -> None:
    process = Simulation().start(trio.sleep_forever)
    with pytest.raises(ValueError, match="counted from 1"):
        plan(process, 0, process.kill)
