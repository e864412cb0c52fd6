from __future__ import annotations

from datetime import timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from hbtrio.simulate.machine import EPOCH, Machine
from hbtrio.simulate.timeline import Timeline


def test_each_machine_has_been_up_for_its_own_time() -> None:
    timeline = Timeline(1)
    first, second = Machine(timeline, "host-1"), Machine(timeline, "host-2")
    assert first.monotonic() != second.monotonic()
    assert first.monotonic() == Machine(Timeline(1), "host-1").monotonic()
    before = first.monotonic()
    timeline.run(10.0)
    assert abs(first.monotonic() - before - 10.0) < 1e-6
    assert first.utc() == EPOCH + timedelta(seconds=10)


def test_a_step_of_the_wall_clock_leaves_the_monotonic_one() -> None:
    timeline = Timeline(1)
    machine = Machine(timeline, "host-1")
    before = machine.monotonic()
    machine.step_wall_clock(-3600.0)
    assert machine.monotonic() == before
    assert machine.utc() == EPOCH - timedelta(hours=1)


def test_in_a_pause_only_the_wall_clock_goes_on() -> None:
    timeline = Timeline(1)
    machine = Machine(timeline, "vm-1")
    before = machine.monotonic()
    machine.pause()
    timeline.run(5.0)
    assert machine.paused
    assert machine.monotonic() == before
    machine.pause()  # once is enough
    timeline.run(7.0)
    machine.resume()
    assert abs(machine.monotonic() - before) < 1e-6
    timeline.run(8.0)
    assert abs(machine.monotonic() - before - 1.0) < 1e-6
    assert machine.utc() == EPOCH + timedelta(seconds=8)
    machine.resume()  # without a pause nothing happens
    assert abs(machine.monotonic() - before - 1.0) < 1e-6


@example(284.09110113229764, 705.228827676959, 1.2994627487020127)
@given(up_s=st.floats(0, 1e6), now=st.floats(0, 1e6), wait_s=st.floats(0, 1e5))
def test_a_process_that_wakes_up_for_a_deadline_has_reached_it(
    up_s: float, now: float, wait_s: float
) -> None:
    timeline = Timeline(1)
    machine = Machine(timeline, "host-1")
    machine._monotonic_s = up_s
    timeline.run(now)
    deadline = machine.monotonic() + wait_s
    timeline.run(machine.when(deadline))
    assert machine.monotonic() >= deadline
    assert timeline.now - now - wait_s < 1e-6
