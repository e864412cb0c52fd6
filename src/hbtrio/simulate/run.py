"""Runs one schedule: a fleet, a watch on it, and what it all comes to."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.invariant import Bounds
from hbtrio.simulate.observations import Crashed, Observation, Status
from hbtrio.simulate.places import AGENT_LINK
from hbtrio.simulate.process import CURRENT
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.seed_result import SeedResult
from hbtrio.simulate.watch import Watch


def run_schedule(
    schedule: Schedule, on_trace: Callable[[list[str]], None] | None = None
) -> SeedResult:
    """Runs a schedule to its end and returns the result.

    Call it in a process that ends with ``os._exit``: what killed daemons leave must not be unwound.

    Args:
        schedule: what to run.
        on_trace: called at the end with the events of the run, as lines.
    """
    began_s = time.process_time()
    watch = Watch(Bounds(corrects=not schedule.has_agent))
    with _undisturbed(CrashHandler(watch.see)):
        fleet = Fleet(schedule, watch.see)
        end_s = 60 * schedule.minutes
        fleet.run(end_s)
        fleet.look_again()
    for status in _statuses(fleet, end_s, watch):
        watch.see(status)
    result = watch.finish(end_s, schedule.seed)
    if on_trace is not None:
        on_trace(fleet.trace.events)
    return attrs.evolve(
        result,
        digest=fleet.trace.digest,
        cpu_s=round(time.process_time() - began_s, 3),
        vm_hours=schedule.vms * schedule.minutes / 60,
        schedule=schedule if result.failed else None,
    )


def _statuses(fleet: Fleet, at_s: float, watch: Watch) -> Iterator[Status]:
    for host in fleet.hosts if fleet.controller is not None else ():
        linked = fleet.network.route(host.machine.name, AGENT_LINK).connections > 0
        yield Status(at_s, host.name, linked, "" if linked else "it has no link to the agent")
    for instance in fleet.instances:
        if instance.place is not None and not instance.hung:
            well = watch.heartbeats(instance.name)
            yield Status(at_s, instance.name, well, "" if well else "it does not heartbeat")


class CrashHandler(logging.Handler):
    """Observes each exception that is logged: it has reached a supervisor, in whichever daemon.

    Args:
        observe: called with each.
    """

    def __init__(self, observe: Callable[[Observation], None]) -> None:
        super().__init__()
        self._observe = observe

    def emit(self, record: logging.LogRecord) -> None:
        """Observes a record's exception."""
        process = CURRENT.get(None)
        if record.exc_info and process is not None:
            daemon = process.name.partition("#")[0]
            error = f"{record.getMessage()}: {record.exc_info[1]!r}"
            self._observe(Crashed(process.timeline.now, daemon, error))


@contextmanager
def _undisturbed(handler: logging.Handler) -> Iterator[None]:
    """Gives the daemons' log to one handler, and keeps the garbage for the end of the process."""
    logger = logging.getLogger("hbtrio")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        logger.removeHandler(handler)
        logger.propagate = propagates
