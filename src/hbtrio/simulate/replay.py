"""Runs schedules again, each in a process of its own, to shrink a failure."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from hbtrio.simulate.campaign import SEED_TIMEOUT_S, run_campaign
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.seed_result import SeedResult
from hbtrio.simulate.shrink import MOST_RUNS, Failure, Shrunk, shrink

#: Runs a schedule.
RunSchedule = Callable[[Schedule], SeedResult]


@attrs.frozen
class NoResult:
    """The failure of a run without a result; what had a part in it, nobody knows."""

    at_s: float


def run_apart(
    schedule: Schedule, run: RunSchedule, timeout_s: float = SEED_TIMEOUT_S
) -> SeedResult:
    """Runs a schedule in a forked process, and returns a result whatever happens to that.

    Args:
        schedule: what to run.
        run: how.
        timeout_s: how long it may take, in seconds.
    """
    (result,) = run_campaign([schedule.seed], lambda _: run(schedule), 1, timeout_s)
    return result


def shrink_failure(
    schedule: Schedule, result: SeedResult, run: RunSchedule, most_runs: int = MOST_RUNS
) -> Shrunk | None:
    """Returns the schedule with as few and as short faults as still fail in the same way.

    Args:
        schedule: of the failing run.
        result: of that run.
        run: runs a schedule, here always in a process of its own.
        most_runs: a bound for the number of runs.

    Returns:
        None if the schedule does not fail again: the run is not deterministic.
    """

    def fails(changed: Schedule) -> Failure | None:
        return failure_like(result, run_apart(changed, run), changed)

    return shrink(schedule, fails, most_runs)


def failure_like(result: SeedResult, again: SeedResult, schedule: Schedule) -> Failure | None:
    """Returns the failure of a run if it is the one of another: of the same invariant.

    Args:
        result: of the run whose failure is looked for.
        again: of the other run.
        schedule: of the other run.
    """
    if result.violations:
        name = result.violations[0].invariant
        return next((one for one in again.violations if one.invariant == name), None)
    same = result.error and _last_line(again.error) == _last_line(result.error)
    return NoResult(60 * schedule.minutes) if same else None


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]
