"""Streams of observations as one invariant judges them, and observations in few words."""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.simulate.invariant import Bounds, Checker
from hbtrio.simulate.invariants.every import INVARIANTS
from hbtrio.simulate.observations import (
    ActionBegan,
    Asked,
    Began,
    CommandBegan,
    Condition,
    Observation,
    Over,
    Owner,
    Placed,
    Purpose,
    Reported,
)

#: What a stream comes to: violated, fine, or the excuse that was needed.
VIOLATED: Final = "violated"
FINE: Final = "fine"

BY_NAME: Final = {invariant.name: invariant for invariant in INVARIANTS}


@attrs.frozen
class Judged:
    """What one invariant says about a stream."""

    violations: tuple[str, ...]
    excused: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """One word for all of it; a stream of the tests needs one excuse at most."""
        if self.violations:
            return VIOLATED
        assert len(self.excused) <= 1, self.excused
        return self.excused[0] if self.excused else FINE


def judged(
    name: str,
    *stream: Observation,
    end_s: float = 4000.0,
    libvirt: bool = True,
    corrects: bool = False,
) -> Judged:
    """Has an invariant look at a stream, in the order of the times."""
    checker = Checker([BY_NAME[name]], Bounds(libvirt=libvirt, corrects=corrects))
    for observation in stream:
        checker.see(observation)
    violations = tuple(violation.text for violation in checker.finish(end_s))
    return Judged(violations, tuple(key.partition(": ")[2] for key in checker.excused))


def during(
    began_s: float, over_s: float, condition: Condition, who: str = "vm0"
) -> tuple[Began, Over]:
    """A condition's begin and end."""
    return Began(began_s, condition, who), Over(over_s, condition, who)


def loss(at_s: float, instance: str = "vm0") -> Reported:
    return Reported(at_s, "compute-0", instance, "loss")


def reported(at_s: float, kind: str, cause: str = "") -> Reported:
    return Reported(at_s, "compute-0", "vm0", kind, cause)


def beating(at_s: float = 1.0) -> tuple[Placed, Reported]:
    """``vm0`` is on ``compute-0`` and heartbeats."""
    return Placed(at_s, "vm0", "compute-0"), reported(at_s, "heartbeating")


def command(
    at_s: float,
    name: str = "reboot",
    purpose: Purpose = Purpose.CORRECTIVE,
    number: str = "c1",
    instance: str = "vm0",
) -> CommandBegan:
    return CommandBegan(at_s, number, instance, "compute-0", name, purpose)


def asked(
    at_s: float,
    answer_by_s: float,
    request: str = "r1",
    *,
    event: str = "stop",
    vote: bool = True,
    owner: Owner = Owner.VIM,
    action: str = "a1",
) -> Asked:
    return Asked(at_s, request, "vm0", event, action, vote, answer_by_s, owner)


def action(
    at_s: float, owner: Owner = Owner.VIM, number: str = "a1", *, voted: bool = True
) -> ActionBegan:
    return ActionBegan(at_s, number, "vm0", owner, voted)
