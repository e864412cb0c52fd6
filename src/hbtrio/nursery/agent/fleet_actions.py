"""Runs operators' actions on hosts: sends each over the host's link and follows it to its end.

An action belongs to the host, and the record of it to the agent: an operator who disconnects misses
progress lines, but the history has the outcome. An action has two entries in the history, the
request and the outcome; one that the agent itself refuses has only the second.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import Final, NoReturn

import trio

from hbtrio.fsm.action import ActionState
from hbtrio.log.subject import fields
from hbtrio.nursery.agent.arrivals import instance_on_its_host
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.followed_actions import FleetAction, ask_again, asked_words, take_lines
from hbtrio.nursery.agent.host_session import HostSession, HostUnreachable, NotDone, Unbegun
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.instance_holds import AgentHolds
from hbtrio.nursery.agent.later_truths import LaterTruths
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.policy.begin_by import BeginBy
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_messages import MAX_NAME, MAX_TEXT, ActCommand
from hbtrio.wire.operator import ProgressLine
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName, VoteResult

_log = logging.getLogger("hbtrio.agent")

#: Actions in progress in the whole fleet.
_ACTIONS: Final = 1000

#: Seconds for the command to reach the host, which starts an action at once.
_DEADLINE_S: Final = 1.0


class FleetActionRefused(Exception):
    """The action was not started; the text is the reason."""


class AgentActions:
    """Starts actions and follows them.

    Args:
        nursery: follows the actions. When it ends, the hosts continue actions that have started.
        fleet: knows the host of each instance, and its link.
        store: keeps the history.
        history: publishes the history entries.
        later: handles what hosts tell of actions once they were given up.
        groups: which instances must not go down now.
        holds: the holds of operators on instances.
        new_command_id: makes ids that are never reused.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        fleet: Fleet,
        store: Store,
        history: Broadcast[HistoryEntry],
        later: LaterTruths,
        groups: FleetGroups,
        holds: AgentHolds,
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.in_progress: dict[str, FleetAction] = {}
        self._nursery = nursery
        self._fleet = fleet
        self._store = store
        self._history = history
        self._later = later
        self._groups = groups
        self._holds = holds
        self._new_command_id = new_command_id
        self._wall_clock = wall_clock

    async def begin(
        self,
        uuid: str,
        name: ActionName,
        command: tuple[str, ...],
        *,
        force: bool,
        who: str,
        take_over: bool = False,
        ignore_group: bool = False,
        ignore_hold: bool = False,
        planned_at: int = 0,
        overrides: str | None = None,
        is_followed: bool = False,
        refused: str = "",
    ) -> FleetAction:
        """Has the instance's host start an action.

        The request is in the history before it is sent to the host; the outcome follows at the end.
        A failing store does not delay the action: an operator may need it most then.

        Args:
            uuid: the instance.
            name: the action.
            command: what the host runs to perform it; empty for the host's configured command.
            force: skip the vote.
            who: the operator.
            take_over: end a corrective command that runs, instead of waiting for it.
            ignore_group: act also if the rule of a group forbids it.
            ignore_hold: act on an instance that is on hold, too.
            planned_at: when it is forced, if it is planned, in seconds since the epoch; else 0.
            overrides: the reject of the guest that does not stand; None for none.
            is_followed: ask the host what became of it if its link is lost meanwhile.
            refused: why the same request was refused before; for that again there is no entry.

        Returns:
            The action, once the host reports progress, or once it is unknown whether the action has
            started; its progress lines then report that.

        Raises:
            Unknown: there is no such instance.
            FleetActionRefused: the agent or the host refused it; it was not started.

        Cancelled, the action may have started; the host then runs it to its end.
        """
        instance = await instance_on_its_host(self._fleet, uuid)
        action = FleetAction(uuid, instance.hostname, name, who, is_followed, refused)
        session = self._fleet.sessions.get(instance.hostname)
        hold = None if ignore_hold else self._holds.of(uuid)
        if hold is not None:
            await self._refuse(action, f"{hold.words}; --ignore-hold acts all the same")
        elif session is None:
            await self._refuse(action, f"{instance.hostname} has no link to this agent")
        elif len(self.in_progress) >= _ACTIONS:
            await self._refuse(
                action, f"{_ACTIONS} actions are in progress in this fleet, the maximum"
            )
        else:
            command_id = self._new_command_id()
            denial = self._deny(uuid, name, command_id, ignore_group=ignore_group)
            if denial:
                return await self._denied(action, denial)
            message = ActCommand(
                command_id,
                uuid,
                name,
                command,
                force,
                _DEADLINE_S,
                who=who[:MAX_NAME],
                take_over=take_over,
                ignore_group=ignore_group,
                ignore_hold=ignore_hold,
                planned_at=planned_at,
                overrides=None if overrides is None else overrides[:MAX_TEXT],
            )
            begin_by = session.begin_by(_DEADLINE_S)
            await self._nursery.start(self._run, action, session, message, begin_by)
        return action

    def waits_for(self, uuid: str, *, ignore_hold: bool) -> str:
        """Returns why an action can't be asked for now, which needs no entry; "" if it can."""
        hold = None if ignore_hold else self._holds.of(uuid)
        if hold is not None:
            return hold.words
        hostname = self._fleet.host_of(uuid)
        return "" if hostname in self._fleet.sessions else f"{hostname} has no link to this agent"

    async def planned(self, run: DrainRun, what: str) -> None:
        """Records what becomes of a planned action."""
        for place in run.places.values():
            reason = f"{run.record.action}: {what}"
            await self._keep(reason, run.record.actor, place.item.uuid, place.hostname)

    def resume(self, uuid: str, hostname: str, name: ActionName, who: str) -> FleetAction:
        """Follows an action that an earlier run of this agent may have had a host begin.

        Its place in its groups is taken from here on. The history gets the outcome, once it is
        known. Does not wait.
        """
        action = FleetAction(uuid, hostname, name, who, is_followed=True)
        command_id = self._new_command_id()
        if (event := ACTION_TABLE[name].before) is not None:
            self._groups.hold(uuid, event, command_id)
        self._nursery.start_soon(self._watch, action, command_id, None, _nothing)
        return action

    def call_off(self, action: FleetAction, reason: str) -> None:
        """Has the host end an action before its command; one whose command has begun goes on.

        The action then fails, and its last line has the reason. A host that is too old, or has lost
        its link, is not told: the action comes to its end there.

        Args:
            action: one that :meth:`begin` has returned.
            reason: at most ``MAX_REASON`` characters.
        """
        for command_id, one in self.in_progress.items():
            if one is action and (session := self._fleet.sessions.get(action.hostname)):
                session.call_off(command_id, reason)

    async def forget_member(self, uuid: str, who: str) -> bool:
        """Forgets a member of groups that no host has; the history has it.

        Args:
            uuid: the instance.
            who: the operator.

        Returns:
            Whether it was such a member; if not, nothing was changed.
        """
        if not await self._groups.forget(uuid):
            return False
        await self._keep("forget: no member of groups any more", who, uuid)
        return True

    async def _run(
        self,
        action: FleetAction,
        session: HostSession,
        message: ActCommand,
        begin_by: BeginBy,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        begun, asked = False, asked_words(message)

        def starts() -> None:
            nonlocal begun
            if not begun:
                begun = True
                if action.refused:
                    self._nursery.start_soon(self._record, action, asked)
                task_status.started()

        with self._later.action(message.command_id, action.uuid):
            lines = session.act(message, begin_by)
            told = "" if action.refused else asked
            await self._watch(action, message.command_id, lines, starts, told)
        starts()

    async def _watch(
        self,
        action: FleetAction,
        command_id: str,
        lines: AsyncGenerator[str] | None,
        begun: Callable[[], None],
        asked: str = "",
    ) -> None:
        """Follows an action to its end; without lines the host is asked what became of it.

        What was asked is in the history before its first line; "" if it is told elsewhere.

        Raises:
            FleetActionRefused: it was not begun, and its requester still waits for that.
        """
        self.in_progress[command_id] = action
        refusal = outcome = ""
        lost = "the agent ended"
        try:
            if lines is not None:
                if asked:
                    await self._record(action, asked)
                try:
                    outcome = await take_lines(action, lines, begun)
                except NotDone as fault:
                    refusal = str(fault)
                except (HostUnreachable, LinkError) as fault:
                    lost = str(fault)
            if action.is_followed and not (outcome or refusal):
                begun()
                outcome = await ask_again(self._fleet, action, command_id, lost)
        except Unbegun as fault:
            action.is_unbegun, lost = True, str(fault)
        except (NotDone, HostUnreachable, LinkError) as fault:
            lost = str(fault)
        finally:
            del self.in_progress[command_id]
            # Before the lines end: whoever reads the last one may begin the next action.
            if outcome:
                self._groups.acted(action.uuid, command_id)
            self._groups.give_back(action.uuid, command_id)
            if not (outcome or refusal):
                action.lines.add(ProgressLine(step="lost", reason=lost))
            action.lines.close()
        if refusal:
            await self._refuse(action, refusal)
        begun()
        unknown = "not begun" if action.is_unbegun else "the outcome is unknown"
        await self._record(action, outcome or f"{unknown}: {lost}", command_id)

    def _deny(self, uuid: str, name: ActionName, command_id: str, *, ignore_group: bool) -> str:
        """Takes the instance's place in its groups; returns why it must not go down."""
        if (event := ACTION_TABLE[name].before) is None:
            return ""
        if not ignore_group:
            return self._groups.take(uuid, event, command_id)
        self._groups.hold(uuid, event, command_id)
        return ""

    async def _denied(self, action: FleetAction, reason: str) -> FleetAction:
        """Ends an action that the rule of a group forbids: its host is not asked."""
        action.lines.add(ProgressLine(step="group", result=VoteResult.REJECT, reason=reason))
        outcome = ActionState.REJECTED.value
        action.lines.add(ProgressLine(step="end", outcome=outcome, reason=reason))
        action.lines.close()
        await self._record(action, "asked")
        await self._record(action, f"{outcome}: {reason}")
        return action

    async def _refuse(self, action: FleetAction, reason: str) -> NoReturn:
        if reason != action.refused:
            await self._record(action, f"refused: {reason}")
        raise FleetActionRefused(reason)

    async def _record(self, action: FleetAction, what: str, command_id: str = "") -> None:
        reason = f"{action.name}: {what}"
        await self._keep(reason, action.who, action.uuid, action.hostname, command_id)

    async def _keep(
        self, reason: str, who: str, uuid: str, hostname: str = "", command_id: str = ""
    ) -> None:
        entry = HistoryEntry(
            time=self._wall_clock(),
            kind="action",
            uuid=uuid,
            hostname=hostname,
            reason=reason,
            who=who,
            command_id=command_id,
        )
        about = fields(entry.kind)
        _log.info("%s: action %s by %s", entry.uuid, entry.reason, entry.who, extra=about)
        self._history.publish(entry)
        try:
            await self._store.record(entry)
        except StoreFault as fault:
            _log.error("store: %s: history entry lost: %s %s", fault, uuid, entry.reason)


def _nothing() -> None:
    """Nobody waits for the beginning."""
