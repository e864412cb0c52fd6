"""Who acts on an instance, and when: never on a frozen one, one at a time, and not once only."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar, Final

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import ANNOUNCED, AWAY, HELD, HOST_AWAY, LOG
from hbtrio.simulate.invariants.losses import FROZEN, acted_due_s
from hbtrio.simulate.observations import (
    AGENT,
    REJECT,
    VIM,
    ActionBegan,
    Asked,
    Began,
    CommandBegan,
    CommandEnded,
    Condition,
    Decided,
    Observation,
    Owner,
    Placed,
    Purpose,
    Reported,
    Verdict,
)
from hbtrio.simulate.truth import Action

#: For how long libvirt's last answer may be true no more when a command begins, in seconds.
ASKED_S: Final = 2.0

#: The longest window of a vote, in seconds.
_LONGEST_VOTE_S: Final = 15.0

#: After how long without the next step an action of the VIM lapses, in seconds.
NEXT_STEP_S: Final = 60.0

_JUST_BEGAN: Final = Excuse(
    "just-began", "it has been so for no longer than libvirt's answer may take"
)
_NO_LIBVIRT: Final = Excuse("no-libvirt", "the host has no libvirt to ask")


class FrozenNotActed(Invariant):
    """No VM that is paused, migrating or being saved is acted upon."""

    name = "frozen-not-acted"
    excuses = (LOG, _JUST_BEGAN, _NO_LIBVIRT)

    def see(self, observation: Observation) -> None:
        """Judges corrective commands."""
        match observation:
            case CommandBegan(purpose=Purpose.CORRECTIVE, instance=instance, name=name):
                began_s = self.truth.began_s(instance, *FROZEN)
                if began_s is not None:
                    self.judge(
                        f"{name} of {instance}, which is frozen since {began_s:.3f} s",
                        (LOG, name == "log"),
                        (_JUST_BEGAN, self.truth.now_s - began_s <= ASKED_S + self.bounds.late_s),
                        (_NO_LIBVIRT, not self.bounds.libvirt),
                    )


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


class OneOwner(Invariant):
    """An instance has one owner at a time: the VIM, an operator or one command."""

    name = "one-owner"
    excuses = (LOG, _LAPSED, _NOTICE, _TAKEN, _UNHEARD, _OVERTOOK, _MOVED)

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
            case ActionBegan(action=action, instance=instance):
                self._hosts[action] = self._host_of(observation)
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


#: Outcomes of commands that have not helped.
FAILED: Final = frozenset({"failed", "not-started", "timed-out", "killed"})

#: Those of commands that can't have done anything, if libvirt knows of nothing.
IN_VAIN: Final = frozenset({"failed", "not-started"})

#: Within how long such a command is tried again, in seconds: the longest wait, and a look.
SOON_S: Final = 75.0

_GONE: Final = Excuse("gone", "its QEMU has ended")
_LEFT: Final = Excuse("left", "its guest daemon had ended in order, and its host says so")


class Followed(Invariant):
    """Something after which an instance is acted upon, or its host says why it is not."""

    excuses: ClassVar[tuple[Excuse, ...]] = (_GONE, _LEFT, ANNOUNCED, HOST_AWAY, HELD)

    def prepare(self) -> None:
        """Creates what is remembered."""
        #: Since when something has to follow, by instance.
        self._since_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Follows each instance to the next command or a reason."""
        match observation:
            case CommandBegan(purpose=Purpose.CORRECTIVE, instance=instance, name=name):
                if name != "log":
                    self._since_s.pop(instance, None)
            case Reported(kind="heartbeating" | "not-acted" | "paused", instance=instance):
                self._since_s.pop(instance, None)
            case Reported(kind="absent", instance=instance) if self._has_left(instance):
                if self._since_s.pop(instance, None) is not None:
                    self.excuse(_LEFT)
            case Began(condition=Condition.VM_GONE, who=instance):
                if self._since_s.pop(instance, None) is not None:
                    self.excuse(_GONE)

    def _has_left(self, instance: str) -> bool:
        """Whether its guest daemon does not run; one that says so as it ends has left in order."""
        return self.truth.holds(instance, Condition.GUEST_DOWN)

    def _expect(self, instance: str, what: str) -> None:
        """Has something follow from now on; ``what`` has happened."""
        since_s = self._since_s[instance] = self.truth.now_s
        self._check_at(since_s + self.bounds.retry_s, instance, what, since_s)

    def _check_at(self, due_s: float, instance: str, what: str, since_s: float) -> None:
        self.agenda.add(due_s, partial(self._check, instance, what, since_s))

    def _check(self, instance: str, what: str, since_s: float) -> None:
        truth = self.truth
        if self._since_s.get(instance) != since_s:
            return
        host = truth.host_of.get(instance, "")
        due_s = since_s + self.bounds.retry_s + truth.lasted_s(since_s, host, *AWAY)
        if truth.now_s < due_s or truth.holds(host, *AWAY):
            self.excuse(HOST_AWAY)
            self._check_at(max(due_s, truth.now_s + 1.0), instance, what, since_s)
        elif (held_s := truth.held_until_s.get(instance, 0.0) + self.bounds.retry_s) > truth.now_s:
            self.excuse(HELD)
            self._check_at(held_s, instance, what, since_s)
        elif (acted_s := acted_due_s(truth, self.bounds, instance)) > truth.now_s:
            self.excuse(ANNOUNCED)
            self._check_at(acted_s, instance, what, since_s)
        else:
            self.judge(
                f"{what} at {since_s:.3f} s, and nothing followed",
                (ANNOUNCED, bool(truth.actions(instance))),
            )


class CommandRetried(Followed):
    """A corrective command that failed is retried, or given up with a reason."""

    name = "command-retried"

    def prepare(self) -> None:
        """Creates what is remembered."""
        super().prepare()
        self._running: dict[str, CommandBegan] = {}
        #: Of those whose command could not do anything, when it failed; an action changes that.
        self._in_vain_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Looks for commands that have failed."""
        super().see(observation)
        match observation:
            case CommandBegan(purpose=Purpose.CORRECTIVE, name=name) if name != "log":
                self._running[observation.command] = observation
            case CommandEnded(command=command, outcome=outcome):
                began = self._running.pop(command, None)
                if began is not None and outcome in FAILED and not self._is_back(began):
                    what = f"{began.name} of {began.instance} failed"
                    self._expect(began.instance, what)
                    if outcome in IN_VAIN:
                        self._expect_soon(began.instance, what)
            case ActionBegan(instance=instance):
                self._in_vain_s.pop(instance, None)

    def _is_back(self, began: CommandBegan) -> bool:
        """Whether the instance heartbeats again since a command on it has begun."""
        heard_s = self.truth.heard_s.get(began.instance, -math.inf)
        return heard_s > began.at_s and self.truth.heartbeats(began.instance)

    def _expect_soon(self, instance: str, what: str) -> None:
        since_s = self._in_vain_s[instance] = self.truth.now_s
        self.agenda.add(since_s + SOON_S, partial(self._check_soon, instance, what, since_s))

    def _check_soon(self, instance: str, what: str, since_s: float) -> None:
        """Judges what a host that was there all the time, as its libvirt, has not tried again."""
        truth, host = self.truth, self.truth.host_of.get(instance, "")
        if (
            self._since_s.get(instance) == self._in_vain_s.get(instance) == since_s
            and not truth.held_since(since_s - SOON_S, host, *AWAY, Condition.LIBVIRT_SILENT)
            and not truth.actions(instance)
            and truth.held_until_s.get(instance, 0.0) < since_s
        ):
            del self._since_s[instance]
            self.judge(f"{what} at {since_s:.3f} s, and was not tried again soon")


class LostCorrected(Followed):
    """A VM that is lost is corrected by a host that may, or the host says why it is not."""

    name = "lost-corrected"

    def see(self, observation: Observation) -> None:
        """Looks for losses."""
        super().see(observation)
        match observation:
            case Reported(kind="loss", instance=instance) if self.bounds.corrects:
                self._expect(instance, f"{instance} was lost")
            case Reported(kind="stopped", instance=instance):
                self._since_s.pop(instance, None)
