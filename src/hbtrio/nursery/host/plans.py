"""The planned actions of a host: how they are made, followed and recorded.

A planned action is a drain of one instance (:mod:`hbtrio.fsm.planned_time`). So is an action that
is asked for again after each reject: its time has begun.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import attrs

from hbtrio.fsm.drain_records import DrainRecord
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import DrainState
from hbtrio.fsm.planned_time import PlannedTime
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drains import DrainPlan, DrainRefused, Drains
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.drained_host import DrainedHost
from hbtrio.nursery.host.refusals import UnknownInstance, recorded
from hbtrio.wire.operator import ProgressLine
from hbtrio.wire.vocabulary import ACTION_TABLE

#: The longest time until a planned action, in seconds: 30 days.
LONGEST_PLAN_S: Final = 2_592_000.0

#: How a planned action ends without its action.
_UNDONE: Final = frozenset({DrainState.SKIPPED, DrainState.CANCELLED})

#: How it ends, in the words of an action.
_OUTCOMES: Final = {DrainState.DONE: "done", DrainState.FAILED: "failed"}


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
        #: The last action of each plan that is kept, by the plan's id.
        self._attempts: dict[str, ActionRun] = {}

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
        epoch_s = self._times.epoch_s()
        begin_s = 0.0 if not_before is None else max(0.0, not_before.timestamp() - epoch_s)
        spans = begin_s, before.timestamp() - epoch_s
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
        spans = 0.0, for_s
        return await self._planned(plan, spans, who, gives_up=gives_up, is_kept=False)

    async def _planned(
        self,
        plan: DrainPlan,
        spans: tuple[float, float],
        who: str,
        *,
        gives_up: bool,
        is_kept: bool,
    ) -> DrainRun:
        host, (begin_s, end_s) = self._host, spans
        refused = partial(host.remembering.action_refused, plan.instance, plan.action, who)
        with recorded(refused):
            if plan.instance not in self._times.present(host.config.hostname):
                raise UnknownInstance(f"no instance {plan.instance} on this host")
            if is_kept and not host.memory.is_kept:
                reason = f"a planned action needs a state directory: {host.memory.fault}"
                raise DrainRefused(reason)
            if not begin_s < end_s <= LONGEST_PLAN_S:
                raise DrainRefused("before: must be to come, after not_before, and within 30 days")
            now_s, epoch_s = self._times.now(), self._times.epoch_s()
            planned = PlannedTime(not_before=now_s + begin_s, before=now_s + end_s)
            on_reject = OnReject.SKIP if gives_up else OnReject.WAIT
            rules = DrainRules(planned=planned, on_reject=on_reject)
            run = self._start(attrs.evolve(plan, rules=rules), who)
        since, until = (_time(epoch_s + span_s) for span_s in spans)
        end = f"given up at {until}" if gives_up else f"without its vote at {until}"
        words = f"planned: not before {since}, {end}"
        host.remembering.action_planned(plan.instance, plan.action, words, run.record.actor)
        await run.stored.wait()
        return run

    # -- what the drains tell -----------------------------------------------------------------

    def forced_at(self, drain: str) -> int:
        """Returns when a planned action is forced, in seconds since the epoch; 0 if it is not."""
        run = self._runs.get(drain)
        if run is None or run.due is None or run.record.rules.forced_at == math.inf:
            return 0
        return round(run.due[1])

    def attempted(self, record: DrainRecord, action: ActionRun) -> None:
        """Takes that the action of a drain has begun; that of a plan is shown to its watchers."""
        run = self._runs.get(record.id)
        if run is not None and record.rules.planned is not None and not run.is_over:
            known = {id_: one for id_, one in self._attempts.items() if self._runs.get(id_)}
            self._attempts = known | {record.id: action}
            run.show_again(action.uuid)

    def ended(self, record: DrainRecord) -> None:
        """Records how a planned action ends undone."""
        run = self._runs.get(record.id)
        for uuid, item in {} if run is None else run.machine.items.items():
            if item.state in _UNDONE:
                words = f"planned, {item.state.value}: {item.reason or record.reason}"
                self._host.remembering.action_planned(uuid, record.action, words, record.actor)

    # -- how one is followed ------------------------------------------------------------------

    async def progress(self, run: DrainRun) -> AsyncGenerator[ProgressLine | None]:
        """Yields the lines of each attempt, what is waited for in between, and the outcome."""
        shown: ActionRun | None = None
        waits_until = -math.inf
        event = ACTION_TABLE[run.record.action].before
        async with aclosing(run.watch()) as changes:
            async for change in changes:
                if change is None:
                    yield None
                    continue
                attempt = self._attempts.get(run.record.id)
                if attempt is not None and attempt is not shown:
                    shown = attempt
                    async with aclosing(attempt.progress()) as lines:
                        async for line in lines:
                            if line is None or line.step != "end":
                                yield line
                (item,) = run.machine.items.values()
                again_s = run.again_s(item.uuid)
                if again_s is not None and item.ask_at != waits_until:
                    waits_until = item.ask_at
                    why = f"it was {item.state.value}: {item.reason}"
                    yield ProgressLine(
                        step="vote", event=event or "", waiting=why, seconds=round(again_s, 3)
                    )
        (item,) = run.machine.items.values()
        # The outcome says it already.
        reason = (item.reason or run.record.reason).removeprefix("rejected: ")
        if item.state is DrainState.DONE and shown is not None:
            reason = shown.reason  # such as that it was not back in time
        outcome = _OUTCOMES.get(item.state, "rejected")
        yield ProgressLine(step="end", outcome=outcome, reason=reason)


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")
