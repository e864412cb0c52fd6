"""Authorisation of requests to the agent's APIs, and the names of those who made them.

Operators:

* Over a unix socket: all requests are permitted. The socket's mode decides who can connect.
* On the loopback: all users of this machine may read; a change needs the bearer token or, over TLS,
  a client certificate. The Host must name the loopback: otherwise a web page whose name resolves to
  127.0.0.1 could read the fleet through its visitor's browser.
* At any other address, which requires TLS: all requests need the token or a certificate. The files
  of the status page (:mod:`hbtrio.api.page`) are served to everybody there.

A browser says where a request comes from. One of another site's page is refused where it would need
no token: such a page could not read the answer, but hold places of streams. A link may be followed.

A request that may make changes is preferred to one that may not: see :mod:`hbtrio.api.places`.

The VIM: if a token is configured, every request over TCP needs it. A required client certificate
was verified in the handshake: see ``optional`` of :func:`hbtrio.net.tls.server_tls`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hbtrio.api.common import failure
from hbtrio.api.page import is_page
from hbtrio.api.places import SAFE_METHODS, request_classes
from hbtrio.http.server import CERTIFICATE_EXTENSION, PEER_EXTENSION
from hbtrio.text import printable

#: Values of Host, without the port, that name the loopback.
_NAMES: Final = frozenset({"127.0.0.1", "[::1]", "localhost"})

#: Characters of a certificate's name in the history; a common name has 64 at most (RFC 5280).
_OWNER: Final = 80


def operator_of(scope: Scope) -> str:
    """The operator who makes a request, for the history, as far as known.

    Over a unix socket the kernel names the uid; a certificate has a name that
    ``operator.authority`` vouches for; a token names nobody.
    """
    extensions = scope["extensions"]
    if PEER_EXTENSION in extensions:
        return f"operator uid {extensions[PEER_EXTENSION].uid}"
    if CERTIFICATE_EXTENSION in extensions:
        return f"operator {printable(extensions[CERTIFICATE_EXTENSION])[:_OWNER]}"
    return "operator"


class OperatorAdmission:
    """Admits operators' requests to an application, or answers them itself.

    Args:
        app: the application.
        token: returns the bearer token; None if only certificates permit changes.
        local: whether TCP is served on the loopback only.
    """

    def __init__(self, app: ASGIApp, token: Callable[[], str] | None, *, local: bool) -> None:
        self._app = app
        self._token = token
        self._local = local
        #: The places of its requests.
        self.classes = request_classes(self._may_change)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        app = self._app
        if PEER_EXTENSION not in scope["extensions"]:
            app = self._refusal(scope, Headers(scope=scope)) or app
        await app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        host = headers.get("host", "")
        if self._local and _name(host) not in _NAMES:
            return failure(403, "Host: does not name the loopback interface")
        if is_page(scope):
            return None
        if self._local and scope["method"] in SAFE_METHODS:
            return _other_site() if _is_foreign_read(scope, headers) else None
        return self._refused_change(scope, headers)

    def _refused_change(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        if CERTIFICATE_EXTENSION in scope["extensions"]:
            # A browser sends its certificate for requests of any page.
            return None if _is_own_origin(scope, headers) else _other_site()
        if self._token is None:
            return failure(403, "no client certificate, and operator.token_file is not set")
        return None if _is(self._token(), _bearer(headers)) else _token_needed()

    def _may_change(self, scope: Scope) -> bool:
        if PEER_EXTENSION in scope["extensions"]:
            return True
        return self._refused_change(scope, Headers(scope=scope)) is None


class VimAdmission:
    """Admits the VIM's requests to an application, or answers strangers itself.

    The token is taken where the VIM's requests carry theirs, in ``X-Auth-Token``, or as a bearer's.

    Args:
        app: the application.
        token: returns the token; None admits everybody.
    """

    def __init__(self, app: ASGIApp, token: Callable[[], str] | None) -> None:
        self._app = app
        self._token = token
        #: The places of its requests.
        self.classes = request_classes(self._is_admitted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        app = self._app if self._is_admitted(scope) else _token_needed()
        await app(scope, receive, send)

    def _is_admitted(self, scope: Scope) -> bool:
        if self._token is None or PEER_EXTENSION in scope["extensions"]:
            return True
        token, headers = self._token(), Headers(scope=scope)
        given = headers.get("x-auth-token", "").strip()
        return _is(token, given) or _is(token, _bearer(headers))


def _token_needed() -> ASGIApp:
    challenge = {"www-authenticate": 'Bearer realm="hbtrio"'}
    return failure(401, "the token is missing or wrong", challenge)


def _other_site() -> ASGIApp:
    return failure(403, "Origin: the request comes from another site")


def _is_own_origin(scope: Scope, headers: Headers) -> bool:
    """Whether a request's Origin is this server; programs send none."""
    origin = f"{scope['scheme']}://{headers.get('host', '')}"
    return headers.get("origin", origin) == origin


def _is_foreign_read(scope: Scope, headers: Headers) -> bool:
    """Whether a page of another site reads (Fetch Metadata); following its link is no read."""
    site = headers.get("sec-fetch-site", "none")
    if site in ("same-origin", "none"):
        return not _is_own_origin(scope, headers)
    return headers.get("sec-fetch-dest") != "document"


def _is(token: str, given: str) -> bool:
    # In constant time: the duration must not reveal how much of it was right.
    return hmac.compare_digest(given.encode(), token.encode())


def _bearer(headers: Headers) -> str:
    """The token of an ``Authorization: Bearer`` header, or ""."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
