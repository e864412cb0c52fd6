"""Carries out the agent's commands on a host: votes, notices and actions, each with a reply.

A command carries the moment until which it may begin (:mod:`hbtrio.policy.begin_by`). It is checked
directly before the command begins, after every wait: when it is read, when the round that it waited
for has ended, and when the action's task takes its first step.

Whoever holds an operator's token of the agent can act on every host. So what a host runs for an
action is its own decision: the command that ``[actions]`` of its host.toml names, unless
``[agent] commands = "any"`` permits others.
"""

from __future__ import annotations

import json
import logging
from contextlib import aclosing, suppress
from typing import Any, Final

import attrs
import trio

from hbtrio.config.host import GivenCommand
from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.agent_feed import AgentFeed
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.memory import NotKept
from hbtrio.nursery.host.outside_rounds import InstanceOwned
from hbtrio.nursery.host.past_actions import Unbegun, last_line, until_recalled
from hbtrio.nursery.host.plans import overridden_words
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.round import NotHeartbeating, RoundOpen
from hbtrio.policy.begin_by import BeginBy, Expired, ProcessClock
from hbtrio.wire.link_call_off import CallOff
from hbtrio.wire.link_follow import Follow
from hbtrio.wire.link_messages import (
    MAX_TEXT,
    VIM,
    ActCommand,
    ActionProgress,
    FromAgent,
    Reply,
    RoundCommand,
)
from hbtrio.wire.operator import ProgressLine, encode
from hbtrio.wire.vocabulary import ActionName, NotificationType

_log = logging.getLogger("hbtrio.link")

#: Commands of the agent in progress at once, by their kind: actions take long, and must not keep
#: votes and notices out.
_COMMANDS: Final = {RoundCommand: 2048, ActCommand: 512, Follow: 512}

#: Bytes of a progress line as ASCII JSON: it has to fit into one message with all quotes and
#: backslashes escaped once more.
_PROGRESS_BYTES: Final = 8000


@attrs.define(eq=False)
class _Following:
    """An action whose progress is sent, and what ends that."""

    action: ActionRun
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)


class AgentCommands:
    """Carries out commands, a bounded number at a time.

    Args:
        host: carries out the commands.
        feed: sends instance states to the agent.
        clock: this process's clock, by which commands expire.
    """

    def __init__(self, host: Host, feed: AgentFeed, clock: ProcessClock) -> None:
        self._host = host
        self._clock = clock
        self._feed = feed
        self._in_progress: dict[type, int] = dict.fromkeys(_COMMANDS, 0)
        #: The actions that this session follows, by their commands.
        self._following: dict[str, _Following] = {}

    async def carry_out(
        self, session: LinkSession[FromAgent], command: RoundCommand | ActCommand | Follow
    ) -> None:
        """Carries out a command and replies; returns early if the session ends.

        Cancelled, it only stops replying: a round or an action that was started goes on, and the
        feed sends the report of its outcome.
        """
        kind = type(command)
        self._in_progress[kind] += 1
        try:
            with suppress(SessionEnded):
                if self._in_progress[kind] > (most := _COMMANDS[kind]):
                    text = f"too many commands in progress, the limit is {most}"
                    await session.send(_refusal(command, text))
                elif isinstance(command, RoundCommand):
                    await self._round(session, command)
                elif isinstance(command, Follow):
                    await self._tell(session, command)
                else:
                    await self._act(session, command)
        finally:
            self._in_progress[kind] -= 1

    async def _round(self, session: LinkSession[FromAgent], command: RoundCommand) -> None:
        kind = NotificationType.REVOCABLE if command.vote else NotificationType.IRREVOCABLE
        try:
            opened = await self._host.rounds.open_soon(
                command.uuid,
                command.event,
                kind,
                command_id=command.command_id,
                patience_s=command.deadline_s,
                begin_by=self._begin_by(command),
                who=_who(command),
                by_vim=command.who in ("", VIM),  # an agent that is too old to say has one
            )
        except Expired as error:
            await session.send(_expired(command, error))
        except InstanceOwned as error:
            await session.send(attrs.evolve(_refusal(command, str(error)), owned=True))
        except (UnknownInstance, NotHeartbeating, RoundOpen) as error:
            # The state first: without it the agent would take the refusal for a fault of the host.
            await self._feed.send_if_changed(session, command.uuid)
            await session.send(_refusal(command, str(error)))
        else:
            seconds = round(opened.window.seconds)
            await session.send(Reply(command.command_id, ok=True, seconds=seconds))

    async def _act(self, session: LinkSession[FromAgent], command: ActCommand) -> None:
        who = _who(command)
        try:
            name = self._permitted(command)
            action = self._host.begin_action(
                command.uuid,
                name,
                command.command,
                force=command.force,
                take_over=command.take_over,
                ignore_group=command.ignore_group,
                ignore_hold=command.ignore_hold,
                begin_by=self._begin_by(command),
                who=who,
                overridden=_overridden(command),
            )
        except Expired as error:
            await session.send(_expired(command, error))
            return
        except (UnknownInstance, ActionRefused, ValueError) as error:
            text = "%s: action %s for %s refused: %s"
            _log.warning(text, command.uuid, command.action, who, error)
            await session.send(_refusal(command, str(error)))
            return
        # The agent has asked its own groups, or was told to ignore them.
        self._host.groups.of_agent.settle(action.uuid)
        self._host.drains.plans.of_agent(action, command.planned_at)
        _log.info("%s: action %s for %s", command.uuid, command.action, who)
        await self._follow(session, command.command_id, action)

    async def _follow(
        self, session: LinkSession[FromAgent], command_id: str, action: ActionRun
    ) -> None:
        if (before := self._following.get(command_id)) is not None:
            # The agent did not wait for that reply, and asks again: each line is sent once.
            before.scope.cancel()
        following = self._following[command_id] = _Following(action)
        try:
            with following.scope:
                await session.send(Reply(command_id, ok=True))
                async with aclosing(action.progress()) as lines:
                    async for line in lines:
                        if line is not None:
                            text = _fitting(line)
                            await session.send(ActionProgress(command_id, text, last=False))
                await session.send(ActionProgress(command_id, "{}", last=True))
        finally:
            if self._following[command_id] is following:
                del self._following[command_id]

    async def _tell(self, session: LinkSession[FromAgent], command: Follow) -> None:
        """Tells what became of an action that was asked for in an earlier session."""
        host, who, id_ = self._host, _who(command), command.command_id
        with trio.move_on_after(command.deadline_s) as reading:
            await until_recalled(host.memory, host.remembering)
        if reading.cancelled_caught:
            return
        action = host.actions.get(command.uuid)
        if action is not None and (action.name, action.who) == (command.action, who):
            await self._follow(session, id_, action)
            return
        try:
            line = await last_line(host.memory, command.uuid, command.action, who)
        except Unbegun as error:
            await session.send(attrs.evolve(_refusal(command, str(error)), unbegun=True))
        except NotKept as error:
            await session.send(_refusal(command, str(error)))
        else:
            await session.send(Reply(id_, ok=True))
            await session.send(ActionProgress(id_, _fitting(line), last=False))
            await session.send(ActionProgress(id_, "{}", last=True))

    def call_off(self, message: CallOff) -> None:
        """Ends an action of this session if its command has not begun; see :class:`CallOff`."""
        if (following := self._following.get(message.command_id)) is not None:
            action = following.action
            _log.info("%s: action %s: %s", action.uuid, action.name, message.reason)
            action.call_off(message.reason)

    def _permitted(self, command: ActCommand) -> ActionName:
        """Checks a command; a fault is recorded, as the host records what it refuses itself.

        Raises:
            ActionRefused, ValueError: as :meth:`_check_permitted`; or there is no such action.
        """
        try:
            name = ActionName(command.action)
            self._check_permitted(name, command.command)
        except (ActionRefused, ValueError) as error:
            refused = self._host.remembering.action_refused
            refused(command.uuid, command.action, _who(command), str(error))
            raise
        return name

    def _check_permitted(self, name: ActionName, given: tuple[str, ...]) -> None:
        """Checks what the agent wants to have run.

        Raises:
            ActionRefused: the host runs only its own command for this action.
            ValueError: the command is faulty: an agent may send what its API would refuse.
        """
        own = self._host.config.actions.of(name)
        if self._host.config.agent.commands == "any":
            GivenCommand(given)
        elif given not in ((), own):
            raise ActionRefused(
                f"this host runs only its own command for {name}: give none; its host.toml has "
                'commands = "configured" in [agent]'
            )
        elif not own:
            raise ActionRefused(f"no command for {name}: set {name} in [actions] of its host.toml")

    def _begin_by(self, command: RoundCommand | ActCommand) -> BeginBy:
        return self._clock.begin_by(command.begin_by_s, command.boot_id)


def _who(command: RoundCommand | ActCommand | Follow) -> str:
    """Names who is behind a command, as far as the agent says."""
    if not isinstance(command, RoundCommand):
        return f"{command.who or 'an operator'} of the agent"
    return f"{command.who} of the agent" if command.who else "the agent"


def _overridden(command: ActCommand) -> str:
    reject = command.overrides
    return "" if reject is None else overridden_words(reject, is_planned=command.planned_at > 0)


def _expired(command: RoundCommand | ActCommand, error: Expired) -> Reply:
    if isinstance(command, RoundCommand):
        what = f"{'vote' if command.vote else 'notice'} on {command.event}"
    else:
        what = f"action {command.action}"
    _log.warning("%s: %s of the agent %s", command.uuid, what, error)
    return _refusal(command, str(error))


def _refusal(command: RoundCommand | ActCommand | Follow, reason: str) -> Reply:
    return Reply(command.command_id, ok=False, reason=reason[:MAX_TEXT])


def _fitting(line: ProgressLine) -> str:
    """Encodes a progress line as JSON, with its texts cut until it fits."""
    members: dict[str, Any] = json.loads(encode(line))
    text = json.dumps(members)
    for chars in (1000, 100, 10, 1):
        if len(text) <= _PROGRESS_BYTES:
            break
        text = json.dumps({name: _cut(value, chars) for name, value in members.items()})
    return text


def _cut(value: Any, chars: int) -> Any:
    match value:
        case str():
            return value if len(value) <= chars else value[:chars] + "..."
        case list():  # a command's arguments, 64 at most
            return [_cut(item, chars) for item in value]
    return value
