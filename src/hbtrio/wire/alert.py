"""What a daemon tells whoever is on call, and how a webhook's request is signed.

The body and the headers are those of Standard Webhooks (https://www.standardwebhooks.com): there
are libraries that verify them for most languages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from enum import StrEnum
from typing import Final

import msgspec

#: Before the base64 text of a secret.
_SECRET_PREFIX: Final = "whsec_"


class Severity(StrEnum):
    """How soon somebody has to look."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert.

    Args:
        kind: what has happened; a word of a closed list.
        severity: how soon somebody has to look.
        hostname: the host.
        uuid: the instance; empty for a host.
        name: the name the instance has reported; a tenant's text.
        reason: one line; may hold a tenant's text.
        state: libvirt's answer about the domain; empty without libvirt.
        withheld: for ``withheld``, how many alerts were not sent, by kind.
    """

    kind: str
    severity: Severity
    hostname: str
    uuid: str = ""
    name: str = ""
    reason: str = ""
    state: str = ""
    withheld: dict[str, int] = {}

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same alert as another one: its kind, and whom it is about."""
        return (self.kind, self.uuid or self.hostname)


def certificate_alert(hostname: str, text: str) -> Alert:
    """Returns the alert that a certificate of a daemon or of its peer expires."""
    return Alert(kind="certificate", severity=Severity.WARNING, hostname=hostname, reason=text)


class _Body(msgspec.Struct):
    type: str
    timestamp: str
    data: Alert


class Told:
    """An alert on its way.

    Args:
        alert: the alert.
        id: the same for each attempt.
        time: when it was raised, as ISO 8601 has it.
    """

    __slots__ = ("alert", "body", "id", "time")

    def __init__(self, alert: Alert, id: str, time: str) -> None:
        self.alert = alert
        self.id = id
        self.time = time
        #: The body of a request, and ``{json}`` of a command.
        self.body = msgspec.json.encode(_Body(f"hbtrio.{alert.kind}", time, alert))


class Undelivered(Exception):
    """An attempt to deliver an alert has failed; the text is the reason, for the log.

    Args:
        reason: why.
        is_final: whether a further attempt would fail as well.
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


def signature_headers(secret: str, message_id: str, sent_at: int, body: bytes) -> dict[str, str]:
    """Returns the headers of a request.

    Args:
        secret: ``whsec_`` and base64, or any text; empty: the request is not signed.
        message_id: the same for each attempt to deliver one alert.
        sent_at: the time of this attempt, in whole seconds since 1970.
        body: what is sent.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(sent_at)}
    if secret:
        signed = b"%b.%d.%b" % (message_id.encode(), sent_at, body)
        digest = hmac.digest(_key_of(secret), signed, hashlib.sha256)
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _key_of(secret: str) -> bytes:
    encoded = secret.removeprefix(_SECRET_PREFIX)
    if encoded != secret:
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error:
            pass  # not what the specification has: then it is the key itself
    return secret.encode()
