"""Holds the situation of one instance: state, presence of its guest, outage, and the reason.

Three tables decide: the heartbeat's, that of the guest's presence, and that of what an answer
means. :class:`~hbtrio.fsm.heartbeat.machine.Heartbeat` challenges the guest accordingly.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from hbtrio.fsm.heartbeat.effects import Effect, Heartbeating, Lost, Note, OpenRestart, Stopped
from hbtrio.fsm.heartbeat.illness import Illness
from hbtrio.fsm.heartbeat.outage import NO_OUTAGE, Outage, Sign
from hbtrio.fsm.heartbeat.presence import (
    GUEST_KNOWN,
    GUEST_MISSING,
    INIT_SEEN,
    PRESENCE_TABLE,
    Presence,
    PresenceEvent,
)
from hbtrio.fsm.heartbeat.return_window import NO_WINDOW, ReturnWindow
from hbtrio.fsm.heartbeat.suspicion import Ground, Suspicion
from hbtrio.fsm.heartbeat.table import (
    ANSWER_DECISION,
    HEARTBEAT_TABLE,
    HEARTBEATING,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import Health

NOTHING: Final[tuple[Effect, ...]] = ()

#: The profile until the first init.
_NO_INIT: Final = Profile()

#: The reason while an instance is heartbeating.
ANSWERS: Final = "answers challenges"


class Situation:
    """What the host knows of one instance. Its values are replaced as a whole.

    Args:
        grace_s: for how long ill health is only shown after heartbeating began, in seconds.
        absent_after_s: how long a guest may take to come, in seconds; 0: the RESTART of its
            profile.
    """

    __slots__ = (
        "absent_after_s",
        "before",
        "connected",
        "has_failed",
        "health",
        "health_reason",
        "illness",
        "is_presumed",
        "is_remembered",
        "outage",
        "presence",
        "profile",
        "reason",
        "reporting",
        "state",
        "suspicion",
        "window",
    )

    def __init__(self, grace_s: float = 0.0, absent_after_s: float = 0.0) -> None:
        self.state = HEARTBEAT_TABLE.initial
        self.presence = PRESENCE_TABLE.initial
        self.connected = False
        self.profile = _NO_INIT
        #: Whether losses and ill health are reported (set by the agent; on without one).
        self.reporting = True
        #: The event in progress, or the last one.
        self.outage = NO_OUTAGE
        #: Until when it is expected back, and how often it was reset.
        self.window = NO_WINDOW
        #: The state that it was in when libvirt said that it was paused or had ended.
        self.before = self.state
        #: Whether its QEMU has ended, or its kernel has panicked, since it is lost.
        self.has_failed = False
        #: Whether its guest was not heard since this host or its connection was there, or since an
        #: event that did not happen: its silence is a loss only if its VM is known to run.
        self.is_presumed = False
        #: Whether only an earlier run of this host has heard it.
        self.is_remembered = False
        #: A loss that waits for libvirt's answer, or None.
        self.suspicion: Suspicion | None = None
        #: Why the instance is in its state.
        self.reason = "discovered"
        #: By its last answer; unknown while it is not heartbeating.
        self.health = Health.UNKNOWN
        self.health_reason = ""
        self.illness = Illness(grace_s)
        self.absent_after_s = absent_after_s

    @property
    def has_profile(self) -> bool:
        """Whether its guest's profile is known."""
        return self.profile is not _NO_INIT

    @property
    def init_seen(self) -> bool:
        """Whether an ``init`` was received, and no answer since."""
        return self.presence in INIT_SEEN

    @property
    def unwatched_at(self) -> float:
        """When the silence of a suspended instance becomes an alarm; infinity for never."""
        return self.outage.unwatched_at if self.state is HeartbeatState.SUSPENDED else math.inf

    # -- a guest that is waited for ---------------------------------------------------------

    @property
    def awaits_guest(self) -> bool:
        """Whether nobody is there, and one has to come in time."""
        waiting = self.state is HeartbeatState.WAITING and self.suspicion is None
        return waiting and self.presence in GUEST_MISSING

    @property
    def has_left(self) -> bool:
        """Whether its guest has said ``exit``, and may still come back in time."""
        return self.state is HeartbeatState.WAITING and self.presence is Presence.EXITED

    @property
    def guest_within_s(self) -> float:
        """How long a guest may take to come, in seconds."""
        return self.absent_after_s or self.profile.restart_s

    @property
    def guest_due_at(self) -> float:
        """When a guest has to be there; infinity while none is waited for."""
        return self.window.until if self.awaits_guest else math.inf

    @property
    def awaits_end(self) -> bool:
        """Whether its VM is ending, and libvirt has not said how."""
        return self.state is HeartbeatState.STOPPED and self.window.is_open

    @property
    def overdue_at(self) -> float:
        """When a guest, or libvirt's word on the VM's end, has to be there; infinity for never."""
        return self.window.until if self.awaits_end else self.guest_due_at

    def await_guest(self, now: float) -> None:
        """Waits for a guest from now on, if none is there and none is waited for."""
        if self.awaits_guest and not self.window.is_open:
            self.window = self.window.extended(now, self.guest_within_s)

    @property
    def waits_for_libvirt(self) -> bool:
        """Whether nothing is decided about it while libvirt does not answer."""
        missing = self.suspicion is not None and self.suspicion.ground is Ground.NO_GUEST
        return self.is_presumed or missing

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
        if after is HeartbeatState.HEARTBEATING:
            self.illness.begins()
        if after is HeartbeatState.WAITING and not self.is_in(after):
            # A pause is no reason to wait for a guest anew.
            self.window = self.window.closed()
        self.state = after
        self.suspicion = None
        self.has_failed = False
        if after not in (HeartbeatState.PAUSED, HeartbeatState.LOST):
            self.is_presumed = False
            if after is not HeartbeatState.RETURNING:
                self.is_remembered = False

    def is_in(self, state: HeartbeatState) -> bool:
        """Whether it is in a state, or was when it was paused."""
        return self.state is state or (self.state is HeartbeatState.PAUSED and self.before is state)

    def leave_for(self, event: HeartbeatEvent) -> None:
        """Takes a step whose end continues what was before it."""
        before = self.state
        self.step(event)
        self.before = before

    def open_window(self, window: ReturnWindow, now: float, why: str) -> Effect:
        """Expects the instance back until the end of a window."""
        self.window = window
        return OpenRestart(max(window.until - now, 0.0), why)

    def learn(self, event: PresenceEvent) -> None:
        """Takes a step in the table of the guest's presence."""
        self.presence = PRESENCE_TABLE.after(self.presence, event)

    # -- the connection and the guest -------------------------------------------------------

    def closed(self, reason: str) -> tuple[Effect, ...]:
        """Handles a closed or reset connection; one whose QEMU has failed stays lost."""
        if self.has_failed:
            return NOTHING
        if self.state is HeartbeatState.PROVISIONAL:
            self.outage = self.outage.fell_silent()
        effects = self._leave(HeartbeatEvent.CLOSED, reason)
        self.learn(PresenceEvent.INIT_VOID)
        return effects

    def left(self, reason: str) -> tuple[Effect, ...]:
        """Handles ``exit``, which during an announced restart is expected."""
        effects = self._leave(HeartbeatEvent.LEFT, reason)
        expected = self.is_in(HeartbeatState.RESTARTING) and self.outage.announced
        self.learn(PresenceEvent.INIT_VOID if expected else PresenceEvent.LEFT)
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
        self.window = self.window.answered()
        if was in HEARTBEATING or event is HeartbeatEvent.ANSWERED:
            self.step(event)
            if was in HEARTBEATING:
                self.learn(PresenceEvent.ANSWERED)
            return NOTHING
        stayed = sign is Sign.STAYED and was in (
            HeartbeatState.SUSPENDED,
            HeartbeatState.RESTARTING,
        )
        reason = self.stayed_reason if stayed else self._return_reason
        if event is HeartbeatEvent.CAME_BACK:
            self.outage = self.outage.came_back()
        return (self.proven(event, reason),)

    def heard_health(
        self, response: ChallengeResponse, now: float, *, returns: bool
    ) -> tuple[Effect, ...]:
        """Handles the guest's health in an answer in time.

        Args:
            response: the answer.
            now: the time.
            returns: whether the instance returns with this answer, which is then its reason.
        """
        health, heartbeating = response.heartbeat_health, self.state in HEARTBEATING
        if heartbeating:
            if health is not self.health:
                self.health, self.reason = health, ANSWERS
            self.health_reason = response.log_msg if health is Health.UNHEALTHY else ""
        news = self.illness.heard(response, now, reporting=self.reporting)
        if news is None:
            return NOTHING
        if health is Health.HEALTHY and type(news) is Note and heartbeating and not returns:
            self.reason = news.text
        return (news,)

    def loses(self, reason: str, *, state: str = "") -> Effect:
        """Notes why the instance is lost, and returns how that is reported."""
        self.reason = reason
        if self.reporting:
            action = self.profile.corrective_action
            return Lost(reason, action, state, seen=not self.is_remembered)
        return Stopped(f"{reason}; reporting is off")

    @property
    def can_fail(self) -> bool:
        """Whether there is a guest to lose, and it is not lost."""
        return self.presence in GUEST_KNOWN and self.state is not HeartbeatState.LOST

    # -- steps that belong together ---------------------------------------------------------

    def proven(self, event: HeartbeatEvent, reason: str) -> Effect:
        """Handles the (renewed) start of heartbeating."""
        self.step(event)
        self.learn(PresenceEvent.ANSWERED)
        self.window = NO_WINDOW
        self.reason = ANSWERS
        return Heartbeating(reason)

    @property
    def stayed_reason(self) -> str:
        """The reason in the report of an instance that never went down."""
        return f"{self.outage.event} did not happen: the guest kept answering"

    @property
    def _return_reason(self) -> str:
        """The reason in the report of a return."""
        match self.state:
            case HeartbeatState.WAITING | HeartbeatState.UNHEARD:
                return "init answered"
            case (
                HeartbeatState.LOST
                | HeartbeatState.PAUSED
                | HeartbeatState.STOPPED
                | HeartbeatState.ABSENT
            ):
                return f"back after {self.reason}"
            case HeartbeatState.RETURNING:
                return f"back after {self.reason}" if self.outage.happened else self.reason
        return f"back after {self.outage.event}"

    def return_by(self, event: HeartbeatEvent, reason: str) -> bool:
        """Expects answers again; returns True once: challenge the instance now."""
        was = self.state
        self.step(event)
        if self.state is not HeartbeatState.RETURNING or was is HeartbeatState.RETURNING:
            return False
        self.outage = self.outage.over(happened=event is not HeartbeatEvent.CALLED_OFF)
        self.window = self.window.closed()
        self.reason = reason
        return True

    def suspend(self, event: HeartbeatEvent, outage: Outage) -> tuple[Effect, ...]:
        """Begins an outage."""
        was, before = self.state, self.outage
        self.step(event)
        # One that has answered since, or was lost, is watched again.
        watched = was in HEARTBEATING or was is HeartbeatState.LOST
        unwatched = was is HeartbeatState.UNWATCHED or (before.was_unwatched and not watched)
        self.outage = attrs.evolve(outage, was_unwatched=unwatched)
        self.window = self.window.closed()
        self.reason = f"{outage.event} is in progress"
        self.learn(PresenceEvent.INIT_VOID)
        return (Stopped(self.reason),) if was in HEARTBEATING else NOTHING

    def _leave(self, event: HeartbeatEvent, reason: str) -> tuple[Effect, ...]:
        was = self.state
        self.step(event)
        if self.state is not was:
            self.reason = reason
        return (Stopped(reason),) if was in HEARTBEATING else NOTHING
