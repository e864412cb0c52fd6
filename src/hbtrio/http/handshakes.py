"""Makes the TLS handshakes of an HTTP server, bounded in time and number.

A connection takes a slot only after its handshake, so clients that never finish the handshake can't
take slots from others. If too many handshakes are in progress, the oldest are dropped, see
:mod:`hbtrio.http.waiting`.
"""

from __future__ import annotations

import logging
from functools import partial

import trio

from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.http.waiting import Waiting
from hbtrio.net.accepting import has_unread
from hbtrio.net.endpoints import peer_text
from hbtrio.net.handshake import HandshakeFailed, make_handshake
from hbtrio.net.tls_files import TlsFiles

_LOG = logging.getLogger("hbtrio.http")

TlsStream = trio.SSLStream[trio.SocketStream]


class Handshakes:
    """Makes the handshakes of one server.

    Args:
        tls: the server's context, see :func:`hbtrio.net.tls_files.server_files`.
        limits: uses ``handshake_s``, ``max_waiting`` and ``max_connections``.
        drain: ends all handshakes when the server stops.
    """

    def __init__(self, tls: TlsFiles, limits: HttpLimits, drain: Drain) -> None:
        self._tls = tls
        self._limits = limits
        self._drain = drain
        #: The handshakes in progress.
        self._waiting = Waiting(limits)

    async def make(
        self, stream: trio.SocketStream, *, in_reserve: bool = False
    ) -> TlsStream | None:
        """Makes one handshake; returns None if it failed. The caller then closes the stream.

        A cancelled handshake can't be continued.

        Args:
            stream: the connection.
            in_reserve: whether it has one of the reserved descriptors.
        """
        peer = peer_text(stream)  # while it is connected
        wrapped = trio.SSLStream(stream, self._tls.value.context, server_side=True)
        self._waiting.make_room(in_reserve=in_reserve)
        with self._drain.idle(self._limits.handshake_s) as scope:
            self._waiting.add(scope, partial(has_unread, stream))
            try:
                await make_handshake(wrapped)
            except HandshakeFailed as error:
                _LOG.info("%s: TLS handshake failed: %s", peer, error)
            else:
                return wrapped
            finally:
                self._waiting.discard(scope)
        return None
