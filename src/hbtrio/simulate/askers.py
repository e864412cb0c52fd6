"""Knows who has asked for a vote or notice: the VIM, or an operator beside it.

All may ask an instance about the same event, one after the other: the VIM, an operator who acts,
and one who only wants to know, and each may ask again. A vote that the agent commands is known by
the command's id from then on, and what its host has written to the guest by the invocation's: what
is asked later is another one, however late the first one's line or its end is. The votes of actions
on a host have no command: whose it is that reaches a guest is known by what its host has written
last, and how it ended by what the host says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from hbtrio.simulate.begin_watch import Begun
from hbtrio.simulate.requests import OperatorRequests, Requests
from hbtrio.wire.link_messages import VIM

#: How the name of an operator begins, and how a host ends the names that its agent tells it.
_OPERATOR: Final = "operator"
_OF_AGENT: Final = " of the agent"


def asks_agent(who: str) -> bool:
    """Whether an agent's history names somebody so who has asked the agent itself."""
    return bool(who) and not who.endswith(_OF_AGENT)


@attrs.frozen
class Said:
    """What a daemon says of the end of a vote or notice.

    Args:
        uuid: the instance.
        event: what it was about.
        is_vote: a notice, if not.
        time_s: when it ended, in seconds since the epoch, by the clock of who says so.
        who: who asked for it, in the daemon's words; "" if it names nobody.
        command_id: of the agent's command to ask for it; "" if it is of an action, or of who asks
            its host.
    """

    uuid: str
    event: str
    is_vote: bool
    time_s: float
    who: str = attrs.field(default="", eq=False)
    command_id: str = attrs.field(default="", eq=False)


class Askers:
    """All who ask in a fleet.

    Args:
        operators: what operators have asked for who act.
        vim: what the VIM has asked for; None: there is none.
        questions: what operators have asked an agent to know more; None: nobody does.
    """

    def __init__(
        self,
        operators: OperatorRequests,
        vim: Requests | None = None,
        questions: Requests | None = None,
    ) -> None:
        self._operators = operators
        self._vim = vim
        self._questions = questions
        #: For whom hosts have written each vote and notice last; None: nobody waits for it.
        self._written: dict[tuple[str, str, bool], Requests | None] = {}
        #: The requests by the agent's commands to hosts to ask or tell instances.
        self._commands: dict[str, str] = {}
        #: The requests of votes by what hosts have written: instances, and invocation ids.
        self._invoked: dict[tuple[str, int], str] = {}
        #: The operators' requests by what their hosts have said of their ends.
        self._concluded: dict[Said, str] = {}

    def written(self, begun: Begun) -> None:
        """Takes that a host asks or tells an instance."""
        uuid, event, is_vote, who = begun.uuid, begun.event, begun.is_vote, begun.who
        if who is None:
            self._written[uuid, event, is_vote] = self._operators
            self._operators.written(uuid, event, is_vote)
        else:
            self._written[uuid, event, is_vote] = self._by_name(who)
        if is_vote and begun.command_id in self._commands:
            self._invoked[uuid, begun.invocation_id] = self._commands[begun.command_id]

    def invoked(self, uuid: str, event: str, invocation_id: int) -> str:
        """Returns the request of a vote that reaches an instance; "" if there was none."""
        found = self._invoked.get((uuid, invocation_id))
        return self.request_of(uuid, event, True) if found is None else found

    def request_of(self, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
        """Returns the request that reached an instance last; "" if there was none."""
        return _last(self._asker(uuid, event, is_vote), uuid, event, is_vote)

    def commanded(
        self,
        uuid: str,
        event: str,
        is_vote: bool,  # noqa: FBT001
        who: str,
        command_id: str,
    ) -> str:
        """Returns the request for which the agent commands a host; "" if nobody waits for it.

        It is the last that was asked for when the command is seen first.
        """
        last = _last(self._by_name(who), uuid, event, is_vote)
        return self._commands.setdefault(command_id, last)

    def action_of(self, uuid: str, event: str) -> str:
        """Returns the action of the notice that reached an instance last; "" if there is none."""
        asker = self._asker(uuid, event, False)
        return "" if asker is None else asker.action_of(uuid)

    def next_end(self, after_s: float, concerns: Callable[[str], bool] = lambda _: True) -> float:
        """Returns when the next open vote ends; see :meth:`.Requests.next_end`."""
        asked = (self._operators, self._vim, self._questions)
        return min(one.next_end(after_s, concerns) for one in asked if one is not None)

    def reported(self, said: Said) -> str:
        """Returns the request of which a host says how it ended; "" if there was none."""
        if said.command_id in self._commands:
            return self._commands[said.command_id]
        if self._vim is not None and said.who.startswith(VIM):
            return self._vim.request_of(said.uuid, said.event, said.is_vote)
        if said.command_id:
            return _last(self._questions, said.uuid, said.event, said.is_vote)
        request = self._operators.request_of(said.uuid, said.event, said.is_vote)
        self._concluded[said] = request
        return request

    def recorded(self, said: Said) -> str:
        """Returns the request of which a history says how it ended; "" if it is not known."""
        if said.command_id in self._commands:
            return self._commands[said.command_id]
        if self._vim is None:
            return self._operators.request_of(said.uuid, said.event, said.is_vote)
        if asks_agent(said.who):
            return _last(self._by_name(said.who), said.uuid, said.event, said.is_vote)
        return self._concluded.get(said, "")

    def _asker(self, uuid: str, event: str, is_vote: bool) -> Requests | None:  # noqa: FBT001
        if self._vim is None:
            return self._operators
        return self._written.get((uuid, event, is_vote), self._vim)

    def _by_name(self, who: str) -> Requests | None:
        """Whose requests the agent names so; None of a drain, for whose answers nobody waits."""
        if who == VIM:
            return self._vim
        return self._questions if who.startswith(_OPERATOR) else None


def _last(asker: Requests | None, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
    return "" if asker is None else asker.request_of(uuid, event, is_vote)
