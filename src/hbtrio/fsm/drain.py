"""Decides the order of a drain: one action on many instances, a bounded number at once.

The machine says whose turn it is, and takes what becomes of each. The action itself, with its vote
and notices, is that of :mod:`hbtrio.fsm.action`. An instance that refuses holds no slot and is
asked again; after ``retry_for_s`` it is asked once more, and the answer to that counts. So nothing
here expires without having been asked.

Times are seconds of one clock that goes on while the daemon is restarted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum, StrEnum
from typing import Final

import attrs

from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import (
    DRAIN_TABLE,
    ENDED,
    IN_PROGRESS,
    OUT_OF_TURN,
    DrainEvent,
    DrainState,
)
from hbtrio.fsm.planned_time import STALE

#: How long after a refusal an instance is asked again, in seconds.
ASK_AGAIN_S: Final = 30.0

#: How long after a reject it is asked again if its guest withdraws that, in seconds: one that does
#: so in a loop is asked that often at most.
WITHDRAWN_S: Final = 5.0

#: How soon after the end of an action those that are blocked have their turn, in seconds: it gives
#: the place in its groups back once its outcome is stored.
UNBLOCKS_S: Final = 1.0

#: The reason of an instance whose action had begun when the daemon ended, and of which nothing is
#: known since: its action is not repeated.
UNKNOWN_OUTCOME: Final = "interrupted: its outcome is unknown"

_BEFORE_ITS_ACTION: Final = "the drain was ended before its action"


class DrainPhase(Enum):
    """What the drain as a whole does."""

    RUNNING = "running"
    CANCELLED = "cancelled"  # by an operator; what has begun comes to its end
    ABORTED = "aborted"  # upon a reject; what has begun comes to its end


class DrainOutcome(StrEnum):
    """How a drain has ended."""

    DRAINED = "drained"  # the action is done on all instances
    INCOMPLETE = "incomplete"  # some were skipped, or their actions failed
    CANCELLED = "cancelled"
    ABORTED = "aborted"


@attrs.define
class DrainItem:
    """One instance of a drain.

    Args:
        uuid: the instance.
        state: its state.
        reason: why it is in that state; "" if there is nothing to say.
        refused_at: since when it refuses or is blocked; None if it does not.
        ask_at: when it has its turn again, if it refuses or is blocked.
        hint_from: from when on a reject that is withdrawn has it asked again.
        is_withdrawn: whether its guest has withdrawn a reject since its turn.
        rejected: the last reject of its guest, whatever came of its turns since; None for none.
    """

    uuid: str
    state: DrainState = DrainState.WAITING
    reason: str = ""
    refused_at: float | None = None
    ask_at: float = -math.inf
    hint_from: float = -math.inf
    is_withdrawn: bool = False
    rejected: str | None = None


@attrs.frozen
class Turn:
    """Begin the action on this instance now.

    ``force``: without its vote; ``overrides`` is then the reject that does not stand, if any.
    """

    uuid: str
    force: bool = False
    overrides: str | None = None


class Drain:
    """One action on many instances.

    Args:
        rules: how to go about it.
        items: the instances in their order; each once.
        phase: whether an earlier run of the daemon has cancelled or aborted it.

    Raises:
        ValueError: an instance is there twice, or fewer than one action at once is allowed.
    """

    def __init__(
        self,
        rules: DrainRules,
        items: Iterable[DrainItem],
        phase: DrainPhase = DrainPhase.RUNNING,
    ) -> None:
        given = tuple(items)
        self.rules = rules
        self.items = {item.uuid: item for item in given}
        self.phase = phase
        if len(self.items) < len(given):
            raise ValueError("an instance is there twice")
        if rules.parallel < 1:
            raise ValueError("parallel: at least 1")

    @property
    def in_progress(self) -> int:
        """How many actions are in progress."""
        return sum(item.state in IN_PROGRESS for item in self.items.values())

    @property
    def is_over(self) -> bool:
        """Whether every instance has come to its end."""
        return all(item.state in ENDED for item in self.items.values())

    @property
    def outcome(self) -> DrainOutcome | None:
        """How it has ended; None if it has not."""
        if not self.is_over:
            return None
        if self.phase is DrainPhase.CANCELLED:
            return DrainOutcome.CANCELLED
        if self.phase is DrainPhase.ABORTED:
            return DrainOutcome.ABORTED
        is_done = all(item.state is DrainState.DONE for item in self.items.values())
        return DrainOutcome.DRAINED if is_done else DrainOutcome.INCOMPLETE

    @property
    def wakes_at(self) -> float:
        """When :meth:`turns` may have the next turn, unless something happens before that."""
        if self.phase is not DrainPhase.RUNNING or self.in_progress >= self.rules.parallel:
            return math.inf
        waiting = [item.ask_at for item in self.items.values() if item.state in OUT_OF_TURN]
        return min(waiting, default=math.inf)

    def turns(self, now: float) -> tuple[Turn, ...]:
        """Returns whose turn it is now; each of them is ``ASKED`` from here on.

        Whoever has never been asked comes first, in order: an instance that refuses again and again
        must not keep the others waiting. Then those come that are due, the longest due first.
        """
        if self.phase is not DrainPhase.RUNNING:
            return ()
        due = [
            item for item in self.items.values() if item.state in OUT_OF_TURN and item.ask_at <= now
        ]
        due.sort(key=lambda item: item.ask_at)
        slots = self.rules.parallel - self.in_progress
        return tuple(self._turn(item, now) for item in due[:slots])

    def expire(self, now: float) -> tuple[str, ...]:
        """Skips the instance of a planned action whose time is over; to be called before turns.

        An instance that is being asked is left: its answer counts. Returns what was skipped.
        """
        planned = self.rules.planned
        if planned is None:
            return ()
        waiting = [item for item in self.items.values() if item.state in OUT_OF_TURN]
        stale = [item for item in waiting if planned.is_stale(item.ask_at, now)]
        for item in stale:
            self._move(item, DrainEvent.SKIPPED, STALE)
        return tuple(item.uuid for item in stale)

    def _turn(self, item: DrainItem, now: float) -> Turn:
        forces = item.state is DrainState.REJECTED and self.rules.on_reject is OnReject.FORCE
        force = forces or now >= self.rules.forced_at
        item.state = DRAIN_TABLE.after(item.state, DrainEvent.TURN)
        item.reason, item.is_withdrawn = "", False
        return Turn(item.uuid, force, item.rejected if force else None)

    def withdrawn(self, uuid: str, now: float) -> None:
        """Takes that the guest of an instance does not reject any more, as it says.

        It has its turn at once, but not sooner than ``WITHDRAWN_S`` after its reject. The vote is
        asked anew, so that nothing depends on what it said. A reject that is on its way counts
        as the one that is withdrawn.
        """
        item = self.items[uuid]
        if item.state is DrainState.ASKED:
            item.is_withdrawn = True
        elif item.state is DrainState.REJECTED:
            item.ask_at = min(item.ask_at, max(now, item.hint_from))

    # -- what becomes of an instance whose turn it is -----------------------------------------

    def step(self, uuid: str, step: ActionState) -> None:
        """Takes the step that the instance's action begins; the last one is :meth:`ended`."""
        item = self.items[uuid]
        match step:
            case ActionState.PLANNED | ActionState.VOTING | ActionState.FINISHING_FAILED:
                return
            case ActionState.PREPARING:
                if item.state is DrainState.ASKED:
                    self._move(item, DrainEvent.NOTICED)
            case _:
                if item.state is not DrainState.ACTING:
                    self._move(item, DrainEvent.PERFORMED)

    def ended(self, uuid: str, outcome: ActionState, reason: str, now: float) -> None:
        """Takes the end of an instance's action.

        Args:
            uuid: the instance.
            outcome: DONE, REJECTED or FAILED.
            reason: why it was rejected or failed.
            now: the present time.
        """
        item = self.items[uuid]
        match outcome:
            case ActionState.DONE:
                self._move(item, DrainEvent.DONE)
            case ActionState.REJECTED if item.state is DrainState.ASKED:
                self._rejected(item, reason, now)
            case ActionState.REJECTED:  # its host has lost the step: its disk was full
                self._move(item, DrainEvent.FAILED, f"asked again after its notice: {reason}")
            case _:
                self._move(item, DrainEvent.FAILED, reason)
        for one in self.items.values():
            if one.state is DrainState.BLOCKED:
                one.ask_at = min(one.ask_at, now + UNBLOCKS_S)

    def called_off(self, uuid: str, reason: str) -> None:
        """Takes that an instance's action was ended before its command, as the drain asked."""
        self._move(self.items[uuid], DrainEvent.CANCELLED, reason)

    def blocked(self, uuid: str, reason: str, now: float) -> None:
        """Takes that the action can't begin now, by a rule of its group or by another action."""
        self._refused(self.items[uuid], DrainEvent.BLOCKED, reason, now)

    def skipped(self, uuid: str, reason: str) -> None:
        """Takes that nothing will be done to an instance."""
        self._move(self.items[uuid], DrainEvent.SKIPPED, reason)

    def gone(self, uuid: str, reason: str) -> None:
        """Takes that an instance left before its action began, as the drain wants it to."""
        self._move(self.items[uuid], DrainEvent.GONE, reason)

    def _rejected(self, item: DrainItem, reason: str, now: float) -> None:
        match self.rules.on_reject:
            case _ if self.phase is not DrainPhase.RUNNING:
                self._move(item, DrainEvent.CANCELLED, reason)
            case _ if self.rules.planned is not None:
                self._refused(item, DrainEvent.REJECTED, reason, now)
            case OnReject.WAIT:
                self._refused(item, DrainEvent.REJECTED, reason, now)
            case OnReject.FORCE:
                self._move(item, DrainEvent.REJECTED, reason)
                item.ask_at = -math.inf  # at once
            case OnReject.SKIP:
                self._move(item, DrainEvent.SKIPPED, f"rejected: {reason}")
            case OnReject.ABORT:
                self._move(item, DrainEvent.SKIPPED, f"rejected: {reason}")
                self._stop(DrainPhase.ABORTED, "the drain was aborted")

    def _refused(self, item: DrainItem, event: DrainEvent, reason: str, now: float) -> None:
        if self.phase is not DrainPhase.RUNNING:
            self._move(item, DrainEvent.CANCELLED, reason)
            return
        since = now if item.refused_at is None else item.refused_at
        planned = self.rules.planned
        until = since + self.rules.retry_for_s if planned is None else planned.before
        # A reject in the last vote of a planned action is overridden at once, a block is not.
        is_rejected = event is DrainEvent.REJECTED
        is_forced = is_rejected and self.rules.forced_at < math.inf
        if now >= until and not is_forced:
            self._move(item, DrainEvent.SKIPPED, f"{event.name.lower()}: {reason}")
            return
        self._move(item, event, reason)
        item.refused_at = since
        item.hint_from = now + WITHDRAWN_S
        is_hinted = is_rejected and item.is_withdrawn
        item.ask_at = min(now + (WITHDRAWN_S if is_hinted else ASK_AGAIN_S), max(now, until))

    # -- what becomes of the drain ------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """Takes no more turns; actions that are in progress come to an end by :attr:`call_off`."""
        if self.phase is DrainPhase.RUNNING and not self.is_over:
            self._stop(DrainPhase.CANCELLED, reason)

    def _stop(self, phase: DrainPhase, reason: str) -> None:
        self.phase = phase
        for item in self.items.values():
            if item.state in OUT_OF_TURN:
                self._move(item, DrainEvent.CANCELLED, reason)

    @property
    def call_off(self) -> tuple[str, ...]:
        """The instances whose actions are to be ended if their commands have not begun."""
        if self.phase is DrainPhase.RUNNING:
            return ()
        called = (DrainState.ASKED, DrainState.TOLD)
        return tuple(item.uuid for item in self.items.values() if item.state in called)

    def resumed(self, uuid: str, step: ActionState) -> None:
        """Takes, after a restart of the daemon, that an instance's action goes on at a step.

        The store may have had its action already, and the instance as if it had not begun.
        """
        item = self.items[uuid]
        if item.state in OUT_OF_TURN:
            self._move(item, DrainEvent.TURN)
        if item.state in IN_PROGRESS:
            self.step(uuid, step)

    def unresumed(self, uuid: str) -> None:
        """Takes, after a restart of the daemon, that an instance has no action in progress."""
        item = self.items[uuid]
        match item.state:
            case DrainState.ASKED if self.phase is DrainPhase.RUNNING:
                self._move(item, DrainEvent.UNBEGUN)
            case DrainState.ASKED:
                self._move(item, DrainEvent.CANCELLED, _BEFORE_ITS_ACTION)
            case DrainState.TOLD | DrainState.ACTING:
                self._move(item, DrainEvent.FAILED, UNKNOWN_OUTCOME)
            case state if state in OUT_OF_TURN and self.phase is not DrainPhase.RUNNING:
                self._move(item, DrainEvent.CANCELLED, _BEFORE_ITS_ACTION)

    @staticmethod
    def _move(item: DrainItem, event: DrainEvent, reason: str = "") -> None:
        item.state = DRAIN_TABLE.after(item.state, event)
        item.reason = reason
        if event is DrainEvent.REJECTED:
            item.rejected = reason
