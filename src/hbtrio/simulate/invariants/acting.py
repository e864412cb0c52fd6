"""Whether an instance is acted upon: never a frozen one, and not once only one that is lost."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar, Final

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import ANNOUNCED, AWAY, HELD, HOST_AWAY, LOG
from hbtrio.simulate.invariants.losses import FROZEN, acted_due_s
from hbtrio.simulate.observations import (
    ActionBegan,
    Began,
    CommandBegan,
    CommandEnded,
    Condition,
    Observation,
    Purpose,
    Reported,
)

#: For how long libvirt's last answer may be true no more when a command begins, in seconds.
ASKED_S: Final = 2.0

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
