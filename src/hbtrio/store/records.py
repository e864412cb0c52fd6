"""The records of the agent's store, as its methods take and return them."""

from __future__ import annotations

from datetime import datetime

import attrs

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult


@attrs.frozen
class HostRecord:
    """A host that the VIM or a link named, and whether its losses are to be reported."""

    uuid: str
    hostname: str
    reporting: bool


@attrs.frozen
class InstanceRecord:
    """An instance, the host it is bound to, and whether its losses are to be reported."""

    uuid: str
    hostname: str
    reporting: bool


@attrs.frozen
class RoundRecord:
    """A vote or notice.

    Args:
        command_id: the id of the command; never reused.
        uuid: the instance.
        hostname: the host that received the command.
        event: the event of the vote or notice.
        vote: whether this is a vote, else a notice.
        asked_by: who requested it.
        asked_at: when it was requested; timezone-aware.
        window_s: seconds from ``asked_at`` within which a verdict is of use.
        replied: whether the reply to the requester is written, so that the verdict may follow.
        result: None while the round is open.
        reason: the reason of the result.
        answered_at: when the round was closed.
        boot_id: the host process that received the command; "" if an older agent stored it.
    """

    command_id: str
    uuid: str
    hostname: str
    event: Event
    vote: bool
    asked_by: str
    asked_at: datetime
    window_s: float
    replied: bool = False
    result: VoteResult | None = None
    reason: str = ""
    answered_at: datetime | None = None
    boot_id: str = ""


@attrs.frozen
class RoundResult:
    """The result of a round."""

    command_id: str
    result: VoteResult
    reason: str


@attrs.frozen
class NewEntry:
    """A new entry of the outbox, to be delivered to the VIM.

    Args:
        kind: the kind, which determines the rules of the delivery.
        uuid: the instance; entries of one instance keep their order.
        body: the PATCH's JSON.
        command_id: for an action, the round it answers.
        expires_at: when the entry expires; None for never.
        deadline: the expiry on trio's clock, which takes precedence because the wall clock may be
            set. None if the round was not open in this process.
        hostname: for an alarm, the host that reported it.
        held: whether the alarm is held back until it is released.
    """

    kind: OutboxKind
    uuid: str
    body: str
    command_id: str = ""
    expires_at: datetime | None = None
    deadline: float | None = None
    hostname: str = ""
    held: bool = False


@attrs.frozen
class Entry:
    """An entry of the outbox.

    ``queued_at`` is when the first undelivered state of the instance was queued: a newer state
    takes it over from the one it replaces, so that a flapping instance keeps its place.
    ``refused_since`` is since when, on trio's clock, all attempts were refused or reset; None if
    the last one was not.
    """

    id: int
    kind: OutboxKind
    uuid: str
    command_id: str
    body: str
    expires_at: datetime | None
    state: OutboxState
    attempts: int
    queued_at: datetime
    done_at: datetime | None
    fault: str
    refused_since: float | None = None


@attrs.frozen
class Ready:
    """The entries that can be sent now.

    Args:
        entries: at most one per instance, the most urgent first.
        waiting: how many entries are queued, or being sent about instances that were named as busy
            or resting.
        next_expiry_s: seconds until the next of those expires.
        undelivered: the history entries of undelivered entries, the oldest first.
        newest: the value of ``after`` for the next call.
    """

    entries: tuple[Entry, ...]
    waiting: int
    next_expiry_s: float | None
    undelivered: tuple[HistoryEntry, ...] = ()
    newest: int = 0


@attrs.frozen
class HistoryEntry:
    """An event of the history that operators can look up.

    Args:
        time: the time of the event; timezone-aware, possibly by the host's clock.
        kind: vote, notice, loss, unhealthy, action, undelivered, ...
        uuid: the instance, or "" for a host.
        hostname: the host.
        event: the event of a vote or notice.
        result: the result of a vote or notice.
        reason: one line; may hold a tenant's text.
        who: who requested it, or "".
        corrective_action: the action of a loss or ill health.
        asked_at: for a vote or notice through this agent, when it was requested, by the agent's
            clock.
        command_id: the command that this is the outcome of, or "". A command has one outcome: what
            the requester was told.
        note: what was learned of the command later, or "".
    """

    time: datetime
    kind: str
    uuid: str
    hostname: str
    reason: str
    event: Event | None = None
    result: VoteResult | None = None
    who: str = ""
    corrective_action: CorrectiveAction | None = None
    asked_at: datetime | None = None
    command_id: str = ""
    note: str = ""


@attrs.frozen
class TakenReport:
    """A report that was stored.

    Args:
        history: the entry that was added to the history, or that got a note; None if neither.
    """

    history: HistoryEntry | None


@attrs.frozen
class HistoryRecord:
    """A stored history entry; ``id`` grows with time and serves for paging."""

    id: int
    entry: HistoryEntry
