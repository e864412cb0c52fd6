"""Makes the TLS handshakes of an HTTP server, bounded in time and number.

A connection takes a slot only after its handshake, so clients that never finish the handshake can't
take slots from others. If too many handshakes are in progress, the oldest is dropped: an honest
client finishes within milliseconds.
"""

from __future__ import annotations

import logging

import trio

from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.net.endpoints import peer_text
from hbtrio.net.handshake import HandshakeFailed, make_handshake
from hbtrio.net.tls_files import TlsFiles

_LOG = logging.getLogger("hbtrio.http")

TlsStream = trio.SSLStream[trio.SocketStream]


class Handshakes:
    """Makes the handshakes of one server.

    Args:
        tls: the server's context, see :func:`hbtrio.net.tls_files.server_files`.
        limits: uses ``handshake_s`` and ``max_handshakes``.
        drain: ends all handshakes when the server stops.
    """

    def __init__(self, tls: TlsFiles, limits: HttpLimits, drain: Drain) -> None:
        self._tls = tls
        self._limits = limits
        self._drain = drain
        #: The handshakes in progress, the oldest first.
        self._under_way: dict[trio.CancelScope, None] = {}

    async def make(self, stream: trio.SocketStream) -> TlsStream | None:
        """Makes one handshake; returns None if it failed. The caller then closes the stream.

        A cancelled handshake can't be continued.
        """
        peer = peer_text(stream)  # while it is connected
        wrapped = trio.SSLStream(stream, self._tls.value.context, server_side=True)
        while len(self._under_way) >= self._limits.max_handshakes:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            oldest.cancel()
        with self._drain.idle(self._limits.handshake_s) as scope:
            self._under_way[scope] = None
            try:
                await make_handshake(wrapped)
            except HandshakeFailed as error:
                _LOG.info("%s: TLS handshake failed: %s", peer, error)
            else:
                return wrapped
            finally:
                self._under_way.pop(scope, None)
        return None
