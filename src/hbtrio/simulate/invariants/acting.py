"""Who acts on an instance, and when: never on a frozen one, one at a time, and not once only."""

from __future__ import annotations

from functools import partial
from typing import Final

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import ANNOUNCED, AWAY, HOST_AWAY, LOG
from hbtrio.simulate.invariants.losses import FROZEN
from hbtrio.simulate.observations import (
    ActionBegan,
    Began,
    CommandBegan,
    CommandEnded,
    Condition,
    Observation,
    Owner,
    Purpose,
    Reported,
)
from hbtrio.simulate.truth import Action

#: For how long libvirt's last answer may be true no more when a command begins, in seconds.
ASKED_S: Final = 2.0

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


class OneOwner(Invariant):
    """An instance has one owner at a time: the VIM, an operator or one command."""

    name = "one-owner"
    excuses = (LOG, _LAPSED, _NOTICE, _TAKEN)

    def see(self, observation: Observation) -> None:
        """Judges what begins beside something that goes on."""
        match observation:
            case CommandBegan():
                self._command(observation)
            case ActionBegan():
                for other in self.truth.actions(observation.instance):
                    if other.began is not observation:
                        self._action(observation, other)

    def _command(self, command: CommandBegan) -> None:
        instance = command.instance
        what = f"{command.name} of {instance} {command.purpose.value}"
        for other in self.truth.commands[instance]:
            if other is not command:
                self.judge(
                    f"{what} beside {other.name}, which began at {other.at_s:.3f} s",
                    (LOG, "log" in (command.name, other.name)),
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
        by_vim = other.began.owner is Owner.VIM
        self.judge(
            f"an action of {began.owner.value} on {began.instance} beside {_words(other)}",
            (_TAKEN, began.owner is Owner.OPERATOR and by_vim),
            (_NOTICE, began.owner is Owner.VIM and not began.voted),
            (_LAPSED, self._lapsed(other)),
        )

    def _lapsed(self, action: Action) -> bool:
        return (
            action.began.owner is Owner.VIM
            and self.truth.now_s - action.step_s >= NEXT_STEP_S - self.bounds.late_s
        )


def _words(action: Action) -> str:
    return f"an action of {action.began.owner.value}, which began at {action.began.at_s:.3f} s"


#: Outcomes of commands that have not helped.
FAILED: Final = frozenset({"failed", "not-started", "timed-out", "killed"})

_GONE: Final = Excuse("gone", "its QEMU has ended")


class CommandRetried(Invariant):
    """A corrective command that failed is retried, or given up with a reason."""

    name = "command-retried"
    excuses = (_GONE, ANNOUNCED, HOST_AWAY)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._running: dict[str, CommandBegan] = {}
        #: When the last command for an instance failed.
        self._failed_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Follows each failed command to the next one or a reason."""
        match observation:
            case CommandBegan(purpose=Purpose.CORRECTIVE, instance=instance, name=name):
                if name != "log":
                    self._running[observation.command] = observation
                    self._failed_s.pop(instance, None)
            case CommandEnded(command=command, outcome=outcome):
                began = self._running.pop(command, None)
                if began is not None and outcome in FAILED:
                    self._failed_s[began.instance] = observation.at_s
                    due_s = observation.at_s + self.bounds.retry_s
                    self._check_at(due_s, began, observation.at_s)
            case Reported(kind="heartbeating" | "not-acted" | "paused", instance=instance):
                self._failed_s.pop(instance, None)
            case Began(condition=Condition.VM_GONE, who=instance):
                if self._failed_s.pop(instance, None) is not None:
                    self.excuse(_GONE)

    def _check_at(self, due_s: float, began: CommandBegan, failed_s: float) -> None:
        self.agenda.add(due_s, partial(self._check, began, failed_s))

    def _check(self, began: CommandBegan, failed_s: float) -> None:
        instance, truth = began.instance, self.truth
        if self._failed_s.get(instance) != failed_s:
            return
        host = truth.host_of.get(instance, began.host)
        due_s = failed_s + self.bounds.retry_s + truth.lasted_s(failed_s, host, *AWAY)
        if truth.now_s < due_s or truth.holds(host, *AWAY):
            self.excuse(HOST_AWAY)
            self._check_at(max(due_s, truth.now_s + 1.0), began, failed_s)
        else:
            self.judge(
                f"{began.name} of {instance} failed at {failed_s:.3f} s, and nothing followed",
                (ANNOUNCED, bool(truth.actions(instance))),
            )
