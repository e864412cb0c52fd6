"""Decides whom the host challenges, and what silence means.

:mod:`.situation` steps through the tables, :mod:`.challenges` counts challenges and misses,
:mod:`.silence` decides on reconnects. The driver reads what has arrived and then calls
:meth:`Heartbeat.tick` at or after :attr:`Heartbeat.due`. Silence is counted in challenges sent and
listened for while this process ran.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.heartbeat.challenges import PROBES, Challenges
from hbtrio.fsm.heartbeat.domain_changes import SHOWN_BY, DomainChanges
from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Note,
    Reconnect,
    SendToGuest,
    Stopped,
    Suspected,
)
from hbtrio.fsm.heartbeat.inits import InitLimit
from hbtrio.fsm.heartbeat.presence import Presence, PresenceEvent
from hbtrio.fsm.heartbeat.rules import EXCUSED, SLACK_S, HeartbeatRules
from hbtrio.fsm.heartbeat.silence import Silence
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.suspicion import Ground, Suspicion
from hbtrio.fsm.heartbeat.table import (
    CHALLENGED,
    EXPECTED_BACK,
    HEARTBEATING,
    PROBED,
    TAKING_PART,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import Challenge, ChallengeResponse, Exit, Init, InitAck, Message
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect, Health

#: The profile until the first init.
_NO_INIT: Final = Profile()

_MISSED: Final = Note("heartbeat missed")
_STALE_INIT: Final = Note("ignoring a stale init: no challenge was answered after it")


class Heartbeat:
    """The heartbeat of one instance.

    Args:
        rules: the host's settings.
        new_id: makes challenges in 0..2^31-1.
    """

    def __init__(self, rules: HeartbeatRules, *, new_id: Callable[[], int]) -> None:
        #: The instance's state, presence and outage, and the reason.
        self.situation = Situation(rules.grace_s)
        self.connected = False
        self.profile = _NO_INIT
        #: When :meth:`tick` wants to be called; infinity when never.
        self.due = math.inf
        #: Whether losses and ill health are reported (set by the agent; on without one).
        self.reporting = True
        #: Whether libvirt is asked before a loss is reported, see :meth:`confirmed`.
        self.confirms_losses = False
        self.beats = 0
        self.missed = 0
        self.late_answers = 0
        #: Seconds from the last challenge to its answer; NaN before the first.
        self.round_trip_s = math.nan
        self._rules = rules
        self._challenges = Challenges(new_id)
        self._inits = InitLimit()
        self._silence = Silence(rules)
        self._domain = DomainChanges(self.situation)

    @property
    def state(self) -> HeartbeatState:
        """The state of the instance."""
        return self.situation.state

    @property
    def reason(self) -> str:
        """Why the instance is in its state, for status and logs."""
        return self.situation.reason

    @property
    def health(self) -> Health:
        """By its last answer; unknown while it is not heartbeating."""
        return self.situation.health

    @property
    def health_reason(self) -> str:
        """Why it is unhealthy; empty if it is not."""
        return self.situation.health_reason

    @property
    def is_heartbeating(self) -> bool:
        """Whether the instance takes part: votes and notices are sent to it only then."""
        return self.connected and self.situation.state in TAKING_PART

    @property
    def is_expected_back(self) -> bool:
        """Whether its RESTART window is open."""
        return self.situation.state in EXPECTED_BACK and self.situation.window.is_open

    @property
    def expects_socket(self) -> bool:
        """Whether the VM may be without a socket for a while, as in a restart."""
        return self.situation.is_in(HeartbeatState.RESTARTING)

    @property
    def owes_answer(self) -> bool:
        """Whether a challenge is unanswered; its driver reads once more before :meth:`tick`."""
        return self._challenges.number is not None

    # -- the connection ---------------------------------------------------------------------

    def opened(self, now: float) -> tuple[Effect, ...]:
        """Handles a connected socket."""
        self.situation.step(HeartbeatEvent.CONNECTED)
        self.connected = True
        self._silence.since = now
        if self._challenging:
            return (self._challenge(now, now),)
        self._schedule(now)
        return NOTHING

    def closed(self, reason: str) -> tuple[Effect, ...]:
        """Handles a closed or reset socket; heartbeating stops, which is not a loss."""
        effects = self.situation.closed(reason)
        self._disconnected()
        return effects

    def removed(self, reason: str) -> tuple[Effect, ...]:
        """Handles the removal of the socket's file: the last call.

        Nothing stopped if no guest was ever heard: anything may make and remove sockets.
        """
        self.situation.removed(reason)
        self._disconnected()
        heard = self.beats > 0 or self.profile is not _NO_INIT
        return (Stopped(reason),) if heard else NOTHING

    def _disconnected(self) -> None:
        self.connected = False
        self._challenges.forget()
        # The alarm about a suspended one needs no connection.
        self.due = self.situation.unwatched_at

    # -- messages ---------------------------------------------------------------------------

    def received(self, message: Message, now: float) -> tuple[Effect, ...]:
        """Handles a message of the guest; ignores messages that do not concern the heartbeat."""
        if type(message) is ChallengeResponse:
            return self._answered(message, now)
        match message:
            case Init():
                return self._received_init(message, now)
            case Exit(log_msg=reason):
                effects = self.situation.left(f"guest exited: {reason}")
                # The next guest sends init first; nobody reads a challenge before that.
                self._challenges.forget(probes_left=0)
                self._silence.since = now
                self._schedule(now)
                return effects
        return NOTHING

    def _received_init(self, init: Init, now: float) -> tuple[Effect, ...]:
        if (refusal := self._inits.refusal(now)) is not None:
            return refusal
        situation, unanswered = self.situation, self._challenges.number
        situation.step(HeartbeatEvent.INIT)
        self.profile = Profile.from_init(init, self._rules.limits)
        ack = SendToGuest(InitAck(init.invocation_id))
        if situation.init_seen and unanswered is not None:
            # The second init in a row: with a new challenge for each init, instead of the open one
            # again, a guest that reads nothing would never miss one.
            self._schedule(now)
            return (ack, SendToGuest(Challenge(unanswered)))
        situation.learn(PresenceEvent.INIT)
        situation.suspicion = None
        self._challenges.forget()
        return (ack, self._challenge(now, now))

    def _answered(self, response: ChallengeResponse, now: float) -> tuple[Effect, ...]:
        challenges, situation = self._challenges, self.situation
        if not challenges.answered(response.heartbeat_response, now):
            return self._answered_late(response.heartbeat_response, now)
        self._silence.since = now
        self.beats += 1
        self.round_trip_s = now - challenges.sent_at
        situation.suspicion = None
        health = response.heartbeat_health
        if situation.state is HeartbeatState.HEARTBEATING and situation.presence is Presence.PROVEN:
            # Nearly every answer: no outage changes what it means.
            situation.step(HeartbeatEvent.ANSWERED)
            if health is Health.HEALTHY is situation.health:
                return NOTHING
            effects = NOTHING
        else:
            effects = situation.answered(challenges.sent_at, now)
        returns = bool(effects)
        return effects + situation.heard_health(
            response, now, reporting=self.reporting, returns=returns
        )

    def _answered_late(self, echo: int, now: float) -> tuple[Effect, ...]:
        if (late_s := self._challenges.late_by(echo, now)) is None:
            return NOTHING
        self.late_answers += 1
        note = Note(f"late answer, {late_s:.3f} s after its challenge")
        if self.situation.state in PROBED:
            # A slow VM's guest must not start over; or the VM was frozen, and this was in its port.
            ceased, self._challenges.probes_left = not self._challenging, PROBES
            if ceased:
                return (note, self._challenge(now, now))
            self._schedule(now)
        return (note,)

    # -- time -------------------------------------------------------------------------------

    def tick(self, now: float, *, late: bool) -> tuple[Effect, ...]:
        """Judges the last challenge and sends the next, when :attr:`due` has come.

        Args:
            now: the time.
            late: whether this process is not on time; it excuses misses, see ``EXCUSED``.
        """
        interval_s = self.profile.interval_s
        # From when this one was due, so that delays do not add up; one beat after a stall.
        base = self.due if self.due <= now < self.due + interval_s else now
        effects, challenges = NOTHING, self._challenges
        excused = late and challenges.excuses(interval_s)
        if challenges.number is not None:
            over_at = challenges.over_at(interval_s, excused=excused)
            if now < over_at - SLACK_S:
                # It was sent late, the beat was aligned or this process stood still.
                self.due = over_at
                return NOTHING
            challenges.miss(now, counts=not excused)
            if not excused:
                effects = self._missed_one(now)
        situation = self.situation
        if situation.state in HEARTBEATING:
            return (*effects, self._challenge(now, base))
        if now >= situation.unwatched_at + (EXCUSED * interval_s if late else 0.0):
            effects += (situation.unwatched(),)
            self._fell_silent(now)
        if self.connected and (reason := self._silence.end(situation, now, interval_s)):
            effects += (Reconnect(reason),)
        elif self._challenging:
            return (*effects, self._challenge(now, base))
        self.due = math.inf
        self._schedule(now)
        return effects

    def stood_still(self, seconds: float) -> None:
        """Adds a time in which this process did not run to all times that mean silence."""
        self._challenges.stood_still(seconds)
        self._silence.since += seconds
        self.situation.outage = self.situation.outage.put_off(seconds)
        self.situation.window = self.situation.window.put_off(seconds)

    def align(self, due: float) -> None:
        """Moves the next beat to an earlier time, at which the driver wakes up anyway."""
        if due < self.due:
            self.due = due

    def probed(self, now: float) -> tuple[Effect, ...]:
        """Challenges a lost instance once more; an answer brings it back, silence changes nothing.

        An instance in any other state is challenged anyway, or must not be.
        """
        if not (self.may_be_probed and self.connected) or self.owes_answer:
            return NOTHING
        return (self._challenge(now, now),)

    @property
    def may_be_probed(self) -> bool:
        """Whether a guest is there that may be silent: it is lost, or was before a reconnect."""
        if self.state is HeartbeatState.LOST:
            return True
        return self.state is HeartbeatState.WAITING and self.situation.presence is Presence.PROVEN

    def _missed_one(self, now: float) -> tuple[Effect, ...]:
        self.missed += 1
        situation, misses = self.situation, self._challenges.misses
        situation.step(HeartbeatEvent.MISSED)
        if situation.state in HEARTBEATING:
            if misses <= self._rules.failure_threshold:
                return (_MISSED,)
            reason = f"no answer for {(misses + 1) * self.profile.interval_s:g} s"
            if self.confirms_losses and situation.would_lose(answering=False):
                return self._suspect(Ground.SILENT, reason) if not self.suspected else (_MISSED,)
            return self._silent(reason, now)
        if misses >= PROBES and situation.state is HeartbeatState.SUSPENDED:
            situation.outage = situation.outage.fell_silent()
        if situation.init_seen and self._challenges.probes_left <= 0:
            situation.learn(PresenceEvent.INIT_VOID)
            return (_STALE_INIT,)
        return NOTHING

    def _silent(self, reason: str, now: float, state: str = "") -> tuple[Effect, ...]:
        effects = self.situation.silent(
            reason, self.profile, now, reporting=self.reporting, state=state
        )
        self._fell_silent(now)
        self._schedule(now)
        return effects

    def _fell_silent(self, now: float) -> None:
        self._silence.since = now
        if self.situation.state is HeartbeatState.UNWATCHED:
            self._challenges.probes_left = PROBES  # and again after each reconnect

    # -- events around the VM ---------------------------------------------------------------

    def action_begins(self, now: float) -> None:
        """Handles the accepted vote of an action: its notice follows, within a minute."""
        self.situation.action_begins(now)

    def notice_opened(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Handles a notice being sent; an end notice ends a suspension at once."""
        if not self.situation.notice_opened(event):
            self.situation.settle(now)
            return NOTHING
        return self._returned(now) + self.situation.expect_return(now, self.profile.restart_s)

    def notice_over(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Handles the end of the notice of ``event``, with any result: the event is imminent."""
        if EVENT_TABLE[event].effect is ExpectedEffect.RETURNS:
            return NOTHING
        effects = self.situation.notice_over(event, now, self.profile.restart_s)
        return self._suspended(effects, now)

    def restarts(self, event: str, now: float) -> tuple[Effect, ...]:
        """Handles a restart of the VM by ``event``: opens its RESTART window."""
        return self._suspended(self.situation.restarts(event, now, self.profile.restart_s), now)

    def stops(self, event: str, now: float) -> tuple[Effect, ...]:
        """Handles a permanent stop of the VM by ``event``."""
        return self._suspended(self.situation.stops(event, now), now)

    def performing(self, event: str) -> None:
        """Handles the start of the command of ``event``: resets meanwhile are its own."""
        self.situation.performing(event)

    def carried_out(self, event: str, now: float) -> None:
        """Handles the end of the command of ``event``: a return after it is final."""
        self.situation.carried_out(event, now)

    def runs_again(self, reason: str, now: float) -> tuple[Effect, ...]:
        """Handles the orchestrator's report that a pause, suspend or live migration is over.

        Ignored for a VM that is being stopped or restarted, and if no event is in progress.
        """
        if not self.situation.runs_again(reason):
            self.situation.settle(now)
            return NOTHING
        return self._returned(now) + self.situation.expect_return(now, self.profile.restart_s)

    def called_off(self, event: str, reason: str, now: float) -> tuple[Effect, ...]:
        """Handles an event that did not happen: the VM should answer."""
        was = self.situation.state
        returned = self.situation.called_off(event, reason)
        self.situation.settle(now)
        if was is HeartbeatState.RESTARTING and self.situation.state is HeartbeatState.WAITING:
            if not self.situation.init_seen:
                self._challenges.forget()  # so that a probe's answer counts for nothing
            self._schedule(now)
        return self._returned(now) if returned else NOTHING

    def restart_expired(self, now: float) -> tuple[Effect, ...]:
        """Handles the end of the RESTART window: the VM is lost, unless it never went down."""
        situation = self.situation
        if situation.state not in EXPECTED_BACK:
            return NOTHING
        answering = now - self._challenges.answered_at < 2 * self.profile.interval_s
        if situation.would_lose(answering=answering):
            if self.confirms_losses:
                return self._suspect(Ground.OVERDUE, situation.overdue_reason(self.profile))
            if situation.is_presumed and not self.connected:
                return self._stays_absent("its socket accepts no connection", now)
        return self._expired(now, answering=answering)

    def presumed(
        self, profile: Profile, reason: str, within_s: float, now: float, *, remembered: bool
    ) -> tuple[Effect, ...]:
        """Expects a guest back that was heartbeating before this host or its connection was there.

        Its silence is a loss only if libvirt says that its VM runs or has failed, or, without
        libvirt, if its socket accepts connections. Ignored once anything else is known of it.

        Args:
            profile: what the guest had advertised, for one that has not said ``init`` since.
            reason: why it is expected.
            within_s: within how many seconds.
            now: the time.
            remembered: whether only an earlier run of this host has heard it.
        """
        situation = self.situation
        if situation.state is not HeartbeatState.WAITING:
            return NOTHING
        if self.profile is _NO_INIT:
            self.profile = profile
        return situation.presumes(reason, within_s, now, remembered=remembered) + self._returned(
            now
        )

    def _stays_absent(self, why: str, now: float) -> tuple[Effect, ...]:
        overdue = self.situation.overdue_reason(self.profile)
        effects = self.situation.stays_absent(f"{overdue}: {why}")
        self._challenges.forget()
        self._schedule(now)
        return effects

    def _expired(
        self, now: float, *, answering: bool, reason: str = "", state: str = ""
    ) -> tuple[Effect, ...]:
        effects = self.situation.restart_expired(
            self.profile,
            now,
            reporting=self.reporting,
            answering=answering,
            reason=reason,
            state=state,
        )
        if self.state not in HEARTBEATING and self.state not in EXPECTED_BACK:
            self._challenges.forget()
        self._schedule(now)
        return effects

    # -- libvirt ----------------------------------------------------------------------------

    def domain_changed(
        self, change: DomainChange, words: str, now: float, *, is_alarming: bool = False
    ) -> tuple[Effect, ...]:
        """Handles a change of the instance's domain, as libvirt reports it.

        Args:
            change: what happened.
            words: libvirt's state and reason, such as ``paused: saving``.
            now: the time.
            is_alarming: whether a fault has paused the VM.
        """
        panicked = change is DomainChange.PANICKED and self.situation.can_fail
        if panicked and self.confirms_losses:
            # libvirt may be about to restart it.
            return self._suspect(Ground.PANICKED, words)
        return self._domain_changed(change, words, now, is_alarming=is_alarming)

    def domain_reset(self, now: float) -> tuple[Effect, ...]:
        """Handles a reset or reboot of the instance's domain, by whomever."""
        effects = self._domain.reset("reset", self.profile, now)
        return self._suspended(effects, now) if effects else NOTHING

    @property
    def suspected(self) -> bool:
        """Whether a loss waits for :meth:`confirmed`."""
        return self.situation.suspicion is not None

    def confirmed(self, standing: Standing | None, words: str, now: float) -> tuple[Effect, ...]:
        """Handles libvirt's answer to a :class:`~hbtrio.fsm.heartbeat.effects.Suspected`.

        Ignored if the guest has answered meanwhile, or its situation has changed. Without an answer
        about an instance that is only presumed, :attr:`suspected` stays on: ask again.

        Args:
            standing: what the domain's state means; None if libvirt has not answered.
            words: its state and reason, or that they are unknown; part of the reason of the loss.
            now: the time.
        """
        suspicion, self.situation.suspicion = self.situation.suspicion, None
        if suspicion is None:
            return NOTHING
        if suspicion.ground is Ground.OVERDUE and self.situation.is_presumed:
            if standing is None and words:
                self.situation.suspicion = suspicion  # nothing is decided until it answers
                return NOTHING
            if standing is Standing.UNKNOWN or (standing is None and not self.connected):
                return self._stays_absent(words or "its socket accepts no connection", now)
        change = SHOWN_BY.get(standing) if standing is not None else None
        if change is not None:
            return self._domain_changed(change, words, now)
        reason = suspicion.reason
        if standing is None and words:
            reason = f"{reason} ({words})"
        if suspicion.ground is Ground.OVERDUE:
            return self._expired(now, answering=False, reason=reason, state=words)
        if suspicion.ground is Ground.PANICKED:
            if standing is Standing.RUNNING:
                return NOTHING  # restarted, which has been or will be reported
            return self._domain_changed(DomainChange.PANICKED, suspicion.reason, now)
        return self._silent(reason, now, state=words)

    def _suspect(self, ground: Ground, reason: str) -> tuple[Effect, ...]:
        self.situation.suspicion = Suspicion(ground, reason)
        return (Suspected(reason),)

    def _domain_changed(
        self, change: DomainChange, words: str, now: float, *, is_alarming: bool = False
    ) -> tuple[Effect, ...]:
        was = self.state
        effects = self._domain.apply(
            change, words, self.profile, now, reporting=self.reporting, is_alarming=is_alarming
        )
        state = self.state
        if change is DomainChange.RESTARTED or state is not was:
            if state is HeartbeatState.RETURNING:
                return effects + self._returned(now)
            if state not in PROBED:
                self._challenges.forget()
            return self._suspended(effects, now)
        return effects

    def _suspended(self, effects: tuple[Effect, ...], now: float) -> tuple[Effect, ...]:
        self._challenges.start_over()
        self._silence.since = now
        self._schedule(now)
        return effects

    def _returned(self, now: float) -> tuple[Effect, ...]:
        self._silence.since = now
        self.due = math.inf
        return (self._challenge(now, now),) if self.connected else NOTHING

    @property
    def _challenging(self) -> bool:
        if not self.connected:
            return False
        situation = self.situation
        if situation.state in CHALLENGED or situation.init_seen:
            return True
        return situation.state in PROBED and self._challenges.probes_left > 0

    def _challenge(self, now: float, base: float) -> SendToGuest:
        self.due = base + self.profile.interval_s
        return SendToGuest(self._challenges.next(now))

    def _schedule(self, now: float) -> None:
        """Sets :attr:`due` if no challenge is to be sent now."""
        interval_s = self.profile.interval_s
        if self._challenging:
            self.due = min(self.due, now + interval_s)
        else:
            self.due = self._silence.due(self.situation, now, interval_s, connected=self.connected)
