"""The effects of the heartbeat machine: send, reconnect, open a window, report, log."""

from __future__ import annotations

import attrs
import msgspec

from hbtrio.wire.channel_messages import Message
from hbtrio.wire.vocabulary import CorrectiveAction


class SendToGuest(msgspec.Struct, frozen=True):
    """Send this message on the channel: the effect of each beat, so the cheapest kind of class."""

    message: Message


@attrs.frozen
class Reconnect:
    """Close the connection and open a new one."""

    reason: str


@attrs.frozen
class OpenRestart:
    """Open the RESTART window, in place of one that is open.

    :meth:`~hbtrio.fsm.heartbeat.losses.Losses.restart_expired` is to be called at its end.
    ``why`` says for people why it is opened.
    """

    seconds: float
    why: str = attrs.field(default="", eq=False)


@attrs.frozen
class Heartbeating:
    """The instance answers challenges (again)."""

    reason: str


@attrs.frozen
class Stopped:
    """The instance stopped heartbeating, which is not a loss."""

    reason: str


@attrs.frozen
class Paused:
    """The VM is paused, which is not a loss; an alarm if it is because of a fault."""

    reason: str
    is_alarming: bool = False


@attrs.frozen
class Suspected:
    """The instance seems to be lost: ask libvirt.

    The answer goes to :meth:`~hbtrio.fsm.heartbeat.domain_reports.DomainReports.confirmed`, unless
    :attr:`~hbtrio.fsm.heartbeat.machine.Heartbeat.suspected` is off by then.
    """

    reason: str


@attrs.frozen
class Absent:
    """The guest has exited, or is only remembered, and has not come back, which is not a loss."""

    reason: str


@attrs.frozen
class Lost:
    """A heartbeat loss, with the corrective action that the guest requested.

    ``state`` is libvirt's state and reason, if it was asked. ``seen`` is whether this run of the
    host has heard the guest before.
    """

    reason: str
    action: CorrectiveAction
    state: str = ""
    seen: bool = True


@attrs.frozen
class Ill:
    """Ill health, with the corrective action that the guest requests."""

    reason: str
    action: CorrectiveAction


@attrs.frozen
class Unwatched:
    """It is unknown whether a guest lives, so its silence has no consequence.

    An alarm if one was there before.
    """

    reason: str
    is_alarming: bool = True


@attrs.frozen
class RestartExpired:
    """The instance did not come back within its RESTART window."""

    reason: str


@attrs.frozen
class Note:
    """A line for the log."""

    text: str


Effect = (
    SendToGuest
    | Reconnect
    | OpenRestart
    | Heartbeating
    | Stopped
    | Paused
    | Suspected
    | Absent
    | Lost
    | Ill
    | Unwatched
    | RestartExpired
    | Note
)
