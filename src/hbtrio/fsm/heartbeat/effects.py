"""The effects of the heartbeat machine: send, reconnect, open a window, report, log."""

from __future__ import annotations

import attrs

from hbtrio.wire.channel_messages import Message
from hbtrio.wire.vocabulary import CorrectiveAction


@attrs.frozen
class SendToGuest:
    """Send this message on the channel."""

    message: Message


@attrs.frozen
class Reconnect:
    """Close the connection and open a new one."""

    reason: str


@attrs.frozen
class OpenRestart:
    """Open the RESTART window, in place of one that is open.

    :meth:`~hbtrio.fsm.heartbeat.machine.Heartbeat.restart_expired` is to be called at its end.
    """

    seconds: float


@attrs.frozen
class Heartbeating:
    """The instance answers challenges (again)."""

    reason: str


@attrs.frozen
class Stopped:
    """The instance stopped heartbeating, which is not a loss."""

    reason: str


@attrs.frozen
class Lost:
    """A heartbeat loss, with the corrective action that the guest requested."""

    reason: str
    action: CorrectiveAction


@attrs.frozen
class Ill:
    """Ill health, with the corrective action that the guest requests."""

    reason: str
    action: CorrectiveAction


@attrs.frozen
class Unwatched:
    """An alarm: it is unknown whether the instance lives, so its silence has no consequence."""

    reason: str


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
    | Lost
    | Ill
    | Unwatched
    | RestartExpired
    | Note
)
