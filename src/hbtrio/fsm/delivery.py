"""Decides what becomes of one entry of the outbox to the VIM.

An entry that was not written completely is sent again. A verdict that was written completely is
done, whatever the result: a second ``allow`` would complete the VIM's next step. States and alarms
are done when the VIM has answered or has closed the connection in order, which is its way of
accepting them. After a reset, silence or a temporary refusal they are sent again.

The states are those in the store. The store makes the steps that need no attempt (held back, let
go, expired, withdrawn, replaced) in SQL, and its tests compare them with this table. An alarm that
returns to the queue while its host's alarms are held back is held back in the same transaction; a
state that returns behind a newer one is replaced in it, and ill health that returns behind a
verdict after which the VIM acts is withdrawn in it.
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

#: A state or alarm that the VIM refuses or resets each time is given up after this many seconds.
#: Usually the entry is not at fault: a proxy answers for a VIM that is being upgraded or moved to
#: the other controller, which takes minutes. After an hour a loss is outdated. Silence does not
#: count: a VIM that hangs gets its alarms once it is back, as one that can't be reached.
GIVE_UP_S: Final = 3600.0

#: Statuses below 500 that a VIM or a proxy sends for temporary faults.
_PASSING: Final = frozenset((408, 425, 429))


class OutboxKind(StrEnum):
    """The kind of an entry, which decides how it may be delivered."""

    #: Heartbeating began or ended: only the newest matters; sent until answered or closed.
    SERVICE = "service"
    #: Loss or ill health: each one matters; sent until answered or closed.
    ALARM = "alarm"
    #: A verdict: sent at most once, and only within its window.
    ACTION = "action"


class OutboxState(StrEnum):
    """How far the delivery of an entry has come."""

    QUEUED = "queued"  # may be sent; its connection may be being made
    HELD = "held"  # an alarm that is held back until it is let go
    SENDING = "sending"  # its first byte may have been written
    DELIVERED = "delivered"  # the VIM answered with success
    UNCONFIRMED = "unconfirmed"  # written completely, or perhaps so, without an answer
    UNDELIVERED = "undelivered"  # given up; `fault` is the reason
    REPLACED = "replaced"  # a newer state of its instance took its place; the store deletes it


class DeliveryEvent(Enum):
    """What can happen to an entry."""

    SENDING_BEGAN = "its first byte is about to be written"
    NOT_SENT = "not written completely"
    ANSWERED = "the VIM answered with a 2xx status"
    UNANSWERED = "written completely without an answer, and not to be repeated"
    FAILED = "written completely, then refused, reset or unanswered, and to be repeated"
    REFUSED = "the VIM refused it for good"
    REFUSED_TOO_LONG = "the VIM has refused or reset it for an hour"
    EXPIRED = "a verdict's window ended before it could be sent"
    HELD_BACK = "the alarms of its host are held back"
    LET_GO = "the alarm is let go"
    WITHDRAWN = "it has become pointless"
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
    # An entry that is being sent can't be taken back: other events wait for the end of the attempt.
    _S.SENDING: {
        _E.NOT_SENT: _S.QUEUED,
        _E.ANSWERED: _S.DELIVERED,
        _E.UNANSWERED: _S.UNCONFIRMED,
        _E.FAILED: _S.QUEUED,
        _E.REFUSED: _S.UNDELIVERED,
        _E.REFUSED_TOO_LONG: _S.UNDELIVERED,
        # Storing that it is being sent took the rest of the window.
        _E.EXPIRED: _S.UNDELIVERED,
        _E.HELD_BACK: _S.SENDING,
        _E.WITHDRAWN: _S.SENDING,
        _E.SUPERSEDED: _S.SENDING,
    },
    _S.DELIVERED: {},
    _S.UNCONFIRMED: {},
    # The entry may have ended while its connection was being made: the store ignores the rest.
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
    """Store the end of the delivery; ``fault`` is "" for a success."""

    state: OutboxState
    fault: str


@attrs.frozen
class QueueAgain:
    """Store that an attempt failed and is to be repeated.

    ``reached``: the VIM could be reached; ``refused``: it refused or reset the request.
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
    """Report that a state was given up; ``for_good``: the VIM refused it permanently."""

    for_good: bool


DeliveryEffect = MarkDone | QueueAgain | RestInstance | EndRest | ReportStateGivenUp


class Delivery:
    """One attempt to deliver an entry of the outbox.

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
        """Notes that the first byte is about to be written, and that the store has this."""
        self._step(DeliveryEvent.SENDING_BEGAN)

    def tried(
        self, result: SendResult, now: float, reachable_since: float
    ) -> tuple[DeliveryEffect, ...]:
        """Handles the end of the attempt.

        Args:
            result: the result of the request.
            now: the time, in seconds.
            reachable_since: since when the VIM can be reached, and this process runs; refusals
                before that do not count.

        Returns:
            The effects, in their order.

        Raises:
            IllegalEvent: the request was written before :meth:`sending_began`, or a second call.
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
        # A delivered verdict says nothing about an alarm that it has overtaken.
        rest: tuple[DeliveryEffect, ...] = () if self.kind is OutboxKind.ACTION else (EndRest(),)
        done = (*rest, MarkDone(self.state, fault))
        if self.kind is OutboxKind.SERVICE and self.state is OutboxState.UNDELIVERED:
            return *done, ReportStateGivenUp(for_good=event is DeliveryEvent.REFUSED)
        return done

    def _event_of(self, result: SendResult, now: float, reachable_since: float) -> DeliveryEvent:
        # A verdict that was written completely is never repeated.
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
