"""What a fault does to the daemon of a host or the agent: it is stopped, killed or restarted."""

from __future__ import annotations

from functools import partial
from typing import Final

from hbtrio.simulate.daemon import SimulatedDaemon
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.fault_spans import lasts
from hbtrio.simulate.observations import Condition
from hbtrio.simulate.places import Stage
from hbtrio.simulate.schedule import Fault

#: A stuttering process runs, and stands still, for so long in turn, in seconds.
_RUNS_S: Final = (0.0005, 0.03)
_STANDS_S: Final = (0.3, 1.5)


class DaemonFaults:
    """Strikes daemons.

    Args:
        stage: what all parts use.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._timeline = stage.timeline
        self._random = stage.timeline.random("stutter")

    def strike(self, fault: Fault, daemon: SimulatedDaemon) -> bool:
        """Strikes the daemon of a host or the agent; returns whether the fault is of that kind."""
        for_s = fault.for_s or 0.0
        match fault.kind:
            case (
                Kind.STOP_HOST
                | Kind.STOP_HOST_AT_EFFECT
                | Kind.STOP_HOST_AT_WINDOW_END
                | Kind.STOP_AGENT
                | Kind.STOP_AGENT_AT_EFFECT
                | Kind.STOP_AGENT_AT_WINDOW_END
            ):
                self._stop(daemon, for_s)
            case Kind.STUTTER_HOST:
                self._stutter(daemon, self._timeline.now + for_s)
            case (
                Kind.KILL_HOST
                | Kind.KILL_HOST_AT_STEP
                | Kind.KILL_HOST_AT_EFFECT
                | Kind.KILL_AGENT
                | Kind.KILL_AGENT_AT_STEP
                | Kind.KILL_AGENT_AT_EFFECT
            ):
                daemon.kill()
                self._timeline.after(for_s, daemon.start)
            case Kind.RESTART_HOST | Kind.RESTART_AGENT:
                if daemon.process is not None and daemon.alive:
                    daemon.process.at_death.append(
                        lambda: self._timeline.after(for_s, daemon.start)
                    )
                    daemon.terminate()
            case _:
                return False
        return True

    def _stop(self, daemon: SimulatedDaemon, for_s: float) -> None:
        if daemon.process is not None and daemon.alive:
            daemon.process.freeze_for(for_s)
            lasts(self._stage, Condition.STOPPED, daemon.name, for_s)

    def _stutter(self, daemon: SimulatedDaemon, until_s: float) -> None:
        if self._timeline.now < until_s:
            stands_s = self._random.uniform(*_STANDS_S)
            self._stop(daemon, stands_s)
            runs_s = self._random.uniform(*_RUNS_S)
            self._timeline.after(stands_s + runs_s, partial(self._stutter, daemon, until_s))
