"""The connection, the handshake and the challenges of one instance: the host's side of its pulse.

:class:`~hbtrio.fsm.heartbeat.machine.Heartbeat` adds the events around the VM, and says what it is
all for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from hbtrio.fsm.heartbeat.challenges import Challenges
from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Heartbeating,
    Ill,
    Lost,
    Note,
    Reconnect,
    SendToGuest,
    Stopped,
    Unwatched,
)
from hbtrio.fsm.heartbeat.illness import Illness
from hbtrio.fsm.heartbeat.outage import NO_OUTAGE
from hbtrio.fsm.heartbeat.table import (
    CHALLENGED,
    HEARTBEAT_TABLE,
    HEARTBEATING,
    PATIENT,
    PROBED,
    TAKING_PART,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.policy.profile import Profile, ProfileLimits
from hbtrio.policy.quota import Quota
from hbtrio.wire.channel_messages import Challenge, ChallengeResponse, Exit, Init, InitAck, Message
from hbtrio.wire.vocabulary import Health

#: Unanswered challenges after which a VM that may be frozen is left alone, until one is answered
#: late, which it is when the VM runs again.
PROBES: Final = 2

#: A returning VM that stays silent this many intervals gets one reconnect: it cures a virtio port
#: that was wedged by a migration with a backlog (PROTOCOL.md, the port itself).
WEDGED_AFTER: Final = 5

#: A challenge sent this much late still gets its whole interval, less the grid of the pacer.
SLACK_S: Final = 0.02

#: A guest retries ``init`` every 5 s; one that says it more often than this is not heard.
GREETINGS: Final = 6
GREETINGS_PERIOD_S: Final = 10.0

NOTHING: Final[tuple[Effect, ...]] = ()
_UNREPORTED_ILL: Final = Note("ill, but reporting is off")
_ANSWERS: Final = "answers challenges"


@attrs.frozen
class HeartbeatRules:
    """The host's settings for every channel; see ``[heartbeat]`` of host.toml."""

    failure_threshold: int = 1
    reconnect_silent_s: float = 120.0
    limits: ProfileLimits = attrs.field(factory=ProfileLimits)


class Pulse:
    """The pulse of one instance.

    Args:
        settings: the host's settings.
        new_id: makes challenges in 0..2^31-1; handed in so that a simulation can seed it.
    """

    def __init__(self, settings: HeartbeatRules, *, new_id: Callable[[], int]) -> None:
        self.state = HEARTBEAT_TABLE.initial
        self.connected = False
        self.profile = Profile()
        #: Why the instance is in its state, for status and logs.
        self.why = "discovered"
        #: When :meth:`tick` wants to be called; infinity when never.
        self.due = math.inf
        #: Whether losses and ill health are reported (set by the agent; on without one).
        self.reporting = True
        #: By its last answer; unknown while it is not heartbeating.
        self.health = Health.UNKNOWN
        self.health_reason = ""
        self.beats = 0
        self.missed = 0
        self.late_answers = 0
        #: Seconds from the last challenge to its answer; NaN before the first.
        self.round_trip_s = math.nan
        #: What its return will be reported with.
        self._back = ""
        self._settings = settings
        self._challenges = Challenges(new_id)
        #: An ``init`` came, and no challenge was answered since.
        self._greeted = False
        self._probes_left = 0
        self._unwedged = False
        self._silent_since = 0.0
        self._answered_at = -math.inf
        #: What is under way, or was last.
        self._outage = NO_OUTAGE
        self._restart_extended = False
        #: A guest has proven itself and did not exit since; without one, none can be lost.
        self._inhabited = False
        #: The same, when the notice of a restart was opened.
        self._told_restart = False
        self._greetings = Quota(GREETINGS, GREETINGS_PERIOD_S)
        self._refusing = False
        self._illness = Illness()

    @property
    def is_heartbeating(self) -> bool:
        """Whether the instance takes part: votes and notices are sent to it only then."""
        return self.connected and self.state in TAKING_PART

    @property
    def owes_answer(self) -> bool:
        """Whether a challenge is unanswered; its driver reads once more before :meth:`tick`."""
        return self._challenges.number is not None

    # -- the connection ---------------------------------------------------------------------

    def opened(self, now: float) -> tuple[Effect, ...]:
        """The socket is connected."""
        self._step(HeartbeatEvent.CONNECTED)
        self.connected = True
        self._silent_since = now
        if self._challenging:
            return (self._challenge(now, now),)
        self._schedule(now)
        return NOTHING

    def closed(self, why: str) -> tuple[Effect, ...]:
        """The socket was closed or reset; heartbeating stops, which is no loss."""
        if self.state is HeartbeatState.PROVISIONAL:
            self._outage = self._outage.fell_silent()
        effects = self._stop(HeartbeatEvent.CLOSED, why)
        self._disconnected()
        return effects

    def removed(self, why: str) -> tuple[Effect, ...]:
        """The socket's file is gone, and with it the instance; nothing may follow."""
        self._step(HeartbeatEvent.REMOVED)
        self._because(why)
        self._disconnected()
        return (Stopped(why),)

    # -- messages ---------------------------------------------------------------------------

    def received(self, message: Message, now: float) -> tuple[Effect, ...]:
        """A message of the guest; those that are not about the heartbeat are ignored."""
        if type(message) is ChallengeResponse:
            return self._answered(message, now)
        match message:
            case Init():
                return self._said_init(message, now)
            case Exit(log_msg=reason):
                effects = self._stop(HeartbeatEvent.LEFT, f"guest exited: {reason}")
                if self.state is HeartbeatState.WAITING:  # else it belongs to what is under way
                    self._inhabited = False
                self._forget()
                self._probes_left = 0  # it will say init; nobody reads a challenge before that
                self._silent_since = now
                self._schedule(now)
                return effects
        return NOTHING

    def _said_init(self, init: Init, now: float) -> tuple[Effect, ...]:
        if not self._greetings.take(now):
            told, self._refusing = self._refusing, True
            return NOTHING if told else (Note("too many inits, not answered"),)
        self._refusing = False
        self._step(HeartbeatEvent.GREETED)
        self.profile = Profile.from_init(init, self._settings.limits)
        ack = SendToGuest(InitAck(init.invocation_id))
        unanswered = self._challenges.number
        if self._greeted and unanswered is not None:
            # The second in a row: the challenge that runs is said again and its time goes on. With
            # a new one for each, a guest that hears nothing would never have missed any.
            self._schedule(now)
            return (ack, SendToGuest(Challenge(unanswered)))
        self._forget()
        self._greeted = True
        return (ack, self._challenge(now, now))

    def _answered(self, response: ChallengeResponse, now: float) -> tuple[Effect, ...]:
        challenges = self._challenges
        if not challenges.answered(response.heartbeat_response):
            return self._answered_late(response.heartbeat_response, now)
        self._probes_left = PROBES
        self._silent_since = self._answered_at = now
        self.beats += 1
        self.round_trip_s = now - challenges.sent_at
        effects = NOTHING
        if self.state is HeartbeatState.BEATING:
            self._step(HeartbeatEvent.ANSWERED)
            self._greeted = False
        elif self.state is HeartbeatState.PROVISIONAL:
            final = self._outage.is_final(challenges.sent_at, now)
            self._step(HeartbeatEvent.PROVEN if final else HeartbeatEvent.ANSWERED)
            self._greeted = False
        else:
            effects = self._answered_away(now)
        return effects + self._said_health(response, now, returns=bool(effects))

    def _answered_away(self, now: float) -> tuple[Effect, ...]:
        """An answer to the challenge of one that is not heartbeating, or was not so far."""
        outage, suspended = self._outage, self.state is HeartbeatState.SUSPENDED
        if self._greeted or (suspended and outage.awaits_return):
            if suspended and outage.freezes and not outage.is_final(self._challenges.sent_at, now):
                self._outage = outage.came_back()
                return (self._proven(self._back, HeartbeatEvent.CAME_BACK),)
            new = self.state is HeartbeatState.WAITING
            return (self._proven("init answered" if new else self._back),)
        if self.state in (HeartbeatState.RETURNING, HeartbeatState.UNWATCHED):
            return (self._proven(self._back),)
        if now >= outage.call_off_at:
            return (self._proven(self._never_happened()),)
        self._step(HeartbeatEvent.ANSWERED)
        return NOTHING

    def _said_health(
        self, response: ChallengeResponse, now: float, *, returns: bool
    ) -> tuple[Effect, ...]:
        health, beating = response.heartbeat_health, self.state in HEARTBEATING
        if beating:
            if health is not self.health:
                self.health, self.why = health, _ANSWERS
            self.health_reason = response.log_msg if health is Health.UNHEALTHY else ""
        illness = self._illness
        if illness.is_news(health, response.corrective_action, now, response.log_msg):
            action = response.corrective_action
            return (Ill(response.log_msg, action) if self.reporting else _UNREPORTED_ILL,)
        if health is Health.HEALTHY and illness.lasts:
            # The kinds of events are a closed list: its end is a line in the log, and the present.
            text = illness.over()
            if beating and not returns:  # of one that is back, that is what there is to say
                self.why = text
            return (Note(text),)
        return NOTHING

    def _answered_late(self, echo: int, now: float) -> tuple[Effect, ...]:
        late_s = self._challenges.late_by(echo, now)
        if late_s is None:
            return NOTHING
        self.late_answers += 1
        note = Note(f"late answer, {late_s:.3f} s after its challenge")
        if self.state in PROBED:
            # Slow, as VMs are that move or shut down, but not frozen: it must not start over. Or it
            # was frozen, and these were the probes that had waited in its port.
            ceased, self._probes_left = not self._challenging, PROBES
            if ceased:
                return (note, self._challenge(now, now))
            self._schedule(now)
        return (note,)

    # -- time -------------------------------------------------------------------------------

    def tick(self, now: float, *, late: bool) -> tuple[Effect, ...]:
        """The time in :attr:`due` has come: judge the last challenge, send the next.

        Args:
            now: the time.
            late: whether this process is not being scheduled on time; no miss counts then.
        """
        # The next beat is reckoned from when this one was due, so that lateness does not add up;
        # after a stall there is one beat, not one for each interval that was slept through.
        base = self.due if self.due <= now < self.due + self.profile.interval_s else now
        effects = NOTHING
        if self.owes_answer:
            over_at = self._challenges.sent_at + self.profile.interval_s
            if now < over_at - SLACK_S:
                # It was sent late, or the beat was aligned: its time to answer is not over.
                self.due = over_at
                return NOTHING
            self._challenges.miss()
            if late:
                self._challenges.misses = 0
            else:
                effects = self._missed_one(now)
        suspended = self.state is HeartbeatState.SUSPENDED
        if suspended and now >= self._outage.unwatched_at and not late:
            effects += (self._unwatched(now),)
        why = self._reconnect_reason(now)
        if why:
            effects += (Reconnect(why),)
        elif self._challenging:
            return (*effects, self._challenge(now, base))
        self.due = math.inf
        self._schedule(now)
        return effects

    def align(self, due: float) -> None:
        """Moves the next beat to an earlier time, at which the driver is awake anyway."""
        if due < self.due:
            self.due = due

    def _missed_one(self, now: float) -> tuple[Effect, ...]:
        self.missed += 1
        self._step(HeartbeatEvent.MISSED)
        if self.state in HEARTBEATING:
            if self._challenges.misses <= self._settings.failure_threshold:
                return (Note("heartbeat missed"),)
            return self._fell_silent(now)
        self._probes_left -= 1
        if self.state is HeartbeatState.SUSPENDED and self._challenges.misses >= PROBES:
            self._outage = self._outage.fell_silent()
        if self._greeted and self._probes_left <= 0:
            self._greeted = False
            return (Note("init came, but no challenge was answered: a leftover"),)
        return NOTHING

    def _fell_silent(self, now: float) -> tuple[Effect, ...]:
        provisional = self.state is HeartbeatState.PROVISIONAL
        self._greeted = False
        self._silent_since = now
        misses = self._challenges.misses
        why = f"no answer for {(misses + 1) * self.profile.interval_s:g} s"
        if provisional and now >= self._outage.unwatched_at:
            return (Stopped(why), self._unwatched(now))
        self._step(HeartbeatEvent.FELL_SILENT)
        if provisional:
            # Those that were missed wait in its port already.
            self._probes_left = max(0, PROBES - misses)
            self._outage = self._outage.fell_silent()
            what = self._outage.what
            self._because(f"{why}, {what} is under way", f"after: {what}")
            return (Stopped(self.why),)
        self._because(why)
        if self.reporting:
            return (Lost(self.why, self.profile.corrective_action),)
        return (Stopped(f"{self.why}; reporting is off"),)

    def _unwatched(self, now: float) -> Effect:
        """It is asked again from here on: twice, and twice after each reconnect."""
        self._step(HeartbeatEvent.UNWATCHED)
        self._silent_since = now
        self._probes_left = PROBES
        what = self._outage.what
        self._because(f"silent again after {what}, and that should be over", f"after: {what}")
        return Unwatched(self.why)

    def _reconnect_reason(self, now: float) -> str:
        """Why to reconnect now, or nothing; it then counts as done."""
        if not self.connected or self.state in PATIENT:
            return ""
        # Reckoned as `due` is: with the difference instead, rounding could make it due for ever.
        if now >= self._silent_since + self._settings.reconnect_silent_s:
            self._silent_since = now
            return f"connected, but {self.state.value} for too long"
        if self.state is HeartbeatState.RETURNING and not self._unwedged:
            wedged_s = WEDGED_AFTER * self.profile.interval_s - SLACK_S
            self._unwedged = now >= self._silent_since + wedged_s
            return "no answer since it returned" if self._unwedged else ""
        return ""

    # -- helpers ----------------------------------------------------------------------------

    @property
    def _challenging(self) -> bool:
        if not self.connected:
            return False
        if self.state in CHALLENGED or self._greeted:
            return True
        return self.state in PROBED and self._probes_left > 0

    def _challenge(self, now: float, base: float) -> SendToGuest:
        self.due = base + self.profile.interval_s
        return SendToGuest(self._challenges.next(now))

    def _schedule(self, now: float) -> None:
        """Sets :attr:`due` where no challenge is to be sent right now."""
        if self._challenging:
            self.due = min(self.due, now + self.profile.interval_s)
        elif self.state is HeartbeatState.SUSPENDED:
            self.due = max(self._outage.unwatched_at, now + self.profile.interval_s)
        elif not self.connected:
            self.due = math.inf
        elif self.state not in PATIENT:
            self.due = self._silent_since + self._settings.reconnect_silent_s

    def _proven(self, why: str, event: HeartbeatEvent = HeartbeatEvent.PROVEN) -> Effect:
        self._step(event)
        self._greeted = False
        self._inhabited = True
        self.why = _ANSWERS
        return Heartbeating(why)

    def _stop(self, event: HeartbeatEvent, why: str) -> tuple[Effect, ...]:
        was = self.state
        self._step(event)
        if self.state is not was:
            self._because(why)
        return (Stopped(why),) if was in HEARTBEATING else NOTHING

    def _disconnected(self) -> None:
        self.connected = False
        self._forget()
        # The alarm about a suspended one needs no connection.
        suspended = self.state is HeartbeatState.SUSPENDED
        self.due = self._outage.unwatched_at if suspended else math.inf

    def _forget(self) -> None:
        """What was said and heard so far belongs to another session."""
        self._challenges.forget()
        self._greeted = False
        self._answered_at = -math.inf
        self._probes_left = PROBES

    def _because(self, why: str, back: str = "") -> None:
        """Why it is not heartbeating, and what its return will be reported with."""
        self.why = why
        self._back = back or f"after: {why}"

    def _never_happened(self) -> str:
        """What the return of one is reported with that goes on answering."""
        return f"{self._outage.what} did not happen: it goes on answering"

    def _step(self, event: HeartbeatEvent) -> None:
        after = HEARTBEAT_TABLE.after(self.state, event)
        if after is self.state:
            return
        if self.state not in HEARTBEATING or after not in HEARTBEATING:
            # What it said of its health is of the past, whether it left or has come back.
            self.health, self.health_reason = Health.UNKNOWN, ""
        self.state = after
