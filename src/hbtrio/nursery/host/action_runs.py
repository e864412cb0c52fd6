"""The actions under way on a host: one for each instance at most, and a bounded number."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import trio

from hbtrio.config.host import ActionCommands
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import ActionName

_log = logging.getLogger("hbtrio.host")

#: Actions under way at once on one host.
_ACTIONS: Final = 256


class ActionRefused(Exception):
    """An action can't be begun; nothing was sent to the instance."""


class ActionRuns:
    """Begins actions, which then go on whether or not anybody watches them.

    Args:
        nursery: runs them.
        commands: what performs each action, and how long it may take.
        channels: of all instances, as they are at each moment.
        processes: runs the commands.
        supervisor: counts programming errors.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        commands: ActionCommands,
        channels: Mapping[str, Channel],
        processes: ProcessRunner,
        supervisor: Supervisor,
    ) -> None:
        #: By the instance's uuid.
        self.under_way: dict[str, ActionRun] = {}
        self._nursery = nursery
        self._commands = commands
        self._channels = channels
        self._processes = processes
        self._supervisor = supervisor

    def begin(
        self, uuid: str, name: ActionName, command: tuple[str, ...], *, force: bool
    ) -> ActionRun:
        """Begins an action.

        Args:
            uuid: the instance, of which there is a channel.
            name: the row of the event table.
            command: what performs it; if empty, the configured command.
            force: skip the vote.

        Raises:
            ActionRefused: one is under way, there are too many, or there is no command.
        """
        command = command or getattr(self._commands, name.name.lower())
        if not command:
            raise ActionRefused(
                f"no command for {name}: give one after --, or set {name} in [actions]"
            )
        if uuid in self.under_way:
            raise ActionRefused(f"{self.under_way[uuid].name} is under way on {uuid}")
        if len(self.under_way) >= _ACTIONS:
            raise ActionRefused(f"{len(self.under_way)} actions are under way on this host")
        action = ActionRun(
            uuid,
            name,
            command,
            force=force,
            channel_of=self._channels.get,
            processes=self._processes,
            timeout_s=self._commands.timeout_s,
        )
        self.under_way[uuid] = action
        self._nursery.start_soon(self._run, action)
        return action

    async def _run(self, action: ActionRun) -> None:
        try:
            await action.run()
        except Exception:  # noqa: BLE001 - one action's programming error is not the host's end
            self._supervisor.crashes += 1
            _log.exception("action %s on %s failed", action.name, action.uuid)
        finally:
            del self.under_way[action.uuid]
            action.close()
