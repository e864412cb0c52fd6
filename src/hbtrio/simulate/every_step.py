"""Tries a scenario with each of its daemons killed before each task step, and at each effect.

The scenario is run once without a fault, to count the steps and effects of each daemon in it. Each
of the further runs has one fault. Within them lie all the moments in which a daemon can die: what
it has done is done, and nothing more is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Final

import attrs

from hbtrio.simulate.campaign import run_campaign
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.fault_words import describe
from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.observations import ActionEnded, Observation, Verdict
from hbtrio.simulate.process import Process
from hbtrio.simulate.progress import CampaignProgress
from hbtrio.simulate.run import run_schedule
from hbtrio.simulate.scenario import SCENARIO_S, Scenario
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.summary import Summary

#: How long a run is, in virtual minutes: the scenario, and the recovery from a kill in it.
_MINUTES: Final = 2.0

#: How long after its last event a scenario still has steps that belong to it, in seconds.
_REST_S: Final = 0.5

#: How long a killed daemon is down, in seconds.
_DOWN_S: Final = 1.0


class _Daemon:
    """A daemon that runs when the scenario begins.

    Args:
        process: its process; one that the scenario starts anew is another.
        who: which VM or host.
        at_step, at_effect: the faults that kill it; None: there is none.
    """

    def __init__(
        self, process: Process | None, who: int, at_step: Kind, at_effect: Kind | None = None
    ) -> None:
        assert process is not None
        self._process = process
        self._who = who
        self._at_step = at_step
        self._at_effect = at_effect
        self._steps = process.steps
        self._effects = process.effects

    def kills(self) -> Iterator[Fault]:
        """Yields a kill at each step and effect since the scenario's begin."""
        common = partial(Fault, at_s=SCENARIO_S, who=self._who, for_s=_DOWN_S)
        for step in range(1, self._process.steps - self._steps + 1):
            yield common(kind=self._at_step, step=step)
        if self._at_effect is not None:
            for effect in range(1, self._process.effects - self._effects + 1):
                yield common(kind=self._at_effect, effect=effect)


def schedule_of(scenario: Scenario, seed: int = 1) -> Schedule:
    """Returns a scenario without a fault."""
    return Schedule(
        seed=seed, minutes=_MINUTES, vms=scenario.vms, hosts=scenario.hosts, scenario=scenario
    )


def cases(scenario: Scenario) -> list[Schedule]:
    """Returns the scenario once for each step and effect of each daemon, which is killed there."""
    schedule = schedule_of(scenario)
    over_s = _over_s(schedule)
    fleet = Fleet(schedule, lambda _: None)
    fleet.run(SCENARIO_S)
    daemons = list(_daemons(fleet))
    fleet.run(over_s)
    return [
        attrs.evolve(schedule, faults=(fault,)) for daemon in daemons for fault in daemon.kills()
    ]


def try_every_step(scenario: Scenario, jobs: int) -> tuple[list[str], int]:
    """Runs all cases of a scenario, with a progress bar; blocks until they are done.

    Args:
        scenario: which.
        jobs: how many run at once.

    Returns:
        What to tell, as lines, and how many cases failed.
    """
    schedules = cases(scenario)
    summary = Summary()
    results = run_campaign(
        range(len(schedules)),
        lambda number: attrs.evolve(run_schedule(schedules[number]), seed=number),
        jobs,
    )
    with contextlib.closing(results), CampaignProgress(len(schedules), 0) as progress:
        for result in results:
            summary.add(result)
            progress.advance(failed=result.failed)
    lines = []
    for result in summary.failures:
        schedule = schedules[result.seed]
        lines += [describe(fault, schedule) for fault in schedule.faults]
        lines += [f"  {one.at_s:.3f} s: {one.invariant}: {one.text}" for one in result.violations]
        lines += [f"  {line}" for line in result.error.splitlines()[-1:]]
    return [*lines, f"{len(schedules)} kills, {summary.failed} failed"], summary.failed


def _over_s(schedule: Schedule) -> float:
    """When the last event of the scenario is over."""
    seen: list[Observation] = []
    Fleet(schedule, seen.append).run(60 * schedule.minutes)
    ends = [one.at_s for one in seen if isinstance(one, ActionEnded | Verdict)]
    assert ends, f"nothing has happened in the scenario {schedule.scenario}"
    return max(ends) + _REST_S


def _daemons(fleet: Fleet) -> Iterator[_Daemon]:
    for who, instance in enumerate(fleet.instances):
        assert instance.guest is not None
        yield _Daemon(instance.guest.process, who, Kind.KILL_GUEST_AT_STEP)
    kinds = (Kind.KILL_HOST_AT_STEP, Kind.KILL_HOST_AT_EFFECT)
    for who, host in enumerate(fleet.hosts):
        yield _Daemon(host.daemon.process, who, *kinds)
    if fleet.controller is not None:
        process = fleet.controller.daemon.process
        yield _Daemon(process, 0, Kind.KILL_AGENT_AT_STEP, Kind.KILL_AGENT_AT_EFFECT)
