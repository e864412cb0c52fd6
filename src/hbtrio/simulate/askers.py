"""Knows who has asked for a vote or notice: the VIM, or an operator beside it.

Both may ask an instance about the same event, one after the other. Whose vote it is that reaches a
guest is known by what its host has written last, and how it ended by the name and the time that
the host gives it: the agent's history names nobody for the votes of a host's own actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from hbtrio.simulate.requests import OperatorRequests, Requests
from hbtrio.wire.link_messages import VIM


@attrs.frozen
class Said:
    """What a daemon says of the end of a vote or notice.

    Args:
        uuid: the instance.
        event: what it was about.
        is_vote: a notice, if not.
        time_s: when it ended, in seconds since the epoch, by the clock of who says so.
        who: who asked for it, in the daemon's words; "" if it names nobody.
    """

    uuid: str
    event: str
    is_vote: bool
    time_s: float
    who: str = attrs.field(default="", eq=False)


class Askers:
    """All who ask in a fleet.

    Args:
        operators: what operators have asked for.
        vim: what the VIM has asked for; None: there is none.
    """

    def __init__(self, operators: OperatorRequests, vim: Requests | None = None) -> None:
        self._operators = operators
        self._vim = vim
        #: The last votes and notices that hosts have written for an operator, and not for the VIM.
        self._by_operator: set[tuple[str, str, bool]] = set()
        #: The operators' requests by what their hosts have said of their ends.
        self._concluded: dict[Said, str] = {}

    def written(self, uuid: str, event: str, is_vote: bool, commanded: bool) -> None:  # noqa: FBT001
        """Takes that a host asks or tells an instance; ``commanded``: for the VIM."""
        if commanded:
            self._by_operator.discard((uuid, event, is_vote))
        else:
            self._by_operator.add((uuid, event, is_vote))
            self._operators.written(uuid, event, is_vote)

    def request_of(self, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
        """Returns the request that reached an instance last; "" if there was none."""
        return self._asker(uuid, event, is_vote).request_of(uuid, event, is_vote)

    def vote_of_vim(self, uuid: str, event: str) -> str:
        """Returns the last vote of the VIM on an event of an instance; "" if there was none."""
        return "" if self._vim is None else self._vim.request_of(uuid, event, is_vote=True)

    def action_of(self, uuid: str, event: str) -> str:
        """Returns the action of the notice that reached an instance last; "" if there is none."""
        return self._asker(uuid, event, False).action_of(uuid)

    def next_end(self, after_s: float, concerns: Callable[[str], bool] = lambda _: True) -> float:
        """Returns when the next open vote ends; see :meth:`.Requests.next_end`."""
        of_vim = math.inf if self._vim is None else self._vim.next_end(after_s, concerns)
        return min(of_vim, self._operators.next_end(after_s, concerns))

    def reported(self, said: Said) -> str:
        """Returns the request of which a host says how it ended; "" if there was none."""
        if self._vim is not None and said.who.startswith(VIM):
            return self._vim.request_of(said.uuid, said.event, said.is_vote)
        request = self._operators.request_of(said.uuid, said.event, said.is_vote)
        self._concluded[said] = request
        return request

    def recorded(self, said: Said) -> str:
        """Returns the request of which a history says how it ended; "" if it is not known."""
        if self._vim is None:
            return self._operators.request_of(said.uuid, said.event, said.is_vote)
        if said.who == VIM:
            return self._vim.request_of(said.uuid, said.event, said.is_vote)
        return self._concluded.get(said, "")

    def _asker(self, uuid: str, event: str, is_vote: bool) -> Requests:  # noqa: FBT001
        if self._vim is None or (uuid, event, is_vote) in self._by_operator:
            return self._operators
        return self._vim
