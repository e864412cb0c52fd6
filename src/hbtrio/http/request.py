"""Checks a request head and converts it to an ASGI scope.

h11 checks the grammar. This module adds the checks that h11 leaves to its user and those that keep
a client's bytes from raising within an application: ``urlsplit`` raises on a Host such as ``[::1``,
and a second framing header can smuggle a request past a proxy.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import unquote

import h11

from hbtrio.net.connections import ConnectionEnds

#: The key of the caller's PeerCredentials in ``scope["extensions"]``; absent over TCP.
PEER_EXTENSION = "hbtrio.peer"

#: The key of the owner's name in ``scope["extensions"]``, if the client has a valid certificate.
CERTIFICATE_EXTENSION = "hbtrio.certificate"

#: The key, for background steps, of a function in ``scope["extensions"]`` that returns whether the
#: whole response was written while the client still waited.
DELIVERED_EXTENSION = "hbtrio.delivered"

#: The key of a Drain in ``scope["extensions"]``, which begins when the request loses its place to
#: another, see :mod:`hbtrio.http.slots`; the response then has a second to end in order.
DISPLACED_EXTENSION = "hbtrio.displaced"

_HOST = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::(?P<port>[0-9]{0,5}))?"
)
_ABSOLUTE_FORM = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class RequestRefusedError(Exception):
    """The server answers the request with an error and closes the connection."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


def check_request(request: h11.Request, max_body_bytes: int) -> None:
    """Raise RequestRefusedError for a head that h11 accepts but a server must not (RFC 9112)."""
    names = [name for name, _ in request.headers]
    if request.http_version not in (b"1.0", b"1.1"):
        # For example the preface of HTTP/2, a well-formed request of version 2.0.
        raise RequestRefusedError(505, "only HTTP/1.0 and HTTP/1.1 are served")
    if request.method == b"CONNECT":
        raise RequestRefusedError(501, "this server is not a proxy")
    if b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version == b"1.0"
    ):
        # RFC 9112 6.1 and 6.3: a request with both may hide a second one.
        raise RequestRefusedError(400, "ambiguous framing of the body")
    for name, value in request.headers:
        if name == b"host" and not _is_host(value):
            raise RequestRefusedError(400, "malformed Host")
        if name == b"content-length" and int(value) > max_body_bytes:
            raise RequestRefusedError(413, f"the body is larger than {max_body_bytes} bytes")


def _is_host(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    if match is None or int(match["port"] or b"0") > 65535:
        return False
    if match["ipv6"] is None:
        return True
    try:
        ipaddress.IPv6Address(match["ipv6"].decode("ascii"))
    except ValueError:
        return False
    return True


def request_scope(request: h11.Request, endpoint: ConnectionEnds) -> dict[str, Any]:
    """Return the ASGI scope of a request; RequestRefusedError(400) for an unsupported target.

    ``spec_version`` is 2.3 on purpose: from 2.4 on, Starlette's StreamingResponse waits for a send
    to fail instead of http.disconnect, so an idle stream would never notice a disconnected reader.
    """
    path, _, query = _origin_form(request).partition(b"?")
    extensions: dict[str, Any] = {}
    if endpoint.credentials is not None:
        extensions[PEER_EXTENSION] = endpoint.credentials
    if endpoint.certificate is not None:
        extensions[CERTIFICATE_EXTENSION] = endpoint.certificate
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "https" if endpoint.tls else "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
        "client": endpoint.client,
        "server": endpoint.server,
        "extensions": extensions,
    }


def _origin_form(request: h11.Request) -> bytes:
    """Return the target as an absolute path with its query (RFC 9112 3.2), or ``*``."""
    target = bytes(request.target)
    if target.startswith(b"/") or (target == b"*" and request.method == b"OPTIONS"):
        return target
    authority = _ABSOLUTE_FORM.match(target)
    if authority is None:
        raise RequestRefusedError(400, "unsupported request target")
    # Sliced, not parsed: the authority may be any bytes.
    rest = target[authority.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest
