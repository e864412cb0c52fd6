"""Runs operators' actions on hosts: sends each over the host's link and follows it to its end.

An action belongs to the host, and the record of it to the agent: an operator who disconnects misses
progress lines, but the history has the outcome. An action has two entries in the history, the
request and the outcome; one that the agent itself refuses has only the second. Those of a drain's
actions are stored with the drain.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final, NoReturn

import trio

from hbtrio.fsm.action import ActionState
from hbtrio.nursery.agent.action_history import ActionHistory
from hbtrio.nursery.agent.arrivals import instance_on_its_host
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.followed_actions import FleetAction, ask_again, asked_words, take_lines
from hbtrio.nursery.agent.host_session import HostSession, HostUnreachable, NotDone, Unbegun
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.instance_holds import AgentHolds
from hbtrio.nursery.agent.kept_drains import KeptDrains
from hbtrio.nursery.agent.later_truths import LaterTruths
from hbtrio.policy.begin_by import BeginBy
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_messages import MAX_NAME, MAX_TEXT, ActCommand
from hbtrio.wire.operator import ProgressLine
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName, VoteResult

#: Actions in progress in the whole fleet.
_ACTIONS: Final = 1000

#: Seconds for the command to reach the host, which starts an action at once.
_DEADLINE_S: Final = 1.0


class FleetActionRefused(Exception):
    """The action was not started; the text is the reason.

    Args:
        reason: the reason.
        entry: the history's entry, if it is left to the requester to have it stored.
    """

    def __init__(self, reason: str, entry: HistoryEntry | None = None) -> None:
        super().__init__(reason)
        self.entry = entry


class AgentActions:
    """Starts actions and follows them.

    Args:
        nursery: follows the actions. When it ends, the hosts continue actions that have started.
        fleet: knows the host of each instance, and its link.
        history: records what is asked for, and what becomes of it.
        later: handles what hosts tell of actions once they were given up.
        groups: which instances must not go down now.
        holds: the holds of operators on instances.
        new_command_id: makes ids that are never reused.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        fleet: Fleet,
        history: ActionHistory,
        later: LaterTruths,
        groups: FleetGroups,
        holds: AgentHolds,
        *,
        new_command_id: Callable[[], str],
    ) -> None:
        self.in_progress: dict[str, FleetAction] = {}
        self._nursery = nursery
        self._fleet = fleet
        self.history = history
        self._later = later
        self._groups = groups
        self._holds = holds
        self._new_command_id = new_command_id

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
        kept: KeptDrains | None = None,
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
            kept: has its entries stored with the drain that it is part of: all but the outcome,
                which is left to the requester. If its link is lost meanwhile, the host is asked
                what became of it.
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
        action = FleetAction(uuid, instance.hostname, name, who, kept, refused)
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

    def resume(
        self, uuid: str, hostname: str, name: ActionName, who: str, kept: KeptDrains
    ) -> FleetAction:
        """Follows an action that an earlier run of this agent may have had a host begin.

        Its place in its groups is taken from here on. Does not wait.
        """
        action = FleetAction(uuid, hostname, name, who, kept)
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

        Raises:
            StoreFault: the store failed; nothing was changed.
        """
        entry = self.history.entry("forget: no member of groups any more", who, uuid)
        if is_forgotten := await self._groups.forget(uuid, entry):
            self.history.publish(entry)
        return is_forgotten

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
                if action.kept is not None and action.refused:
                    action.kept.entry(self._entry(action, asked))
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
                await self._asked(action, asked)
                try:
                    outcome = await take_lines(action, lines, begun)
                except NotDone as fault:
                    refusal = str(fault)
                except (HostUnreachable, LinkError) as fault:
                    lost = str(fault)
            if action.kept is not None and not (outcome or refusal):
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
            unknown = "not begun" if action.is_unbegun else "the outcome is unknown"
            ended = self._entry(action, outcome or f"{unknown}: {lost}", command_id)
            if not (outcome or refusal):
                action.lines.add(ProgressLine(step="lost", reason=lost))
            self._close(action, ended)
        if refusal:
            await self._refuse(action, refusal)
        begun()
        if action.kept is None:
            await self.history.record(ended)

    async def _asked(self, action: FleetAction, asked: str) -> None:
        """Records the request; a drain's turn is stored before its host hears of it, too."""
        if action.kept is not None:
            if asked:
                action.kept.entry(self._entry(action, asked))
            await action.kept.write()
        elif asked:
            await self.history.record(self._entry(action, asked))

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
        ended = self._entry(action, f"{outcome}: {reason}")
        self._close(action, ended)
        await self._asked(action, "asked")
        if action.kept is None:
            await self.history.record(ended)
        return action

    async def _refuse(self, action: FleetAction, reason: str) -> NoReturn:
        if reason == action.refused:
            raise FleetActionRefused(reason)
        entry = self._entry(action, f"refused: {reason}")
        if action.kept is not None:
            raise FleetActionRefused(reason, entry)
        await self.history.record(entry)
        raise FleetActionRefused(reason)

    def _close(self, action: FleetAction, ended: HistoryEntry) -> None:
        """Ends the lines; whoever has read the last one finds the outcome's entry."""
        if action.kept is not None:
            action.outcome = ended
        action.lines.close()

    def _entry(self, action: FleetAction, what: str, command_id: str = "") -> HistoryEntry:
        reason = f"{action.name}: {what}"
        return self.history.entry(reason, action.who, action.uuid, action.hostname, command_id)


def _nothing() -> None:
    """Nobody waits for the beginning."""
