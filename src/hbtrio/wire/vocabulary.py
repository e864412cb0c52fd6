"""The words of the guest channel and the event table, shared by guest, host and agent.

Every word is a ``StrEnum`` whose values are the bytes on the wire. A peer may send a word that is
not in here (deployed clients copy application values through unchecked), so decoding maps it to the
``UNKNOWN`` member instead of failing: one odd word must not cost a whole message.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Self

import attrs


class _Word(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls("unknown") if isinstance(value, str) and value != "unknown" else None


class CorrectiveAction(_Word):
    """What is to be done with an instance that is lost or ill."""

    NONE = "none"
    REBOOT = "reboot"
    STOP = "stop"
    LOG = "log"
    UNKNOWN = "unknown"

    @property
    def strength(self) -> int:
        """How strong the action is: stop over reboot over log over none (and unknown)."""
        return _STRENGTH[self]

    @property
    def is_actionable(self) -> bool:
        """Whether anything is asked for: none and unknown ask for nothing."""
        return self is not CorrectiveAction.NONE and self is not CorrectiveAction.UNKNOWN


_STRENGTH = {
    CorrectiveAction.UNKNOWN: 0,
    CorrectiveAction.NONE: 0,
    CorrectiveAction.LOG: 1,
    CorrectiveAction.REBOOT: 2,
    CorrectiveAction.STOP: 3,
}


class Health(_Word):
    """What a guest says of itself with each beat. Only ``UNHEALTHY`` ever leads to an action."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class NotificationType(_Word):
    """Whether a handler may refuse: a vote is revocable, a notice is not."""

    REVOCABLE = "revocable"
    IRREVOCABLE = "irrevocable"
    UNKNOWN = "unknown"


class VoteResult(_Word):
    """How a vote or a notice was answered."""

    ACCEPT = "accept"
    REJECT = "reject"
    COMPLETE = "complete"
    TIMEOUT = "timeout"
    ERROR = "error"
    UNKNOWN = "unknown"


class Event(_Word):
    """What is about to happen, or has happened, to an instance."""

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
    """The five timeouts of the product; each becomes a window of ``nursery.windows``."""

    VOTE = "VOTE"
    SHUTDOWN_NOTICE = "SHUTDOWN_NOTICE"
    SUSPEND_NOTICE = "SUSPEND_NOTICE"
    RESUME_NOTICE = "RESUME_NOTICE"
    RESTART = "RESTART"


class ExpectedEffect(Enum):
    """What the host must expect of a VM once the notice of an event is over."""

    #: It stops for good; only a new ``init`` brings it back.
    STOPS = "stops"
    #: It is frozen or moved, and answers again after the matching end event.
    FREEZES = "freezes"
    #: It goes down and comes up again, within the RESTART window.
    RESTARTS = "restarts"
    #: It is running again and should answer.
    RETURNS = "returns"


@attrs.frozen
class EventRule:
    """A row of the event table (PROTOCOL.md, section 0).

    ``voted`` says whether the instance may refuse the event; ``notice`` is the window of its
    notice; ``aftermath`` is what the host expects of the VM's heartbeat afterwards.
    """

    voted: bool
    notice: WindowKind
    aftermath: ExpectedEffect


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
    """The window that bounds this vote or notice; votes have one timeout whatever the event.

    Raises:
        KeyError: the event is ``UNKNOWN``; there is no window for what nobody knows.
    """
    rule = EVENT_TABLE[event]
    return WindowKind.VOTE if notification is NotificationType.REVOCABLE else rule.notice


class ActionName(StrEnum):
    """What an operator or orchestrator does to an instance: the first column of the event table."""

    STOP = "stop"
    REBOOT = "reboot"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    SUSPEND = "suspend"
    RESUME = "resume"
    RESIZE = "resize"
    LIVE_MIGRATE = "live-migrate"
    COLD_MIGRATE = "cold-migrate"


@attrs.frozen
class ActionRule:
    """The events around an action: ``before`` is voted on and noticed, ``after`` is noticed.

    ``restarts`` says that the VM goes down in between: the action is not over before it
    heartbeats again or its RESTART window ends.
    """

    before: Event | None
    after: Event | None
    restarts: bool = False


ACTION_TABLE: dict[ActionName, ActionRule] = {
    ActionName.STOP: ActionRule(Event.STOP, None),
    ActionName.REBOOT: ActionRule(Event.REBOOT, None, restarts=True),
    ActionName.PAUSE: ActionRule(Event.PAUSE, None),
    ActionName.UNPAUSE: ActionRule(None, Event.UNPAUSE),
    ActionName.SUSPEND: ActionRule(Event.SUSPEND, None),
    ActionName.RESUME: ActionRule(None, Event.RESUME),
    ActionName.RESIZE: ActionRule(Event.RESIZE_BEGIN, Event.RESIZE_END, restarts=True),
    ActionName.LIVE_MIGRATE: ActionRule(Event.LIVE_MIGRATE_BEGIN, Event.LIVE_MIGRATE_END),
    ActionName.COLD_MIGRATE: ActionRule(
        Event.COLD_MIGRATE_BEGIN, Event.COLD_MIGRATE_END, restarts=True
    ),
}
