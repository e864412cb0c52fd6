"""Follows an action to its end at its host, also over losses of the link, if that is wanted.

A host goes on with an action whose session has ended, and resumes it after its own restart. So
whoever needs the outcome asks the host again once it has a link, until it has told. It may answer
that the action was never begun: the command was lost on its way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import attrs
import trio

from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostUnreachable, NotDone
from hbtrio.nursery.agent.kept_drains import KeptDrains
from hbtrio.nursery.progress_lines import ProgressLines
from hbtrio.store.records import HistoryEntry
from hbtrio.text import printable
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_follow import Follow
from hbtrio.wire.link_messages import MAX_NAME, ActCommand
from hbtrio.wire.operator import ProgressLine, ReplyFault, parse
from hbtrio.wire.vocabulary import ActionName

#: How long a host may have no link, or not answer, before the outcome counts as unknown, in
#: seconds.
ASK_S: Final = 600.0

#: Characters of a program's name in the history.
_PROGRAM: Final = 100

#: Seconds between two questions.
_AGAIN_S: Final = 1.0

#: How long the host may read its store before it answers, in seconds.
_READS_S: Final = 5.0


@attrs.define(eq=False)
class FleetAction:
    """An action in progress.

    Args:
        uuid: the instance.
        hostname: its host.
        name: the action.
        who: the operator.
        kept: stores the drain that it is part of; then the host is asked again if its link is lost.
        refused: why the same request was refused before, which the history has; "" if it was not.
        is_unbegun: whether it has ended since the host never began it.
        outcome: the history's entry of its end, if that is left to its requester; None before that.
        lines: its progress lines.
    """

    uuid: str
    hostname: str
    name: ActionName
    who: str
    kept: KeptDrains | None = None
    refused: str = ""
    is_unbegun: bool = False
    outcome: HistoryEntry | None = None
    lines: ProgressLines = attrs.field(factory=ProgressLines)


async def take_lines(
    action: FleetAction, lines: AsyncGenerator[str], begun: Callable[[], None]
) -> str:
    """Adds the lines of a host to an action, and returns its outcome with the reason.

    Args:
        action: the action.
        lines: of its host; closed at the end.
        begun: called with the first one.

    Raises:
        NotDone, HostUnreachable, LinkError: as ``lines`` does; the last one, too, for a line that
            is invalid.
        HostUnreachable: there was no outcome.
    """
    outcome, lost = "", "the host ended it without an outcome"
    try:
        async with aclosing(lines):
            async for text in lines:
                line = _line(text)
                begun()
                action.lines.add(line)
                if line.step == "end":
                    outcome = ": ".join(str(word) for word in (line.outcome, line.reason) if word)
    except HostUnreachable as fault:
        lost = str(fault)
    if not outcome:
        raise HostUnreachable(lost)
    return outcome


async def ask_again(fleet: Fleet, action: FleetAction, command_id: str, lost: str) -> str:
    """Asks an action's host what became of it, and follows it from there to its end.

    Args:
        fleet: has the link of the host.
        action: the action; only its lines from here on count.
        command_id: the id of the question.
        lost: why it has to be asked.

    Returns:
        The outcome with its reason.

    Raises:
        Unbegun: it was never begun.
        NotDone: the host does not know, or is too old to tell.
        LinkError: the host has sent an invalid line.
        HostUnreachable: it has not answered for :data:`ASK_S`; the text is the last reason.
    """
    until = trio.current_time() + ASK_S
    while True:
        session = fleet.sessions.get(action.hostname)
        is_last = trio.current_time() >= until
        if session is not None:
            if not session.hello.follows:
                raise NotDone(f"{lost}; {action.hostname} runs an older version, which can't tell")
            who = action.who[:MAX_NAME]
            question = Follow(command_id, action.uuid, str(action.name), who, _READS_S)
            answered = trio.Event()
            try:
                return await take_lines(action, session.follow(question), answered.set)
            except HostUnreachable as fault:
                lost = str(fault)
            if answered.is_set():
                until, is_last = trio.current_time() + ASK_S, False
        if is_last:
            raise HostUnreachable(lost)
        await trio.sleep(_AGAIN_S)


def asked_words(message: ActCommand) -> str:
    """Describes the request; of a command, only the program, as its arguments may be secret."""
    forced = ", without its vote" if message.force else ""
    program = f", with {printable(message.command[0])[:_PROGRAM]}" if message.command else ""
    taken = ", taking over" if message.take_over else ""
    ignoring = ", whatever its groups say" if message.ignore_group else ""
    held = ", on hold or not" if message.ignore_hold else ""
    return f"asked{forced}{ignoring}{held}{taken}{program}"


def _line(text: str) -> ProgressLine:
    """Decodes a progress line from a host.

    Raises:
        LinkError: the line is invalid.
    """
    try:
        return parse(text.encode(), ProgressLine)
    except ReplyFault as fault:
        raise LinkError(f"invalid progress line from the host: {fault}") from fault
