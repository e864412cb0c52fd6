"""TLS handshakes of an HTTP server: bounded in time and in number.

A connection in its handshake is none of the server's connections yet, so that clients which never
come to an end of it take no slot away from those that do. They can't keep each other out either:
when there are too many, the oldest one gives way, since whoever means it is done within
milliseconds.
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
        context: the server's, see :func:`hbtrio.net.tls.server_tls`.
        limits: ``handshake_s`` and ``max_handshakes``.
        drain: ends them all when the server is going to stop.
    """

    def __init__(self, context: ssl.SSLContext, limits: HttpLimits, drain: Drain) -> None:
        self._context = context
        self._limits = limits
        self._drain = drain
        #: Those under way, the oldest first.
        self._under_way: dict[trio.CancelScope, None] = {}

    async def make(self, stream: trio.SocketStream) -> TlsStream | None:
        """Makes one handshake; None when it came to nothing, and the stream is to be closed.

        Raises:
            trio.Cancelled: as always; the handshake can't be gone on with.
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
                _LOG.info("%s: no TLS: %s", peer_text(stream), _why(error))
            else:
                return wrapped
            finally:
                self._under_way.pop(scope, None)
        return None


def _why(error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    return connection_reason(cause) if isinstance(cause, OSError) else "it went away"
