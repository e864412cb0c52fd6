"""What the agent's store holds, as it goes in and comes out."""

from __future__ import annotations

from datetime import datetime

import attrs

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult


@attrs.frozen
class HostRecord:
    """A host that the VIM or a link told of, and whether losses on it are to be reported."""

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
        command_id: the id of its command; unique for ever.
        uuid: the instance.
        hostname: the host that was commanded.
        event: what it is about.
        vote: a vote, else a notice.
        asked_by: who wanted it.
        asked_at: when, with its zone.
        window_s: seconds from ``asked_at`` within which an answer is of use.
        replied: whether the reply to whoever asked has been written: its verdict may follow.
        result: None while it is open.
        reason: why it ended so.
        answered_at: when it was closed.
        boot_id: the process of the host that was commanded; "" if an older agent has stored it.
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
    """How a round ended."""

    command_id: str
    result: VoteResult
    reason: str


@attrs.frozen
class NewEntry:
    """Something to be delivered to the VIM.

    Args:
        kind: decides the rules of its delivery.
        uuid: the instance; entries of one instance keep their order.
        body: the PATCH's JSON.
        command_id: for an action, the round it answers.
        expires_at: when it is of no use any more; None for never.
        deadline: the same on trio's clock, which then decides for as long as this process lives:
            the wall clock may be set. None if it is not known there: a former process has asked.
        hostname: for an alarm, the host that reported it.
        held: an alarm that is not sent until it is let go.
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

    ``queued_at`` is since when the VIM has been waiting for such news: a newer state that replaces
    an older one inherits it, so that an instance that flaps does not lose its turn each time.
    ``refused_since`` is since when, on trio's clock, each attempt was refused or reset; None if the
    last one was not.
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
    """What can be sent now.

    Args:
        entries: at most one for each instance, the most urgent first.
        waiting: how many are queued or being sent.
        next_expiry_s: in how many seconds the next of them expires.
        undelivered: what the history keeps of entries that were given up, the oldest first.
        newest: where to go on looking for those.
    """

    entries: tuple[Entry, ...]
    waiting: int
    next_expiry_s: float | None
    undelivered: tuple[HistoryEntry, ...] = ()
    newest: int = 0


@attrs.frozen
class HistoryEntry:
    """Something that an operator may ask about later.

    Args:
        time: when, with its zone.
        kind: vote, notice, loss, unhealthy, action, undelivered, ...
        uuid: the instance, or "" for a host.
        hostname: the host.
        event: for a vote or notice.
        result: for a vote or notice.
        reason: one line; may hold a tenant's words.
        who: who asked, or "".
        corrective_action: for loss and ill health.
        asked_at: for a vote or notice, when it was asked for by this agent's clock, if it was
            through this agent; ``time`` may be by the host's.
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


@attrs.frozen
class HistoryRecord:
    """A kept history entry; ``id`` grows with time and is a place to page from."""

    id: int
    entry: HistoryEntry
