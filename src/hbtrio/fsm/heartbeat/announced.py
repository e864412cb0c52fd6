"""Events that hbtrio or the VIM announces or brings about, and what they mean for the heartbeat.

A VM that is about to freeze, to restart or to stop is not missed. Notices say so, and so do the
commands of this host and the VIM's own reports.
"""

from __future__ import annotations

from hbtrio.fsm.heartbeat.effects import Effect
from hbtrio.fsm.heartbeat.losses import Losses
from hbtrio.fsm.heartbeat.outage import Outage
from hbtrio.fsm.heartbeat.presence import GUEST_KNOWN, PresenceEvent
from hbtrio.fsm.heartbeat.schedule import ChallengeSchedule
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.table import FREEZING, HeartbeatEvent, HeartbeatState
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect


class AnnouncedEvents:
    """The announced events of one instance.

    Args:
        situation: is changed.
        schedule: follows the situation.
        losses: knows whether libvirt is asked before a loss.
    """

    def __init__(self, situation: Situation, schedule: ChallengeSchedule, losses: Losses) -> None:
        self._situation = situation
        self._schedule = schedule
        self._losses = losses

    # -- votes and notices ------------------------------------------------------------------

    def action_begins(self, now: float) -> None:
        """Handles the accepted vote of an action: its notice follows, within a minute."""
        self._situation.illness.action_begins(now)

    def notice_opened(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Handles a notice being sent; an end notice ends a suspension at once."""
        situation, effect = self._situation, EVENT_TABLE[event].effect
        if effect is ExpectedEffect.RETURNS:
            return self._is_back(f"{event} was sent", now)
        situation.illness.event_begins()
        if effect is ExpectedEffect.RESTARTS:
            situation.learn(PresenceEvent.RESTART_NOTICE)
        situation.illness.settle(now)
        return NOTHING

    def notice_over(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Handles the end of the notice of ``event``, with any result: the event is imminent."""
        match EVENT_TABLE[event].effect:
            case ExpectedEffect.RETURNS:
                return NOTHING
            case ExpectedEffect.RESTARTS:
                effects = self.restarts(event, now)
                self._situation.learn(PresenceEvent.RESTARTS)
                return effects
            case ExpectedEffect.FREEZES:
                return self._suspends(HeartbeatEvent.FREEZES, Outage.freeze(event, now), now)
        return self.stops(event, now)

    # -- commands ---------------------------------------------------------------------------

    def restarts(self, event: str, now: float) -> tuple[Effect, ...]:
        """Handles a restart of the VM by ``event``: opens its RESTART window."""
        situation = self._situation
        restart_s = situation.profile.restart_s
        outage = Outage.restart(event, now, restart_s)
        effects = self._suspends(HeartbeatEvent.RESTARTS, outage, now)
        window = situation.window.opened(now, restart_s)
        return (*effects, situation.open_window(window, now, f"{event} begins"))

    def stops(self, event: str, now: float) -> tuple[Effect, ...]:
        """Handles a permanent stop of the VM by ``event``."""
        return self._suspends(HeartbeatEvent.STOPS, Outage.stop(event, now), now)

    def performing(self, event: str) -> None:
        """Handles the start of the command of ``event``: resets meanwhile are its own."""
        if event == self._situation.outage.event:
            self._situation.outage = self._situation.outage.performing()

    def carried_out(self, event: str, now: float) -> None:
        """Handles the end of the command of ``event``: a return after it is final."""
        if event == self._situation.outage.event:
            self._situation.outage = self._situation.outage.carried_out(now)

    # -- the end of an event ----------------------------------------------------------------

    def runs_again(self, reason: str, now: float) -> tuple[Effect, ...]:
        """Handles the orchestrator's report that a pause, suspend or live migration is over.

        Ignored for a VM that is being stopped or restarted, and if no event is in progress.
        """
        situation = self._situation
        if not situation.outage.freezes or situation.state not in FREEZING:
            return NOTHING
        return self._is_back(reason, now)

    def called_off(
        self, event: str, reason: str, now: float, *, is_pursued: bool = False
    ) -> tuple[Effect, ...]:
        """Handles an event that did not happen: the VM should answer, within RESTART.

        Silent through all of it, a guest that was watched is lost if libvirt says that its VM runs.
        Without libvirt only a restart is judged, as if it had happened: after a pause or a stop
        that failed in part, silence may be what was asked for.

        Args:
            event: which.
            reason: why it did not happen.
            now: the time.
            is_pursued: whether the instance is lost already, and what failed is tried again.
        """
        situation = self._situation
        if event != situation.outage.event:
            return NOTHING  # another event is in progress by now
        reason = f"{event} did not happen: {reason}"
        if situation.state is HeartbeatState.RESTARTING and situation.presence not in GUEST_KNOWN:
            situation.step(HeartbeatEvent.STAYS_AWAY)
            situation.reason = reason
            if not situation.init_seen:
                self._schedule.challenges.forget()  # so that a probe's answer counts for nothing
            self._schedule.plan(now)
            return NOTHING
        confirmed = self._losses.are_confirmed
        judged = confirmed or situation.state is HeartbeatState.RESTARTING
        unwatched = situation.state is HeartbeatState.UNWATCHED or situation.outage.was_unwatched
        returned = situation.return_by(HeartbeatEvent.CALLED_OFF, reason)
        situation.illness.settle(now)
        if not returned:
            return NOTHING
        effects = self._schedule.returned(now)
        if is_pursued or unwatched or not judged:
            return effects
        situation.is_presumed = confirmed
        return (*effects, *self._within_restart(now))

    # -- helpers ----------------------------------------------------------------------------

    def _is_back(self, reason: str, now: float) -> tuple[Effect, ...]:
        """Challenges a VM that is said to run, and expects a guest that it has within RESTART."""
        situation = self._situation
        if not situation.return_by(HeartbeatEvent.RETURNS, reason):
            situation.illness.settle(now)
            return NOTHING
        return (*self._schedule.returned(now), *self._within_restart(now))

    def _within_restart(self, now: float) -> tuple[Effect, ...]:
        """Expects answers within RESTART, if there is a guest."""
        situation = self._situation
        if situation.presence not in GUEST_KNOWN:
            return NOTHING
        window = situation.window.opened(now, situation.profile.restart_s)
        return (situation.open_window(window, now, "it is expected to answer again"),)

    def _suspends(self, event: HeartbeatEvent, outage: Outage, now: float) -> tuple[Effect, ...]:
        effects = self._situation.suspend(event, outage)
        self._schedule.start_over(now)
        return effects
