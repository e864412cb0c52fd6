"""Holds the situation of one instance: state, presence of its guest, outage, and the reason.

Three tables decide: the heartbeat's, that of the guest's presence, and that of what an answer
means. :class:`~hbtrio.fsm.heartbeat.machine.Heartbeat` challenges the guest accordingly.
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

#: The reason while an instance is heartbeating.
ANSWERS: Final = "answers challenges"


class Situation:
    """What the host knows of one instance. Its values are replaced as a whole."""

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
        #: The event in progress, or the last one.
        self.outage = NO_OUTAGE
        #: Why the instance is in its state.
        self.reason = "discovered"
        #: By its last answer; unknown while it is not heartbeating.
        self.health = Health.UNKNOWN
        self.health_reason = ""
        self._illness = Illness()

    @property
    def init_seen(self) -> bool:
        """Whether an ``init`` was received, and no answer since."""
        return self.presence in INIT_SEEN

    @property
    def unwatched_at(self) -> float:
        """When the silence of a suspended instance becomes an alarm; infinity for never."""
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
            # Its health was that of the time before it left or returned.
            self.health, self.health_reason = Health.UNKNOWN, ""
        self.state = after

    def learn(self, event: PresenceEvent) -> None:
        """Takes a step in the table of the guest's presence."""
        self.presence = PRESENCE_TABLE.after(self.presence, event)

    # -- the connection and the guest -------------------------------------------------------

    def closed(self, reason: str) -> tuple[Effect, ...]:
        """Handles a closed or reset connection."""
        if self.state is HeartbeatState.PROVISIONAL:
            self.outage = self.outage.fell_silent()
        effects = self._leave(HeartbeatEvent.CLOSED, reason)
        self.learn(PresenceEvent.INIT_VOID)
        return effects

    def left(self, reason: str) -> tuple[Effect, ...]:
        """Handles ``exit``, which during a restart is expected."""
        effects = self._leave(HeartbeatEvent.LEFT, reason)
        waiting = self.state is HeartbeatState.WAITING
        self.learn(PresenceEvent.LEFT if waiting else PresenceEvent.INIT_VOID)
        return effects

    def removed(self, reason: str) -> None:
        """Handles the removal of the instance."""
        self.step(HeartbeatEvent.REMOVED)
        self.reason = reason
        self.learn(PresenceEvent.INIT_VOID)

    def answered(self, sent_at: float, now: float) -> tuple[Effect, ...]:
        """Handles an answer in time to the challenge sent at ``sent_at``."""
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
        """Handles the guest's health in an answer in time.

        Args:
            response: the answer.
            now: the time.
            reporting: whether ill health is reported.
            returns: whether the instance returns with this answer, which is then its reason.
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
        """Handles ``misses`` challenges missed in a row, too many for a heartbeating instance."""
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
        """Handles a renewed silence at a time when the event should be over."""
        self.step(HeartbeatEvent.UNWATCHED)
        self.reason = f"silent again after {self.outage.event}, which should be over by now"
        return Unwatched(self.reason)

    # -- events around the VM ---------------------------------------------------------------

    def notice_opened(self, event: Event) -> bool:
        """Handles a notice being sent; returns whether to challenge the instance now."""
        match EVENT_TABLE[event].effect:
            case ExpectedEffect.RETURNS:
                return self._returns(HeartbeatEvent.RETURNS, f"{event} was sent")
            case ExpectedEffect.RESTARTS:
                self.learn(PresenceEvent.RESTART_NOTICE)
        return False

    def notice_over(self, event: Event, now: float, restart_s: float) -> tuple[Effect, ...]:
        """Handles the end of a notice before an event, which is now imminent."""
        match EVENT_TABLE[event].effect:
            case ExpectedEffect.RESTARTS:
                effects = self.restarts(event, now, restart_s)
                self.learn(PresenceEvent.RESTARTS)
                return effects
            case ExpectedEffect.FREEZES:
                return self._suspend(HeartbeatEvent.FREEZES, Outage.freeze(event, now))
        return self.stops(event, now)

    def restarts(self, event: str, now: float, restart_s: float) -> tuple[Effect, ...]:
        """Handles a restart of the VM, which has ``restart_s`` to return."""
        effects = self._suspend(HeartbeatEvent.RESTARTS, Outage.restart(event, now, restart_s))
        return (*effects, OpenRestart(restart_s))

    def stops(self, event: str, now: float) -> tuple[Effect, ...]:
        """Handles a permanent stop of the VM."""
        return self._suspend(HeartbeatEvent.STOPS, Outage.stop(event, now))

    def carried_out(self, event: str, now: float) -> None:
        """Handles the end of the command of ``event``."""
        if event == self.outage.event:
            self.outage = self.outage.carried_out(now)

    def runs_again(self, reason: str) -> bool:
        """Handles the reported end of a freeze; returns whether to challenge the instance now."""
        if not self.outage.freezes or self.state not in FREEZING:
            return False
        return self._returns(HeartbeatEvent.RETURNS, reason)

    def called_off(self, event: str, reason: str) -> bool:
        """Handles an event that did not happen; returns whether to challenge the instance now."""
        if event != self.outage.event:
            return False  # another event is in progress by now
        reason = f"{event} did not happen: {reason}"
        if self.state is HeartbeatState.RESTARTING and self.presence not in GUEST_KNOWN:
            self.step(HeartbeatEvent.STAYS_AWAY)
            self.reason = reason
            return False
        return self._returns(HeartbeatEvent.CALLED_OFF, reason)

    def restart_expired(
        self, profile: Profile, *, reporting: bool, answering: bool
    ) -> tuple[Effect, ...]:
        """Handles the end of the RESTART window.

        Args:
            profile: the guest's.
            reporting: whether a loss is reported.
            answering: whether it answered within the last two intervals, so it never went down.
        """
        if answering:
            return (self._proven(HeartbeatEvent.PROVEN, self._stayed_reason),)
        if self.init_seen and not self.outage.extended:
            # Its init came in time; the next challenges show whether the init was stale.
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
        """Handles the (renewed) start of heartbeating."""
        self.step(event)
        self.learn(PresenceEvent.ANSWERED)
        self.reason = ANSWERS
        return Heartbeating(reason)

    @property
    def _stayed_reason(self) -> str:
        """The reason in the report of an instance that never went down."""
        return f"{self.outage.event} did not happen: the guest kept answering"

    @property
    def _return_reason(self) -> str:
        """The reason in the report of a return."""
        match self.state:
            case HeartbeatState.WAITING:
                return "init answered"
            case HeartbeatState.LOST:
                return f"back after {self.reason}"
            case HeartbeatState.RETURNING:
                return f"back after {self.reason}" if self.outage.happened else self.reason
        return f"back after {self.outage.event}"

    def _returns(self, event: HeartbeatEvent, reason: str) -> bool:
        """Expects answers again; returns True once: challenge the instance now."""
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
