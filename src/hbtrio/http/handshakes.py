"""Makes the TLS handshakes of an HTTP server, bounded in time and number.

A connection takes a slot only after its handshake, so clients that never finish the handshake can't
take slots from others. If too many handshakes are in progress, the oldest is dropped: an honest
client finishes within milliseconds.
"""

from __future__ import annotations

import logging
import ssl

import trio

from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.net.endpoints import peer_text
from hbtrio.net.tls import connection_reason

_LOG = logging.getLogger("hbtrio.http")

TlsStream = trio.SSLStream[trio.SocketStream]


class Handshakes:
    """Makes the handshakes of one server.

    Args:
        context: the server's context, see :func:`hbtrio.net.tls.server_tls`.
        limits: uses ``handshake_s`` and ``max_handshakes``.
        drain: ends all handshakes when the server stops.
    """

    def __init__(self, context: ssl.SSLContext, limits: HttpLimits, drain: Drain) -> None:
        self._context = context
        self._limits = limits
        self._drain = drain
        #: The handshakes in progress, the oldest first.
        self._under_way: dict[trio.CancelScope, None] = {}

    async def make(self, stream: trio.SocketStream) -> TlsStream | None:
        """Makes one handshake; returns None if it failed. The caller then closes the stream.

        A cancelled handshake can't be continued.
        """
        wrapped = trio.SSLStream(stream, self._context, server_side=True)
        while len(self._under_way) >= self._limits.max_handshakes:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            oldest.cancel()
        with self._drain.idle(self._limits.handshake_s) as scope:
            self._under_way[scope] = None
            try:
                await wrapped.do_handshake()
            except trio.BrokenResourceError as error:
                _LOG.info("%s: TLS handshake failed: %s", peer_text(stream), _reason(error))
            else:
                return wrapped
            finally:
                self._under_way.pop(scope, None)
        return None


def _reason(error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    return connection_reason(cause) if isinstance(cause, OSError) else "the client disconnected"
