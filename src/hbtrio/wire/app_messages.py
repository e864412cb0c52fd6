"""The messages between the guest daemon and applications in its VM (PROTOCOL.md, section 4).

Fields are in the order of the C structs. :mod:`hbtrio.wire.app_codec` adds the header, which
belongs to the connection.

All numbers are unsigned 32-bit integers: 0 to 2^32-1.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult


class AppInit(msgspec.Struct, frozen=True):
    """Application to guest: register me with this interval, these windows and this action."""

    TYPE: ClassVar[int] = 0
    name: str
    heartbeat_interval_ms: int
    vote_secs: int
    shutdown_notice_secs: int
    suspend_notice_secs: int
    resume_notice_secs: int
    corrective_action: CorrectiveAction


class AppInitAck(msgspec.Struct, frozen=True):
    """Guest to application: the registration is accepted or refused."""

    TYPE: ClassVar[int] = 1
    accepted: bool


class Final(msgspec.Struct, frozen=True):
    """Application to guest: I am signing off; this is not a failure."""

    TYPE: ClassVar[int] = 2
    log_msg: str


class AppChallenge(msgspec.Struct, frozen=True):
    """Guest to application: answer with this number."""

    TYPE: ClassVar[int] = 3
    heartbeat_challenge: int


class AppChallengeResponse(msgspec.Struct, frozen=True):
    """Application to guest: the challenge's number and the application's health.

    ``corrective_action`` and ``log_msg`` matter only if ``healthy`` is false.
    """

    TYPE: ClassVar[int] = 4
    heartbeat_response: int
    healthy: bool
    corrective_action: CorrectiveAction
    log_msg: str


class AppActionNotify(msgspec.Struct, frozen=True):
    """Guest to application: a vote (revocable) or a notice (irrevocable) on an event.

    ``planned_at`` is that of the channel, in seconds since the epoch; 0 for none. It lies behind
    the members of the C struct, where deployed guests have zeros and deployed applications don't
    look.
    """

    TYPE: ClassVar[int] = 5
    invocation_id: int
    event_type: Event
    notification_type: NotificationType
    planned_at: int = 0


class AppActionResponse(msgspec.Struct, frozen=True):
    """Application to guest: the response to the vote or notice with this id.

    Match responses by id only: an application may name another event than the request did.
    """

    TYPE: ClassVar[int] = 6
    invocation_id: int
    event_type: Event
    notification_type: NotificationType
    vote_result: VoteResult
    log_msg: str


class AppInhibit(msgspec.Struct, frozen=True):
    """Application to guest: reject these events for me while I am registered.

    It follows a registration and replaces an earlier one; a new registration ends it. Deployed
    applications don't send it, and a guest that doesn't know it skips it.
    """

    TYPE: ClassVar[int] = 7
    events: frozenset[Event]
    log_msg: str


class AppMoreTime(msgspec.Struct, frozen=True):
    """Application to guest: keep my vote or notice with this id open for ``seconds`` more.

    Of hbtrio, as :class:`AppTimeGranted`; a guest that doesn't know it skips it. ``request``
    numbers the requests of one vote or notice.
    """

    TYPE: ClassVar[int] = 8
    invocation_id: int
    request: int
    seconds: int


class AppTimeGranted(msgspec.Struct, frozen=True):
    """Guest to application, which has asked: so much is granted, and why it is not more."""

    TYPE: ClassVar[int] = 9
    invocation_id: int
    request: int
    seconds: int
    log_msg: str


class AppReady(msgspec.Struct, frozen=True):
    """Application to guest: I would not reject this event any more, as I have done.

    Of hbtrio; a guest that doesn't know it skips it.
    """

    TYPE: ClassVar[int] = 10
    event_type: Event


AppMessage = (
    AppInit
    | AppInitAck
    | Final
    | AppChallenge
    | AppChallengeResponse
    | AppActionNotify
    | AppActionResponse
    | AppInhibit
    | AppMoreTime
    | AppTimeGranted
    | AppReady
)
