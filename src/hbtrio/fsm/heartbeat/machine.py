"""The host's side of one instance's heartbeat: whom to challenge, what silence means.

Rules of PROTOCOL.md (host behaviour per channel), with what they take for granted made explicit:

* A guest counts as heartbeating once it has answered a challenge, not when it says ``init``: an
  ``init`` may be a leftover in a buffer of a VM that is long gone, and would end in a false loss.
* While an event is under way that stops the VM from answering, challenges go on for as long as they
  are answered, late or not (a guest that gets none starts over with ``init``, which would end the
  suspension too early), but silence does not count. After ``PROBES`` unanswered ones they cease, so
  that no backlog builds up in a frozen VM's port.
* A VM that only stood still (pause, suspend, live migration) answers the probes that waited in its
  port as soon as it runs. A late answer calls for a fresh challenge at once, so the return is
  noticed within moments of the thaw although nothing more than the probes was sent into the frozen
  port. A guest that lost the probes says ``init`` after 5 s without a challenge, which has the same
  effect.
* Two challenges in a row unanswered, and then an answer to a fresh one (or an answered ``init``),
  is a provisional return: the guest may also have been slow, or have restarted, before its VM is
  frozen. The instance is heartbeating, but a new silence suspends it again and is no loss. The
  return becomes final at the end notice, when the VIM enables the instance again, with the first
  answer to a challenge sent after the action's command has ended, or with the first answer after
  the call-off time; at once if one of these came before the return. The end of the command alone is
  not enough: when the command of a pause ends, the VM has just been frozen.
* An instance that came back, fell silent and still is at the call-off time may be frozen or dead:
  it is ``UNWATCHED``, which is an alarm without a corrective action. It is probed again after each
  reconnect, and an answer ends it. A VM that never came back stays suspended: it may be paused for
  days.
* An ``init`` gives a silent guest one more chance, the ones after it do not: a guest that says
  ``init`` again and again because it hears nothing would never be found silent.
* Silence does not count either while the host itself is late.

The machine asks for time through :attr:`Heartbeat.due`; its driver calls :meth:`Heartbeat.tick` at
or after it, having read once more what has arrived.
"""

from __future__ import annotations

import math
from typing import Final

from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Heartbeating,
    Ill,
    Lost,
    Note,
    OpenRestart,
    Reconnect,
    RestartExpired,
    SendToGuest,
    Stopped,
    Unwatched,
)
from hbtrio.fsm.heartbeat.outage import Outage
from hbtrio.fsm.heartbeat.pulse import NOTHING, PROBES, HeartbeatRules, Pulse
from hbtrio.fsm.heartbeat.table import FREEZING, HEARTBEATING, HeartbeatEvent, HeartbeatState
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect

__all__ = [
    "Effect",
    "Heartbeat",
    "HeartbeatRules",
    "Heartbeating",
    "Ill",
    "Lost",
    "Note",
    "OpenRestart",
    "Reconnect",
    "RestartExpired",
    "SendToGuest",
    "Stopped",
    "Unwatched",
]

#: How long a guest may go on answering after a notice before the event counts as called off. A live
#: migration of a large VM takes long, and the VM answers all the while.
CALL_OFF_S: Final = 300.0
CALL_OFF_MIGRATION_S: Final = 3600.0


class Heartbeat(Pulse):
    """The heartbeat of one instance: its pulse, and the events around its VM."""

    def notice_opened(self, event: Event, now: float) -> tuple[Effect, ...]:
        """A notice is being sent. One that says the VM runs again ends a suspension at once."""
        effect = EVENT_TABLE[event].effect
        if effect is ExpectedEffect.RESTARTS:
            self._told_restart = self._inhabited
        if effect is not ExpectedEffect.RETURNS:
            return NOTHING
        return self._return(HeartbeatEvent.RETURNS, f"{event} was sent", now)

    def notice_over(self, event: Event, now: float) -> tuple[Effect, ...]:
        """The notice of ``event`` is over, however it ended: the event will happen now."""
        match EVENT_TABLE[event].effect:
            case ExpectedEffect.RETURNS:
                return NOTHING
            case ExpectedEffect.RESTARTS:
                # An exit since it was told belongs to going down already.
                self._inhabited |= self._told_restart
                return self.restarts(event, now)
            case ExpectedEffect.STOPS:
                return self.stops(event, now)
            case ExpectedEffect.FREEZES:
                moves = event is Event.LIVE_MIGRATE_BEGIN
                call_off_s = CALL_OFF_MIGRATION_S if moves else CALL_OFF_S
                outage = Outage(event, True, now + call_off_s)
                return self._suspend(HeartbeatEvent.FREEZES, outage, now)

    def restarts(self, what: str, now: float) -> tuple[Effect, ...]:
        """The VM is being restarted, by ``what``: it has its RESTART window to come back."""
        # A VM that takes long to go down is not called off before it had to be back.
        outage = Outage(what, False, now + max(CALL_OFF_S, self.profile.restart_s))
        effects = self._suspend(HeartbeatEvent.RESTARTS, outage, now)
        self._restart_extended = False
        return (*effects, OpenRestart(self.profile.restart_s))

    def stops(self, what: str, now: float) -> tuple[Effect, ...]:
        """The VM is being stopped for good, by ``what``."""
        return self._suspend(HeartbeatEvent.STOPS, Outage(what, False, now + CALL_OFF_S), now)

    def carried_out(self, what: str, now: float) -> None:
        """The command that performs ``what`` has ended; after that of a pause the VM is frozen.

        From here on a return is final, also one that comes much later.
        """
        if what == self._outage.what:
            self._outage = self._outage.carried_out(now)

    def runs_again(self, why: str, now: float) -> tuple[Effect, ...]:
        """The orchestrator says that a pause, suspend or live migration is over.

        Ignored for a VM that is being stopped or restarted, and where nothing is under way.
        """
        if not self._outage.freezes or self.state not in FREEZING:
            return NOTHING
        return self._return(HeartbeatEvent.RETURNS, why, now)

    def called_off(self, what: str, why: str, now: float) -> tuple[Effect, ...]:
        """What was under way did not happen; the VM should be answering."""
        if what != self._outage.what:
            return NOTHING  # something else is under way by now, of which this says nothing
        why = f"{what} did not happen: {why}"
        if self.state is HeartbeatState.RESTARTING and not self._inhabited:
            self._step(HeartbeatEvent.STAYS_AWAY)
            self._because(why)
            if not self._greeted:
                self._challenges.forget()  # a probe's answer would be one to nothing
            self._schedule(now)
            return NOTHING
        return self._return(HeartbeatEvent.CALLED_OFF, why, now, back=why)

    def restart_expired(self, now: float) -> tuple[Effect, ...]:
        """The RESTART window closed; the VM did not come back, unless it had never gone away."""
        if self.state is not HeartbeatState.RESTARTING:
            return NOTHING
        interval_s = self.profile.interval_s
        if now - self._answered_at < 2 * interval_s:
            effect = self._proven(self._never_happened())
            self._schedule(now)
            return (effect,)
        if self._greeted and not self._restart_extended:
            # Its init came in time; whether it is a leftover shows within the next challenges.
            self._restart_extended = True
            return (OpenRestart((PROBES + 1) * interval_s),)
        lost = self._inhabited
        self._step(HeartbeatEvent.RESTART_EXPIRED if lost else HeartbeatEvent.STAYS_AWAY)
        self._forget()
        self._because(f"not back within {self.profile.restart_s} s")
        self._schedule(now)
        expired = RestartExpired(self.why)
        if self.reporting and lost:
            return (expired, Lost(self.why, self.profile.corrective_action))
        return (expired,)

    def _suspend(self, event: HeartbeatEvent, outage: Outage, now: float) -> tuple[Effect, ...]:
        was = self.state
        self._step(event)
        self._outage = outage
        self._because(f"{outage.what} is under way", f"after: {outage.what}")
        self._challenges.misses = 0
        self._answered_at = -math.inf
        self._silent_since = now
        self._greeted = False
        self._probes_left = PROBES
        self._schedule(now)
        return (Stopped(self.why),) if was in HEARTBEATING else NOTHING

    def _return(
        self, event: HeartbeatEvent, why: str, now: float, back: str = ""
    ) -> tuple[Effect, ...]:
        was = self.state
        self._step(event)
        if self.state is not HeartbeatState.RETURNING or was is HeartbeatState.RETURNING:
            return NOTHING
        self._because(why, back)
        self._unwedged = False
        self._silent_since = now
        self.due = math.inf
        return (self._challenge(now, now),) if self.connected else NOTHING
