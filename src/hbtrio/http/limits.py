"""The limits of an HTTP server, and the signal that it is stopping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs
import trio
from attrs.validators import ge, gt


@attrs.frozen
class HttpLimits:
    """The limits of one HTTP server; all times are in seconds, over 0.

    Args:
        handshake_s: the time for a TLS handshake.
        header_s: the time until a new connection sends its first byte, and for each head.
        body_s: the time for a body, after its head.
        idle_s: how long a connection may be idle between requests.
        send_s: the time for the peer to read each 16 KiB of a response.
        max_head_bytes: the size of request line and headers; also of the read-ahead during a
            response.
        max_body_bytes: the size of a body; larger ones get 413.
        max_waiting: with so many connections waiting for a request, a new one closes those that
            have waited for more than a second; likewise for those in their TLS handshake.
        max_connections: the most waiting connections, and again those in their TLS handshake; one
            more closes the one that has waited longest. Requests in progress are bounded by their
            classes, see :mod:`hbtrio.http.slots`.
        drain_s: how long requests in progress may go on after cancellation; may be 0.
    """

    handshake_s: float = attrs.field(default=5.0, validator=gt(0))
    header_s: float = attrs.field(default=10.0, validator=gt(0))
    body_s: float = attrs.field(default=10.0, validator=gt(0))
    idle_s: float = attrs.field(default=30.0, validator=gt(0))
    send_s: float = attrs.field(default=10.0, validator=gt(0))
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=ge(256))
    max_body_bytes: int = attrs.field(default=64 * 1024, validator=ge(0))
    max_waiting: int = attrs.field(default=64, validator=ge(1))
    max_connections: int = attrs.field(default=1200, validator=ge(1))
    drain_s: float = attrs.field(default=1.0, validator=ge(0))


class Drain:
    """Signals that connections are to end: all of a server that stops, or one."""

    def __init__(self) -> None:
        self.begun = False
        #: In the order in which they began, which is that in which they end.
        self._idle: dict[trio.CancelScope, None] = {}

    @contextlib.contextmanager
    def idle(self, timeout_s: float) -> Iterator[trio.CancelScope]:
        """Bound a wait that may end without loss, by a timeout and by :meth:`begin`."""
        with trio.move_on_after(timeout_s) as scope:
            if self.begun:
                scope.cancel()
            self._idle[scope] = None
            try:
                yield scope
            finally:
                del self._idle[scope]

    def begin(self) -> None:
        """End all idle waits; later responses have ``Connection: close``."""
        self.begun = True
        for scope in self._idle:
            scope.cancel()
