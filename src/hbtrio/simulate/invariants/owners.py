"""Who owns an instance: one of the VIM, an operator and a command at a time."""

from __future__ import annotations

import math
from typing import Final

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import AWAY, LOG
from hbtrio.simulate.observations import (
    AGENT,
    REJECT,
    VIM,
    ActionBegan,
    Asked,
    CommandBegan,
    Condition,
    Decided,
    Observation,
    Owner,
    Placed,
    Purpose,
    Verdict,
)
from hbtrio.simulate.order_observations import DrainBegan
from hbtrio.simulate.truth import Action

#: The longest window of a vote, in seconds.
_LONGEST_VOTE_S: Final = 15.0

#: After how long without the next step an action of the VIM lapses, in seconds.
NEXT_STEP_S: Final = 60.0

_LAPSED: Final = Excuse(
    "lapsed", "nothing was heard of the VIM's action for so long that it lapsed"
)
_NOTICE: Final = Excuse("notice", "notices of the VIM are always delivered, and change no owner")
_TAKEN: Final = Excuse(
    "taken", "an operator takes the instance from the VIM: who asks now knows best"
)
_UNHEARD: Final = Excuse(
    "unheard",
    "the VIM could not hear of an operator's action: itself, the agent, the host or the link "
    "between them was away",
)
_MOVED: Final = Excuse(
    "moved", "the VM has moved away from the host on which an operator's action is in progress"
)
_OVERTOOK: Final = Excuse(
    "overtook",
    "the reject of the VIM's vote came just before the reply to its question, and the VIM took it "
    "for none",
)


_UNTOLD: Final = Excuse(
    "untold",
    "an agent still follows an action of its drain or plan, of whose end at the host it could not "
    "hear: one of them, or the link between them, was away",
)


class OneOwner(Invariant):
    """An instance has one owner at a time: the VIM, an operator or one command."""

    name = "one-owner"
    excuses = (LOG, _LAPSED, _NOTICE, _TAKEN, _UNHEARD, _OVERTOOK, _MOVED, _UNTOLD)

    def prepare(self) -> None:
        """Creates what is remembered."""
        #: The last vote of each action of the VIM.
        self._votes: dict[str, Asked] = {}
        #: When the reject of a vote has reached the VIM.
        self._rejected_s: dict[str, float] = {}
        #: When a vote was first decided in favour of its event.
        self._agreed_s: dict[str, float] = {}
        #: Where each instance is, and since when, with where it was before.
        self._here: dict[str, str] = {}
        self._came: dict[str, tuple[float, str]] = {}
        #: The host on which each instance was when an action on it began.
        self._hosts: dict[str, str] = {}
        #: The drains of the agent, and when each action was first heard of: again after a restart.
        self._of_agent: set[str] = set()
        self._first_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Judges what begins beside something that goes on."""
        match observation:
            case Asked(vote=True, owner=Owner.VIM, action=action):
                self._votes[action] = observation
            case Verdict(request=request, result=result) if result == REJECT:
                self._rejected_s.setdefault(request, observation.at_s)
            case Decided(request=request, result=result) if result != REJECT:
                self._agreed_s.setdefault(request, observation.at_s)
            case CommandBegan():
                self._command(observation)
            case Placed(instance=instance, host=host):
                self._came[instance] = observation.at_s, self._here.get(instance, "")
                self._here[instance] = host
            case DrainBegan(drain=drain, host=host) if host == AGENT:
                self._of_agent.add(drain)
            case ActionBegan(action=action, instance=instance):
                self._hosts[action] = observation.host or self._host_of(observation)
                self._first_s.setdefault(action, observation.at_s)
                for other in self.truth.actions(observation.instance):
                    if other.began is not observation:
                        self._action(observation, other)

    def _host_of(self, began: ActionBegan) -> str:
        """Where an action has begun: an operator hears of it after that, and by an agent later."""
        came_s, before = self._came.get(began.instance, (-math.inf, ""))
        is_before = began.owner is Owner.OPERATOR and began.at_s - came_s <= 2 * self.bounds.way_s
        return before if is_before else self._here.get(began.instance, "")

    def _command(self, command: CommandBegan) -> None:
        instance = command.instance
        what = f"{command.name} of {instance} {command.purpose.value}"
        for other in self.truth.commands[instance]:
            if other is not command:
                self.judge(
                    f"{what} beside {other.name}, which began at {other.at_s:.3f} s",
                    (LOG, "log" in (command.name, other.name)),
                    (_MOVED, other.purpose is Purpose.ACTION and other.host != command.host),
                )
        if command.purpose is Purpose.ACTION:
            return
        for action in self.truth.actions(instance):
            self.judge(
                f"{what} beside {_words(action)}",
                (LOG, command.name == "log"),
                (_LAPSED, self._lapsed(action)),
            )

    def _action(self, began: ActionBegan, other: Action) -> None:
        by_vim = began.owner is Owner.VIM
        vote = self._votes.get(began.action)
        self.judge(
            f"an action of {began.owner.value} on {began.instance} beside {_words(other)}",
            (_TAKEN, self._takes(began, vote, other)),
            (_NOTICE, by_vim and not began.voted),
            (_LAPSED, self._lapsed(other)),
            (_UNHEARD, by_vim and began.voted and self._was_unheard(began, vote)),
            (_OVERTOOK, vote is not None and self._overtook(vote)),
            (_MOVED, self._hosts[other.began.action] != self._hosts[began.action]),
            (_UNTOLD, self._is_untold(other.began, began)),
        )

    def _is_untold(self, other: ActionBegan, began: ActionBegan) -> bool:
        """Whether an agent may go on with one of two actions although that is over at its host."""
        # The command of the action that begins now may have begun a moment before its first line.
        runs = any(
            one.purpose is Purpose.ACTION and one.at_s < began.at_s - self.bounds.way_s
            for one in self.truth.commands[other.instance]
        )
        is_heard_again = self._first_s[began.action] < began.at_s
        return (not runs and self._may_be_over(other)) or (
            is_heard_again and self._may_be_over(began)
        )

    def _may_be_over(self, action: ActionBegan) -> bool:
        """Whether an agent could not hear of the end of its drain's action since that began."""
        since_s, host = self._first_s[action.action], self._hosts[action.action]
        held_since = self.truth.held_since
        return action.action.partition(" ")[0] in self._of_agent and (
            held_since(since_s, AGENT, *AWAY, Condition.DISK_BAD)
            or held_since(since_s, host, *AWAY, Condition.LINK_DOWN)
        )

    def _takes(self, began: ActionBegan, vote: Asked | None, other: Action) -> bool:
        """Whether an operator's action begins after a vote of the VIM has agreed to its own."""
        if began.owner is Owner.OPERATOR:
            return other.began.owner is Owner.VIM
        agreed_s = math.inf if vote is None else self._agreed_s.get(vote.request, math.inf)
        return other.began.owner is Owner.OPERATOR and agreed_s <= other.began.at_s

    def _was_unheard(self, began: ActionBegan, vote: Asked | None) -> bool:
        """Whether whoever passes on the verdict of a vote was away since it was asked.

        Without a reply to its question it was asked within the longest vote before the action.
        """
        truth, host = self.truth, self.truth.host_of.get(began.instance, "")
        since_s = began.at_s - _LONGEST_VOTE_S if vote is None else vote.at_s
        return (
            truth.held_since(since_s, VIM, Condition.VIM_AWAY)
            or truth.held_since(since_s, AGENT, *AWAY, Condition.DISK_BAD)
            or truth.held_since(since_s, host, *AWAY, Condition.LINK_DOWN)
        )

    def _overtook(self, vote: Asked) -> bool:
        return self._rejected_s.get(vote.request, math.inf) <= vote.at_s

    def _lapsed(self, action: Action) -> bool:
        return (
            action.began.owner is Owner.VIM
            and self.truth.now_s - action.step_s >= NEXT_STEP_S - self.bounds.late_s
        )


def _words(action: Action) -> str:
    return f"an action of {action.began.owner.value}, which began at {action.began.at_s:.3f} s"
