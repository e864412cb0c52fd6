"""The situation of one instance: its state, its guest's presence, its outage, and why it is so.

Three tables decide what follows from what happens: the heartbeat's, the one of a guest's presence,
and the one of what an answer means. Nothing here sends or waits;
:class:`~hbtrio.fsm.heartbeat.machine.Heartbeat` challenges the guest accordingly.
"""

from __future__ import annotations

import math
from typing import Final

from hbtrio.fsm.heartbeat.challenges import PROBES
from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Heartbeating,
    Lost,
    Note,
    OpenRestart,
    RestartExpired,
    Stopped,
    Unwatched,
)
from hbtrio.fsm.heartbeat.illness import Illness
from hbtrio.fsm.heartbeat.outage import NO_OUTAGE, Outage, Sign
from hbtrio.fsm.heartbeat.presence import (
    GUEST_KNOWN,
    INIT_SEEN,
    PRESENCE_TABLE,
    PresenceEvent,
)
from hbtrio.fsm.heartbeat.table import (
    ANSWER_DECISION,
    FREEZING,
    HEARTBEAT_TABLE,
    HEARTBEATING,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect, Health

NOTHING: Final[tuple[Effect, ...]] = ()

#: The reason of the state of one that is heartbeating.
ANSWERS: Final = "answers challenges"


class Situation:
    """What the host knows of one instance. All values in it are replaced as a whole."""

    __slots__ = (
        "_illness",
        "health",
        "health_reason",
        "outage",
        "presence",
        "reason",
        "state",
    )

    def __init__(self) -> None:
        self.state = HEARTBEAT_TABLE.initial
        self.presence = PRESENCE_TABLE.initial
        #: What is in progress, or was last.
        self.outage = NO_OUTAGE
        #: Why the instance is in its state.
        self.reason = "discovered"
        #: By its last answer; unknown while it is not heartbeating.
        self.health = Health.UNKNOWN
        self.health_reason = ""
        self._illness = Illness()

    @property
    def init_seen(self) -> bool:
        """Whether an ``init`` was received that no answer has followed so far."""
        return self.presence in INIT_SEEN

    @property
    def unwatched_at(self) -> float:
        """When the silence of a suspended instance is to be an alarm; infinity when never."""
        return self.outage.unwatched_at if self.state is HeartbeatState.SUSPENDED else math.inf

    def step(self, event: HeartbeatEvent) -> None:
        """Takes a step in the heartbeat's table.

        Raises:
            IllegalEvent: the table has no place for it; nothing has changed.
        """
        after = HEARTBEAT_TABLE.after(self.state, event)
        if after is self.state:
            return
        if self.state not in HEARTBEATING or after not in HEARTBEATING:
            # What it said of its health is of the past, whether it left or has come back.
            self.health, self.health_reason = Health.UNKNOWN, ""
        self.state = after

    def learn(self, event: PresenceEvent) -> None:
        """Takes a step in the table of the guest's presence."""
        self.presence = PRESENCE_TABLE.after(self.presence, event)

    # -- the connection and the guest -------------------------------------------------------

    def closed(self, reason: str) -> tuple[Effect, ...]:
        """The connection was closed or reset."""
        if self.state is HeartbeatState.PROVISIONAL:
            self.outage = self.outage.fell_silent()
        effects = self._leave(HeartbeatEvent.CLOSED, reason)
        self.learn(PresenceEvent.INIT_VOID)
        return effects

    def left(self, reason: str) -> tuple[Effect, ...]:
        """The guest said ``exit``; in a restart that belongs to going down."""
        effects = self._leave(HeartbeatEvent.LEFT, reason)
        waiting = self.state is HeartbeatState.WAITING
        self.learn(PresenceEvent.LEFT if waiting else PresenceEvent.INIT_VOID)
        return effects

    def removed(self, reason: str) -> None:
        """The instance is no more."""
        self.step(HeartbeatEvent.REMOVED)
        self.reason = reason
        self.learn(PresenceEvent.INIT_VOID)

    def answered(self, sent_at: float, now: float) -> tuple[Effect, ...]:
        """The guest answered the challenge sent at ``sent_at``, in time."""
        was = self.state
        sign = self.outage.sign(sent_at, now, init_seen=self.init_seen)
        event = ANSWER_DECISION.event(was, sign)
        if was in HEARTBEATING or event is HeartbeatEvent.ANSWERED:
            self.step(event)
            if was in HEARTBEATING:
                self.learn(PresenceEvent.ANSWERED)
            return NOTHING
        stayed = sign is Sign.STAYED and was in (
            HeartbeatState.SUSPENDED,
            HeartbeatState.RESTARTING,
        )
        reason = self._stayed_reason if stayed else self._return_reason
        if event is HeartbeatEvent.CAME_BACK:
            self.outage = self.outage.came_back()
        return (self._proven(event, reason),)

    def heard_health(
        self, response: ChallengeResponse, now: float, *, reporting: bool, returns: bool
    ) -> tuple[Effect, ...]:
        """What an answer in time says of the guest's health.

        Args:
            response: the answer.
            now: the time.
            reporting: whether ill health is reported.
            returns: whether with this answer it is back: that then is what there is to say of it.
        """
        health, heartbeating = response.heartbeat_health, self.state in HEARTBEATING
        if heartbeating:
            if health is not self.health:
                self.health, self.reason = health, ANSWERS
            self.health_reason = response.log_msg if health is Health.UNHEALTHY else ""
        news = self._illness.heard(response, now, reporting=reporting)
        if news is None:
            return NOTHING
        if health is Health.HEALTHY and type(news) is Note and heartbeating and not returns:
            self.reason = news.text
        return (news,)

    def silent(
        self, misses: int, profile: Profile, now: float, *, reporting: bool
    ) -> tuple[Effect, ...]:
        """It was heartbeating and has missed ``misses`` challenges in a row, which is too many."""
        self.learn(PresenceEvent.INIT_VOID)
        reason = f"no answer for {(misses + 1) * profile.interval_s:g} s"
        if self.state is HeartbeatState.PROVISIONAL and now >= self.outage.unwatched_at:
            return (Stopped(reason), self.unwatched())
        self.step(HeartbeatEvent.FELL_SILENT)
        if self.state is HeartbeatState.SUSPENDED:
            self.outage = self.outage.fell_silent()
            self.reason = f"{reason}, {self.outage.event} is in progress"
            return (Stopped(self.reason),)
        self.reason = reason
        if reporting:
            return (Lost(reason, profile.corrective_action),)
        return (Stopped(f"{reason}; reporting is off"),)

    def unwatched(self) -> Effect:
        """Its event should be over, and it is silent again."""
        self.step(HeartbeatEvent.UNWATCHED)
        self.reason = f"silent again after {self.outage.event}, which should be over by now"
        return Unwatched(self.reason)

    # -- events around the VM ---------------------------------------------------------------

    def notice_opened(self, event: Event) -> bool:
        """A notice is being sent; whether the instance is to be challenged anew."""
        match EVENT_TABLE[event].effect:
            case ExpectedEffect.RETURNS:
                return self._returns(HeartbeatEvent.RETURNS, f"{event} was sent")
            case ExpectedEffect.RESTARTS:
                self.learn(PresenceEvent.RESTART_NOTICE)
        return False

    def notice_over(self, event: Event, now: float, restart_s: float) -> tuple[Effect, ...]:
        """The notice of an event that is no end is over: the event will happen now."""
        match EVENT_TABLE[event].effect:
            case ExpectedEffect.RESTARTS:
                effects = self.restarts(event, now, restart_s)
                self.learn(PresenceEvent.RESTARTS)
                return effects
            case ExpectedEffect.FREEZES:
                return self._suspend(HeartbeatEvent.FREEZES, Outage.freeze(event, now))
        return self.stops(event, now)

    def restarts(self, event: str, now: float, restart_s: float) -> tuple[Effect, ...]:
        """The VM is being restarted and has ``restart_s`` to come back."""
        effects = self._suspend(HeartbeatEvent.RESTARTS, Outage.restart(event, now, restart_s))
        return (*effects, OpenRestart(restart_s))

    def stops(self, event: str, now: float) -> tuple[Effect, ...]:
        """The VM is being stopped for good."""
        return self._suspend(HeartbeatEvent.STOPS, Outage.stop(event, now))

    def carried_out(self, event: str, now: float) -> None:
        """The command that performs ``event`` has ended."""
        if event == self.outage.event:
            self.outage = self.outage.carried_out(now)

    def runs_again(self, reason: str) -> bool:
        """A freeze is said to be over; whether the instance is to be challenged anew."""
        if not self.outage.freezes or self.state not in FREEZING:
            return False
        return self._returns(HeartbeatEvent.RETURNS, reason)

    def called_off(self, event: str, reason: str) -> bool:
        """``event`` did not happen; whether the instance is to be challenged anew."""
        if event != self.outage.event:
            return False  # something else is in progress by now, of which this says nothing
        reason = f"{event} did not happen: {reason}"
        if self.state is HeartbeatState.RESTARTING and self.presence not in GUEST_KNOWN:
            self.step(HeartbeatEvent.STAYS_AWAY)
            self.reason = reason
            return False
        return self._returns(HeartbeatEvent.CALLED_OFF, reason)

    def restart_expired(
        self, profile: Profile, *, reporting: bool, answering: bool
    ) -> tuple[Effect, ...]:
        """The RESTART window closed while it was restarting.

        Args:
            profile: the guest's.
            reporting: whether a loss is reported.
            answering: whether it answered within the last two intervals: it never went away.
        """
        if answering:
            return (self._proven(HeartbeatEvent.PROVEN, self._stayed_reason),)
        if self.init_seen and not self.outage.extended:
            # Its init came in time; whether it is a leftover shows within the next challenges.
            self.outage = self.outage.extends()
            return (OpenRestart((PROBES + 1) * profile.interval_s),)
        lost = self.presence in GUEST_KNOWN
        self.step(HeartbeatEvent.RESTART_EXPIRED if lost else HeartbeatEvent.STAYS_AWAY)
        self.learn(PresenceEvent.INIT_VOID)
        self.reason = f"not back within {profile.restart_s} s"
        expired = RestartExpired(self.reason)
        if reporting and lost:
            return (expired, Lost(self.reason, profile.corrective_action))
        return (expired,)

    # -- helpers ----------------------------------------------------------------------------

    def _proven(self, event: HeartbeatEvent, reason: str) -> Effect:
        """It is heartbeating (again)."""
        self.step(event)
        self.learn(PresenceEvent.ANSWERED)
        self.reason = ANSWERS
        return Heartbeating(reason)

    @property
    def _stayed_reason(self) -> str:
        """What the return of one is reported with that never went away."""
        return f"{self.outage.event} did not happen: the guest kept answering"

    @property
    def _return_reason(self) -> str:
        """What its return is reported with."""
        match self.state:
            case HeartbeatState.WAITING:
                return "init answered"
            case HeartbeatState.LOST:
                return f"after: {self.reason}"
            case HeartbeatState.RETURNING:
                return f"after: {self.reason}" if self.outage.happened else self.reason
        return f"after: {self.outage.event}"

    def _returns(self, event: HeartbeatEvent, reason: str) -> bool:
        """It should be answering; whether it is to be challenged anew, which is so once."""
        was = self.state
        self.step(event)
        if self.state is not HeartbeatState.RETURNING or was is HeartbeatState.RETURNING:
            return False
        self.outage = self.outage.over(happened=event is not HeartbeatEvent.CALLED_OFF)
        self.reason = reason
        return True

    def _suspend(self, event: HeartbeatEvent, outage: Outage) -> tuple[Effect, ...]:
        was = self.state
        self.step(event)
        self.outage = outage
        self.reason = f"{outage.event} is in progress"
        self.learn(PresenceEvent.INIT_VOID)
        return (Stopped(self.reason),) if was in HEARTBEATING else NOTHING

    def _leave(self, event: HeartbeatEvent, reason: str) -> tuple[Effect, ...]:
        was = self.state
        self.step(event)
        if self.state is not was:
            self.reason = reason
        return (Stopped(reason),) if was in HEARTBEATING else NOTHING
