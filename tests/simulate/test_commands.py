from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from hbtrio.simulate.commands import Script, SimulatedCommands
from hbtrio.simulate.process import Process
from hbtrio.system.child import ProcessResult
from hbtrio.system.runner import ProcessNotStarted
from support.simulation import Simulation


class Commands:
    """A process that runs commands."""

    def __init__(self, **scripts: Script) -> None:
        self.simulation = Simulation()
        self.process: Process = self.simulation.process()
        self.asked: list[tuple[list[str], object]] = []

        def model(argv, env) -> Script:
            self.asked.append((list(argv), env))
            return scripts[argv[0]]

        self.commands = SimulatedCommands(self.process, self.simulation.timeline, model)

    def start(self, main: Callable[[], Awaitable[None]]) -> None:
        self.process.start(main)

    def run(self, until: float) -> None:
        self.simulation.run(until)
        if self.process.error is not None:
            raise self.process.error


def test_a_command_takes_its_time_and_writes() -> None:
    world = Commands(virsh=Script(2.0, 3, b"0123456789", output_s=1.0))
    results: list[ProcessResult] = []
    written: list[tuple[float, bytes]] = []

    async def main() -> None:
        results.append(
            await world.commands.run(
                ["virsh", "list"],
                max_output=4,
                env={"LANG": "C"},
                on_output=lambda data: written.append((round(world.simulation.timeline.now), data)),
            )
        )

    world.start(main)
    world.run(1.9)
    assert written == [(1, b"0123456789")]
    assert len(world.commands.running) == 1
    world.run(2.1)
    assert results == [ProcessResult(3, None, b"0123", b"", True)]
    assert world.asked == [(["virsh", "list"], {"LANG": "C"})]
    assert not world.commands.running
    assert not world.process.held


def test_a_command_that_is_not_started() -> None:
    world = Commands(virsh=Script(0.0, fault="permission denied"))

    async def main() -> None:
        with pytest.raises(ProcessNotStarted, match="virsh: permission denied"):
            await world.commands.run(["virsh"])

    world.start(main)
    world.run(1.0)
    assert not world.process.alive


def test_a_command_that_hangs_is_ended_by_cancellation() -> None:
    done: list[str] = []
    world = Commands(reboot=Script(math.inf, effect=lambda: done.append("rebooted"), effect_s=3.0))

    async def main() -> None:
        with trio.move_on_after(2.0):
            await world.commands.run(["reboot"])
        assert not world.commands.running
        await trio.sleep_forever()

    world.start(main)
    world.run(10.0)
    assert world.process.alive
    assert done == []
    assert not world.process.held


@pytest.mark.parametrize(("end", "effects"), [(Process.freeze, 1), (Process.kill, 0)])
def test_a_command_acts_while_its_process_is_frozen_and_ends_with_it(
    end: Callable[[Process], None], effects: int
) -> None:
    done: list[str] = []
    world = Commands(reboot=Script(5.0, effect=lambda: done.append("rebooted"), effect_s=2.0))

    async def main() -> None:
        await world.commands.run(["reboot"])

    world.start(main)
    world.simulation.timeline.at(1.0, partial(end, world.process))
    world.run(10.0)
    assert len(done) == effects
    assert len(world.commands.running) == 1  # what the process knows


def test_a_process_that_dies_at_a_command_starts_none() -> None:
    world = Commands(reboot=Script(1.0))

    async def main() -> None:
        await world.commands.run(["reboot"])

    world.process.at_effect(1, world.process.kill)
    world.start(main)
    world.run(5.0)
    assert world.asked == []
