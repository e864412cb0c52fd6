"""Who is reported lost: nobody who is well, and everybody who hangs."""

from __future__ import annotations

import math
from functools import partial
from typing import Final

from hbtrio.simulate.invariant import Bounds, Excuse, Invariant
from hbtrio.simulate.invariants.excuses import ANNOUNCED, AWAY, HOST_AWAY, LOG
from hbtrio.simulate.observations import (
    AGENT,
    DISTURBANCES,
    Began,
    CommandBegan,
    Condition,
    Observation,
    Over,
    Purpose,
    Reported,
)
from hbtrio.simulate.truth import Truth

#: How long after an illness a command for it may still begin, in seconds.
ILL_S: Final = 10.0

#: For how long after a stop a host may be cautious, in seconds (``policy/time_guard.py``).
CALM_S: Final = 3.0

#: States that libvirt knows and in which silence proves nothing.
FROZEN: Final = (Condition.VM_PAUSED, Condition.VM_SAVING, Condition.VM_MIGRATING)

_DISTURBED: Final = Excuse(
    "disturbed", "the VM, its guest or its channel was disturbed within the time of a loss before"
)
_ILL: Final = Excuse(
    "ill", "its guest asked for the command: it reported ill health until just now"
)


class HealthyNotLost(Invariant):
    """No VM that is healthy, scheduled and connected is reported lost or acted upon."""

    name = "healthy-not-lost"
    excuses = (_DISTURBED, _ILL, LOG)

    def see(self, observation: Observation) -> None:
        """Judges losses and corrective commands."""
        match observation:
            case Reported(kind="loss", instance=instance):
                self.judge(f"{instance} is well and reported lost", self._disturbed(instance))
            case CommandBegan(purpose=Purpose.CORRECTIVE, instance=instance, name=name):
                was_ill = self.truth.held_since(
                    self.truth.now_s - ILL_S - self.bounds.late_s, instance, Condition.GUEST_ILL
                )
                self.judge(
                    f"{name} of {instance}, which is well",
                    self._disturbed(instance),
                    (_ILL, was_ill),
                    (LOG, name == "log"),
                )

    def _disturbed(self, instance: str) -> tuple[Excuse, bool]:
        since_s = self.truth.now_s - self.bounds.loss_s
        return _DISTURBED, self.truth.held_since(since_s, instance, *DISTURBANCES)


_SILENT_BEFORE: Final = Excuse("silent-before", "it did not heartbeat when it hung")
_NOT_TOLD: Final = Excuse(
    "not-told", "its host was started without a link, over which the agent says whether to report"
)
_FROZEN: Final = Excuse("frozen", "it was paused, saved or migrated as well, and libvirt says so")
_LIBVIRT: Final = Excuse("libvirt-silent", "libvirt did not say that it runs")


class HungReported(Invariant):
    """A VM that hangs is reported within its bound, also across restarts of its host."""

    name = "hung-reported"
    excuses = (_SILENT_BEFORE, _NOT_TOLD, ANNOUNCED, _FROZEN, _LIBVIRT, HOST_AWAY)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._hung_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Follows each VM that hangs to its loss."""
        match observation:
            case Began(condition=Condition.VM_HUNG, who=instance, at_s=at_s):
                if self.truth.heartbeats(instance):
                    self._hung_s[instance] = at_s
                    self._check_at(at_s + self.bounds.loss_s, instance, at_s)
                else:
                    self.excuse(_SILENT_BEFORE)
            case (
                Reported(kind="loss", instance=instance)
                | Over(condition=Condition.VM_HUNG, who=instance)
                | Began(condition=Condition.VM_GONE, who=instance)
            ):
                self._hung_s.pop(instance, None)

    def _check_at(self, due_s: float, instance: str, hung_s: float) -> None:
        self.agenda.add(due_s, partial(self._check, instance, hung_s))

    def _check(self, instance: str, hung_s: float) -> None:
        if self._hung_s.get(instance) != hung_s:
            return
        truth, host = self.truth, self.truth.host_of[instance]
        due_s = loss_due_s(truth, self.bounds, instance, hung_s)
        if truth.holds(host, *AWAY):
            self.excuse(HOST_AWAY)
            self._check_at(truth.now_s + self.bounds.loss_s, instance, hung_s)
        elif truth.now_s < due_s:
            self._check_at(due_s, instance, hung_s)
        elif (acted_s := acted_due_s(truth, self.bounds, instance)) > truth.now_s:
            self.excuse(ANNOUNCED)
            self._check_at(acted_s, instance, hung_s)
        else:
            self.judge(
                f"{instance} hangs since {hung_s:.3f} s, its loss was due at {due_s:.3f} s",
                (_NOT_TOLD, self._not_told(host, hung_s)),
                (ANNOUNCED, bool(truth.actions(instance))),
                (_FROZEN, truth.held_since(hung_s, instance, *FROZEN)),
                (_LIBVIRT, truth.held_since(hung_s, host, Condition.LIBVIRT_SILENT)),
            )

    def _not_told(self, host: str, hung_s: float) -> bool:
        truth = self.truth
        return any(
            truth.held_at(truth.started_s.get(host, 0.0), who, *conditions)
            and truth.held_since(hung_s, who, *conditions)
            for who, conditions in ((host, (Condition.LINK_DOWN,)), (AGENT, AWAY))
        )


def acted_due_s(truth: Truth, bounds: Bounds, instance: str) -> float:
    """Returns until when a host may wait for an instance after the last action, in seconds."""
    acted_s = truth.acted_s.get(instance)
    return 0.0 if acted_s is None else acted_s + bounds.restarted_loss_s


def loss_due_s(truth: Truth, bounds: Bounds, instance: str, hung_s: float) -> float:
    """Returns when the loss of a VM is due that hangs, as far as is known now, in seconds.

    A host that has not heard it since its start waits for it as long as for any such guest: one
    that was stopped when the host was started may hang before it has said anything.

    Args:
        truth: knows for how long the host's daemon did not run.
        bounds: of the fleet.
        instance: the VM.
        hung_s: since when it hangs.
    """
    host = truth.host_of[instance]
    if truth.started_s.get(host, -math.inf) > min(hung_s, truth.heard_s[instance]):
        bound_s = bounds.restarted_loss_s
    elif truth.held_since(hung_s - CALM_S, host, Condition.STOPPED):
        bound_s = bounds.stalled_loss_s
    else:
        bound_s = bounds.loss_s
    return hung_s + bound_s + truth.lasted_s(hung_s, host, *AWAY)
