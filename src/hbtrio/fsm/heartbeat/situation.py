"""Holds the situation of one instance: state, presence of its guest, outage, and the reason.

Three tables decide: the heartbeat's, that of the guest's presence, and that of what an answer
means. :class:`~hbtrio.fsm.heartbeat.machine.Heartbeat` challenges the guest accordingly.
"""

from __future__ import annotations

import math
from typing import Final

from hbtrio.fsm.heartbeat.challenges import PROBES
from hbtrio.fsm.heartbeat.effects import (
    Absent,
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
    Presence,
    PresenceEvent,
)
from hbtrio.fsm.heartbeat.return_window import NO_WINDOW, ReturnWindow
from hbtrio.fsm.heartbeat.suspicion import Suspicion
from hbtrio.fsm.heartbeat.table import (
    ANSWER_DECISION,
    EXPECTED_BACK,
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
    """What the host knows of one instance. Its values are replaced as a whole.

    Args:
        grace_s: for how long ill health is only shown after heartbeating began, in seconds.
    """

    __slots__ = (
        "before",
        "has_failed",
        "health",
        "health_reason",
        "illness",
        "is_presumed",
        "is_remembered",
        "outage",
        "presence",
        "reason",
        "state",
        "suspicion",
        "window",
    )

    def __init__(self, grace_s: float = 0.0) -> None:
        self.state = HEARTBEAT_TABLE.initial
        self.presence = PRESENCE_TABLE.initial
        #: The event in progress, or the last one.
        self.outage = NO_OUTAGE
        #: Until when it is expected back, and how often it was reset.
        self.window = NO_WINDOW
        #: The state that it was in when libvirt said that it was paused or had ended.
        self.before = self.state
        #: Whether its QEMU has ended, or its kernel has panicked, since it is lost.
        self.has_failed = False
        #: Whether its guest was not heard since this host, or its connection, was there.
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
        if after is HeartbeatState.HEARTBEATING:
            self.illness.begins()
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

    def open_window(self, window: ReturnWindow, now: float) -> Effect:
        """Expects the instance back until the end of a window."""
        self.window = window
        return OpenRestart(max(window.until - now, 0.0))

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
        news = self.illness.heard(response, now, reporting=reporting)
        if news is None:
            return NOTHING
        if health is Health.HEALTHY and type(news) is Note and heartbeating and not returns:
            self.reason = news.text
        return (news,)

    def settle(self, now: float) -> None:
        """Notes when heartbeating began, if a step has begun it without an answer."""
        self.illness.settle(now)

    def action_begins(self, now: float) -> None:
        """Handles the accepted vote of an action, whose notice follows."""
        self.illness.action_begins(now)

    def silent(
        self, reason: str, profile: Profile, now: float, *, reporting: bool, state: str = ""
    ) -> tuple[Effect, ...]:
        """Handles a heartbeating instance that has missed too many challenges in a row."""
        self.learn(PresenceEvent.INIT_VOID)
        if self.state is HeartbeatState.PROVISIONAL and now >= self.outage.unwatched_at:
            return (Stopped(reason), self.unwatched())
        self.step(HeartbeatEvent.FELL_SILENT)
        if self.state is HeartbeatState.SUSPENDED:
            self.outage = self.outage.fell_silent()
            self.reason = f"{reason}, {self.outage.event} is in progress"
            return (Stopped(self.reason),)
        return (self.loses(reason, profile, reporting=reporting, state=state),)

    def loses(self, reason: str, profile: Profile, *, reporting: bool, state: str = "") -> Effect:
        """Notes why the instance is lost, and returns how that is reported."""
        self.reason = reason
        if reporting:
            return Lost(reason, profile.corrective_action, state, seen=not self.is_remembered)
        return Stopped(f"{reason}; reporting is off")

    def unwatched(self) -> Effect:
        """Handles a renewed silence at a time when the event should be over."""
        self.step(HeartbeatEvent.UNWATCHED)
        self.reason = f"silent again after {self.outage.event}, which should be over by now"
        return Unwatched(self.reason)

    @property
    def can_fail(self) -> bool:
        """Whether there is a guest to lose, and it is not lost."""
        return self.presence in GUEST_KNOWN and self.state is not HeartbeatState.LOST

    def would_lose(self, *, answering: bool) -> bool:
        """Whether its silence, or the end of its window, is a loss.

        Args:
            answering: whether it answered within the last two intervals.
        """
        if self.state is HeartbeatState.HEARTBEATING:
            return True
        if self.state not in EXPECTED_BACK or answering:
            return False
        return self.presence in GUEST_KNOWN and (not self.init_seen or self.outage.extended)

    def expect_return(self, now: float, restart_s: float) -> tuple[Effect, ...]:
        """Expects the guest of a VM that is said to run; one that is not back is lost."""
        if self.presence not in GUEST_KNOWN:
            return NOTHING
        return (self.open_window(self.window.opened(now, restart_s), now),)

    def presumes(
        self, reason: str, within_s: float, now: float, *, remembered: bool
    ) -> tuple[Effect, ...]:
        """Expects a guest that had answered before this host or its connection was there."""
        self.return_by(HeartbeatEvent.RETURNS, reason)
        self.outage = NO_OUTAGE.over(happened=False)
        self.is_presumed, self.is_remembered = True, remembered
        self.learn(PresenceEvent.ANSWERED)
        return (self.open_window(NO_WINDOW.opened(now, within_s), now),)

    def stays_absent(self, reason: str) -> tuple[Effect, ...]:
        """Gives up a presumed guest, which is no loss: it may have left while nobody listened."""
        self.step(HeartbeatEvent.STAYS_ABSENT)
        self.learn(PresenceEvent.NEW_PROCESS)
        self.window = self.window.closed()
        self.reason = reason
        return (Absent(reason),)

    # -- events around the VM ---------------------------------------------------------------

    def notice_opened(self, event: Event) -> bool:
        """Handles a notice being sent; returns whether to challenge the instance now."""
        if EVENT_TABLE[event].effect is ExpectedEffect.RETURNS:
            return self.return_by(HeartbeatEvent.RETURNS, f"{event} was sent")
        self.illness.event_begins()
        if EVENT_TABLE[event].effect is ExpectedEffect.RESTARTS:
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
                return self.suspend(HeartbeatEvent.FREEZES, Outage.freeze(event, now))
        return self.stops(event, now)

    def restarts(self, event: str, now: float, restart_s: float) -> tuple[Effect, ...]:
        """Handles a restart of the VM, which has ``restart_s`` to return."""
        effects = self.suspend(HeartbeatEvent.RESTARTS, Outage.restart(event, now, restart_s))
        return (*effects, self.open_window(self.window.opened(now, restart_s), now))

    def stops(self, event: str, now: float) -> tuple[Effect, ...]:
        """Handles a permanent stop of the VM."""
        return self.suspend(HeartbeatEvent.STOPS, Outage.stop(event, now))

    def performing(self, event: str) -> None:
        """Handles the start of the command of ``event``."""
        if event == self.outage.event:
            self.outage = self.outage.performing()

    def carried_out(self, event: str, now: float) -> None:
        """Handles the end of the command of ``event``."""
        if event == self.outage.event:
            self.outage = self.outage.carried_out(now)

    def runs_again(self, reason: str) -> bool:
        """Handles the reported end of a freeze; returns whether to challenge the instance now."""
        if not self.outage.freezes or self.state not in FREEZING:
            return False
        return self.return_by(HeartbeatEvent.RETURNS, reason)

    def called_off(self, event: str, reason: str) -> bool:
        """Handles an event that did not happen; returns whether to challenge the instance now."""
        if event != self.outage.event:
            return False  # another event is in progress by now
        reason = f"{event} did not happen: {reason}"
        if self.state is HeartbeatState.RESTARTING and self.presence not in GUEST_KNOWN:
            self.step(HeartbeatEvent.STAYS_AWAY)
            self.reason = reason
            return False
        return self.return_by(HeartbeatEvent.CALLED_OFF, reason)

    def restart_expired(
        self,
        profile: Profile,
        now: float,
        *,
        reporting: bool,
        answering: bool,
        reason: str = "",
        state: str = "",
    ) -> tuple[Effect, ...]:
        """Handles the end of the RESTART window.

        Args:
            profile: the guest's.
            now: the time.
            reporting: whether a loss is reported.
            answering: whether it answered within the last two intervals, so it never went down.
            reason: of the loss, if libvirt was asked before it.
            state: libvirt's state and reason, if it was asked.
        """
        if answering:
            return (self._proven(HeartbeatEvent.PROVEN, self._stayed_reason),)
        if self.init_seen and not self.outage.extended:
            # Its init came in time; the next challenges show whether the init was stale.
            self.outage = self.outage.extends()
            return (
                self.open_window(self.window.extended(now, (PROBES + 1) * profile.interval_s), now),
            )
        reason = reason or self.overdue_reason(profile)
        lost = self.presence in GUEST_KNOWN
        self.window = self.window.closed()
        if self.presence is Presence.EXITED and not self.outage.announced:
            self.step(HeartbeatEvent.STAYS_ABSENT)
            self.reason = f"its guest had exited, and is {reason}"
            return (Absent(self.reason),)
        self.step(HeartbeatEvent.RESTART_EXPIRED if lost else HeartbeatEvent.STAYS_AWAY)
        self.learn(PresenceEvent.INIT_VOID)
        self.reason = reason
        expired = RestartExpired(self.reason)
        if reporting and lost:
            seen = not self.is_remembered
            return (expired, Lost(self.reason, profile.corrective_action, state, seen=seen))
        return (expired,)

    def overdue_reason(self, profile: Profile) -> str:
        """Why the end of the window is a loss."""
        if self.window.ends_a_boot_loop:
            return f"not back within {2 * profile.restart_s} s: it was reset again and again"
        return f"not back within {profile.restart_s} s"

    # -- helpers ----------------------------------------------------------------------------

    def _proven(self, event: HeartbeatEvent, reason: str) -> Effect:
        """Handles the (renewed) start of heartbeating."""
        self.step(event)
        self.learn(PresenceEvent.ANSWERED)
        self.window = NO_WINDOW
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
        was = self.state
        self.step(event)
        self.outage = outage
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
