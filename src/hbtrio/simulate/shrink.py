"""Shrinks the schedule of a failing run: first to fewer faults, then to shorter ones.

Faults are left out by delta debugging (ddmin, Zeller and Hildebrandt 2002): parts of the schedule,
which get smaller as long as none can be left out. Its result is 1-minimal, since it ends with
parts of a single fault. A run costs about a second, so that their number has a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import attrs

from hbtrio.simulate.fault_kinds import KIND_RULES
from hbtrio.simulate.schedule import Fault, Schedule

#: Durations that are tried in place of a fault's own, in seconds, the shortest first.
SHORTER_S: Final = (0.02, 0.1, 0.3, 1.0, 3.0)

#: How many runs shrinking takes at most: some three minutes.
MOST_RUNS: Final = 200


class Failure(Protocol):
    """What a failing run tells."""

    @property
    def at_s(self) -> float:
        """When it failed, in seconds from the start of the run."""


#: Runs a schedule and returns its failure, or None if it did not fail as the original does.
Fails = Callable[[Schedule], Failure | None]


@attrs.frozen
class Shrunk:
    """What is left.

    Args:
        schedule: that still fails.
        failure: of its last run.
        runs: how many it took.
        minimal: whether each fault is needed; else the bound on the runs came first.
    """

    schedule: Schedule
    failure: Failure
    runs: int
    minimal: bool


class _OutOfRuns(Exception):
    """The bound on the number of runs is reached."""


def shrink(schedule: Schedule, fails: Fails, most_runs: int = MOST_RUNS) -> Shrunk | None:
    """Returns the schedule with as few and as short faults as still make it fail.

    Args:
        schedule: of the failing run.
        fails: runs a schedule; has to be deterministic.
        most_runs: at least 1; a bound for the calls of ``fails``.

    Returns:
        None if the schedule itself does not fail.
    """
    search = _Search(schedule, fails, most_runs)
    if not search.try_faults(schedule.faults):
        return None
    try:
        search.minimize()
        minimal = True
    except _OutOfRuns:
        minimal = False
    assert search.failure is not None
    return Shrunk(search.schedule, search.failure, search.runs, minimal)


class _Search:
    """The smallest failing schedule so far."""

    def __init__(self, schedule: Schedule, fails: Fails, most_runs: int) -> None:
        self.schedule = schedule
        self.failure: Failure | None = None
        self.runs = 0
        self._fails = fails
        self._most_runs = most_runs
        self._passed: set[tuple[Fault, ...]] = set()

    def try_faults(self, faults: tuple[Fault, ...]) -> bool:
        """Runs other faults, and keeps them if the run fails; never the same ones twice.

        Raises:
            _OutOfRuns: there are no runs left.
        """
        if faults in self._passed:
            return False
        if self.runs == self._most_runs:
            raise _OutOfRuns
        self.runs += 1
        schedule = attrs.evolve(self.schedule, faults=faults)
        failure = self._fails(schedule)
        if failure is None:
            self._passed.add(faults)
            return False
        self.schedule, self.failure = schedule, failure
        return True

    def minimize(self) -> None:
        """Leaves out and shortens, until neither is possible: a shorter fault may be one too many.

        Raises:
            _OutOfRuns: there are no runs left.
        """
        if self.try_faults(()):
            return  # it needs none
        self._end_with_failure()
        self._leave_out()
        while self._shorten():
            self._leave_out()

    def _end_with_failure(self) -> None:
        """Leaves out what was to come after the failure, which has had no part in it."""
        assert self.failure is not None
        at_s = self.failure.at_s
        before = tuple(fault for fault in self.schedule.faults if fault.at_s <= at_s)
        if before != self.schedule.faults:
            self.try_faults(before)

    def _leave_out(self) -> None:
        parts = 2
        while faults := self.schedule.faults:
            size = math.ceil(len(faults) / parts)
            if any(self.try_faults(rest) for rest in _without_a_part(faults, size)):
                parts = max(parts - 1, 2)
            elif size > 1:
                parts = min(2 * parts, len(faults))
            else:
                return

    def _shorten(self) -> bool:
        """Returns whether a fault could be shortened."""
        start = self.schedule.faults
        for number in range(len(start)):
            any(self.try_faults(faults) for faults in self._shorter(number))
        return self.schedule.faults != start

    def _shorter(self, number: int) -> Iterator[tuple[Fault, ...]]:
        faults = self.schedule.faults
        fault = faults[number]
        lasts = KIND_RULES[fault.kind].lasts
        for for_s in SHORTER_S:
            if fault.for_s is not None and lasts and lasts.low <= for_s < fault.for_s:
                shorter = attrs.evolve(fault, for_s=for_s)
                yield (*faults[:number], shorter, *faults[number + 1 :])


def _without_a_part(faults: tuple[Fault, ...], size: int) -> Iterator[tuple[Fault, ...]]:
    for start in range(0, len(faults), size):
        yield faults[:start] + faults[start + size :]
