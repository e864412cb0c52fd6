"""What libvirt reports of an instance's domain, and answers when a loss is suspected."""

from __future__ import annotations

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.heartbeat.domain_changes import SHOWN_BY, DomainChanges
from hbtrio.fsm.heartbeat.effects import Effect
from hbtrio.fsm.heartbeat.losses import Losses
from hbtrio.fsm.heartbeat.presence import PresenceEvent
from hbtrio.fsm.heartbeat.schedule import ChallengeSchedule
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.suspicion import Ground
from hbtrio.fsm.heartbeat.table import PROBED, HeartbeatState


class DomainReports:
    """Applies libvirt's reports and answers to one instance.

    Args:
        situation: is changed.
        schedule: follows the situation.
        losses: decides on a loss that libvirt has confirmed.
    """

    def __init__(self, situation: Situation, schedule: ChallengeSchedule, losses: Losses) -> None:
        self._situation = situation
        self._schedule = schedule
        self._losses = losses
        self._changes = DomainChanges(situation)

    def changed(
        self, change: DomainChange, words: str, now: float, *, is_alarming: bool = False
    ) -> tuple[Effect, ...]:
        """Handles a change of the instance's domain, as libvirt reports it.

        Args:
            change: what happened.
            words: libvirt's state and reason, such as ``paused: saving``.
            now: the time.
            is_alarming: whether a fault has paused the VM.
        """
        panicked = change is DomainChange.PANICKED and self._situation.can_fail
        if panicked and self._losses.are_confirmed:
            # libvirt may be about to restart it.
            return self._losses.suspect(Ground.PANICKED, words)
        return self._apply(change, words, now, is_alarming=is_alarming)

    def another_process(self, words: str, now: float) -> tuple[Effect, ...]:
        """Handles that the instance's QEMU is not the one that was known of: nothing holds."""
        self._situation.learn(PresenceEvent.NEW_PROCESS)
        return self._apply(DomainChange.STARTED, words, now)

    def runs(self, now: float) -> None:
        """Handles that libvirt says that the VM runs: from now on a guest is waited for."""
        if self._situation.awaits_guest:
            self._situation.await_guest(now)
            self._schedule.plan(now)

    def reset(self, now: float) -> tuple[Effect, ...]:
        """Handles a reset or reboot of the instance's domain, by whomever."""
        effects = self._changes.reset("reset", now)
        if effects:
            self._schedule.start_over(now)
        return effects

    def confirmed(self, standing: Standing | None, words: str, now: float) -> tuple[Effect, ...]:
        """Handles libvirt's answer to a :class:`~hbtrio.fsm.heartbeat.effects.Suspected`.

        Ignored if the guest has answered meanwhile, or its situation has changed. Without an answer
        about an instance that is only presumed, or whose guest is missing, the suspicion stays: ask
        again.

        Args:
            standing: what the domain's state means; None if libvirt has not answered.
            words: its state and reason, or that they are unknown; part of the reason of the loss.
            now: the time.
        """
        situation = self._situation
        suspicion, situation.suspicion = situation.suspicion, None
        if suspicion is None:
            return NOTHING
        overdue = suspicion.ground is Ground.OVERDUE and situation.is_presumed
        if standing is None and words and (overdue or suspicion.ground is Ground.NO_GUEST):
            situation.suspicion = suspicion  # nothing is decided until it answers
            return NOTHING
        nobody_knows = standing is Standing.UNKNOWN or (
            standing is None and not situation.connected
        )
        if overdue and nobody_knows:
            return self._losses.stays_absent(words, now)
        change = SHOWN_BY.get(standing) if standing is not None else None
        if change is not None:
            return self._apply(change, words, now)
        if suspicion.ground is Ground.NO_GUEST:
            return self._losses.no_guest(suspicion.reason, standing, now)
        reason = suspicion.reason
        if standing is None and words:
            reason = f"{reason} ({words})"
        if suspicion.ground is Ground.OVERDUE:
            return self._losses.expired(now, answering=False, reason=reason, state=words)
        if suspicion.ground is Ground.PANICKED:
            if standing is Standing.RUNNING:
                return NOTHING  # restarted, which has been or will be reported
            return self._apply(DomainChange.PANICKED, suspicion.reason, now)
        return self._losses.silent(reason, now, state=words)

    def _apply(
        self, change: DomainChange, words: str, now: float, *, is_alarming: bool = False
    ) -> tuple[Effect, ...]:
        was = self._situation.state
        effects = self._changes.apply(change, words, now, is_alarming=is_alarming)
        state = self._situation.state
        if change is DomainChange.RESTARTED or state is not was:
            if state is HeartbeatState.RETURNING:
                return effects + self._schedule.returned(now)
            if state not in PROBED:
                self._schedule.challenges.forget()
            self._schedule.start_over(now)
        elif change is DomainChange.STARTED:
            self.runs(now)
        return effects
