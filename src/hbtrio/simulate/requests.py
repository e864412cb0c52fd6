"""Knows which votes and notices somebody has asked for, and observes them and their verdicts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from hbtrio.policy.allowances import HOST_ALLOWS_S, answer_within_s
from hbtrio.simulate.observations import Asked, Observation, Owner, Verdict


class Requests:
    """The votes and notices of one requester: the VIM, or the operators.

    Args:
        prefix: begins their names.
        owner: who asks.
        names: the instances' names by uuid.
        now: the time of the run, in seconds.
        observe: called with what is observed.
    """

    #: How much longer than a requester is told a VIM would wait, and a late daemon takes.
    vim_waits_s = late_s = 0.0

    def __init__(
        self,
        prefix: str,
        owner: Owner,
        names: Mapping[str, str],
        now: Callable[[], float],
        observe: Callable[[Observation], None],
    ) -> None:
        self._prefix = prefix
        self._owner = owner
        self._names = names
        self._now = now
        self._observe = observe
        self._numbers = 0
        #: The votes or notices on each event of each instance, and when they were named.
        self._named: defaultdict[tuple[str, str, bool], list[tuple[float, str]]] = defaultdict(list)
        #: The action that an instance's next request belongs to.
        self._actions: dict[str, str] = {}
        #: Of each open one the instance, when it ends for a VIM, and whether it is a vote.
        self._ends: dict[str, tuple[str, float, bool]] = {}

    def request_of(self, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
        """Returns the last request about an event of an instance; "" if there was none."""
        return self.request_at(uuid, event, is_vote, math.inf)

    def request_at(self, uuid: str, event: str, is_vote: bool, at_s: float) -> str:  # noqa: FBT001
        """Returns the last of these requests that was named until then; "" if there was none."""
        named = self._named.get((uuid, event, is_vote), ())
        return next((request for named_s, request in reversed(named) if named_s <= at_s), "")

    def action_of(self, uuid: str) -> str:
        """Returns the last action on an instance; "" if there was none."""
        return self._actions.get(uuid, "")

    def next_end(self, after_s: float, concerns: Callable[[str], bool] = lambda _: True) -> float:
        """Returns when the next open vote ends for a VIM; infinite if none is open.

        Args:
            after_s: only later ones.
            concerns: says by their uuids about which instances; about all by default.
        """
        votes = [end for uuid, end, is_vote in self._ends.values() if is_vote and concerns(uuid)]
        return min((end for end in votes if end > after_s), default=math.inf)

    def begin_action(self, uuid: str, action: str) -> None:
        """What is asked for from now on belongs to this action."""
        self._actions[uuid] = action

    def name(self, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
        """Names a vote or notice that is about to be asked for, and returns its name."""
        self._numbers += 1
        request = f"{self._prefix}-{self._numbers}"
        self._named[uuid, event, is_vote].append((self._now(), request))
        return request

    def accepted(self, request: str, uuid: str, event: str, *, vote: bool, seconds: float) -> None:
        """Observes that a vote or notice was accepted, whose requester waits for some seconds."""
        now = self._now()
        end_s = now + seconds
        self._ends[request] = uuid, end_s + self.vim_waits_s, vote
        name, action = self._names[uuid], self.action_of(uuid)
        by_s = end_s + self.late_s
        self._observe(Asked(now, request, name, event, action, vote, by_s, self._owner))

    def is_open(self, request: str) -> bool:
        """Whether a request has no verdict yet."""
        return request in self._ends

    def answered(self, request: str, result: str) -> None:
        """Observes that a verdict has reached its requester."""
        self._ends.pop(request, None)
        self._observe(Verdict(self._now(), request, result))


class Questions(Requests):
    """The votes that operators ask an agent for to know more, by what is answered.

    Each has its name before it is sent: its outcome may be stored before the first line is here.
    """

    #: The agent agrees for a silent guest as it does for a VIM.
    vim_waits_s = late_s = answer_within_s(0.0, for_vim=False)

    def name_of(self, uuid: str) -> str:
        """Returns the name of an instance."""
        return self._names[uuid]

    def asks(self, uuid: str, event: str) -> str:
        """Takes that an instance is about to be asked, and returns the question's name."""
        question = self.name(uuid, event, is_vote=True)
        self.begin_action(uuid, question)
        return question

    def heard(self, question: str, uuid: str, line: dict[str, Any]) -> None:
        """Takes in a line of the answer: that the vote is open, or its verdict."""
        if "seconds" in line:
            self.accepted(question, uuid, line["event"], vote=True, seconds=line["seconds"])
        elif "result" in line and self.is_open(question):
            self.answered(question, line["result"])


def drain_action(drain: str, instance: str) -> str:
    """Returns the action of a drain on an instance, by its name."""
    return f"{drain} {instance}"


class OperatorRequests(Requests):
    """The operators' requests, by what is answered to their actions.

    They are told the host's window, to which the VIM adds 3 s; a host that was late decides up to
    ``HOST_ALLOWS_S`` after it, and some reading (:mod:`hbtrio.policy.allowances`).

    The guest has a vote or notice before its line is here, and may have answered it. So it is named
    when its host writes it.
    """

    vim_waits_s = 3.0
    late_s = HOST_ALLOWS_S + 0.15

    def __init__(
        self,
        prefix: str,
        owner: Owner,
        names: Mapping[str, str],
        now: Callable[[], float],
        observe: Callable[[Observation], None],
    ) -> None:
        super().__init__(prefix, owner, names, now, observe)
        self._listened_to: set[str] = set()
        #: The drains that have an instance in turn, and whether they do more than ask it.
        self._turns: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        #: The last that was written, until its line is here; and those whose line was quicker.
        self._written: dict[tuple[str, str, bool], str] = {}
        self._quicker: set[tuple[str, str, bool]] = set()

    def begin_action(self, uuid: str, action: str) -> None:
        """See :class:`Requests`; somebody listens to the answer until :meth:`action_ended`."""
        super().begin_action(uuid, action)
        self._listened_to.add(uuid)
        self._written = {key: name for key, name in self._written.items() if key[0] != uuid}
        self._quicker = {key for key in self._quicker if key[0] != uuid}

    def action_ended(self, uuid: str) -> None:
        """Takes the end of the answer about an action."""
        self._listened_to.discard(uuid)

    def action_refused(self, uuid: str) -> None:
        """Takes that an action never began: what the instance is told later is of another."""
        self._actions.pop(uuid, None)

    def written(self, uuid: str, event: str, is_vote: bool) -> None:  # noqa: FBT001
        """Takes what a host asks of an instance, or tells it."""
        key = uuid, event, is_vote
        if key in self._quicker:
            self._quicker.discard(key)
        else:
            self._begin_unheard(uuid, is_vote)
            self._written[key] = self.name(uuid, event, is_vote)

    def _begin_unheard(self, uuid: str, is_vote: bool) -> None:  # noqa: FBT001
        """Takes what is asked while no operator listens to an answer about the instance.

        A vote begins an action. Whose that is, a plan's or a drain's, may be heard after its
        notice; it is not the action of which was heard last, whose vote may have been rejected.
        """
        if is_vote and uuid not in self._listened_to and not self._turns[uuid]:
            self._actions.pop(uuid, None)

    def drained(self, uuid: str, drain: str, *, has_turn: bool, acts: bool = False) -> None:
        """Takes that a drain asks an instance, tells it or acts on it, or does so no longer.

        What the instance is told is of the last that tells it or acts, or else of the last that
        asks, unless an operator acts on it: one that asks may have to wait for another one.

        Args:
            uuid: the instance.
            drain: the drain.
            has_turn: whether it does any of these.
            acts: whether it does more than ask.
        """
        turns = self._turns[uuid]
        before = _last_turn(turns)
        turns.pop(drain, None)
        if has_turn:
            turns[drain] = acts
        last = _last_turn(turns)
        if last and drain in (before, last) and uuid not in self._listened_to:
            super().begin_action(uuid, drain_action(last, self._names[uuid]))

    def heard(self, uuid: str, line: dict[str, Any]) -> None:
        """Takes in a line of the answer: a vote or notice, and its verdict, are observed."""
        step = line.get("step")
        if step not in ("vote", "notice") or "event" not in line:
            return
        event, is_vote = line["event"], step == "vote"
        if "seconds" in line and "window" in line:
            request = self._name_heard(uuid, event, is_vote)
            self.accepted(request, uuid, event, vote=is_vote, seconds=line["seconds"])
        elif "result" in line:
            request = self.request_of(uuid, event, is_vote)
            if self.is_open(request):
                self.answered(request, line["result"])

    def _name_heard(self, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
        """Returns the name of the vote or notice of a line."""
        key = uuid, event, is_vote
        if key in self._written:
            return self._written.pop(key)
        self._quicker.add(key)
        return self.name(uuid, event, is_vote)


def _last_turn(turns: dict[str, bool]) -> str:
    """The last drain that acts, or else the last that asks; "" if there is none."""
    return next((one for one in reversed(turns) if turns[one]), next(reversed(turns), ""))


class FleetOperatorRequests(OperatorRequests):
    """Those of operators who ask through an agent, which takes its time."""

    late_s = OperatorRequests.late_s + 0.1
