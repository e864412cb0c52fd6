"""The drains of a host: which instances it drains, and how their actions begin there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import trio

from hbtrio.fsm.action import ActionState
from hbtrio.fsm.domain import Standing
from hbtrio.fsm.drain import DrainItem, Turn
from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drain_site import Blocked, Gone, Skipped
from hbtrio.nursery.drains import DrainPlan, DrainRefused, Drains
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.drained_host import DrainedHost
from hbtrio.nursery.host.plans import HostPlans, overridden_words
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.nursery.host.round import NotHeartbeating, RoundOpen
from hbtrio.nursery.host.sightings import Sightings
from hbtrio.store.host_records import ActionRecord, Recollection
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName, NotificationType, VoteResult

#: Why an instance that has no socket has its turn later once: it may be restarting, or this host.
NO_SOCKET: Final = "its socket is not there"

_STOPPED: Final = frozenset({Standing.STOPPED, Standing.FAILED})

_ENDED: Final = frozenset({ActionState.DONE, ActionState.REJECTED, ActionState.FAILED})


class HostDrains:
    """The drains of a host, and where their actions run.

    Args:
        nursery: runs them.
        host: the host.
    """

    def __init__(self, nursery: trio.Nursery, host: DrainedHost) -> None:
        self.runs = Drains(nursery, host.supervisor, self)
        self.plans = HostPlans(host, self.runs, self.start, self)
        self._host = host
        host.reports.listen(self._reported)
        self.sightings = Sightings(host.channels.get, host.domains, host.guard)
        self._is_recalled = False
        #: Those whose sockets were missing at their turn.
        self._missed: set[str] = set()

    def start(self, plan: DrainPlan, who: str) -> DrainRun:
        """Begins a drain of this host.

        Args:
            plan: what was asked for.
            who: who asked.

        Raises:
            DrainRefused: it was not begun.
        """
        memory, hostname = self._host.memory, self._host.config.hostname
        if memory.is_kept and not self._is_recalled:
            raise DrainRefused(memory.fault or "the state directory is being read")
        if unknown := [one for one in plan.hosts if one != hostname]:
            raise DrainRefused(f"this is {hostname}; its agent knows others: {unknown[0]}")
        if ACTION_TABLE[plan.action].before is None:
            raise DrainRefused(f"{plan.action} takes no VM away: it is no action for a drain")
        if not (plan.command or self._host.config.actions.of(plan.action)):
            name = plan.action
            raise DrainRefused(
                f"no command for {name}: give one after --, or set {name} in [actions]"
            )
        moment = memory.moment
        record = plan.record(who, moment.epoch_s, moment.boot_id)
        planned = plan.rules.planned
        asked_at = -math.inf if planned is None else planned.not_before
        present = [
            DrainPlace(
                drain=record.id,
                position=0,
                name=name,
                hostname=hostname,
                item=DrainItem(uuid, ask_at=asked_at),
            )
            for uuid, name in self.present(hostname).items()
            if plan.instance in ("", uuid)
        ]
        return self.runs.begin(
            StoredDrain(record, plan.ordered(present, self._host.groups.rule.name_of)),
            is_dry=plan.is_dry,
        )

    # -- what the host tells ------------------------------------------------------------------

    def recalled(self, recollection: Recollection) -> None:
        """Goes on with the drains of earlier runs; their actions have been resumed."""
        self._is_recalled = True
        records = [action.record for action in self._host.actions.values()]
        steps = {
            (record.drain, record.uuid): ActionState(record.step)
            for record in records
            if record.drain
        }
        self.runs.recalled(recollection.drains, steps, self._host.memory.moment.boot_id)

    def action_stepped(self, record: ActionRecord) -> None:
        """Takes the step that an action of this host begins."""
        if run := self.runs.get(record.drain):
            run.stepped(record.uuid, ActionState(record.step))

    def action_ended(self, action: ActionRun) -> None:
        """Takes the end of an action of this host."""
        if run := self.runs.get(action.record.drain):
            # A programming error may have ended it at any step.
            state = action.state if action.state in _ENDED else ActionState.FAILED
            called_off, denied = action.is_called_off, bool(action.denial)
            run.ended(action.uuid, state, action.reason, called_off=called_off, denied=denied)

    def planned_at(self, action: ActionRecord) -> int:
        """Returns when a planned action is forced; see :class:`ActionDrains`."""
        return self.plans.forced_at(action)

    def _reported(self, report: Report) -> None:
        if report.kind is ReportKind.WITHDRAWN and report.event is not None:
            self.runs.withdrawn(report.uuid, report.event)

    # -- the site -----------------------------------------------------------------------------

    def now(self) -> float:
        """CLOCK_BOOTTIME: a drain does not outlive a restart of the machine."""
        return self._host.memory.moment.boot_s if self._host.memory.is_kept else trio.current_time()

    def epoch_s(self) -> float:
        """The time in seconds since the epoch."""
        return self._host.memory.moment.epoch_s

    async def ask(self, record: DrainRecord, uuid: str) -> str:
        """Asks a guest, and returns its answer: ``accept``, ``reject: REASON``, ``timeout``."""
        event = ACTION_TABLE[record.action].before
        assert event is not None
        try:
            self._check(record, uuid)
            vote = self._host.open_round(uuid, event, NotificationType.REVOCABLE, who=record.actor)
        except (Blocked, Gone, Skipped, UnknownInstance, NotHeartbeating, RoundOpen) as why:
            return f"not asked: {why}"
        await vote.done.wait()
        if vote.outcome is None:
            return "not asked"
        result, reason = vote.outcome.result, vote.outcome.reason
        return f"{result}: {reason}" if reason and result is not VoteResult.ACCEPT else str(result)

    async def ready(self, drain: str, uuid: str) -> None:
        """Waits until a guest whose channel was just found has answered, 10 s at most.

        Before that it would not be asked: after a restart of the host all are new to it. The
        outcome of the drain's last action on it may still be on its way to the disk. Another's
        action is not waited for: it may last for minutes, and the turn's time would pass.
        """
        last = self._host.actions.get(uuid)
        if last is not None and last.record.drain == drain:
            async for _ in last.progress():
                pass
        await self.sightings.until_settled(uuid, answers=True)

    async def begin(self, record: DrainRecord, turn: Turn) -> None:
        """Begins an action, as ``act`` does; see :class:`~hbtrio.nursery.drains.DrainSite`."""
        await trio.lowlevel.checkpoint()
        self._check(record, turn.uuid)
        try:
            action = self._host.begin_action(
                turn.uuid,
                record.action,
                record.command,
                force=turn.force,
                ignore_hold=record.ignore_hold,
                who=record.actor,
                drain=record.id,
                overridden=_overridden(record, turn),
            )
        except UnknownInstance as error:
            raise Skipped(str(error)) from error
        except ActionRefused as error:
            raise Blocked(str(error)) from error
        self.plans.attempts.began(record.id, action.uuid, action.progress)

    def _check(self, record: DrainRecord, uuid: str) -> None:
        """Raises Blocked, Skipped or Gone if the action must not begin on an instance now."""
        domain = self._host.domains.of(uuid)
        if domain is not None and not self._host.domains.is_silent:
            state = domain.state
            if not domain.listed or state.standing in _STOPPED:
                self._left(record, f"it does not run: libvirt says {state.words}")
        channel = self._host.channels.get(uuid)
        if channel is None or channel.gone:
            if uuid in self._missed:
                self._left(record, "it is no longer on this host")
            self._missed.add(uuid)
            raise Blocked(NO_SOCKET)
        self._missed.discard(uuid)
        if not record.ignore_hold and (hold := self._host.holds.of(uuid)) is not None:
            # A planned action still has its time: the hold may end before that.
            raise (Skipped if record.rules.planned is None else Blocked)(hold.words)
        event = ACTION_TABLE[record.action].before
        assert event is not None
        if refusal := self._host.groups.refusal(uuid, event):
            raise Blocked(refusal)

    @staticmethod
    def _left(record: DrainRecord, why: str) -> None:
        """An instance that left is done if the drain was to make it leave."""
        is_planned = record.rules.planned is not None
        if is_planned or record.action in (ActionName.REBOOT, ActionName.RESIZE):
            raise Skipped(why)
        raise Gone(why)

    def call_off(self, drain: str, uuid: str, reason: str) -> None:
        """Ends a drain's action on an instance if its command has not begun."""
        action = self._host.actions.get(uuid)
        if action is not None and action.record.drain == drain:
            action.call_off(reason)

    async def put(self, drain: StoredDrain) -> None:
        """Stores a drain that begins, a planned action with its entry in the history.

        Waits for the disk, a second at most.
        """
        self.plans.begins(drain.record)
        await self._host.memory.put_drain(drain)

    def keep(self, record: DrainRecord) -> None:
        """Stores a drain that has changed, soon; records how a planned action ends undone."""
        if record.rules.planned is not None and record.ended_at is not None:
            self.plans.ended(record)
        self._host.memory.drain(record, ())

    def keep_place(self, place: DrainPlace) -> None:
        """Stores an instance of a drain that has changed, soon."""
        self._host.memory.drain(None, [place])

    def present(self, hostname: str) -> Mapping[str, str]:
        """Returns the names of the instances that are on this host now, by uuid."""
        return {
            uuid: self._name(uuid, channel)
            for uuid, channel in self._host.channels.items()
            if not channel.gone
        }

    def _name(self, uuid: str, channel: Channel) -> str:
        domain = self._host.domains.of(uuid)
        return channel.heartbeat.profile.name if domain is None else domain.name


def _overridden(record: DrainRecord, turn: Turn) -> str:
    """What is reported of the reject that does not stand; "" if there is none."""
    if turn.overrides is None:
        return ""
    return overridden_words(turn.overrides, is_planned=record.rules.planned is not None)
