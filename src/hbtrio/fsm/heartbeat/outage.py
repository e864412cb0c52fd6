"""The outage of a VM: the event or command in progress, or the last one.

A VM that was frozen (pause, suspend, live migration) returns without an ``init``. Two
challenges in a row unanswered, and then an answer to a fresh one, is a *provisional* return: the
guest may also have been slow, or have restarted, before its VM is frozen. It is final

* at the end notice, or when the VIM enables the instance again (the machine knows of these);
* with the first answer to a challenge that was sent after the action's command has ended;
* with the first answer after the call-off time.

The end of the command alone is not enough: when the command of a pause ends, the VM has just been
frozen. Until the return is final, a new silence suspends the instance again and is no loss.

An instance that returned, fell silent and is still silent at the call-off time may be frozen or
dead: it is unwatched, which is an alarm without a corrective action. It is probed again after each
reconnect, and an answer ends the state. A VM that never returned stays suspended: it may be paused
for days.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

import attrs

from hbtrio.wire.vocabulary import Event

#: Seconds for which a guest may go on answering after a notice before the event counts as called
#: off. A live migration of a large VM takes long, and the VM answers all the while.
CALL_OFF_S: Final = 300.0
CALL_OFF_MIGRATION_S: Final = 3600.0


class Phase(Enum):
    """How a VM behaves in an outage. Silent is one that missed two challenges in a row."""

    ANSWERING = "answering"  # so far
    SILENT = "silent"
    BACK = "back"  # provisionally
    SILENT_AGAIN = "silent again"  # after a provisional return


class Sign(Enum):
    """What an answer to the last challenge shows of the outage."""

    __hash__ = object.__hash__

    GOES_ON = "it goes on answering"
    STAYED = "it goes on answering after the call-off time"
    BACK = "it is back, perhaps not for good"
    BACK_FOR_GOOD = "it is back for good"


_SILENCE: Final = {Phase.ANSWERING: Phase.SILENT, Phase.BACK: Phase.SILENT_AGAIN}


@attrs.frozen
class Outage:
    """An event, or a command, that stops the VM from answering. It is replaced, never changed.

    Args:
        event: the event or command, for logs and reports.
        freezes: whether the VM only stands still meanwhile, as in a pause, a suspend or a live
            migration; after any other it comes back as a guest that says ``init``.
        call_off_at: from when on an answer shows that it is over, or never happened.
        phase: how the VM behaved since it began.
        carried_out_at: when the command that performs it ended; infinity before that.
        extended: whether its RESTART window got more time, for an ``init`` near its end.
        happened: whether it is in progress, or was; it was called off otherwise.
        reconnected: whether the silence after it was answered with a reconnect.
        announced: whether hbtrio or the VIM brings it about; else libvirt reported it.
        performed: whether a command of this host brings it about.
        was_unwatched: whether its silence before it was an alarm only: the VM may have been frozen.
    """

    event: str
    freezes: bool
    call_off_at: float
    phase: Phase = Phase.ANSWERING
    carried_out_at: float = math.inf
    extended: bool = False
    happened: bool = True
    reconnected: bool = False
    announced: bool = True
    performed: bool = False
    was_unwatched: bool = False

    @classmethod
    def freeze(cls, event: Event, now: float) -> Outage:
        """A pause, a suspend or a live migration, whose notice is over."""
        moves = event is Event.LIVE_MIGRATE_BEGIN
        return cls(event, True, now + (CALL_OFF_MIGRATION_S if moves else CALL_OFF_S))

    @classmethod
    def remembered(cls, event: str, now: float) -> Outage:
        """A freeze of which an earlier run of the host knew; any answer shows that it is over."""
        return cls(event, True, now + CALL_OFF_S, phase=Phase.SILENT, carried_out_at=now)

    @classmethod
    def restart(cls, event: str, now: float, restart_s: float) -> Outage:
        """A restart; one that takes long to go down is not called off before it had to be back."""
        return cls(event, False, now + max(CALL_OFF_S, restart_s))

    @classmethod
    def reset(cls, what: str, now: float, restart_s: float) -> Outage:
        """A reset or reboot that nobody had announced."""
        return attrs.evolve(cls.restart(what, now, restart_s), announced=False)

    @classmethod
    def stop(cls, event: str, now: float) -> Outage:
        """A stop for good."""
        return cls(event, False, now + CALL_OFF_S)

    @property
    def is_performed_now(self) -> bool:
        """Whether a command of this host runs that brings it about."""
        return self.performed and math.isinf(self.carried_out_at)

    @property
    def unwatched_at(self) -> float:
        """When silence becomes an alarm; infinity where it is what was announced.

        It is that of a VM that did not come back yet, and of one whose command has ended since: a
        VM may be paused for days. One that came back and fell silent again may also be dead.
        """
        returned = self.phase is Phase.BACK or self.phase is Phase.SILENT_AGAIN
        return self.call_off_at if returned and math.isinf(self.carried_out_at) else math.inf

    def sign(self, sent_at: float, now: float, *, init_seen: bool) -> Sign:
        """What the answer to a challenge shows.

        Args:
            sent_at: when the challenge was sent. One from before the end of the command may have
                been answered just before the VM froze.
            now: the time.
            init_seen: whether it is the first answer since an ``init``.
        """
        called_off = now >= self.call_off_at
        if init_seen or (self.freezes and self.phase is not Phase.ANSWERING):
            final = called_off or sent_at >= self.carried_out_at
            return Sign.BACK_FOR_GOOD if final or not self.freezes else Sign.BACK
        return Sign.STAYED if called_off else Sign.GOES_ON

    def fell_silent(self) -> Outage:
        """The VM does not answer."""
        phase = _SILENCE.get(self.phase)
        return self if phase is None else attrs.evolve(self, phase=phase)

    def came_back(self) -> Outage:
        """The VM answers again, which may be before it freezes."""
        return attrs.evolve(self, phase=Phase.BACK)

    def carried_out(self, now: float) -> Outage:
        """The command that performs it has ended."""
        return attrs.evolve(self, carried_out_at=min(self.carried_out_at, now))

    def not_carried_out(self) -> Outage:
        """The command that performs it has not ended, as far as is known."""
        return attrs.evolve(self, carried_out_at=math.inf)

    def performing(self) -> Outage:
        """A command of this host brings it about, from now on."""
        return attrs.evolve(self, performed=True)

    def over(self, *, happened: bool) -> Outage:
        """It is said to be over, or never to have happened: the VM is challenged again."""
        return attrs.evolve(self, happened=happened, reconnected=False)

    def reconnects(self) -> Outage:
        """The connection is opened anew, because the VM stays silent after it."""
        return attrs.evolve(self, reconnected=True)

    def put_off(self, seconds: float) -> Outage:
        """This process did not run for so long, in which nothing could be known of the VM."""
        if math.isinf(self.call_off_at):
            return self
        return attrs.evolve(self, call_off_at=self.call_off_at + seconds)

    def extends(self) -> Outage:
        """Its RESTART window gets more time."""
        return attrs.evolve(self, extended=True)


#: Nothing was in progress so far.
NO_OUTAGE: Final = Outage("", freezes=False, call_off_at=math.inf)
