"""A tenant's reject reaches its guest daemon at its time, even one that is stopped."""

from __future__ import annotations

from collections.abc import Callable

import trio

from hbtrio.simulate.machine import Machine
from hbtrio.simulate.process import Process
from hbtrio.simulate.tenant import Arrival
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace


def arrivals(
    disturb: Callable[[Process], object], after_s: float = 2.0
) -> tuple[list[float], list[float]]:
    """When something arrives at a process that was disturbed after a second, and is taken."""
    timeline = Timeline(1)
    process = Process(Machine(timeline, "vm0"), timeline, Trace(timeline), "vm0#1")
    arrived: list[float] = []
    taken: list[float] = []

    async def main() -> None:
        await Arrival(process, after_s, lambda: arrived.append(timeline.now)).wait()
        taken.append(timeline.now)
        await trio.sleep_forever()

    timeline.at(0.0, lambda: process.start(main))
    timeline.at(1.0, lambda: disturb(process))
    timeline.at(5.0, lambda: process.thaw())
    timeline.at(5.0, lambda: process.machine.resume())
    timeline.run(10.0)
    return [round(at, 1) for at in arrived], [round(at, 1) for at in taken]


def test_it_is_taken_when_it_arrives() -> None:
    assert arrivals(lambda _: None) == ([2.0], [2.0])


def test_it_arrives_at_a_stopped_daemon() -> None:
    assert arrivals(Process.freeze) == ([2.0], [5.0])


def test_it_waits_while_the_whole_machine_stands_still() -> None:
    (arrived,), (taken,) = arrivals(lambda process: process.machine.pause())
    assert 5.0 <= arrived == taken < 5.2


def test_nothing_arrives_at_a_dead_one() -> None:
    assert arrivals(Process.kill) == ([], [])


def test_it_may_never_come() -> None:
    assert arrivals(lambda _: None, float("inf")) == ([], [])
