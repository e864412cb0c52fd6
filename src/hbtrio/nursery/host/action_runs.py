"""Starts the actions of a host: at most one per instance, and a bounded number in total.

A host that is about to stop starts no more. Those that an earlier run of the host has begun and not
ended are resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.config.host import ActionCommands
from hbtrio.fsm.action import ActionState
from hbtrio.nursery.host.action_tools import ActionTools
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.instance_groups import HostGroups
from hbtrio.nursery.host.instance_holds import HostHolds
from hbtrio.nursery.host.owners import Owners
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.policy.begin_by import ANY_TIME, BeginBy
from hbtrio.store.host_records import ActionRecord
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName

_log = logging.getLogger("hbtrio.host")

#: Actions in progress at once on one host.
_ACTIONS: Final = 256

#: The holder of an instance's place in its groups while an action is in progress.
_PLACE: Final = "action"

#: Why an action of an earlier run of the host can't be resumed.
_OF_ANOTHER_BOOT: Final = "interrupted: the machine was restarted"
_OVERTAKEN: Final = "interrupted: another action was begun after the host's restart"
_UNKNOWN_STEP: Final = "interrupted at a step that this version does not know"

_BUG: Final = "failed: a programming error, see the host's log"

_STEPS: Final = frozenset(state.value for state in ActionState)


class ActionRefused(Exception):
    """An action can't be started; nothing was sent to the instance."""


@attrs.frozen
class ActionOrder:
    """An action that is asked for.

    Args:
        name: which action, a row of the event table.
        command: what performs it; if empty, the configured command.
        force: skip the vote.
        take_over: end a corrective command that runs, instead of waiting for it.
        ignore_group: act also if the rule of a group forbids it.
        ignore_hold: act on an instance that is on hold, too.
        overridden: what is reported of the guest's reject that does not stand; "" if there is none.
    """

    name: ActionName
    command: tuple[str, ...]
    force: bool
    take_over: bool
    ignore_group: bool
    ignore_hold: bool
    overridden: str = ""

    def asked(self, ended: str) -> str:
        """Says what is asked for, for the history.

        Args:
            ended: the corrective command that it has ended; "" for none.
        """
        added = {
            "without its vote": self.force,
            "whatever its groups say": self.ignore_group,
            "on hold or not": self.ignore_hold,
            f"ending {ended}": bool(ended),
        }
        return ", ".join(("asked", *(words for words, applies in added.items() if applies)))


class ActionRuns:
    """Starts actions, which run to their end with or without a watcher.

    Args:
        nursery: runs the actions.
        commands: what performs each action.
        tools: what all actions share.
        supervisor: counts programming errors.
        on_begun: called with each action that begins or is denied, what was asked for, and the
            order's ``overridden``, before the action is stored.
        on_ended: called with each action that has come to its end, before that is stored.
        on_over: called with each action that has come to its end, and its outcome.
        owners: who owns each instance.
        groups: which instances must not go down now.
        holds: which instances operators have put on hold.
        end_command: ends the corrective command that runs for an instance, by its uuid.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        commands: ActionCommands,
        tools: ActionTools,
        supervisor: Supervisor,
        on_begun: Callable[[ActionRun, str, str], None],
        on_ended: Callable[[ActionRun], None],
        on_over: Callable[[ActionRecord, str], Awaitable[object]],
        owners: Owners,
        groups: HostGroups,
        holds: HostHolds,
        end_command: Callable[[str], None],
    ) -> None:
        #: The actions in progress, by the instance's uuid.
        self.in_progress: dict[str, ActionRun] = {}
        #: Why no more actions are started; empty while they are.
        self.refusal = ""
        self._nursery = nursery
        self._commands = commands
        self._tools = tools
        self._supervisor = supervisor
        self._on_begun = on_begun
        self._on_ended = on_ended
        self._on_over = on_over
        self._owners = owners
        self._groups = groups
        self._holds = holds
        self._end_command = end_command

    def begin(
        self,
        uuid: str,
        order: ActionOrder,
        *,
        begin_by: BeginBy,
        who: str,
        drain: str = "",
    ) -> ActionRun:
        """Starts an action and returns without waiting for it.

        Args:
            uuid: the instance; it must have a channel.
            order: what is asked for; if a group forbids it, the action is rejected at once.
            begin_by: until when it may begin; a later start ends it without a step.
            who: who requested it.
            drain: the drain that it is part of, or "".

        Raises:
            ActionRefused: the host is about to stop, the instance is on hold, an action on it is in
                progress, too many are in progress on the host, or no command is configured.
        """
        name, command = order.name, order.command or self._commands.of(order.name)
        if self.refusal:
            raise ActionRefused(self.refusal)
        if not command:
            raise ActionRefused(
                f"no command for {name}: give one after --, or set {name} in [actions]"
            )
        hold = None if order.ignore_hold else self._holds.of(uuid)
        if hold is not None:
            raise ActionRefused(f"{hold.words}; --ignore-hold acts all the same")
        if uuid in self.in_progress:
            raise ActionRefused(f"{self.in_progress[uuid].name} is in progress on {uuid}")
        if len(self.in_progress) >= _ACTIONS:
            raise ActionRefused(
                f"{len(self.in_progress)} actions are in progress on this host, the maximum"
            )
        moment = self._tools.memory.moment
        record = ActionRecord(
            # No instance has two actions at one moment of one boot.
            id=f"{uuid} {moment.boot_id} {moment.boot_s:.6f}",
            uuid=uuid,
            name=name,
            command=command,
            force=order.force,
            who=who,
            step=ActionState.PLANNED.value,
            begun_at=moment.epoch_s,
            boot_id=moment.boot_id,
            drain=drain,
        )
        denial = self._deny(uuid, order)
        if not (denial or order.ignore_group):
            self._groups.of_agent.opens(uuid, ACTION_TABLE[name].before)
        return self._start(ActionRun(record, self._tools, begin_by, denial=denial), order)

    def _deny(self, uuid: str, order: ActionOrder) -> str:
        """Takes the instance's place in its groups; returns why it must not go down."""
        if (event := ACTION_TABLE[order.name].before) is None:
            return ""
        if not order.ignore_group:
            return self._groups.take(uuid, event, _PLACE)
        self._groups.hold(uuid, event, _PLACE)
        return ""

    def resume(self, records: Iterable[ActionRecord]) -> None:
        """Goes on with the actions that an earlier run of the host has begun and not ended."""
        boot_id = self._tools.memory.moment.boot_id
        for record in records:
            if why := self._why_not(record, boot_id):
                _log.warning("%s: action %s: %s", record.uuid, record.name, why)
                self._nursery.start_soon(
                    self._on_over, record, f"{ActionState.FAILED.value}: {why}"
                )
            else:
                if (event := ACTION_TABLE[record.name].before) is not None:
                    self._groups.hold(record.uuid, event, _PLACE)
                self._start(ActionRun(record, self._tools, ANY_TIME, is_resumed=True))

    def _why_not(self, record: ActionRecord, boot_id: str) -> str:
        if record.boot_id != boot_id:
            return _OF_ANOTHER_BOOT
        if record.uuid in self.in_progress:
            return _OVERTAKEN
        return "" if record.step in _STEPS else _UNKNOWN_STEP

    def _start(self, action: ActionRun, order: ActionOrder | None = None) -> ActionRun:
        self.in_progress[action.uuid] = action
        self._owners.act_begins(action.uuid, action.name)
        self._nursery.start_soon(self._run, action, order)
        return action

    async def _run(self, action: ActionRun, order: ActionOrder | None) -> None:
        try:
            await self._carry_out(action, order)
        finally:
            del self.in_progress[action.uuid]
            self._owners.act_ended(action.uuid)
            self._groups.give_back(action.uuid, _PLACE)
            self._groups.of_agent.settle(action.uuid)
            self._groups.of_agent.over(action.uuid, self._nursery)
            action.close()

    async def _ask_agent(self, action: ActionRun) -> None:
        """Asks the agent's groups; only an action that has begun is stored, and told the agent."""
        places, event = self._groups.of_agent, ACTION_TABLE[action.name].before
        if event is not None and places.waits(action.uuid):
            since = trio.current_time()
            answer = await places.ask(action.uuid, event)
            action.rounds.answered(answer, trio.current_time() - since)
            action.denial = answer.denial
            if not action.denial:
                places.settle(action.uuid)

    async def _begin(self, action: ActionRun, order: ActionOrder) -> None:
        """Ends what it takes over from, and stores it together with what is recorded of it."""
        ended = ""
        if order.take_over and not action.denial:
            ended = self._owners.command(action.uuid)
            self._end_command(action.uuid)
        self._on_begun(action, order.asked(ended), order.overridden)
        if not action.denial:
            await self._tools.memory.put_action(action.record)

    async def _carry_out(self, action: ActionRun, order: ActionOrder | None) -> None:
        try:
            await self._ask_agent(action)
            if order is not None:  # else an earlier run of the host has begun it
                await self._begin(action, order)
            if (ownership := self._owners.of(action.uuid)).command_runs and not action.denial:
                await action.wait_for(
                    ownership.words, partial(self._owners.until_no_command, action.uuid)
                )
            await action.run()
            outcome = action.outcome
        except Exception:  # noqa: BLE001 - one action's programming error must not stop the host
            self._supervisor.count_crash()
            _log.exception("action %s on %s failed", action.name, action.uuid)
            outcome = _BUG
        # Stored with the action's end, never after it: an action that is over is not repeated.
        self._on_ended(action)
        await self._on_over(action.record, outcome)
