"""What simulated daemons log with an exception has reached a supervisor: that is a crash."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest

from hbtrio.simulate.daemon import SimulatedDaemon
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.network import Network
from hbtrio.simulate.observations import Crashed, Observation
from hbtrio.simulate.places import Stage
from hbtrio.simulate.process import Process
from hbtrio.simulate.run import CrashHandler
from hbtrio.simulate.signals import SignalQueue
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace

Main = Callable[[Stage, Process], Awaitable[None]]


def observed(main: Main) -> list[Observation]:
    """What is observed of a daemon that runs ``main``."""
    timeline = Timeline(1)
    trace = Trace(timeline)
    seen: list[Observation] = []
    stage = Stage(timeline, trace, Network(timeline, trace), seen.append)

    def compose(process: Process, _: SignalQueue) -> Callable[[], Awaitable[None]]:
        return lambda: main(stage, process)

    daemon = SimulatedDaemon(stage, "agent", Machine(timeline, "controller"), compose)
    timeline.at(0.0, daemon.start)
    timeline.run(5.0)
    return [one for one in seen if isinstance(one, Crashed)]


def test_an_exception_that_a_supervisor_logs_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Observation] = []
    handler = CrashHandler(seen.append)
    log = logging.getLogger("hbtrio.test")
    log.addHandler(handler)

    async def crash(stage: Stage, _: Process) -> None:
        log.error("only a fault")
        try:
            raise KeyError("vm0")
        except KeyError:
            log.exception("%s failed", "a task")

    try:
        assert observed(crash) == []
        log.error("not of a daemon", exc_info=KeyError("vm0"))
    finally:
        log.removeHandler(handler)
    [crashed] = seen
    assert isinstance(crashed, Crashed)
    assert (crashed.process, crashed.error) == ("agent", "a task failed: KeyError('vm0')")
