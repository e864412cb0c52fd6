"""What a run of one seed comes to, as a value that fits on a line of JSON."""

from __future__ import annotations

import attrs
import msgspec

from hbtrio.simulate.invariant import Violation
from hbtrio.simulate.latencies import Latency
from hbtrio.simulate.schedule import Schedule


@attrs.frozen
class Moment:
    """Something on the timeline of a violation; with ``until_s`` it lasted.

    Times are in seconds from the start of the run.
    """

    at_s: float
    who: str
    text: str
    until_s: float | None = None


@attrs.frozen(kw_only=True)
class SeedResult:
    """The result of a seed.

    Args:
        seed: which.
        digest: of the trace; two runs of a seed have the same.
        cpu_s: processor time that the run took, in seconds.
        vm_hours: instances times virtual hours.
        violations: in the order of their times.
        faults: how often each kind of fault struck.
        sightings: how often each was seen, by its words.
        excused: how often each excuse was needed, as ``INVARIANT: EXCUSE``.
        detections: from a VM's hanging to the report of its loss.
        verdicts: from a vote or notice to its verdict.
        moments: around the first violation.
        schedule: of a run with violations, to replay it.
        error: why there is no result: the run raised, hung or died. Empty if there is one.
    """

    seed: int
    digest: str = ""
    cpu_s: float = 0.0
    vm_hours: float = 0.0
    violations: tuple[Violation, ...] = ()
    faults: dict[str, int] = attrs.field(factory=dict)
    sightings: dict[str, int] = attrs.field(factory=dict)
    excused: dict[str, int] = attrs.field(factory=dict)
    detections: tuple[Latency, ...] = ()
    verdicts: tuple[Latency, ...] = ()
    moments: tuple[Moment, ...] = ()
    schedule: Schedule | None = None
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is a violation, or no result at all."""
        return bool(self.violations or self.error)


def to_line(result: SeedResult) -> bytes:
    """Returns a result as a line of JSON."""
    return msgspec.json.encode(result) + b"\n"


def from_line(line: bytes) -> SeedResult:
    """Returns the result on a line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.json.decode(line, type=SeedResult)
