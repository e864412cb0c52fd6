"""Actions that operators have a host perform: commanded over its link, watched to their end.

They belong to the host, and what is known of them to the agent: an operator who hangs up misses
lines, and the history still says how it ended.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import attrs
import trio

from hbtrio.nursery.agent import Agent
from hbtrio.nursery.agent_session import HostSession, HostUnreachable
from hbtrio.nursery.progress_lines import ProgressLines
from hbtrio.nursery.store_records import HistoryEntry
from hbtrio.nursery.store_worker import StoreFault
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_messages import ActCommand
from hbtrio.wire.vocabulary import ActionName

_log = logging.getLogger("hbtrio.agent")

#: Who asks through the operator API.
OPERATOR: Final = "operator"

#: Actions under way in the whole fleet.
_ACTIONS: Final = 1000

#: A host begins an action at once; this is for its way there, in seconds.
_DEADLINE_S: Final = 1.0


class ActionRefused(Exception):
    """The action was not begun, or nobody knows; the text says why."""


@attrs.frozen(eq=False)
class FleetAction:
    """One action under way."""

    uuid: str
    hostname: str
    name: ActionName
    lines: ProgressLines = attrs.field(factory=ProgressLines)


class AgentActions:
    """The actions under way.

    Args:
        agent: knows which host an instance is on, and its link.
        new_command_id: makes ids that are unique for ever.
        wall_clock: the store's.
    """

    def __init__(
        self, agent: Agent, *, new_command_id: Callable[[], str], wall_clock: Callable[[], datetime]
    ) -> None:
        self.under_way: dict[str, FleetAction] = {}
        self._agent = agent
        self._new_command_id = new_command_id
        self._wall_clock = wall_clock
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; the hosts go on with what they have begun."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def begin(
        self, uuid: str, name: ActionName, command: tuple[str, ...], *, force: bool
    ) -> FleetAction:
        """Has the instance's host begin an action; returns once it has.

        Args:
            uuid: the instance.
            name: the action.
            command: what performs it, run by the host; empty for the host's own.
            force: skip the vote.

        Raises:
            Unknown: no such instance.
            ActionRefused: by the agent or the host, or the host can't be reached.

        Cancelled, it may have begun; then nobody watches it.
        """
        instance = self._agent.instance(uuid)
        session = self._agent.links.sessions.get(instance.hostname)
        if session is None or self._nursery is None:
            raise ActionRefused(f"{instance.hostname} has no link to this agent")
        if len(self.under_way) >= _ACTIONS:
            raise ActionRefused(f"{_ACTIONS} actions are under way in this fleet")
        action = FleetAction(uuid, instance.hostname, name)
        message = ActCommand(self._new_command_id(), uuid, name, command, force, _DEADLINE_S)
        await self._nursery.start(self._watch, action, session, message)
        return action

    async def _watch(
        self,
        action: FleetAction,
        session: HostSession,
        message: ActCommand,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        begun = False
        outcome = "the host ended it without an outcome"
        try:
            async with aclosing(session.act(message)) as lines:
                async for text in lines:
                    line = _line(text)
                    if not begun:
                        begun = True
                        self.under_way[message.command_id] = action
                        await self._record(action, "begun")
                        task_status.started()
                    action.lines.say(line)
                    if line.get("step") == "end":
                        words = (line.get("outcome"), line.get("reason"))
                        outcome = ": ".join(str(word) for word in words if word)
        except (HostUnreachable, LinkError) as fault:
            if not begun:
                raise ActionRefused(str(fault)) from fault
            outcome = f"the outcome is unknown: {fault}"
            action.lines.say({"step": "lost", "reason": str(fault)})
        finally:
            self.under_way.pop(message.command_id, None)
            action.lines.close()
        if not begun:
            raise ActionRefused(f"{action.hostname} did not begin it")
        await self._record(action, outcome)

    async def _record(self, action: FleetAction, what: str) -> None:
        entry = HistoryEntry(
            time=self._wall_clock(),
            kind="action",
            uuid=action.uuid,
            hostname=action.hostname,
            reason=f"{action.name}: {what}",
            who=OPERATOR,
        )
        self._agent.history.publish(entry)
        try:
            await self._agent.store.record(entry)
        except StoreFault as fault:
            # The action goes on all the same.
            _log.error("store: %s: not kept: %s %s", fault, action.uuid, entry.reason)


def _line(text: str) -> dict[str, Any]:
    """A line of progress that a host sent.

    Raises:
        LinkError: it is none.
    """
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise LinkError("the host's line of progress is not a JSON object")
    return line
