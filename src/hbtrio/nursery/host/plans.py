"""The planned actions of a host: how they are made, followed and recorded.

A planned action is a drain of one instance (:mod:`hbtrio.fsm.planned_time`). So is an action that
is asked for again after each reject: its time has begun.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final, Protocol

import attrs

from hbtrio.fsm.drain_records import DrainRecord
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import DrainState
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drains import Attempts, DrainPlan, DrainRefused, Drains, PlanSpans
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.drained_host import DrainedHost
from hbtrio.nursery.host.refusals import UnknownInstance, recorded
from hbtrio.store.host_records import ActionRecord

#: The latest time that guests can be told, in seconds since the epoch.
LATEST_S: Final = 2**32 - 1

#: How a planned action ends without its action.
_UNDONE: Final = frozenset({DrainState.SKIPPED, DrainState.CANCELLED})


class _Times(Protocol):
    def now(self) -> float: ...

    def epoch_s(self) -> float: ...

    def present(self, hostname: str) -> Mapping[str, str]: ...


class HostPlans:
    """The planned actions of a host.

    Args:
        host: the host.
        runs: its drains.
        start: begins one.
        times: the clocks of its drains.
    """

    def __init__(
        self,
        host: DrainedHost,
        runs: Drains,
        start: Callable[[DrainPlan, str], DrainRun],
        times: _Times,
    ) -> None:
        self._host = host
        self._runs = runs
        self._start = start
        self._times = times
        #: Shows what becomes of a plan.
        self.attempts = Attempts(runs)
        #: The instance, and what the history says, of plans that are not stored yet.
        self._said: dict[str, tuple[str, str]] = {}
        #: When the agent forces actions in progress that it has planned, by the action's id.
        self._of_agent: dict[str, int] = {}

    async def plan(
        self,
        plan: DrainPlan,
        not_before: datetime | None,
        before: datetime,
        who: str,
        *,
        gives_up: bool = False,
    ) -> DrainRun:
        """Plans an action on one instance, and returns once the disk has it.

        Args:
            plan: the action and its instance.
            not_before: when the guest is asked first; None, or a time that is over: now.
            before: when the action is performed without its vote.
            who: who asked.
            gives_up: whether it is not performed at ``before`` if the guest rejects to the end.

        Raises:
            DrainRefused: it was not planned.
            UnknownInstance: there is no such instance.
        """
        spans = PlanSpans.of(not_before, before, self._times.epoch_s())
        return await self._planned(plan, spans, who, gives_up=gives_up, is_kept=True)

    async def retry(self, plan: DrainPlan, for_s: float, who: str, *, gives_up: bool) -> DrainRun:
        """Asks for an action now, and again after each reject; see :meth:`plan`.

        Without a state directory a restart of the host ends it.

        Args:
            plan: the action and its instance.
            for_s: for how long, in seconds; then it is performed without its vote, or given up.
            who: who asked.
            gives_up: see :meth:`plan`.

        Raises:
            DrainRefused, UnknownInstance: nothing was begun.
        """
        spans = PlanSpans(0.0, for_s)
        return await self._planned(plan, spans, who, gives_up=gives_up, is_kept=False)

    async def _planned(
        self,
        plan: DrainPlan,
        spans: PlanSpans,
        who: str,
        *,
        gives_up: bool,
        is_kept: bool,
    ) -> DrainRun:
        host = self._host
        refused = partial(host.remembering.action_refused, plan.instance, plan.action, who)
        with recorded(refused):
            if plan.instance not in self._times.present(host.config.hostname):
                raise UnknownInstance(f"no instance {plan.instance} on this host")
            if is_kept and not host.memory.is_kept:
                reason = f"a planned action needs a state directory: {host.memory.fault}"
                raise DrainRefused(reason)
            planned = spans.from_(self._times.now())
            on_reject = OnReject.SKIP if gives_up else OnReject.WAIT
            rules = DrainRules(planned=planned, on_reject=on_reject)
            run = self._start(attrs.evolve(plan, rules=rules), who)
        words = spans.words(self._times.epoch_s(), gives_up=gives_up)
        self._said[run.record.id] = (plan.instance, words)
        await run.stored.wait()
        return run

    # -- what the drains tell -----------------------------------------------------------------

    def forced_at(self, action: ActionRecord) -> int:
        """Returns when a planned action is forced, in seconds since the epoch; 0 if it is not."""
        run = self._runs.get(action.drain)
        if run is None or run.due is None or run.record.rules.forced_at == math.inf:
            return self._of_agent.get(action.id, 0)
        return round(run.due[1])

    def of_agent(self, action: ActionRun, planned_at: int) -> None:
        """Takes that an action which has just begun is one that the agent has planned.

        Args:
            action: the action.
            planned_at: when the agent forces it, in seconds since the epoch; 0: it does not.
        """
        known = {one.record.id for one in self._host.actions.values()}
        self._of_agent = {id_: at for id_, at in self._of_agent.items() if id_ in known}
        if planned_at:
            self._of_agent[action.record.id] = min(planned_at, LATEST_S)

    def begins(self, record: DrainRecord) -> None:
        """Records a drain that begins, if it is a planned action."""
        uuid, words = self._said.pop(record.id, ("", ""))
        if words:
            self._host.remembering.action_planned(uuid, record.action, words, record.actor)

    def ended(self, record: DrainRecord) -> None:
        """Records how a planned action ends undone."""
        run = self._runs.get(record.id)
        for uuid, item in {} if run is None else run.machine.items.items():
            if item.state in _UNDONE:
                words = f"planned, {item.state.value}: {item.reason or record.reason}"
                self._host.remembering.action_planned(uuid, record.action, words, record.actor)


def overridden_words(reject: str, *, is_planned: bool) -> str:
    """Says that a reject does not stand: at the time of a planned action, or in a drain."""
    why = "at its planned time" if is_planned else "by --on-reject"
    return f"overridden {why}: {reject}" if reject else f"overridden {why}"
