"""Decides whom the host challenges, and what silence means.

:mod:`.situation` steps through the tables, :mod:`.schedule` decides when a challenge is due,
:mod:`.losses` what a silence means. Of what happens around the guest, :mod:`.announced` takes what
hbtrio and the VIM announce, and :mod:`.domain_reports` what libvirt reports. The driver reads what
has arrived and then calls :meth:`Heartbeat.tick` at or after :attr:`Heartbeat.due`. Silence is
counted in challenges sent and listened for while this process ran.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from hbtrio.fsm.heartbeat.announced import AnnouncedEvents
from hbtrio.fsm.heartbeat.challenges import PROBES
from hbtrio.fsm.heartbeat.domain_reports import DomainReports
from hbtrio.fsm.heartbeat.earlier_run import EarlierRun
from hbtrio.fsm.heartbeat.effects import Effect, Note, Reconnect, SendToGuest, Stopped
from hbtrio.fsm.heartbeat.inits import InitLimit
from hbtrio.fsm.heartbeat.losses import MISSED, Losses
from hbtrio.fsm.heartbeat.presence import Presence, PresenceEvent
from hbtrio.fsm.heartbeat.rules import EXCUSED, SLACK_S, HeartbeatRules
from hbtrio.fsm.heartbeat.schedule import ChallengeSchedule
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.table import (
    EXPECTED_BACK,
    HEARTBEATING,
    PROBED,
    TAKING_PART,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import (
    Challenge,
    ChallengeResponse,
    Exit,
    Init,
    InitAck,
    Message,
)
from hbtrio.wire.vocabulary import Health

_STALE_INIT: Final = Note("ignoring a stale init: no challenge was answered after it")


class Heartbeat:
    """The heartbeat of one instance.

    Args:
        rules: the host's settings.
        new_id: makes challenges in 0..2^31-1.
    """

    def __init__(self, rules: HeartbeatRules, *, new_id: Callable[[], int]) -> None:
        #: The instance's state, presence and outage, and the reason.
        self.situation = Situation(rules.grace_s, rules.absent_after_s)
        #: When it is challenged.
        self.schedule = ChallengeSchedule(self.situation, rules, new_id)
        self._challenges = self.schedule.challenges
        #: Judges its silence.
        self.losses = Losses(self.situation, self.schedule)
        #: Takes what hbtrio and the VIM announce and bring about.
        self.announced = AnnouncedEvents(self.situation, self.schedule, self.losses)
        #: Takes what libvirt reports.
        self.domain = DomainReports(self.situation, self.schedule, self.losses)
        #: Takes what an earlier run of the host knew.
        self.earlier = EarlierRun(self.situation, self.schedule)
        self.beats = 0
        self.missed = 0
        self.late_answers = 0
        #: Seconds from the last challenge to its answer; NaN before the first.
        self.round_trip_s = math.nan
        self._rules = rules
        self._inits = InitLimit()

    def use(self, rules: HeartbeatRules) -> None:
        """Takes another grace time, for the next start, and other limits, for the next init.

        How long a guest may take to come changes for the next one that is waited for. The rest of
        the rules must be the same.
        """
        self._rules = rules
        self.situation.illness.grace_s = rules.grace_s
        self.situation.absent_after_s = rules.absent_after_s

    @property
    def due(self) -> float:
        """When :meth:`tick` wants to be called; infinity when never."""
        return self.schedule.due

    @property
    def connected(self) -> bool:
        """Whether its socket is connected."""
        return self.situation.connected

    @property
    def profile(self) -> Profile:
        """What its guest has advertised; the defaults until its first init."""
        return self.situation.profile

    @property
    def reporting(self) -> bool:
        """Whether losses and ill health are reported."""
        return self.situation.reporting

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
        return self.situation.connected and self.situation.state in TAKING_PART

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

    @property
    def suspected(self) -> bool:
        """Whether a loss waits for libvirt's answer."""
        return self.situation.suspicion is not None

    @property
    def is_silent(self) -> bool:
        """Whether it leaves challenges unanswered, as a frozen one does, or is not challenged."""
        return self._challenges.misses >= PROBES or not self.schedule.is_challenging

    # -- the connection ---------------------------------------------------------------------

    def opened(self, now: float) -> tuple[Effect, ...]:
        """Handles a connected socket."""
        schedule = self.schedule
        self.situation.step(HeartbeatEvent.CONNECTED)
        self.situation.connected = True
        schedule.silence.since = now
        if schedule.is_challenging:
            return (schedule.challenge(now, now),)
        schedule.plan(now)
        return NOTHING

    def closed(self, reason: str) -> tuple[Effect, ...]:
        """Handles a closed or reset socket; heartbeating stops, which is not a loss."""
        effects = self.situation.closed(reason)
        self.schedule.disconnected()
        return effects

    def cut_off(self, reason: str, now: float) -> tuple[Effect, ...]:
        """Handles a closed socket of a VM that runs, as libvirt says: its guest is expected back.

        libvirt learns of QEMU's end a moment later, so that one heartbeating is not reported as
        stopped: how it ended, its return, or that it is overdue follows.
        """
        effects = self.closed(reason)
        if self.state is not HeartbeatState.WAITING:
            return effects
        text = f"{reason}; libvirt says that it runs"
        restart_s = self.profile.restart_s
        expected = self.losses.presumed(self.profile, text, restart_s, now, remembered=False)
        return (Note(f"connection closed: {text}"), *expected)

    def removed(self, reason: str) -> tuple[Effect, ...]:
        """Handles the removal of the socket's file: the last call.

        Nothing stopped if no guest was ever heard: anything may make and remove sockets. If libvirt
        has said that the VM has ended, that was reported.
        """
        heard = self.beats > 0 or self.situation.has_profile
        awaited, ended = self.situation.awaits_end, self.state is HeartbeatState.STOPPED
        told = (Stopped(self.reason if awaited else reason),)
        self.situation.removed(reason)
        self.schedule.disconnected()
        return told if awaited or (heard and not ended) else NOTHING

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
                self.schedule.silence.since = now
                # The next guest sends init first; nobody reads a challenge before that.
                self.schedule.give_up(now, probes_left=0)
                return effects
        return NOTHING

    def _received_init(self, init: Init, now: float) -> tuple[Effect, ...]:
        if (refusal := self._inits.refusal(now)) is not None:
            return refusal
        situation, unanswered = self.situation, self._challenges.number
        situation.step(HeartbeatEvent.INIT)
        situation.profile = Profile.from_init(init, self._rules.limits)
        ack = SendToGuest(InitAck(init.invocation_id, self._rules.offered))
        if situation.init_seen and unanswered is not None:
            # The second init in a row: with a new challenge for each init, instead of the open one
            # again, a guest that reads nothing would never miss one.
            self.schedule.plan(now)
            return (ack, SendToGuest(Challenge(unanswered)))
        situation.learn(PresenceEvent.INIT)
        situation.suspicion = None
        self._challenges.forget()
        return (ack, self.schedule.challenge(now, now))

    def _answered(self, response: ChallengeResponse, now: float) -> tuple[Effect, ...]:
        challenges, situation = self._challenges, self.situation
        if not challenges.answered(response.heartbeat_response, now):
            return self._answered_late(response.heartbeat_response, now)
        self.schedule.silence.since = now
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
        return effects + situation.heard_health(response, now, returns=bool(effects))

    def _answered_late(self, echo: int, now: float) -> tuple[Effect, ...]:
        if (late_s := self._challenges.late_by(echo, now)) is None:
            return NOTHING
        self.late_answers += 1
        note = Note(f"late answer, {late_s:.3f} s after its challenge")
        if self.situation.state in PROBED:
            # A slow VM's guest must not start over; or the VM was frozen, and this was in its port.
            ceased, self._challenges.probes_left = not self.schedule.is_challenging, PROBES
            if ceased:
                return (note, self.schedule.challenge(now, now))
            self.schedule.plan(now)
        return (note,)

    # -- time -------------------------------------------------------------------------------

    def tick(self, now: float, *, late: bool) -> tuple[Effect, ...]:
        """Judges the last challenge and sends the next, when :attr:`due` has come.

        Args:
            now: the time.
            late: whether this process is not on time; it excuses misses, see ``EXCUSED``.
        """
        situation, schedule, challenges = self.situation, self.schedule, self._challenges
        interval_s = situation.profile.interval_s
        # From when this one was due, so that delays do not add up; one beat after a stall.
        base = schedule.due if schedule.due <= now < schedule.due + interval_s else now
        effects = NOTHING
        excused = late and challenges.excuses(interval_s)
        if challenges.number is not None:
            over_at = challenges.over_at(interval_s, excused=excused)
            if now < over_at - SLACK_S:
                # It was sent late, the beat was aligned or this process stood still.
                schedule.due = over_at
                return NOTHING
            challenges.miss(now, counts=not excused)
            if not excused:
                effects = self._missed_one(now)
        if situation.state in HEARTBEATING:
            return (*effects, schedule.challenge(now, base))
        if now >= situation.unwatched_at + (EXCUSED * interval_s if late else 0.0):
            effects += self.losses.unwatched(now)
        if now >= situation.overdue_at + (EXCUSED * interval_s if late else 0.0):
            effects += self.losses.overdue(now)
        if situation.connected and (reason := schedule.silence.end(situation, now, interval_s)):
            effects += (Reconnect(reason),)
        elif schedule.is_challenging:
            return (*effects, schedule.challenge(now, base))
        schedule.due = math.inf
        schedule.plan(now)
        return effects

    def _missed_one(self, now: float) -> tuple[Effect, ...]:
        self.missed += 1
        situation, misses = self.situation, self._challenges.misses
        situation.step(HeartbeatEvent.MISSED)
        if situation.state in HEARTBEATING:
            if misses <= self._rules.failure_threshold:
                return (MISSED,)
            silent_s = (misses + 1) * situation.profile.interval_s
            return self.losses.missed(f"no answer for {silent_s:g} s", now)
        # After a miss that did not count the probes end before so many were missed.
        ceases = misses >= PROBES or self._challenges.probes_left <= 0
        if ceases and situation.state is HeartbeatState.SUSPENDED:
            situation.outage = situation.outage.fell_silent()
        if situation.init_seen and self._challenges.probes_left <= 0:
            situation.learn(PresenceEvent.INIT_VOID)
            return (_STALE_INIT,)
        return NOTHING

    def stood_still(self, seconds: float) -> None:
        """Adds a time in which this process did not run to all times that mean silence."""
        self._challenges.stood_still(seconds)
        self.schedule.silence.since += seconds
        self.situation.outage = self.situation.outage.put_off(seconds)
        self.situation.window = self.situation.window.put_off(seconds)

    def align(self, due: float) -> None:
        """Moves the next beat to an earlier time, at which the driver wakes up anyway."""
        if due < self.schedule.due:
            self.schedule.due = due

    def probed(self, now: float) -> tuple[Effect, ...]:
        """Challenges a lost instance once more; an answer brings it back, silence changes nothing.

        An instance in any other state is challenged anyway, or must not be.
        """
        if not (self.losses.may_be_probed and self.situation.connected):
            return NOTHING
        # The last one may be from before the loss, or have been lost with the connection.
        answers_until = self._challenges.over_at(self.profile.interval_s, excused=False)
        if self.owes_answer and now < answers_until - SLACK_S:
            return NOTHING
        return (self.schedule.challenge(now, now),)
