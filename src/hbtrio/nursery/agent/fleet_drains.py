"""The drains of an agent: one action on all instances of some of its hosts.

Each action is sent to its host as an operator's is, and called off there if the drain is cancelled
before its command begins. A host resumes its actions by itself when it is restarted. If its link
is lost meanwhile, or the agent is restarted, it is asked what became of the action before anything
is decided; see :mod:`hbtrio.nursery.agent.followed_actions`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import attrs
import trio

from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain import DrainItem, Turn
from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import IN_PROGRESS, DrainState
from hbtrio.nursery.agent.drained_actions import DrainedActions
from hbtrio.nursery.agent.drained_instances import DrainedInstances
from hbtrio.nursery.agent.fleet import Fleet, Unknown
from hbtrio.nursery.agent.fleet_actions import AgentActions, FleetActionRefused
from hbtrio.nursery.agent.followed_actions import FleetAction
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.kept_drains import KeptDrains
from hbtrio.nursery.agent.rounds import Rounds
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drain_site import Blocked, Skipped
from hbtrio.nursery.drains import Attempts, DrainPlan, DrainRefused, Drains, PlanSpans
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE, Event, VoteResult

_log = logging.getLogger("hbtrio.drain")

#: The kind of a host's report that a guest would not reject an event any more.
WITHDRAWN: Final = "withdrawn"


class FleetDrains:
    """The drains of an agent, and where their actions run.

    Args:
        nursery: runs them.
        supervisor: counts programming errors.
        fleet: knows the hosts and their instances.
        actions: runs the actions.
        rounds: asks guests.
        groups: the agent's groups, for the order.
        store: keeps the drains.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        supervisor: Supervisor,
        fleet: Fleet,
        actions: AgentActions,
        rounds: Rounds,
        groups: FleetGroups,
        store: Store,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.runs = Drains(nursery, supervisor, self)
        #: Shows what becomes of a planned action.
        self.attempts = Attempts(self.runs)
        self.kept = KeptDrains(store, actions.history.publish)
        self._fleet = fleet
        self._actions = actions
        self._rounds = rounds
        self._groups = groups
        self._wall_clock = wall_clock
        #: What the history says of plans that are not stored yet, by their drains.
        self._planned: dict[str, HistoryEntry] = {}
        self._begun = DrainedActions(nursery, fleet, actions, self.kept)
        self._instances = DrainedInstances(fleet)

    async def load(self) -> None:
        """Goes on with the drains of earlier runs.

        Raises:
            StoreFault: the store can't be read.
        """
        stored = await self.kept.load()
        begun = {
            (one.record.id, place.item.uuid): ActionState.PLANNED
            for one in stored
            for place in one.places
            if place.item.state in IN_PROGRESS
        }
        self.runs.recalled(stored, begun, "")
        for run in self.runs.in_progress:
            record = run.record
            for uuid, item in run.machine.items.items():
                if item.state in IN_PROGRESS:
                    hostname = run.places[uuid].hostname
                    action = self._actions.resume(
                        uuid, hostname, record.action, record.actor, self.kept
                    )
                    self._begins(run, action)

    def start(self, plan: DrainPlan, who: str) -> DrainRun:
        """Begins a drain; see :meth:`~hbtrio.nursery.host.drain_site.HostDrains.start`.

        Raises:
            DrainRefused: it was not begun.
        """
        if ACTION_TABLE[plan.action].before is None:
            raise DrainRefused(f"{plan.action} takes no VM away: it is no action for a drain")
        if plan.command:
            raise DrainRefused("an agent takes no command: each host runs its own for the action")
        if not plan.hosts:
            raise DrainRefused("name the hosts: an agent has many")
        known = {host.hostname for host in self._fleet.hosts.values()} | set(self._fleet.sessions)
        if unknown := [name for name in plan.hosts if name not in known]:
            raise DrainRefused(f"no host {unknown[0]}")
        record = plan.record(who, self.epoch_s(), "")
        planned = plan.rules.planned
        asked_at = -math.inf if planned is None else planned.not_before
        places = [
            DrainPlace(
                drain=record.id,
                position=0,
                name=name,
                hostname=hostname,
                item=DrainItem(uuid, ask_at=asked_at),
            )
            for hostname in dict.fromkeys(plan.hosts)
            for uuid, name in self.present(hostname).items()
            if plan.instance in ("", uuid)
        ]
        drain = StoredDrain(record, plan.ordered(places, self._groups.rule.name_of))
        return self.runs.begin(drain, is_dry=plan.is_dry)

    async def plan(
        self, plan: DrainPlan, not_before: datetime | None, before: datetime, who: str
    ) -> DrainRun:
        """Plans an action on one instance; see :meth:`~hbtrio.nursery.host.plans.HostPlans.plan`.

        Raises:
            DrainRefused: it was not planned.
            Unknown: there is no such instance.
        """
        spans = PlanSpans.of(not_before, before, self.epoch_s())
        return await self._plan(plan, spans, who, gives_up=False)

    async def retry(self, plan: DrainPlan, for_s: float, who: str, *, gives_up: bool) -> DrainRun:
        """Asks for an action now, and again after each reject; see :meth:`HostPlans.retry`.

        Raises:
            DrainRefused, Unknown: nothing was begun.
        """
        return await self._plan(plan, PlanSpans(0.0, for_s), who, gives_up=gives_up)

    async def _plan(
        self, plan: DrainPlan, spans: PlanSpans, who: str, *, gives_up: bool
    ) -> DrainRun:
        hostname = self._fleet.instance(plan.instance).hostname
        on_reject = OnReject.SKIP if gives_up else OnReject.WAIT
        rules = DrainRules(planned=spans.from_(self.now()), on_reject=on_reject)
        words = spans.words(self.epoch_s(), gives_up=gives_up)
        run = self.start(attrs.evolve(plan, hosts=(hostname,), rules=rules), who)
        self._planned[run.record.id] = self._entry(run, plan.instance, words)
        await run.stored.wait()
        return run

    def entry(self, entry: HistoryEntry) -> None:
        """Takes an entry of the history: a guest may not reject any more, as it says."""
        if entry.kind == WITHDRAWN and entry.event in EVENT_TABLE:
            self.runs.withdrawn(entry.uuid, Event(entry.event))

    # -- the site -----------------------------------------------------------------------------

    def now(self) -> float:
        """The wall clock: a drain outlives a restart of the agent's machine."""
        return self.epoch_s()

    def epoch_s(self) -> float:
        """The time in seconds since the epoch."""
        return self._wall_clock().timestamp()

    async def ask(self, record: DrainRecord, uuid: str) -> str:
        """Asks a guest, and returns its answer in words."""
        event = ACTION_TABLE[record.action].before
        assert event is not None
        if why := self._actions.waits_for(uuid, ignore_hold=record.ignore_hold):
            return f"not asked: {why}"
        if refusal := self._groups.refusal(uuid, event):
            return f"not asked: {refusal}"
        try:
            who = record.actor
            asked = await self._rounds.ask(uuid, event, vote=True, who=who)
        except (Unknown, CantAsk, StoreFault) as why:
            return f"not asked: {why}"
        if asked.outcome is None:
            return f"not asked: {asked.fault}"
        result = await asked.outcome.wait()
        told = result.result is not VoteResult.ACCEPT and result.reason
        return f"{result.result}: {result.reason}" if told else str(result.result)

    async def ready(self, drain: str, uuid: str) -> None:
        """Waits until its host tells how an instance is; see :class:`DrainedInstances`."""
        del drain
        await self._instances.until_settled(uuid)

    async def begin(self, record: DrainRecord, turn: Turn) -> None:
        """Has the instance's host begin the action, and follows it."""
        run = self.runs.get(record.id)
        assert run is not None
        is_planned = run.due is not None
        self._instances.check(record, turn.uuid, run.places[turn.uuid].hostname)
        if is_planned and (
            why := self._actions.waits_for(turn.uuid, ignore_hold=record.ignore_hold)
        ):
            raise Blocked(why)
        event = ACTION_TABLE[record.action].before
        assert event is not None
        if refusal := self._groups.refusal(turn.uuid, event):
            raise Blocked(refusal)
        try:
            action = await self._actions.begin(
                turn.uuid,
                record.action,
                (),
                force=turn.force,
                ignore_hold=record.ignore_hold,
                who=record.actor,
                planned_at=_forced_at(run),
                overrides=turn.overrides,
                kept=self.kept,
                refused=self._instances.refusal(record.id, turn.uuid),
            )
        except Unknown:
            self._instances.missing(record, turn.uuid)
        except FleetActionRefused as error:
            self._instances.refused(record.id, turn.uuid, str(error))
            if error.entry is not None:
                self.kept.entry(error.entry)
            if "on hold until" in str(error) and not is_planned:
                raise Skipped(str(error)) from error
            raise Blocked(str(error)) from error
        self._instances.refused(record.id, turn.uuid, "")
        self._begins(run, action)

    def _begins(self, run: DrainRun, action: FleetAction) -> None:
        self.attempts.began(run.record.id, action.uuid, action.lines.watch)
        self._begun.begins(run, action)

    def call_off(self, drain: str, uuid: str, reason: str) -> None:
        """Has the host end an action before its command; see :meth:`DrainedActions.call_off`."""
        self._begun.call_off(drain, uuid, reason)

    async def put(self, drain: StoredDrain) -> None:
        """Stores a drain that begins; while the store fails, later."""
        self.kept.keep(drain.record)
        for place in drain.places:
            self.kept.keep_place(place)
        if (entry := self._planned.pop(drain.record.id, None)) is not None:
            self.kept.entry(entry)
        await self.kept.write()

    def keep(self, record: DrainRecord) -> None:
        """Stores a drain that has changed, soon, and how a planned action ends undone."""
        self.kept.keep(record)
        run = self.runs.get(record.id)
        if run is not None and run.due is not None and record.ended_at is not None:
            ((uuid, item),) = run.machine.items.items()
            if item.state in (DrainState.SKIPPED, DrainState.CANCELLED):
                words = f"planned, {item.state.value}: {item.reason or record.reason}"
                self.kept.entry(self._entry(run, uuid, words))

    def _entry(self, run: DrainRun, uuid: str, what: str) -> HistoryEntry:
        record, hostname = run.record, run.places[uuid].hostname
        return self._actions.history.entry(f"{record.action}: {what}", record.actor, uuid, hostname)

    def keep_place(self, place: DrainPlace) -> None:
        """Stores an instance of a drain that has changed, soon."""
        self.kept.keep_place(place)

    def present(self, hostname: str) -> Mapping[str, str]:
        """Returns the names of the instances that are on a host now, by uuid."""
        names = {}
        for bound in self._fleet.bound_to(hostname):
            live = self._fleet.live(bound.uuid)
            names[bound.uuid] = "" if live is None else live.domain or live.name
        return names


def _forced_at(run: DrainRun) -> int:
    """When a planned action is forced, in seconds since the epoch; 0 if it is not."""
    forced_at = run.record.rules.forced_at
    return 0 if forced_at == math.inf else round(forced_at)
