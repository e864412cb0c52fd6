"""What the guest daemon's status socket sends: the applications in this VM, as one JSON document.

The daemon writes the document to whoever connects and closes the connection; it reads nothing. Keys
may be added; those that are here stay.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: The longest document, in bytes: 1024 applications with long names, reasons and all requests.
MAX_STATUS_BYTES: Final = 8 * 1024 * 1024


class RequestStatus(msgspec.Struct, frozen=True):
    """A vote or notice that an application was asked.

    ``kind`` is ``vote`` or ``notice``. ``result`` is the application's answer (accept, reject,
    complete, unknown), ``timeout`` at the end of its own window, ``open`` as long as the window is,
    or ``none`` if the vote or notice ended without its answer. ``ago_s`` counts from the request.
    """

    kind: str
    event: str
    result: str
    reason: str
    ago_s: float


class InhibitionStatus(msgspec.Struct, frozen=True):
    """The events that the guest rejects for an application, why, and since how many seconds."""

    events: list[str]
    reason: str
    for_s: float


class ApplicationStatus(msgspec.Struct, frozen=True):
    """A registered application.

    ``health`` is healthy, ill or silent, for ``health_s`` seconds; ``corrective_action`` and
    ``reason`` say what it requests and why, while it is not healthy. ``if_silent`` is the
    corrective action that it registered. ``requests`` are its last ones, the newest first.
    ``inhibits`` is None for an application that answers votes itself only.
    """

    name: str
    pid: int
    uid: int
    gid: int
    heartbeat_s: float
    vote_s: int
    shutdown_notice_s: int
    suspend_notice_s: int
    resume_notice_s: int
    if_silent: str
    health: str
    health_s: float
    corrective_action: str
    reason: str
    requests: list[RequestStatus]
    inhibits: InhibitionStatus | None = None


class GuestApplications(msgspec.Struct, frozen=True):
    """The registered applications in the order in which they connected, and how many others are.

    ``unregistered`` counts connections without a registration.
    """

    applications: list[ApplicationStatus]
    unregistered: int


class StatusError(Exception):
    """Bytes that are no status."""


def encode_status(status: GuestApplications) -> bytes:
    """Encodes a status as one line."""
    return msgspec.json.encode(status) + b"\n"


def decode_status(data: bytes) -> GuestApplications:
    """Decodes a status.

    Raises:
        StatusError: the bytes are no status, or it was cut off.
    """
    try:
        return msgspec.json.decode(data, type=GuestApplications)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StatusError(str(error)) from error
