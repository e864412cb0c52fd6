"""What must always be so, and who looks whether it is.

An :class:`Invariant` has a name, a sentence, and its written *excuses*. Each excuse is a hole in
what is checked, so how often each was needed is counted and reported.

A :class:`Checker` gives every invariant the observations of a run. What must not happen is judged
when it is observed. What must happen is judged at its bound: an invariant puts a check on the
:class:`Agenda`, which runs before anything later is taken in.
"""

from __future__ import annotations

import heapq
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final

import attrs

from hbtrio.simulate.observations import Observation
from hbtrio.simulate.truth import Truth

#: What may be simultaneous in a simulation and is not, in seconds: steps take time, and what
#: arrived so shortly before a decision was not there when the decision was made.
CROSSED_S: Final = 0.005

#: What a message may take beyond a deadline at which it was sent, in seconds.
WAY_S: Final = 0.05


@attrs.frozen
class Excuse:
    """Why something is no violation: a short name and a sentence."""

    name: str
    sentence: str


@attrs.frozen
class Violation:
    """Something happened that must not, or did not although it must: when, and what."""

    at_s: float
    invariant: str
    text: str


@attrs.frozen
class Bounds:
    """What the fleet is configured to, as far as it decides what must be so. All in seconds.

    Args:
        loss_s: within how long a hung VM is reported, and for how long after a disturbance a VM may
            be reported: the challenge that was under way and ``failure_threshold`` + 1 more.
        stalled_loss_s: the same if the host's daemon was stopped: it wants more challenges.
        restarted_loss_s: the same if the host's daemon was restarted.
        retry_s: how long after a failed command the next one runs, or the host says why none does.
        call_off_s: how long after a notice its end notice or its cancellation is due.
        migration_call_off_s: the same for a migration.
        settle_s: within how long all that lives has recovered.
        libvirt: whether the hosts ask a libvirt.
        corrects: whether the hosts correct losses themselves, without an agent.
        late_s: how much later than in a simulation everything may come, since the machine has no
            processor for it. Measured in the run itself; see :meth:`later`.
    """

    loss_s: float = 4.5
    stalled_loss_s: float = 15.0
    restarted_loss_s: float = 170.0
    retry_s: float = 180.0
    call_off_s: float = 330.0
    migration_call_off_s: float = 3660.0
    settle_s: float = 130.0
    libvirt: bool = True
    corrects: bool = False
    late_s: float = 0.0

    @property
    def crossed_s(self) -> float:
        """How shortly before a decision something arrived that was not there when it was made."""
        return CROSSED_S + self.late_s

    @property
    def way_s(self) -> float:
        """What a message may take beyond a deadline at which it was sent."""
        return WAY_S + self.late_s

    def later(self, late_s: float) -> Bounds:
        """Returns the bounds of a fleet of which everything may be that late, in seconds."""
        ends = {
            name: getattr(self, name) + late_s
            for name in attrs.fields_dict(Bounds)
            if name.endswith("_s")
        }
        return attrs.evolve(self, **ends)


class Agenda:
    """Checks that are due at a time, in the order of their times."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._added = 0

    def add(self, due_s: float, check: Callable[[], None]) -> None:
        """Has ``check`` called at ``due_s``, after what is observed up to and at that time."""
        self._added += 1
        heapq.heappush(self._entries, (due_s, self._added, check))

    def due_before(self, at_s: float) -> Iterable[tuple[float, Callable[[], None]]]:
        """Yields, and removes, each check that is due before ``at_s``."""
        while self._entries and self._entries[0][0] < at_s:
            due_s, _, check = heapq.heappop(self._entries)
            yield due_s, check


class Invariant(ABC):
    """One rule. The docstring of a subclass is its sentence."""

    name: ClassVar[str]
    excuses: ClassVar[tuple[Excuse, ...]] = ()

    def __init__(self, truth: Truth, bounds: Bounds, agenda: Agenda) -> None:
        self.violations: list[Violation] = []
        #: How often each excuse was needed, by its name.
        self.excused: Counter[str] = Counter()
        self.truth, self.bounds, self.agenda = truth, bounds, agenda
        self.prepare()

    @classmethod
    def sentence(cls) -> str:
        """The rule in a sentence."""
        return inspect.cleandoc(cls.__doc__ or "")

    def prepare(self) -> None:  # noqa: B027 - most remember nothing
        """Creates what the invariant remembers."""

    @abstractmethod
    def see(self, observation: Observation) -> None:
        """Looks at an observation, which :attr:`truth` has taken in already."""

    def judge(self, text: str, *excuses: tuple[Excuse, bool]) -> None:
        """Notes a violation, unless one of the excuses holds; then the first of those counts."""
        for excuse, holds in excuses:
            if holds:
                self.excuse(excuse)
                return
        self.violations.append(Violation(self.truth.now_s, self.name, text))

    def excuse(self, excuse: Excuse) -> None:
        """Counts that an excuse was needed."""
        assert excuse in self.excuses, f"{self.name}: {excuse.name} is not written down"
        self.excused[excuse.name] += 1


class Checker:
    """Has every invariant look at a run.

    Args:
        invariants: which.
        bounds: of the fleet.
    """

    def __init__(self, invariants: Sequence[type[Invariant]], bounds: Bounds) -> None:
        self.truth = Truth()
        self._agenda = Agenda()
        self._invariants = [one(self.truth, bounds, self._agenda) for one in invariants]

    def see(self, observation: Observation) -> None:
        """Takes in what happened; times must not go back.

        Raises:
            Contradiction: the observations can't be true together.
        """
        self._pass_time(observation.at_s)
        self.truth.see(observation)
        for invariant in self._invariants:
            invariant.see(observation)

    def finish(self, at_s: float) -> list[Violation]:
        """Ends the run and returns all violations, in the order of their times.

        What is due later is not judged.
        """
        self._pass_time(at_s)
        self.truth.now_s = max(self.truth.now_s, at_s)
        found = [violation for one in self._invariants for violation in one.violations]
        return sorted(found, key=lambda violation: violation.at_s)

    @property
    def excused(self) -> Counter[str]:
        """How often each excuse was needed, as ``INVARIANT: EXCUSE``."""
        return Counter(
            {
                f"{one.name}: {excuse}": number
                for one in self._invariants
                for excuse, number in one.excused.items()
            }
        )

    def _pass_time(self, at_s: float) -> None:
        for due_s, check in self._agenda.due_before(at_s):
            self.truth.now_s = max(self.truth.now_s, due_s)
            check()
