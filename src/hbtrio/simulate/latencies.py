"""Measures how long a fleet takes: to notice that a VM hangs, and to answer votes and notices."""

from __future__ import annotations

import attrs

from hbtrio.simulate.invariant import Bounds
from hbtrio.simulate.invariants.losses import loss_due_s
from hbtrio.simulate.observations import Asked, Began, Condition, Observation, Reported, Verdict
from hbtrio.simulate.truth import Truth


@attrs.frozen
class Latency:
    """How long something took, and how long it might have taken, in seconds."""

    took_s: float
    bound_s: float


class LatencyMeter:
    """Measures one run.

    Args:
        truth: takes in each observation before this does.
        bounds: of the fleet.
    """

    def __init__(self, truth: Truth, bounds: Bounds) -> None:
        #: From a VM's hanging to the report of its loss.
        self.detections: list[Latency] = []
        #: From a vote or notice to its verdict at the requester.
        self.verdicts: list[Latency] = []
        self._truth, self._bounds = truth, bounds
        self._hung_s: dict[str, float] = {}
        self._asked: dict[str, Asked] = {}

    def see(self, observation: Observation) -> None:
        """Looks at an observation."""
        match observation:
            case Began(condition=Condition.VM_HUNG, who=instance, at_s=at_s):
                if self._truth.heartbeats(instance):
                    self._hung_s[instance] = at_s
            case Reported(kind="loss", instance=instance, at_s=at_s):
                hung_s = self._hung_s.pop(instance, None)
                if hung_s is not None:
                    due_s = loss_due_s(self._truth, self._bounds, instance, hung_s)
                    self.detections.append(Latency(at_s - hung_s, due_s - hung_s))
            case Asked(request=request):
                self._asked[request] = observation
            case Verdict(request=request, at_s=at_s) if request in self._asked:
                asked = self._asked.pop(request)
                self.verdicts.append(Latency(at_s - asked.at_s, asked.answer_by_s - asked.at_s))
