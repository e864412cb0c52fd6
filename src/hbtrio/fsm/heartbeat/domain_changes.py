"""What libvirt reports of a VM, and what that means for its instance.

A silence is the guest's own only while the VM runs. So a pause suspends all judgement, an end that
someone asked for is no loss, and an end that nobody asked for is a loss at once. A reset opens the
RESTART window, whoever caused it.
"""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.domain import BOOTED, MIGRATED, DomainChange, Standing
from hbtrio.fsm.heartbeat.effects import Effect, Note, Paused, Stopped
from hbtrio.fsm.heartbeat.outage import Outage
from hbtrio.fsm.heartbeat.presence import GUEST_KNOWN, Presence, PresenceEvent
from hbtrio.fsm.heartbeat.return_window import ReturnWindow
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.table import FREEZING, HEARTBEATING, HeartbeatEvent, HeartbeatState

#: The change that a standing shows, should it not have been reported. A running VM shows none.
SHOWN_BY: Final = {
    Standing.PAUSED: DomainChange.PAUSED,
    Standing.PANICKED: DomainChange.PANICKED,
    Standing.ENDING: DomainChange.ENDING,
    Standing.STOPPED: DomainChange.STOPPED,
    Standing.FAILED: DomainChange.FAILED,
}

#: For how long the report of an end waits for libvirt's word on how it ended, in seconds: longer
#: than the time in which libvirt is asked again anyway, should an event have been lost.
ENDS_S: Final = 15.0

#: A reset says nothing of what has ended, nor of a guest that went before.
_NOT_RESET: Final = frozenset({HeartbeatState.STOPPED, HeartbeatState.ABSENT})

#: Frozen by an event that was announced, as far as is known.
_FROZEN: Final = frozenset({HeartbeatState.SUSPENDED, HeartbeatState.UNWATCHED})

#: Someone is there who can go down and be missed, or has said that it goes.
_RESETTABLE: Final = GUEST_KNOWN | {Presence.EXITED}

#: Nobody was there when the VM was paused, and that was reported.
_STILL_MISSING: Final = {
    HeartbeatState.ABSENT: HeartbeatEvent.STAYS_ABSENT,
    HeartbeatState.UNHEARD: HeartbeatEvent.STAYS_UNHEARD,
}


class DomainChanges:
    """Applies what libvirt reports to the situation of one instance.

    Args:
        situation: is changed.
    """

    def __init__(self, situation: Situation) -> None:
        self._situation = situation

    def apply(
        self,
        change: DomainChange,
        words: str,
        now: float,
        *,
        is_alarming: bool,
    ) -> tuple[Effect, ...]:
        """Handles a change of the domain.

        Args:
            change: what happened.
            words: libvirt's state and reason, such as ``paused: saving``.
            now: the time.
            is_alarming: whether a fault has paused the VM.
        """
        match change:
            case DomainChange.PAUSED:
                return self._paused(words, now, is_alarming=is_alarming)
            case DomainChange.RESUMED:
                return self._resumed(words, now)
            case DomainChange.STARTED:
                situation = self._situation
                told = (Stopped(situation.reason),) if situation.awaits_end else NOTHING
                return (*told, *self._started(words, now))
            case DomainChange.RESTARTED:
                return self.reset(words, now)
            case DomainChange.ENDING | DomainChange.STOPPED:
                return self._ended(words, now, is_over=change is DomainChange.STOPPED)
            case DomainChange.PANICKED | DomainChange.FAILED:
                return self._failed(words, now)

    def reset(self, what: str, now: float) -> tuple[Effect, ...]:
        """Handles a reset or reboot, by whomever."""
        situation = self._situation
        if situation.presence not in _RESETTABLE or situation.state in _NOT_RESET:
            return NOTHING
        restarting = situation.is_in(HeartbeatState.RESTARTING)
        window = self._window_of_reset(now)
        if window.until <= now:
            return NOTHING  # in a boot loop, and lost for that already
        paused = situation.state is HeartbeatState.PAUSED
        effects = NOTHING
        if not restarting:
            outage = Outage.reset(what, now, situation.profile.restart_s)
            if paused:
                situation.before, situation.outage = HeartbeatState.RESTARTING, outage
            else:
                effects = situation.suspend(HeartbeatEvent.RESET, outage)
        situation.learn(PresenceEvent.INIT_VOID)
        if paused:
            situation.window = window.paused(now)
            return effects
        return (*effects, situation.open_window(window, now, what))

    def _window_of_reset(self, now: float) -> ReturnWindow:
        """The window of a VM that boots now; the count of resets is not that of a command's own."""
        situation = self._situation
        if situation.is_in(HeartbeatState.RESTARTING) and situation.outage.is_performed_now:
            return situation.window.opened(now, situation.profile.restart_s)
        return situation.window.reset(now, situation.profile.restart_s)

    def _paused(self, words: str, now: float, *, is_alarming: bool) -> tuple[Effect, ...]:
        situation = self._situation
        if situation.state is HeartbeatState.PAUSED:
            if situation.reason == words:
                return NOTHING
        else:
            situation.leave_for(HeartbeatEvent.PAUSED)
            situation.window = situation.window.paused(now)
        situation.reason = words
        known = situation.presence in GUEST_KNOWN
        return (Paused(words, is_alarming),) if known or is_alarming else NOTHING

    def _resumed(self, words: str, now: float) -> tuple[Effect, ...]:
        situation = self._situation
        if situation.state in _FROZEN and situation.outage.freezes:
            return self._runs(words, now)
        if situation.state is not HeartbeatState.PAUSED:
            return NOTHING
        situation.window = situation.window.resumed(now)
        match situation.before:
            case HeartbeatState.RESTARTING:
                return self._restart_goes_on(now)
            case HeartbeatState.SUSPENDED if not situation.outage.freezes:
                situation.step(HeartbeatEvent.RESUMES_STOP)
                situation.reason = f"{situation.outage.event} is in progress"
                return NOTHING
        return self._runs(words, now)

    def _runs(self, words: str, now: float) -> tuple[Effect, ...]:
        """Expects answers of a VM that runs again, if there is a guest."""
        situation = self._situation
        if words == BOOTED:  # it does not go on, but was started anew
            situation.learn(PresenceEvent.NEW_PROCESS)
        if situation.state is HeartbeatState.PAUSED:
            reason = f"{situation.reason}; it runs again"
        else:
            reason = f"{situation.outage.event} is over: libvirt says that it runs"
        if situation.presence not in GUEST_KNOWN:
            paused = situation.state is HeartbeatState.PAUSED
            before = situation.before if paused else situation.state
            event = HeartbeatEvent.NO_GUEST
            if words == BOOTED:
                situation.window = situation.window.closed()  # another guest is waited for
            else:
                event = _STILL_MISSING.get(before, event)
            situation.step(event)
            situation.reason = reason
            return NOTHING
        window, presumed = situation.window, situation.is_presumed
        situation.return_by(HeartbeatEvent.RESUMED, reason)
        situation.is_presumed = presumed
        if not window.is_open:
            window = window.opened(now, situation.profile.restart_s)
        return (situation.open_window(window, now, reason),)

    def _started(self, words: str, now: float) -> tuple[Effect, ...]:
        situation = self._situation
        if situation.state in HEARTBEATING:
            return NOTHING  # it answers on a connection to the new process
        if self._restart_is_announced:
            return self._boots(now)  # this is what is waited for
        was = (
            situation.before
            if situation.state in (HeartbeatState.STOPPED, HeartbeatState.PAUSED)
            else situation.state
        )
        known = situation.presence in GUEST_KNOWN
        if was in FREEZING and situation.outage.freezes and known:
            if situation.state is HeartbeatState.PAUSED:
                return NOTHING  # it is restored, and goes on in a moment
            return self._runs(words, now)  # it was saved, and is restored
        situation.learn(PresenceEvent.NEW_PROCESS)
        if situation.state is not HeartbeatState.WAITING:
            situation.step(HeartbeatEvent.NO_GUEST)
        situation.window = situation.window.closed()  # another guest is waited for
        situation.reason = words
        return NOTHING

    def _boots(self, now: float) -> tuple[Effect, ...]:
        """Gives a VM that is started in a restart the whole window: it may have taken long."""
        situation, window = self._situation, self._window_of_reset(now)
        if window.until <= now:
            return NOTHING
        if situation.state is HeartbeatState.PAUSED:
            situation.window = window.paused(now)
            return NOTHING
        return (situation.open_window(window, now, "its VM was started"),)

    def _ended(self, words: str, now: float, *, is_over: bool) -> tuple[Effect, ...]:
        """Handles an end on request; until it is over, libvirt does not say by whose.

        One that restarts is expected to start again, unless it was moved to another host: then it
        is not, here.
        """
        situation = self._situation
        if self._restart_is_announced and words != MIGRATED:
            if situation.state is HeartbeatState.PAUSED:
                return self._restart_goes_on(now)
            return NOTHING
        if situation.state is HeartbeatState.STOPPED:
            situation.reason = words
            if not (is_over and situation.awaits_end):
                return NOTHING
            situation.window = situation.window.closed()
            return (Stopped(words),)
        known = situation.presence in GUEST_KNOWN
        before = situation.before
        paused = situation.state is HeartbeatState.PAUSED
        situation.leave_for(HeartbeatEvent.ENDED)
        if paused:
            situation.before = before  # what was in progress when it was paused
        situation.window = situation.window.resumed(now).closed()
        situation.reason = words
        situation.learn(PresenceEvent.INIT_VOID)
        if not known:
            return NOTHING
        if is_over:
            return (Stopped(words),)
        situation.window = situation.window.extended(now, ENDS_S)
        return (Note(f"{words}: reported once libvirt says how it ended"),)

    def _restart_goes_on(self, now: float) -> tuple[Effect, ...]:
        situation = self._situation
        situation.step(HeartbeatEvent.RESUMES_RESTART)
        situation.reason = f"{situation.outage.event} is in progress"
        return (situation.open_window(situation.window.resumed(now), now, "its VM runs again"),)

    def _failed(self, words: str, now: float) -> tuple[Effect, ...]:
        situation = self._situation
        if situation.presence not in GUEST_KNOWN:
            return self._ended(words, now, is_over=True)
        if situation.state is HeartbeatState.LOST:
            note = Note(f"{words}; it was lost before: {situation.reason}")
            situation.reason, situation.has_failed = words, True
            return (note,)
        situation.step(HeartbeatEvent.FAILED)
        situation.window = situation.window.resumed(now).closed()
        situation.has_failed = True
        situation.learn(PresenceEvent.INIT_VOID)
        return (situation.loses(words, state=words),)

    @property
    def _restart_is_announced(self) -> bool:
        situation = self._situation
        return situation.is_in(HeartbeatState.RESTARTING) and situation.outage.announced
