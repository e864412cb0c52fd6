"""Faults as data: a schedule is drawn from a seed before a run, and is itself the test case.

Each kind draws from a random stream of its own, named after the seed and the kind: whether this
run uses it at all (half of the runs do: swarm testing), when it strikes, whom, and for how long.
So a new kind changes nothing of what the others draw. In the end of a run nothing is wrong any
more: in this *liveness phase* all that lives has to recover.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from random import Random
from typing import Any, Final

import attrs

from hbtrio.simulate.fault_kinds import (
    CLOCK,
    KIND_RULES,
    WINDOW_END,
    Kind,
    KindRule,
    Span,
    Target,
    Trigger,
)
from hbtrio.simulate.scenario import Scenario

#: When faults begin, in seconds: by then all guests are heartbeating.
FIRST_S: Final = 25.0

#: How long before the end of a run the last fault is over, in seconds.
LIVENESS_S: Final = 200.0

#: Whom a fault may strike, at most: the number is taken modulo those that there are.
MOST_WHO: Final = 999

#: The targets of which there may be several.
_MANY: Final = (Target.INSTANCE, Target.HOST)


def _numbers_of(rule: KindRule) -> frozenset[str]:
    names = {"for_s": rule.lasts, "by_s": rule.steps_clock, rule.trigger.value: True}
    return frozenset(name for name, has_it in names.items() if has_it) - {Trigger.TIME.value}


_NUMBERS: Final = {kind: _numbers_of(rule) for kind, rule in KIND_RULES.items()}


def _finite(least: float, most: float = math.inf) -> Any:
    def check(_fault: Any, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and not (least <= value <= most and math.isfinite(value)):
            raise ValueError(f"{attribute.name}: must be {least:g} to {most:g}, got {value:g}")

    return check


def _known_by_rule(fault: Fault, attribute: attrs.Attribute[Any], value: object) -> None:
    """Has a number that the kind needs, and none that it does not know."""
    if (value is not None) != (attribute.name in fault.numbers_of(fault.kind)):
        kind = f"{fault.kind} {'has no' if value is not None else 'needs'} such number"
        raise ValueError(f"{attribute.name}: {kind}")


@attrs.frozen(kw_only=True)
class Fault:
    """A fault: what goes wrong, when, with whom.

    The optional numbers are those that its kind has, see :meth:`numbers_of`.

    Args:
        at_s: from when on it may strike, in seconds from the start of the run.
        kind: what goes wrong.
        who: which instance or host, taken modulo their number; 0 for the agent and the VIM.
        for_s: how long it lasts, or until a killed process is started again, in seconds.
        effect: it strikes right after this many effects of the process, at least 1.
        step: it strikes before this task step of the process, at least 1.
        window_end_s: it ends so many seconds before the next window's end.
        by_s: by how much a wall clock is set, in seconds, back if negative.

    Raises:
        ValueError: a number is missing, out of range or not one of this kind. The text begins with
            its name.
    """

    at_s: float = attrs.field(validator=_finite(0))
    kind: Kind
    who: int = attrs.field(default=0, validator=_finite(0, MOST_WHO))
    for_s: float | None = attrs.field(default=None, validator=[_known_by_rule, _finite(0)])
    effect: int | None = attrs.field(default=None, validator=[_known_by_rule, _finite(1)])
    step: int | None = attrs.field(default=None, validator=[_known_by_rule, _finite(1)])
    window_end_s: float | None = attrs.field(default=None, validator=[_known_by_rule, _finite(0)])
    by_s: float | None = attrs.field(default=None, validator=[_known_by_rule, _finite(-1e9, 1e9)])

    @staticmethod
    def numbers_of(kind: Kind) -> frozenset[str]:
        """Returns the names of the optional numbers that faults of this kind have."""
        return _NUMBERS[kind]

    @property
    def over_s(self) -> float:
        """When it is over if it strikes at its time, in seconds from the start of the run."""
        return self.at_s + (self.for_s or 0.0)


@attrs.frozen
class Schedule:
    """A test case: all that makes a run what it is.

    Args:
        seed: of everything in the run that is random, except the faults.
        minutes: how long the run is, in virtual minutes.
        vms: how many instances there are.
        hosts: how many hosts there are.
        faults: in the order of their times.
        scenario: what happens in it; None: what users want, again and again.
    """

    seed: int
    minutes: float = attrs.field(validator=attrs.validators.gt(0))
    vms: int = attrs.field(validator=attrs.validators.ge(1))
    hosts: int = attrs.field(validator=attrs.validators.ge(1))
    faults: tuple[Fault, ...] = ()
    scenario: Scenario | None = None

    @property
    def has_agent(self) -> bool:
        """Whether hosts are linked to an agent, and a VIM acts; else operators and hosts act."""
        return self.seed % 3 != 0 if self.scenario is None else self.scenario.has_agent

    @property
    def quiet_s(self) -> float:
        """When the liveness phase begins, in seconds; no fault is drawn that lasts longer.

        One that still waits for its trigger then never strikes.
        """
        return 60 * self.minutes - LIVENESS_S

    def drawn(
        self, rate: float = 1.0, kinds: Collection[Kind] = tuple(Kind), share: float = 0.5
    ) -> Schedule:
        """Returns this test case with the faults that its seed draws.

        Args:
            rate: how many times as many faults as usual; 0 for none.
            kinds: those to draw from.
            share: of the kinds that a run uses.
        """
        drawn: list[Fault] = []
        for kind in Kind:
            random = Random(f"{self.seed}/faults/{kind}")
            if random.random() < share and kind in kinds and rate > 0:
                drawn += _draw(kind, random, KIND_RULES[kind].gap_s / rate, self.quiet_s)
        return attrs.evolve(self, faults=tuple(sorted(drawn, key=_order)))


def _order(fault: Fault) -> tuple[float, str]:
    return fault.at_s, fault.kind


def _draw(kind: Kind, random: Random, gap_s: float, quiet_s: float) -> Iterator[Fault]:
    """Yields the faults of one kind that are over before the liveness phase begins."""
    rule = KIND_RULES[kind]
    at_s = FIRST_S
    while (at_s := at_s + random.expovariate(1 / gap_s)) < quiet_s:
        # All numbers are drawn, also those of a fault that is left out: a longer run begins with
        # the faults of a shorter one.
        number = random.randint(1, rule.most) if rule.most else None
        fault = Fault(
            at_s=round(at_s, 4),
            kind=kind,
            who=random.randrange(MOST_WHO + 1) if rule.target in _MANY else 0,
            for_s=_drawn_from(rule.lasts, random) if rule.lasts else None,
            effect=number if rule.trigger is Trigger.EFFECT else None,
            step=number if rule.trigger is Trigger.STEP else None,
            window_end_s=(
                _drawn_from(WINDOW_END, random) if rule.trigger is Trigger.WINDOW_END else None
            ),
            by_s=(
                random.choice((1, -1)) * _drawn_from(CLOCK, random) if rule.steps_clock else None
            ),
        )
        if fault.over_s < quiet_s:
            yield fault


def _drawn_from(span: Span, random: Random) -> float:
    part = random.randrange(len(span.edges) - 1)
    return round(random.uniform(*span.edges[part : part + 2]), 4)
