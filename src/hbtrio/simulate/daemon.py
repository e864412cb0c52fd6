"""Starts, ends and kills a simulated daemon, and observes whether it runs."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

from hbtrio.simulate.footprints import leftovers
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import Began, Condition, Crashed, Over, ProcessStarted
from hbtrio.simulate.places import Stage
from hbtrio.simulate.process import Process
from hbtrio.simulate.signals import SignalQueue

#: Returns what a daemon runs, in a process with its signals.
Compose = Callable[[Process, SignalQueue], Callable[[], Awaitable[object]]]


class SimulatedDaemon:
    """A daemon that has one process after the other.

    Args:
        stage: what all parts use.
        name: the name that it is observed by.
        machine: where it runs.
        compose: what it runs.
    """

    def __init__(self, stage: Stage, name: str, machine: Machine, compose: Compose) -> None:
        self.name = name
        self.process: Process | None = None
        self._stage = stage
        self._machine = machine
        self._compose = compose
        self._signals: SignalQueue | None = None
        self._starts = 0
        self._is_down = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.alive

    def start(self) -> None:
        """Starts it; nothing happens if it runs."""
        if self.alive:
            return
        self._starts += 1
        stage = self._stage
        name = f"{self.name}#{self._starts}"
        process = Process(self._machine, stage.timeline, stage.trace, name)
        self.process, self._signals = process, SignalQueue(process)
        process.at_death.append(self._died)
        main = self._compose(process, self._signals)
        if self._is_down:
            self._is_down = False
            stage.observe(Over(stage.timeline.now, Condition.DOWN, self.name))
        stage.observe(ProcessStarted(stage.timeline.now, self.name))
        process.start(main)

    def terminate(self) -> None:
        """Sends it SIGTERM."""
        if self._signals is not None and self.alive:
            self._signals.send(signal.SIGTERM)

    def kill(self) -> None:
        """Kills it."""
        if self.process is not None:
            self.process.kill()

    def _died(self) -> None:
        assert self.process is not None
        now = self._stage.timeline.now
        if self.process.error is not None:
            self._stage.observe(Crashed(now, self.name, repr(self.process.error)))
        for left in leftovers(self.name, self.process, now):
            self._stage.observe(left)
        self._is_down = True
        self._stage.observe(Began(now, Condition.DOWN, self.name))
