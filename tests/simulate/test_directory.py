from __future__ import annotations

from hbtrio.simulate.directory import SimulatedDirectory, SimulatedWatch
from hbtrio.simulate.process import Process
from support.simulation import Simulation


def watching(
    simulation: Simulation, directory: SimulatedDirectory, scans: list[dict[str, int]]
) -> Process:
    process = simulation.process()

    async def main() -> None:
        watch: SimulatedWatch = directory.watch(process)
        while True:
            await watch.changed()
            scans.append(watch.scan())

    process.start(main)
    return process


def test_each_change_is_seen() -> None:
    simulation, directory = Simulation(), SimulatedDirectory()
    scans: list[dict[str, int]] = []
    directory.put("vm-1")
    watching(simulation, directory, scans)
    simulation.timeline.at(1.0, lambda: directory.put("vm-2"))
    simulation.timeline.at(2.0, lambda: directory.put("vm-1"))  # replaced
    simulation.timeline.at(3.0, lambda: directory.remove("vm-2"))
    simulation.timeline.at(4.0, lambda: directory.set_missing(missing=True))
    simulation.timeline.at(5.0, lambda: directory.set_missing(missing=False))
    simulation.run(6.0)
    assert scans == [
        {"vm-1": 1},
        {"vm-1": 1, "vm-2": 2},
        {"vm-1": 3, "vm-2": 2},
        {"vm-1": 3},
        {},
        {"vm-1": 3},
    ]


def test_several_changes_count_as_one_and_a_frozen_process_sees_them_later() -> None:
    simulation, directory = Simulation(), SimulatedDirectory()
    scans: list[dict[str, int]] = []
    process = watching(simulation, directory, scans)
    simulation.run(1.0)
    process.freeze()
    for name in ("vm-1", "vm-2"):
        directory.put(name)
    simulation.run(2.0)
    assert scans == [{}]
    process.thaw()
    simulation.run(3.0)
    assert scans == [{}, {"vm-1": 1, "vm-2": 2}]


def test_a_watch_ends_with_its_process() -> None:
    simulation, directory = Simulation(), SimulatedDirectory()
    scans: list[dict[str, int]] = []
    first = watching(simulation, directory, scans)
    simulation.run(1.0)
    first.kill()
    directory.put("vm-1")
    simulation.run(2.0)
    assert scans == [{}]
    assert directory._watches == []
