"""The enums of the guest channel and the event table, shared by guest, host and agent.

Each enum is a ``StrEnum`` whose values are the bytes on the wire. Decoding maps an unknown word to
the ``UNKNOWN`` member instead of refusing the whole message, because deployed clients pass on the
values of applications unchecked.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Protocol, Self

import msgspec


class _Word(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls("unknown") if isinstance(value, str) and value != "unknown" else None


class CorrectiveAction(_Word):
    """The action to take on an instance that is lost or ill."""

    NONE = "none"
    REBOOT = "reboot"
    STOP = "stop"
    LOG = "log"
    UNKNOWN = "unknown"

    @property
    def strength(self) -> int:
        """Ranks the action, 0 to 3: stop over reboot over log over none and unknown."""
        return _STRENGTH[self]

    @property
    def is_actionable(self) -> bool:
        """Whether the action is log, reboot or stop."""
        return self is not CorrectiveAction.NONE and self is not CorrectiveAction.UNKNOWN


_STRENGTH = {
    CorrectiveAction.UNKNOWN: 0,
    CorrectiveAction.NONE: 0,
    CorrectiveAction.LOG: 1,
    CorrectiveAction.REBOOT: 2,
    CorrectiveAction.STOP: 3,
}


class Health(_Word):
    """The health in a challenge response. Only ``UNHEALTHY`` can lead to an action."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class NotificationType(_Word):
    """Whether a handler may reject the event: a vote is revocable, a notice is not."""

    REVOCABLE = "revocable"
    IRREVOCABLE = "irrevocable"
    UNKNOWN = "unknown"


class VoteResult(_Word):
    """The result of a vote or a notice."""

    ACCEPT = "accept"
    REJECT = "reject"
    COMPLETE = "complete"
    TIMEOUT = "timeout"
    ERROR = "error"
    UNKNOWN = "unknown"


class VoterHealth(_Word):
    """The health of one voter of a guest; ``NONE``: it has none, as a script."""

    HEALTHY = "healthy"
    ILL = "ill"
    SILENT = "silent"
    NONE = "none"
    UNKNOWN = "unknown"


class VoterAnswer(_Word):
    """What one voter of a guest answered to a vote or notice.

    ``OPEN``: it may still answer. ``NONE``: the vote or notice ended without its answer.
    """

    ACCEPT = "accept"
    REJECT = "reject"
    COMPLETE = "complete"
    TIMEOUT = "timeout"
    ERROR = "error"
    OPEN = "open"
    NONE = "none"
    UNKNOWN = "unknown"


class Event(_Word):
    """An event that is about to happen, or has happened, to an instance."""

    STOP = "stop"
    REBOOT = "reboot"
    SUSPEND = "suspend"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    RESUME = "resume"
    RESIZE_BEGIN = "resize_begin"
    RESIZE_END = "resize_end"
    LIVE_MIGRATE_BEGIN = "live_migrate_begin"
    LIVE_MIGRATE_END = "live_migrate_end"
    COLD_MIGRATE_BEGIN = "cold_migrate_begin"
    COLD_MIGRATE_END = "cold_migrate_end"
    UNKNOWN = "unknown"


class WindowKind(StrEnum):
    """The five timeouts of PROTOCOL.md; each becomes a window of ``nursery.windows``."""

    VOTE = "VOTE"
    SHUTDOWN_NOTICE = "SHUTDOWN_NOTICE"
    SUSPEND_NOTICE = "SUSPEND_NOTICE"
    RESUME_NOTICE = "RESUME_NOTICE"
    RESTART = "RESTART"


class ExpectedEffect(Enum):
    """The effect on the VM that the host expects once the notice of an event is over."""

    #: The VM stops; only a new ``init`` brings the instance back.
    STOPS = "stops"
    #: The VM is frozen or moved, and answers again after the matching end event.
    FREEZES = "freezes"
    #: The VM goes down and comes up again within the RESTART window.
    RESTARTS = "restarts"
    #: The VM is running again and should answer.
    RETURNS = "returns"


class EventRule(msgspec.Struct, frozen=True):
    """A row of the event table (PROTOCOL.md, section 0).

    ``voted`` is whether the instance may reject the event, ``notice`` the window of its notice,
    and ``effect`` the effect on the VM that the host expects afterwards.
    """

    voted: bool
    notice: WindowKind
    effect: ExpectedEffect


EVENT_TABLE: dict[Event, EventRule] = {
    Event.STOP: EventRule(True, WindowKind.SHUTDOWN_NOTICE, ExpectedEffect.STOPS),
    Event.REBOOT: EventRule(True, WindowKind.SHUTDOWN_NOTICE, ExpectedEffect.RESTARTS),
    Event.PAUSE: EventRule(True, WindowKind.SUSPEND_NOTICE, ExpectedEffect.FREEZES),
    Event.UNPAUSE: EventRule(False, WindowKind.RESUME_NOTICE, ExpectedEffect.RETURNS),
    Event.SUSPEND: EventRule(True, WindowKind.SUSPEND_NOTICE, ExpectedEffect.FREEZES),
    Event.RESUME: EventRule(False, WindowKind.RESUME_NOTICE, ExpectedEffect.RETURNS),
    Event.RESIZE_BEGIN: EventRule(True, WindowKind.SUSPEND_NOTICE, ExpectedEffect.RESTARTS),
    Event.RESIZE_END: EventRule(False, WindowKind.RESUME_NOTICE, ExpectedEffect.RETURNS),
    Event.LIVE_MIGRATE_BEGIN: EventRule(True, WindowKind.SUSPEND_NOTICE, ExpectedEffect.FREEZES),
    Event.LIVE_MIGRATE_END: EventRule(False, WindowKind.RESUME_NOTICE, ExpectedEffect.RETURNS),
    Event.COLD_MIGRATE_BEGIN: EventRule(True, WindowKind.SUSPEND_NOTICE, ExpectedEffect.RESTARTS),
    Event.COLD_MIGRATE_END: EventRule(False, WindowKind.RESUME_NOTICE, ExpectedEffect.RETURNS),
}


def window_of(event: Event, notification: NotificationType) -> WindowKind:
    """Returns the window of a vote or notice; all votes share the VOTE window.

    Raises:
        KeyError: ``event`` is ``UNKNOWN``, which has no window.
    """
    rule = EVENT_TABLE[event]
    return WindowKind.VOTE if notification is NotificationType.REVOCABLE else rule.notice


class ActionName(StrEnum):
    """An operator's or orchestrator's action on an instance (first column of the event table)."""

    STOP = "stop"
    REBOOT = "reboot"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    SUSPEND = "suspend"
    RESUME = "resume"
    RESIZE = "resize"
    LIVE_MIGRATE = "live-migrate"
    COLD_MIGRATE = "cold-migrate"


class ActionRule(msgspec.Struct, frozen=True):
    """The events of an action: a vote and a notice on ``before``, and a notice of ``after``.

    ``restarts`` is whether the VM goes down in between: such an action ends only when the VM
    heartbeats again or its RESTART window expires. ``cancelled`` is the end notice of a ``before``
    that does not happen; deployed clients know ``resume``.
    """

    before: Event | None
    after: Event | None
    restarts: bool = False
    cancelled: Event | None = None


ACTION_TABLE: dict[ActionName, ActionRule] = {
    ActionName.STOP: ActionRule(Event.STOP, None, cancelled=Event.RESUME),
    ActionName.REBOOT: ActionRule(Event.REBOOT, None, restarts=True, cancelled=Event.RESUME),
    ActionName.PAUSE: ActionRule(Event.PAUSE, None, cancelled=Event.UNPAUSE),
    ActionName.UNPAUSE: ActionRule(None, Event.UNPAUSE),
    ActionName.SUSPEND: ActionRule(Event.SUSPEND, None, cancelled=Event.RESUME),
    ActionName.RESUME: ActionRule(None, Event.RESUME),
    ActionName.RESIZE: ActionRule(
        Event.RESIZE_BEGIN, Event.RESIZE_END, restarts=True, cancelled=Event.RESIZE_END
    ),
    ActionName.LIVE_MIGRATE: ActionRule(
        Event.LIVE_MIGRATE_BEGIN, Event.LIVE_MIGRATE_END, cancelled=Event.LIVE_MIGRATE_END
    ),
    ActionName.COLD_MIGRATE: ActionRule(
        Event.COLD_MIGRATE_BEGIN,
        Event.COLD_MIGRATE_END,
        restarts=True,
        cancelled=Event.COLD_MIGRATE_END,
    ),
}


class WindowLengths(Protocol):
    """The lengths of all windows, in seconds, as an instance or an application advertises them."""

    @property
    def vote_s(self) -> int:
        """VOTE."""

    @property
    def shutdown_notice_s(self) -> int:
        """SHUTDOWN_NOTICE."""

    @property
    def suspend_notice_s(self) -> int:
        """SUSPEND_NOTICE."""

    @property
    def resume_notice_s(self) -> int:
        """RESUME_NOTICE."""

    @property
    def restart_s(self) -> int:
        """RESTART."""


def window_s(lengths: WindowLengths, kind: WindowKind) -> int:
    """Returns how long a window of this kind stays open, in seconds."""
    match kind:
        case WindowKind.VOTE:
            return lengths.vote_s
        case WindowKind.SHUTDOWN_NOTICE:
            return lengths.shutdown_notice_s
        case WindowKind.SUSPEND_NOTICE:
            return lengths.suspend_notice_s
        case WindowKind.RESUME_NOTICE:
            return lengths.resume_notice_s
        case WindowKind.RESTART:
            return lengths.restart_s
