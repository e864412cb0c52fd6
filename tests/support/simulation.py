"""A timeline with a trace, for tests of the simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trio

from hbtrio.simulate.machine import Machine
from hbtrio.simulate.process import Process
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace
from hbtrio.simulate.trio_internals import Main


class Simulation:
    """One simulation; each process has a machine of its own unless it is given one."""

    def __init__(self, seed: int | str = 1) -> None:
        self.timeline = Timeline(seed)
        self.trace = Trace(self.timeline)

    def start(self, main: Main, name: str = "process", machine: Machine | None = None) -> Process:
        process = self.process(name, machine)
        process.start(main)
        return process

    def process(self, name: str = "process", machine: Machine | None = None) -> Process:
        """One that is not started yet."""
        machine = machine or Machine(self.timeline, f"machine of {name}")
        return Process(machine, self.timeline, self.trace, name)

    def run(self, until: float) -> None:
        self.timeline.run(until)


def busy_digest(seed: int = 1) -> str:
    """The digest of two processes of ten tasks that lock each other out."""
    simulation = Simulation(seed)

    async def worker(number: int, lock: trio.Lock) -> None:
        for _ in range(5):
            async with lock:
                await trio.sleep(0.1 * (number % 3))

    async def main() -> None:
        lock = trio.Lock()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(worker, number, lock)

    for name in ("guest", "host"):
        simulation.start(main, name)
    simulation.run(60.0)
    assert simulation.trace.steps > 200
    return simulation.trace.digest


def digests_across_hash_seeds(function: str, module: str = __name__) -> set[str]:
    """What a function without arguments returns in two processes with other hash seeds."""
    code = f"from {module} import {function}; print({function}())"
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "PYTHONHASHSEED": str(seed),
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
        ).stdout.strip()
        for seed in (1, 2)
    }
