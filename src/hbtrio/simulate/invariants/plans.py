"""Plans: a guest is not asked before its time, and not for longer than its time."""

from __future__ import annotations

from functools import partial
from typing import Final

import attrs

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import AWAY
from hbtrio.simulate.observations import (
    CommandBegan,
    CommandEnded,
    Condition,
    Observation,
    ProcessStarted,
    Purpose,
    Struck,
)
from hbtrio.simulate.order_observations import DrainEnded, Planned, PlanStepped

#: Within how long after its time a plan has begun its action without the vote, or is over, in
#: seconds. A guest that was just found may take 10 s to answer, and another's vote may be open; or
#: the plan's own vote was sent to its host just before the time, and waits for that one. A vote
#: takes 11 s in these fleets, and a late host some more.
FORCED_S: Final = 25.0

#: The states of a plan whose action has not begun.
_NOT_BEGUN: Final = frozenset({"waiting", "asked", "rejected", "blocked"})

_CLOCKS: Final = ("step-host-clock", "step-agent-clock")

#: Those who end in order take no turns, and may first wait for a command of a minute.
_ENDINGS: Final = ("restart-host", "restart-agent")

_CLOCK_SET: Final = Excuse("clock-set", "the wall clock by which it was planned was set since")
_SITE_AWAY: Final = Excuse(
    "site-away",
    "the host or agent that carries it out was stopped, down, being ended or without a disk "
    "meanwhile, or the link between them was cut",
)
_COMMAND: Final = Excuse("command", "a corrective command ran, for which the action waits")


@attrs.define
class _Plan:
    planned: Planned
    state: str = "waiting"


class PlanKept(Invariant):
    """A planned action is asked for from its first time on; at its second, no reject stands."""

    name = "plan-kept"
    excuses = (_CLOCK_SET, _SITE_AWAY, _COMMAND)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._plans: dict[str, _Plan] = {}
        #: The processes that are being ended in order.
        self._ending: set[str] = set()
        #: When a wall clock was set last.
        self._clock_s = -1.0
        #: The instances of the corrective commands that run, and when the last on each has ended.
        self._corrective: dict[str, str] = {}
        self._corrected_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Judges each step of a plan, and what has become of it at its second time."""
        match observation:
            case Planned(plan=plan, before_s=before_s):
                self._plans[plan] = _Plan(observation)
                due_s = before_s + FORCED_S + self.bounds.late_s
                self.agenda.add(due_s, partial(self._look, plan))
            case PlanStepped(plan=plan) if plan in self._plans:
                self._step(observation, self._plans[plan])
            case DrainEnded(drain=drain):
                self._plans.pop(drain, None)
            case Struck(kind=kind) if kind in _CLOCKS:
                self._clock_s = observation.at_s
            case Struck(kind=kind, who=who) if kind in _ENDINGS:
                self._ending.add(who)
            case ProcessStarted(process=process):
                self._ending.discard(process)
            case CommandBegan(purpose=Purpose.CORRECTIVE, command=command, instance=instance):
                self._corrective[command] = instance
            case CommandEnded(command=command) if command in self._corrective:
                self._corrected_s[self._corrective.pop(command)] = observation.at_s
            case _:
                pass

    def _step(self, step: PlanStepped, plan: _Plan) -> None:
        planned, plan.state = plan.planned, step.state
        what = f"plan {planned.plan} for {planned.instance}"
        was_set = self._clock_s >= planned.at_s
        if step.state == "asked" and step.at_s < planned.not_before_s - self.bounds.crossed_s:
            text = f"{what} asks before its time, {planned.not_before_s:.3f} s"
            self.judge(text, (_CLOCK_SET, was_set))
        elif step.state == "skipped" and step.reason.startswith("rejected"):
            self.judge(f"{what} was given up: {step.reason}")

    def _look(self, name: str) -> None:
        if (plan := self._plans.get(name)) is None or plan.state not in _NOT_BEGUN:
            return
        planned, truth = plan.planned, self.truth
        since_s = planned.before_s - self.bounds.way_s
        sites = planned.site, truth.host_of.get(planned.instance, "")
        site_away = not self._ending.isdisjoint(sites) or any(
            truth.held_since(since_s, who, *AWAY, Condition.DISK_BAD, Condition.LINK_DOWN)
            for who in sites
        )
        self.judge(
            f"plan {name} for {planned.instance} is {plan.state} at its time, "
            f"{planned.before_s:.3f} s, and {FORCED_S:g} s after it",
            (_CLOCK_SET, self._clock_s >= planned.at_s),
            (_SITE_AWAY, site_away),
            (_COMMAND, self._was_corrected(planned.instance, since_s)),
        )

    def _was_corrected(self, instance: str, since_s: float) -> bool:
        runs = instance in self._corrective.values()
        return runs or self._corrected_s.get(instance, -1.0) >= since_s
