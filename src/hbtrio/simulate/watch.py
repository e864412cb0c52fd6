"""Watches one run: everything that is observed goes here, and the result of the seed comes out."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Final

import attrs

from hbtrio.simulate.invariant import Bounds, Checker
from hbtrio.simulate.invariants.every import INVARIANTS
from hbtrio.simulate.latencies import LatencyMeter
from hbtrio.simulate.observation_words import words_of
from hbtrio.simulate.observations import Began, Condition, Observation, Over, Struck
from hbtrio.simulate.seed_result import Moment, SeedResult
from hbtrio.simulate.sightings import SightingCounter

#: What is kept of the time around the first violation, in seconds before and after it.
BEFORE_S: Final = 60.0
AFTER_S: Final = 2.0

#: How many moments of it are kept at most, the last ones.
MOST_MOMENTS: Final = 200


class Watch:
    """Takes in a run.

    Args:
        bounds: of the fleet.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._checker = Checker(INVARIANTS, bounds)
        self._sightings = SightingCounter(self._checker.truth, corrects=bounds.corrects)
        self._latencies = LatencyMeter(self._checker.truth, bounds)
        self._faults: Counter[str] = Counter()
        self._seen: list[Observation] = []

    def see(self, observation: Observation) -> None:
        """Takes in what happened; times must not go back.

        Raises:
            Contradiction: the observations can't be true together.
        """
        self._checker.see(observation)
        self._sightings.see(observation)
        self._latencies.see(observation)
        self._seen.append(observation)
        if isinstance(observation, Struck):
            self._faults[observation.kind] += 1

    def heartbeats(self, instance: str) -> bool:
        """Whether an instance's host has last reported that it heartbeats."""
        return self._checker.truth.heartbeats(instance)

    def finish(self, at_s: float, seed: int) -> SeedResult:
        """Ends the run at ``at_s`` and returns its result, without digest, times and schedule."""
        violations = tuple(self._checker.finish(at_s))
        return SeedResult(
            seed=seed,
            violations=violations,
            faults=dict(self._faults),
            sightings={sighting.value: n for sighting, n in self._sightings.counts.items()},
            excused=dict(self._checker.excused),
            detections=tuple(self._latencies.detections),
            verdicts=tuple(self._latencies.verdicts),
            moments=self._moments(violations[0].at_s) if violations else (),
        )

    def _moments(self, at_s: float) -> tuple[Moment, ...]:
        """What happened around a violation; a condition is one moment that lasts."""
        first_s, last_s = at_s - BEFORE_S, at_s + AFTER_S
        moments: list[Moment] = []
        open_at: dict[tuple[Condition, str], int] = {}
        for observation in itertools.takewhile(lambda one: one.at_s <= last_s, self._seen):
            match observation:
                case Over(condition=condition, who=who):
                    at = open_at[condition, who]
                    moments[at] = attrs.evolve(moments[at], until_s=observation.at_s)
                    continue
                case Began(condition=condition, who=who):
                    open_at[condition, who] = len(moments)
            words = words_of(observation)
            until_s = last_s if isinstance(observation, Began) else None
            moments.append(Moment(observation.at_s, words.who, words.text, until_s))
        near = [moment for moment in moments if (moment.until_s or moment.at_s) >= first_s]
        return tuple(near[-MOST_MOMENTS:])
