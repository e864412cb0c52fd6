"""The messages of the guest channel, without their header.

Eight are PROTOCOL.md's (section 1); the last four are extensions.

Fields are in the order of deployed peers, with ``log_msg`` last: the peers' parsers and the repair
of unescaped text rely on that order. :mod:`hbtrio.wire.channel_codec` adds the header (version,
revision, type, sequence), which belongs to the sender's connection.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Annotated, ClassVar

import msgspec

from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoterAnswer,
    VoteResult,
    VoterHealth,
)

#: C peers print with %d and parse into 32 bits, so signed and unsigned values both occur.
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**32 - 1)]

#: The largest id or challenge to generate: every deployed parser reads it back unchanged.
MAX_ID = 2**31 - 1


class Extension(IntFlag):
    """The bits of ``extensions`` in ``init_ack``: what this host takes beyond PROTOCOL.md.

    A guest uses an extension only as long as the last ``init_ack`` offered it. Each side ignores
    bits that it doesn't know, so a bit keeps its meaning for good (docs/compatibility.md).
    """

    #: Reasons in ``log_msg`` may begin with the name of the application that gave them, and may be
    #: those of several voters.
    NAMED_REASONS = 1

    #: The guest may send :class:`MoreTime`.
    MORE_TIME = 2

    #: The guest may send :class:`VoterState`.
    VOTERS = 4

    #: The guest may send :class:`RejectWithdrawn`.
    WITHDRAWALS = 8


#: What our host always offers.
OFFERED = int(Extension.NAMED_REASONS | Extension.VOTERS | Extension.WITHDRAWALS)

#: The most voters that a guest reports.
MAX_VOTERS = 16


class Init(msgspec.Struct, frozen=True):
    """Guest to host: the guest's name, heartbeat interval, windows and corrective action."""

    TYPE: ClassVar[str] = "init"
    invocation_id: Int32
    name: str
    heartbeat_interval_ms: Int32
    vote_secs: Int32
    shutdown_notice_secs: Int32
    suspend_notice_secs: Int32
    resume_notice_secs: Int32
    restart_secs: Int32
    corrective_action: CorrectiveAction


class InitAck(msgspec.Struct, frozen=True):
    """Host to guest: the init with this id is accepted; challenges follow.

    ``extensions`` has the bits of :class:`Extension`. Deployed hosts don't send the key, which
    reads as 0, and 0 is not sent. Deployed guests read keys by name and ignore it.
    """

    TYPE: ClassVar[str] = "init_ack"
    invocation_id: Int32
    extensions: Int32 = 0


class Challenge(msgspec.Struct, frozen=True):
    """Host to guest: answer with this number."""

    TYPE: ClassVar[str] = "challenge"
    heartbeat_challenge: Int32


class ChallengeResponse(msgspec.Struct, frozen=True):
    """Guest to host: the challenge's number and the guest's health."""

    TYPE: ClassVar[str] = "challenge_response"
    heartbeat_response: Int32
    heartbeat_health: Health
    corrective_action: CorrectiveAction
    log_msg: str


class ActionNotify(msgspec.Struct, frozen=True):
    """Host to guest: a vote (revocable) or a notice (irrevocable) on an event.

    ``planned_at`` is when a planned event happens without the guest's vote, in seconds since the
    epoch. 0, for one that is not planned, is not sent; nor is any to a guest that has not used
    :attr:`Extension.VOTERS`.
    """

    TYPE: ClassVar[str] = "action_notify"
    invocation_id: Int32
    event_type: Event
    notification_type: NotificationType
    timeout_ms: Int32
    planned_at: Int32 = 0


class ActionResponse(msgspec.Struct, frozen=True):
    """Guest to host: the response to the vote or notice with this id."""

    TYPE: ClassVar[str] = "action_response"
    invocation_id: Int32
    event_type: Event
    notification_type: NotificationType
    vote_result: VoteResult
    log_msg: str


class Exit(msgspec.Struct, frozen=True):
    """Guest to host: the guest daemon is stopping; this is not a loss."""

    TYPE: ClassVar[str] = "exit"
    log_msg: str


class Nack(msgspec.Struct, frozen=True):
    """Host to guest: the message with this id was refused, with the reason."""

    TYPE: ClassVar[str] = "nack"
    invocation_id: Int32
    log_msg: str


class VoterState(msgspec.Struct, frozen=True):
    """Guest to host: one of its voters; to a host that offers :attr:`Extension.VOTERS`.

    A guest reports all its voters one after the other: ``place`` goes from 1 to ``count``, which is
    :data:`MAX_VOTERS` at most, and ``unlisted`` is how many others there are. A guest without
    voters sends one message whose ``place`` and ``count`` are 0.

    ``health`` has been as it is for ``health_s`` seconds. ``interval_ms`` is the heartbeat's, 0 for
    a voter without one. ``corrective_action`` is what a healthy voter registered for its silence,
    and what another one requests, with its ``reason``. The last vote or notice began ``ago_s``
    seconds ago; ``notification_type`` is ``unknown`` if the voter has received none.
    """

    TYPE: ClassVar[str] = "voter_state"
    place: Int32
    count: Int32
    unlisted: Int32
    name: str
    health: VoterHealth
    health_s: Int32
    interval_ms: Int32
    corrective_action: CorrectiveAction
    reason: str
    event_type: Event
    notification_type: NotificationType
    answer: VoterAnswer
    answer_reason: str
    ago_s: Int32


class MoreTime(msgspec.Struct, frozen=True):
    """Guest to host: keep the open vote or notice with this id open for ``seconds`` more.

    To a host that offers :attr:`Extension.MORE_TIME`, which answers with :class:`TimeGranted`.
    ``request`` numbers the requests of one vote or notice; ``name`` is the voter that asks.
    """

    TYPE: ClassVar[str] = "more_time"
    invocation_id: Int32
    request: Int32
    seconds: Int32
    name: str


class TimeGranted(msgspec.Struct, frozen=True):
    """Host to guest: the vote or notice stays open for ``seconds`` more, which may be 0.

    The answer to the :class:`MoreTime` with the same numbers; ``log_msg`` says why it is less than
    was asked for.
    """

    TYPE: ClassVar[str] = "time_granted"
    invocation_id: Int32
    request: Int32
    seconds: Int32
    log_msg: str


class RejectWithdrawn(msgspec.Struct, frozen=True):
    """Guest to host: the voter ``name`` would not reject this event any more.

    To a host that offers :attr:`Extension.WITHDRAWALS`. It has no answer, and nothing follows from
    it but that whoever waits to ask again asks earlier.
    """

    TYPE: ClassVar[str] = "reject_withdrawn"
    event_type: Event
    name: str


Message = (
    Init
    | InitAck
    | Challenge
    | ChallengeResponse
    | ActionNotify
    | ActionResponse
    | Exit
    | Nack
    | VoterState
    | MoreTime
    | TimeGranted
    | RejectWithdrawn
)

MESSAGE_CLASSES: tuple[type[Message], ...] = (
    Init,
    InitAck,
    Challenge,
    ChallengeResponse,
    ActionNotify,
    ActionResponse,
    Exit,
    Nack,
    VoterState,
    MoreTime,
    TimeGranted,
    RejectWithdrawn,
)
