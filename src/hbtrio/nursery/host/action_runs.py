"""Starts the actions of a host: at most one per instance, and a bounded number in total."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import trio

from hbtrio.config.host import ActionCommands
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.owners import Owners
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.policy.begin_by import BeginBy
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import ActionName

_log = logging.getLogger("hbtrio.host")

#: Actions in progress at once on one host.
_ACTIONS: Final = 256


class ActionRefused(Exception):
    """An action can't be started; nothing was sent to the instance."""


class ActionRuns:
    """Starts actions, which run to their end with or without a watcher.

    Args:
        nursery: runs the actions.
        commands: what performs each action, and how long it may take.
        channels: the channels of all instances, by uuid; a live view.
        processes: runs the commands.
        supervisor: counts programming errors.
        guard: the process's on-time guard.
        on_over: called with each action that has come to its end.
        owners: who owns each instance.
        end_command: ends the corrective command that runs for an instance, by its uuid.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        commands: ActionCommands,
        channels: Mapping[str, Channel],
        processes: ProcessRunner,
        supervisor: Supervisor,
        guard: OnTimeGuard,
        on_over: Callable[[ActionRun], None],
        owners: Owners,
        end_command: Callable[[str], None],
    ) -> None:
        #: The actions in progress, by the instance's uuid.
        self.in_progress: dict[str, ActionRun] = {}
        self._nursery = nursery
        self._commands = commands
        self._channels = channels
        self._processes = processes
        self._supervisor = supervisor
        self._guard = guard
        self._on_over = on_over
        self._owners = owners
        self._end_command = end_command

    def begin(
        self,
        uuid: str,
        name: ActionName,
        command: tuple[str, ...],
        *,
        force: bool,
        take_over: bool,
        begin_by: BeginBy,
        who: str,
    ) -> ActionRun:
        """Starts an action and returns without waiting for it.

        Args:
            uuid: the instance; it must have a channel.
            name: which action, a row of the event table.
            command: what performs it; if empty, the configured command.
            force: skip the vote.
            take_over: end a corrective command that runs, instead of waiting for it.
            begin_by: until when it may begin; a later start ends it without a step.
            who: who requested it.

        Raises:
            ActionRefused: an action on this instance is in progress, too many are in progress on
                the host, or no command is configured.
        """
        command = command or self._commands.of(name)
        if not command:
            raise ActionRefused(
                f"no command for {name}: give one after --, or set {name} in [actions]"
            )
        if uuid in self.in_progress:
            raise ActionRefused(f"{self.in_progress[uuid].name} is in progress on {uuid}")
        if len(self.in_progress) >= _ACTIONS:
            raise ActionRefused(
                f"{len(self.in_progress)} actions are in progress on this host, the maximum"
            )
        action = ActionRun(
            uuid,
            name,
            command,
            force=force,
            channel_of=self._channels.get,
            processes=self._processes,
            timeout_s=self._commands.timeout_s,
            guard=self._guard,
            begin_by=begin_by,
            who=who,
        )
        self.in_progress[uuid] = action
        if take_over:
            self._end_command(uuid)
        self._owners.act_begins(uuid, name)
        self._nursery.start_soon(self._run, action)
        return action

    async def _run(self, action: ActionRun) -> None:
        try:
            if (ownership := self._owners.of(action.uuid)).command_runs:
                await action.wait_for(
                    ownership.words, partial(self._owners.until_no_command, action.uuid)
                )
            await action.run()
            self._on_over(action)
        except Exception:  # noqa: BLE001 - one action's programming error must not stop the host
            self._supervisor.count_crash()
            _log.exception("action %s on %s failed", action.name, action.uuid)
        finally:
            del self.in_progress[action.uuid]
            self._owners.act_ended(action.uuid)
            action.close()
