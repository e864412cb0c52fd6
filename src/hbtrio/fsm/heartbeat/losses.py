"""Decides when a silence, or the end of a RESTART window, is a loss.

With libvirt in use, it is asked before each loss: see
:class:`~hbtrio.fsm.heartbeat.domain_reports.DomainReports`.
"""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.domain import Standing
from hbtrio.fsm.heartbeat.challenges import PROBES
from hbtrio.fsm.heartbeat.effects import (
    Absent,
    Effect,
    Lost,
    Note,
    RestartExpired,
    Stopped,
    Suspected,
    Unwatched,
)
from hbtrio.fsm.heartbeat.outage import NO_OUTAGE
from hbtrio.fsm.heartbeat.presence import GUEST_KNOWN, Presence, PresenceEvent
from hbtrio.fsm.heartbeat.return_window import NO_WINDOW
from hbtrio.fsm.heartbeat.schedule import ChallengeSchedule
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.suspicion import Ground, Suspicion
from hbtrio.fsm.heartbeat.table import (
    EXPECTED_BACK,
    HEARTBEATING,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.policy.profile import Profile

MISSED: Final = Note("heartbeat missed")

_NO_SOCKET: Final = "its socket accepts no connection"


class Losses:
    """Judges the silence of one instance.

    Args:
        situation: is changed.
        schedule: follows the situation.
    """

    def __init__(self, situation: Situation, schedule: ChallengeSchedule) -> None:
        self._situation = situation
        self._schedule = schedule
        #: Whether libvirt is asked before a loss is reported.
        self.are_confirmed = False

    @property
    def may_be_probed(self) -> bool:
        """Whether a guest is there that may be silent: it is lost, or was before a reconnect."""
        state = self._situation.state
        if state is HeartbeatState.LOST:
            return True
        return state is HeartbeatState.WAITING and self._situation.presence is Presence.PROVEN

    # -- silence ----------------------------------------------------------------------------

    def missed(self, reason: str, now: float) -> tuple[Effect, ...]:
        """Handles a heartbeating instance that has missed too many challenges in a row."""
        situation = self._situation
        if self.are_confirmed and situation.state is HeartbeatState.HEARTBEATING:
            return self.suspect(Ground.SILENT, reason) if not situation.suspicion else (MISSED,)
        return self.silent(reason, now)

    def suspect(self, ground: Ground, reason: str) -> tuple[Effect, ...]:
        """Asks libvirt before anything is decided."""
        self._situation.suspicion = Suspicion(ground, reason)
        return (Suspected(reason),)

    def silent(self, reason: str, now: float, state: str = "") -> tuple[Effect, ...]:
        """Decides what the silence of a heartbeating instance means.

        Args:
            reason: how long it is silent.
            now: the time.
            state: libvirt's state and reason, if it was asked.
        """
        effects = self._fell_silent(reason, now, state)
        self._schedule.fell_silent(now)
        self._schedule.plan(now)
        return effects

    def _fell_silent(self, reason: str, now: float, state: str) -> tuple[Effect, ...]:
        situation = self._situation
        situation.learn(PresenceEvent.INIT_VOID)
        if situation.state is HeartbeatState.PROVISIONAL and now >= situation.outage.unwatched_at:
            return (Stopped(reason), self._unwatched())
        situation.step(HeartbeatEvent.FELL_SILENT)
        if situation.state is HeartbeatState.SUSPENDED:
            situation.outage = situation.outage.fell_silent()
            situation.reason = f"{reason}, {situation.outage.event} is in progress"
            return (Stopped(situation.reason),)
        return (situation.loses(reason, state=state),)

    def unwatched(self, now: float) -> tuple[Effect, ...]:
        """Handles a renewed silence at a time when the event should be over."""
        alarm = self._unwatched()
        self._schedule.fell_silent(now)
        return (alarm,)

    def _unwatched(self) -> Effect:
        situation = self._situation
        situation.step(HeartbeatEvent.UNWATCHED)
        situation.reason = (
            f"silent again after {situation.outage.event}, which should be over by now"
        )
        return Unwatched(situation.reason)

    # -- a guest that does not come ---------------------------------------------------------

    def overdue(self, now: float) -> tuple[Effect, ...]:
        """Handles that no guest has come in time, or come back after its ``exit``.

        An ``init`` alone proves none: it may be one that was left in a buffer. Of a VM that is
        ending, libvirt has not said in time how: it is reported as it was known last.
        """
        situation = self._situation
        if situation.awaits_end:
            situation.window = situation.window.closed()
            return (Stopped(situation.reason),)
        within_s = situation.guest_within_s
        if situation.has_left:
            reason = f"its guest had exited, and is not back within {within_s:g} s"
        else:
            reason = f"no guest has begun to heartbeat within {within_s:g} s"
        situation.window = situation.window.closed()
        if self.are_confirmed:
            return self.suspect(Ground.NO_GUEST, reason)
        return self.no_guest(reason, None, now)

    def no_guest(self, reason: str, standing: Standing | None, now: float) -> tuple[Effect, ...]:
        """Decides what it means that no guest has come in time. Nothing follows from it.

        Args:
            reason: for how long there is none.
            standing: RUNNING, if libvirt says so. Otherwise the VM counts as running while its
                socket is connected; if it is not, its next connection starts the time anew.
            now: the time.
        """
        situation = self._situation
        if standing is not Standing.RUNNING and not situation.connected:
            return NOTHING
        left = situation.has_left
        situation.step(HeartbeatEvent.STAYS_ABSENT if left else HeartbeatEvent.STAYS_UNHEARD)
        situation.reason = reason
        self._schedule.plan(now)
        return (Absent(reason) if left else Unwatched(reason, is_alarming=False),)

    # -- the RESTART window -----------------------------------------------------------------

    def restart_expired(self, now: float) -> tuple[Effect, ...]:
        """Handles the end of the RESTART window: the VM is lost, unless it never went down."""
        situation = self._situation
        if situation.state not in EXPECTED_BACK:
            return NOTHING
        answered_at = self._schedule.challenges.answered_at
        answering = now - answered_at < 2 * situation.profile.interval_s
        if not answering and self._overdue_is_loss:
            if self.are_confirmed:
                return self.suspect(Ground.OVERDUE, self._overdue_reason)
            if situation.is_presumed and not situation.connected:
                return self.stays_absent("", now)
        return self.expired(now, answering=answering)

    @property
    def _overdue_is_loss(self) -> bool:
        situation = self._situation
        if situation.presence not in GUEST_KNOWN:
            return False
        return not situation.init_seen or situation.outage.extended

    @property
    def _overdue_reason(self) -> str:
        restart_s = self._situation.profile.restart_s
        if self._situation.window.ends_a_boot_loop:
            return f"not back within {2 * restart_s} s: it was reset again and again"
        if (outage := self._situation.outage).event and not outage.happened:
            return f"no answer within {restart_s} s after {outage.event}, which did not happen"
        return f"not back within {restart_s} s"

    def expired(
        self, now: float, *, answering: bool, reason: str = "", state: str = ""
    ) -> tuple[Effect, ...]:
        """Decides what the end of the RESTART window means.

        Args:
            now: the time.
            answering: whether it answered within the last two intervals, so it never went down.
            reason: of the loss, if libvirt was asked before it.
            state: libvirt's state and reason, if it was asked.
        """
        effects = self._expired(now, answering=answering, reason=reason, state=state)
        if self._situation.state not in HEARTBEATING | EXPECTED_BACK:
            self._schedule.challenges.forget()
        self._schedule.plan(now)
        return effects

    def _expired(
        self, now: float, *, answering: bool, reason: str, state: str
    ) -> tuple[Effect, ...]:
        situation = self._situation
        if answering:
            return (situation.proven(HeartbeatEvent.PROVEN, situation.stayed_reason),)
        if situation.init_seen and not situation.outage.extended:
            # Its init came in time; the next challenges show whether the init was stale.
            situation.outage = situation.outage.extends()
            extra_s = (PROBES + 1) * situation.profile.interval_s
            window = situation.window.extended(now, extra_s)
            return (situation.open_window(window, now, "its guest has said init"),)
        reason = reason or self._overdue_reason
        lost = situation.presence in GUEST_KNOWN
        situation.window = situation.window.closed()
        if situation.presence is Presence.EXITED and not situation.outage.announced:
            situation.step(HeartbeatEvent.STAYS_ABSENT)
            situation.reason = f"its guest had exited, and is {reason}"
            return (Absent(situation.reason),)
        situation.step(HeartbeatEvent.RESTART_EXPIRED if lost else HeartbeatEvent.STAYS_AWAY)
        situation.learn(PresenceEvent.INIT_VOID)
        situation.reason = reason
        expired = RestartExpired(reason)
        if not (situation.reporting and lost):
            return (expired,)
        seen = not situation.is_remembered
        return (expired, Lost(reason, situation.profile.corrective_action, state, seen=seen))

    # -- a guest of which only an earlier run, or connection, knows -------------------------

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
        situation = self._situation
        if situation.state is not HeartbeatState.WAITING:
            return NOTHING
        if not situation.has_profile:
            situation.profile = profile
        situation.return_by(HeartbeatEvent.RETURNS, reason)
        situation.outage = NO_OUTAGE.over(happened=False)
        situation.is_presumed, situation.is_remembered = True, remembered
        situation.learn(PresenceEvent.ANSWERED)
        opened = situation.open_window(NO_WINDOW.opened(now, within_s), now, reason)
        return (opened, *self._schedule.returned(now))

    def stays_absent(self, why: str, now: float) -> tuple[Effect, ...]:
        """Gives up a presumed guest, which is no loss: it may have left while nobody listened.

        Args:
            why: why it is no loss; "" for a socket that accepts no connection.
            now: the time.
        """
        situation = self._situation
        reason = f"{self._overdue_reason}: {why or _NO_SOCKET}"
        situation.step(HeartbeatEvent.STAYS_ABSENT)
        situation.learn(PresenceEvent.NEW_PROCESS)
        situation.window = situation.window.closed()
        situation.reason = reason
        self._schedule.give_up(now)
        return (Absent(reason),)
