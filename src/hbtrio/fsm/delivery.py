"""The delivery of one entry of the outbox to the VIM (PROTOCOL.md, section 3).

What was not written whole may be sent again, and is. What was written whole is done with if it is
a verdict, whatever came back: a second ``allow`` would complete the VIM's next step. States and
alarms are done with when the VIM answered or closed in order, which is its way of saying yes; after
a reset, silence or a passing refusal they are sent again.

The states are those that the store keeps. The store makes the steps that need no attempt (held
back, let go, expired, withdrawn, replaced) in SQL, and its tests hold them to this table. One that
returns to the queue while its host's alarms are held back is held back in the same transaction, and
a state that returns behind a newer one is replaced in it.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final

import attrs

from hbtrio.fsm.table import Table
from hbtrio.wire.vim_result import (
    Delivered,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    SendResult,
    Unconfirmed,
    fault_of,
)

#: For how long, in seconds, a state or alarm is sent again that the VIM refuses or resets each
#: time. Most likely that is not the entry's fault: a proxy answers for a VIM that is being upgraded
#: or moved to the other controller, which takes minutes. After an hour a loss is no news. Silence
#: does not count: a VIM that hangs gets its alarms when it is back, as one that can't be reached.
GIVE_UP_S: Final = 3600.0

#: Statuses below 500 that a VIM, or what stands before it, gives for troubles that pass.
_PASSING: Final = frozenset((408, 425, 429))


class OutboxKind(StrEnum):
    """What an entry of the outbox is, which decides how it may be delivered."""

    #: Heartbeating began or ended: only the newest matters; sent until answered or closed.
    SERVICE = "service"
    #: Loss or ill health: each one matters; sent until answered or closed.
    ALARM = "alarm"
    #: A verdict: sent at most once, and only within its window.
    ACTION = "action"


class OutboxState(StrEnum):
    """How far an entry of the outbox has come."""

    QUEUED = "queued"  # it may be sent; perhaps its connection is being made
    HELD = "held"  # an alarm that is not sent until it is let go
    SENDING = "sending"  # its first byte may have been written
    DELIVERED = "delivered"  # the VIM answered that it has it
    UNCONFIRMED = "unconfirmed"  # it was written whole, or may have been, and nobody said so
    UNDELIVERED = "undelivered"  # it did not get there and will not be sent again; `fault` says why
    REPLACED = "replaced"  # a newer state of its instance took its place; the store deletes it


class DeliveryEvent(Enum):
    """What can happen to an entry."""

    SENDING_BEGAN = "its first byte is about to be written"
    NOT_SENT = "the VIM can't have seen all of it"
    ANSWERED = "the VIM answered with a 2xx status"
    UNANSWERED = "written whole without an answer, and not to be repeated"
    FAILED = "written whole, refused, reset or unanswered, and to be repeated"
    REFUSED = "the VIM refused it for good"
    REFUSED_TOO_LONG = "the VIM has refused or reset it for an hour"
    EXPIRED = "a verdict's window ended before it could be sent"
    HELD_BACK = "the alarms of its host are held back"
    LET_GO = "the alarm is let go"
    WITHDRAWN = "it is of no use any more"
    SUPERSEDED = "a newer state of its instance was queued"


_S, _E = OutboxState, DeliveryEvent

_ROWS: Final[dict[OutboxState, dict[DeliveryEvent, OutboxState]]] = {
    _S.QUEUED: {
        _E.SENDING_BEGAN: _S.SENDING,
        _E.NOT_SENT: _S.QUEUED,
        _E.EXPIRED: _S.UNDELIVERED,
        _E.HELD_BACK: _S.HELD,
        _E.WITHDRAWN: _S.UNDELIVERED,
        _E.SUPERSEDED: _S.REPLACED,
    },
    _S.HELD: {
        # It was held back while its connection was being made.
        _E.NOT_SENT: _S.HELD,
        _E.HELD_BACK: _S.HELD,
        _E.LET_GO: _S.QUEUED,
        _E.WITHDRAWN: _S.UNDELIVERED,
    },
    # What is being sent can't be taken back: whatever happens meanwhile waits for its end.
    _S.SENDING: {
        _E.NOT_SENT: _S.QUEUED,
        _E.ANSWERED: _S.DELIVERED,
        _E.UNANSWERED: _S.UNCONFIRMED,
        _E.FAILED: _S.QUEUED,
        _E.REFUSED: _S.UNDELIVERED,
        _E.REFUSED_TOO_LONG: _S.UNDELIVERED,
        # The disk took the rest of the window to keep that it is being sent.
        _E.EXPIRED: _S.UNDELIVERED,
        _E.HELD_BACK: _S.SENDING,
        _E.WITHDRAWN: _S.SENDING,
        _E.SUPERSEDED: _S.SENDING,
    },
    _S.DELIVERED: {},
    _S.UNCONFIRMED: {},
    # Its end may have come while its connection was being made: the store leaves it as it is.
    _S.UNDELIVERED: {},
    _S.REPLACED: {},
}

DELIVERY_TABLE: Final[Table[OutboxState, DeliveryEvent]] = Table(
    "delivery to the VIM",
    _S.QUEUED,
    _ROWS,
    {
        _S.QUEUED: frozenset(
            {
                _E.ANSWERED,
                _E.UNANSWERED,
                _E.FAILED,
                _E.REFUSED,
                _E.REFUSED_TOO_LONG,
                _E.LET_GO,
            }
        ),
        _S.HELD: frozenset(
            {
                _E.SENDING_BEGAN,
                _E.ANSWERED,
                _E.UNANSWERED,
                _E.FAILED,
                _E.REFUSED,
                _E.REFUSED_TOO_LONG,
                _E.EXPIRED,
                _E.SUPERSEDED,
            }
        ),
        _S.SENDING: frozenset({_E.SENDING_BEGAN, _E.LET_GO}),
        _S.DELIVERED: frozenset(_E),
        _S.UNCONFIRMED: frozenset(_E),
        _S.UNDELIVERED: frozenset(_E),
        _S.REPLACED: frozenset(_E),
    },
    DeliveryEvent,
)


@attrs.frozen
class MarkDone:
    """Keep that the delivery has ended like this; ``fault`` is "" if all is well."""

    state: OutboxState
    fault: str


@attrs.frozen
class QueueAgain:
    """Keep that an attempt failed and may be repeated.

    ``reached``: that was on a VIM that can be reached; ``refused``: which refused or reset it.
    """

    fault: str
    reached: bool
    refused: bool


@attrs.frozen
class RestInstance:
    """Send no state or alarm of the instance for a while."""


@attrs.frozen
class EndRest:
    """States and alarms of the instance may be sent again at once."""


@attrs.frozen
class ReportStateGivenUp:
    """Say that the VIM did not take a state; ``for_good``: it said that it does not want it."""

    for_good: bool


DeliveryEffect = MarkDone | QueueAgain | RestInstance | EndRest | ReportStateGivenUp


class Delivery:
    """One attempt to deliver an entry of the outbox, from the queue to what became of it.

    Args:
        kind: decides what may be repeated.
        refused_since: since when, in seconds on the caller's clock, each attempt was refused or
            reset; None if the last one was not.
    """

    def __init__(self, kind: OutboxKind, refused_since: float | None = None) -> None:
        self.kind = kind
        self.state: OutboxState = DELIVERY_TABLE.initial
        self._refused_since = refused_since

    def sending_began(self) -> None:
        """The first byte is about to be written, and the store has kept that."""
        self._step(DeliveryEvent.SENDING_BEGAN)

    def tried(
        self, result: SendResult, now: float, reachable_since: float
    ) -> tuple[DeliveryEffect, ...]:
        """The attempt is over.

        Args:
            result: what is known of the request.
            now: the time, in seconds.
            reachable_since: since when the VIM can be reached: before that it refused nothing.

        Returns:
            what is to be done, in this order.

        Raises:
            IllegalEvent: something was written before :meth:`sending_began`, or it is tried again.
        """
        event = self._event_of(result, now, reachable_since)
        self._step(event)
        fault = fault_of(result)
        match event:
            case DeliveryEvent.NOT_SENT:
                return (QueueAgain(fault, reached=False, refused=False),)
            case DeliveryEvent.FAILED:
                refused = result != Unconfirmed(MissingAnswer.STALLED)
                return RestInstance(), QueueAgain(fault, reached=True, refused=refused)
            case DeliveryEvent.ANSWERED:
                fault = ""
            case DeliveryEvent.REFUSED_TOO_LONG:
                fault = f"{fault}, again and again for {GIVE_UP_S / 3600:g} h"
        # A verdict that got through says nothing of the alarm that it passed.
        rest: tuple[DeliveryEffect, ...] = () if self.kind is OutboxKind.ACTION else (EndRest(),)
        done = (*rest, MarkDone(self.state, fault))
        if self.kind is OutboxKind.SERVICE and self.state is OutboxState.UNDELIVERED:
            return *done, ReportStateGivenUp(for_good=event is DeliveryEvent.REFUSED)
        return done

    def _event_of(self, result: SendResult, now: float, reachable_since: float) -> DeliveryEvent:
        # A verdict that was written whole is never repeated: no branch to FAILED is for one.
        may_repeat = self.kind is not OutboxKind.ACTION
        match result:
            case NotSent():
                return DeliveryEvent.NOT_SENT
            case Delivered():
                return DeliveryEvent.ANSWERED
            case Unconfirmed(MissingAnswer.STALLED) if may_repeat:
                return DeliveryEvent.FAILED
            case Unconfirmed(MissingAnswer.RESET) if may_repeat:
                return self._refusal(now, reachable_since)
            case Unconfirmed():
                return DeliveryEvent.UNANSWERED
            case ErrorStatus(status) if may_repeat and (status >= 500 or status in _PASSING):
                return self._refusal(now, reachable_since)
            case ErrorStatus():
                return DeliveryEvent.REFUSED

    def _refusal(self, now: float, reachable_since: float) -> DeliveryEvent:
        since = self._refused_since
        if since is None or now - max(since, reachable_since) < GIVE_UP_S:
            return DeliveryEvent.FAILED
        return DeliveryEvent.REFUSED_TOO_LONG

    def _step(self, event: DeliveryEvent) -> None:
        self.state = DELIVERY_TABLE.after(self.state, event)
