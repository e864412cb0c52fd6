"""Who may do what through the agent's operator API.

* Over a unix socket: everything. Who can connect is what the socket's mode says.
* Over TCP, which is the loopback only: anybody on this machine may look; whatever changes something
  needs the bearer token. And only under a name of the loopback: a web page whose name is made to
  point to 127.0.0.1 would else read the fleet through its reader's browser.
"""

from __future__ import annotations

import hmac
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hbtrio.nursery.api_parts import failure
from hbtrio.nursery.http_edge import PEER_EXTENSION

#: Methods that change nothing.
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: What a request may call us; a port may follow.
_NAMES: Final = frozenset({"127.0.0.1", "[::1]", "localhost"})


class Admission:
    """Admits requests to an application, or answers them itself.

    Args:
        app: the application.
        token: the bearer token; without one, nothing can be changed over TCP.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        app = self._app
        if PEER_EXTENSION not in scope["extensions"]:
            app = self._refusal(scope["method"], Headers(scope=scope)) or app
        await app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> ASGIApp | None:
        if _name(headers.get("host", "")) not in _NAMES:
            return failure(403, "Host: not a name of the loopback")
        if method in _SAFE:
            return None
        if not self._token:
            return failure(403, "nothing can be changed here: operator.token_file is not set")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # In constant time: how long it takes must not tell how much of it was right.
        right = hmac.compare_digest(given.strip().encode(), self._token.encode())
        if scheme.lower() == "bearer" and right:
            return None
        challenge = {"www-authenticate": 'Bearer realm="hbtrio"'}
        return failure(401, "the bearer token is missing or wrong", challenge)


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
