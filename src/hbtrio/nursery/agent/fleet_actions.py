"""Actions that operators have a host perform: commanded over its link, watched to their end.

They belong to the host, and what is known of them to the agent: an operator who hangs up misses
lines, and the history still says how it ended. An action has two entries there, that it was asked
for and what became of it; one that the agent itself refuses has the second only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import Final, NoReturn

import attrs
import trio

from hbtrio.config.source import printable
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostSession, HostUnreachable, NotDone
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.progress_lines import ProgressLines
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_messages import ActCommand
from hbtrio.wire.operator import ProgressLine, ReplyFault, parse
from hbtrio.wire.vocabulary import ActionName

_log = logging.getLogger("hbtrio.agent")

#: Characters of a program's name in the history.
_PROGRAM: Final = 100

#: Actions under way in the whole fleet.
_ACTIONS: Final = 1000

#: A host begins an action at once; this is for its way there, in seconds.
_DEADLINE_S: Final = 1.0


class FleetActionRefused(Exception):
    """The action was not begun; the text says why."""


@attrs.frozen(eq=False)
class FleetAction:
    """One action under way."""

    uuid: str
    hostname: str
    name: ActionName
    who: str
    lines: ProgressLines = attrs.field(factory=ProgressLines)


class AgentActions:
    """The actions under way.

    Args:
        nursery: watches them. When it ends, the hosts go on with what they have begun.
        fleet: knows which host an instance is on, and its link.
        store: keeps what became of them.
        history: what is kept in the history is published there.
        new_command_id: makes ids that are unique for ever.
        wall_clock: the store's.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        fleet: Fleet,
        store: Store,
        history: Broadcast[HistoryEntry],
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.under_way: dict[str, FleetAction] = {}
        self._nursery = nursery
        self._fleet = fleet
        self._store = store
        self._history = history
        self._new_command_id = new_command_id
        self._wall_clock = wall_clock

    async def begin(
        self, uuid: str, name: ActionName, command: tuple[str, ...], *, force: bool, who: str
    ) -> FleetAction:
        """Has the instance's host begin an action.

        That it was asked is in the history before the host hears of it, and in the end what became
        of it. A failing store does not hold it up: an operator may need it most then.

        Args:
            uuid: the instance.
            name: the action.
            command: what performs it, run by the host; empty for the host's own.
            force: skip the vote.
            who: who asks.

        Returns:
            the action, once the host reports its progress; or when nobody knows whether it has
            begun, which its lines then say.

        Raises:
            Unknown: no such instance.
            FleetActionRefused: by the agent or the host: it was not begun.

        Cancelled, it may have begun; then nobody watches it.
        """
        instance = self._fleet.instance(uuid)
        action = FleetAction(uuid, instance.hostname, name, who)
        session = self._fleet.sessions.get(instance.hostname)
        if session is None:
            await self._refuse(action, f"{instance.hostname} has no link to this agent")
        elif len(self.under_way) >= _ACTIONS:
            await self._refuse(action, f"{_ACTIONS} actions are under way in this fleet")
        else:
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
        self.under_way[message.command_id] = action
        refusal = outcome = ""
        lost = "the agent ended"
        begun = False
        try:
            await self._record(action, _asked(message))
            async with aclosing(session.act(message)) as lines:
                async for text in lines:
                    line = _line(text)
                    if not begun:
                        begun = True
                        task_status.started()
                    action.lines.add(line)
                    if line.step == "end":
                        words = (line.outcome, line.reason)
                        outcome = ": ".join(str(word) for word in words if word)
            lost = "the host ended it without an outcome"
        except NotDone as fault:
            refusal = str(fault)
        except (HostUnreachable, LinkError) as fault:
            lost = str(fault)
        finally:
            del self.under_way[message.command_id]
            if not (outcome or refusal):
                action.lines.add(ProgressLine(step="lost", reason=lost))
            action.lines.close()
        if refusal:
            await self._refuse(action, refusal)
        if not begun:
            task_status.started()
        await self._record(action, outcome or f"the outcome is unknown: {lost}")

    async def _refuse(self, action: FleetAction, why: str) -> NoReturn:
        await self._record(action, f"refused: {why}")
        raise FleetActionRefused(why)

    async def _record(self, action: FleetAction, what: str) -> None:
        entry = HistoryEntry(
            time=self._wall_clock(),
            kind="action",
            uuid=action.uuid,
            hostname=action.hostname,
            reason=f"{action.name}: {what}",
            who=action.who,
        )
        _log.info("%s: action %s by %s", entry.uuid, entry.reason, entry.who)
        self._history.publish(entry)
        try:
            await self._store.record(entry)
        except StoreFault as fault:
            _log.error("store: %s: not kept: %s %s", fault, action.uuid, entry.reason)


def _asked(message: ActCommand) -> str:
    """What was asked for; of a command only the program, as its arguments may be secret."""
    forced = ", without its vote" if message.force else ""
    program = f", with {printable(message.command[0])[:_PROGRAM]}" if message.command else ""
    return f"asked{forced}{program}"


def _line(text: str) -> ProgressLine:
    """A line of progress that a host sent.

    Raises:
        LinkError: it is none.
    """
    try:
        return parse(text.encode(), ProgressLine)
    except ReplyFault as fault:
        raise LinkError(f"the host's line of progress is not understood: {fault}") from fault
