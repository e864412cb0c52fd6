"""Judges a run with the simulator's invariants, by bounds that are as late as the machine was.

First all is judged by the bounds of a simulation, in which processors are free. Each violation is
then judged again by bounds that are later by what was measured around it, see
:mod:`chaos.lateness`; one that is gone by then is excused as ``late``, with how late.

``python -m chaos.judge DIRECTORY`` judges a run again that was kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import attrs
import msgspec

from chaos.lateness import Late, Lateness
from chaos.records import read
from hbtrio.simulate.invariant import Bounds, Violation
from hbtrio.simulate.observations import Observation
from hbtrio.simulate.seed_result import SeedResult
from hbtrio.simulate.sightings import Sighting
from hbtrio.simulate.summary import Summary
from hbtrio.simulate.watch import Watch

#: The files of a run.
OBSERVATIONS: Final = "observations.jsonl"
LATENESS: Final = "lateness.json"

#: What a simulation sees in most of its seeds, and so a run of real processes should, too.
COMMON: Final = (
    Sighting.LATE_VERDICT,
    Sighting.DEATH_IN_VOTE,
    Sighting.VERDICT_PAST_VIM,
    Sighting.TAKEOVER,
)

#: What never comes up in a run of real processes, and why.
NEVER: Final = {
    Sighting.POWER_CUT_IN_VOTE: "real processes have no machine of their own that could lose power",
}


@attrs.frozen
class Excused:
    """A violation by the bounds of a simulation that the machine's lateness explains."""

    violation: Violation
    late_s: float


@attrs.frozen
class Judgement:
    """What a run comes to.

    Args:
        result: as of a simulated seed; its violations are those without an excuse.
        late: the violations that are excused since the machine was late.
    """

    result: SeedResult
    late: tuple[Excused, ...]


def judge(
    observations: Sequence[Observation], lateness: Lateness, end_s: float, seed: int
) -> Judgement:
    """Judges a run.

    Args:
        observations: in the order of their times.
        lateness: what was measured.
        end_s: when the run ended, in seconds.
        seed: of its schedule.

    Raises:
        Contradiction: the observations can't be true together: the runner is at fault.
    """
    bounds = Bounds()
    result = _judge_by(bounds, observations, end_s, seed)
    found: list[Violation] = []
    excused: list[Excused] = []
    for violation in result.violations:
        late_s = lateness.around(violation.at_s)
        again = _judge_by(bounds.later(late_s), observations, end_s, seed)
        if any(_same(violation, other) for other in again.violations):
            found.append(violation)
        else:
            excused.append(Excused(violation, late_s))
    return Judgement(attrs.evolve(result, violations=tuple(found)), tuple(excused))


def _judge_by(
    bounds: Bounds, observations: Sequence[Observation], end_s: float, seed: int
) -> SeedResult:
    watch = Watch(bounds)
    for observation in observations:
        watch.see(observation)
    return watch.finish(max(end_s, observations[-1].at_s if observations else 0.0), seed)


def _same(one: Violation, other: Violation) -> bool:
    """Whether they are about the same: the texts begin alike, and may end with other times."""
    words = 3
    return one.invariant == other.invariant and (
        one.text.split()[:words] == other.text.split()[:words]
    )


def lines(judgement: Judgement, lateness: Lateness) -> Iterator[str]:
    """Yields what the run comes to, for a terminal."""
    result = judgement.result
    yield (
        f"seed {result.seed}: {sum(result.faults.values())} faults, {result.vm_hours:.1f} VM-hours"
    )
    yield from islice(Summary([result]).lines(), 1, None)  # the first is about many seeds
    yield f"faults: {', '.join(f'{kind} {n}' for kind, n in sorted(result.faults.items()))}"
    for excuse, number in sorted(result.excused.items()):
        yield f"excused {number}: {excuse}"
    yield (
        f"lateness: at most {lateness.worst_s:.3f} s; "
        f"{100 * lateness.share_above(0.05):.1f} % of the canary's naps were 50 ms late or more"
    )
    for excused in judgement.late:
        yield (
            f"excused as late ({excused.late_s:.3f} s): {excused.violation.at_s:.3f} s "
            f"{excused.violation.invariant}: {excused.violation.text}"
        )
    yield "differences from a simulation:"
    for sighting, why in NEVER.items():
        yield f"  never: {sighting.value}: {why}"
    for sighting in COMMON:
        if not result.sightings.get(sighting.value):
            yield f"  common in a simulation, not seen here: {sighting.value}"
    for violation in result.violations:
        yield f"VIOLATED {violation.at_s:.3f} s {violation.invariant}: {violation.text}"
    yield (
        "no invariant was violated"
        if not result.violations
        else (f"{len(result.violations)} violations")
    )


@attrs.frozen
class Kept:
    """What is kept of a run beside its observations."""

    seed: int
    end_s: float
    vms: int
    naps: int
    late: tuple[Late, ...]


def keep(directory: Path, kept: Kept) -> None:
    """Writes it down."""
    (directory / LATENESS).write_bytes(msgspec.json.encode(kept))


def judge_kept(directory: Path) -> tuple[Judgement, Lateness]:
    """Judges a run that was kept."""
    kept = msgspec.json.decode((directory / LATENESS).read_bytes(), type=Kept)
    lateness = Lateness()
    lateness.measured, lateness.naps = list(kept.late), kept.naps
    judgement = judge(read(directory / OBSERVATIONS), lateness, kept.end_s, kept.seed)
    vm_hours = kept.vms * kept.end_s / 3600
    result = attrs.evolve(judgement.result, vm_hours=vm_hours)
    return attrs.evolve(judgement, result=result), lateness


def main(directory: Path) -> int:
    """Judges a kept run and prints it; returns the exit status."""
    judgement, lateness = judge_kept(directory)
    text = "".join(f"{line}\n" for line in lines(judgement, lateness))
    (directory / "summary.txt").write_text(text)
    print(text, end="")
    return 1 if judgement.result.violations else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
