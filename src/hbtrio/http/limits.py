"""What bounds an HTTP server: its limits, and the announcement of its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs
import trio
from attrs.validators import ge, gt


@attrs.frozen
class HttpLimits:
    """Bounds of one HTTP server.

    Args:
        handshake_s: a TLS handshake is complete within this.
        header_s: a new connection sends its first byte, and every head is complete, within this.
        body_s: a body is complete within this after its head.
        idle_s: a connection may be silent between two requests for this long.
        send_s: the peer takes each 16 KiB of an answer within this.
        max_head_bytes: request line and headers; also what is read ahead during an answer.
        max_body_bytes: larger bodies get 413.
        max_connections: with more of them the one that has waited longest for a request gives way;
            if all are at work the newcomer gets 503.
        max_handshakes: when there would be more TLS handshakes under way, the oldest is dropped.
        drain_s: how long a request in progress may go on after the server was cancelled.
    """

    handshake_s: float = attrs.field(default=5.0, validator=gt(0))
    header_s: float = attrs.field(default=10.0, validator=gt(0))
    body_s: float = attrs.field(default=10.0, validator=gt(0))
    idle_s: float = attrs.field(default=30.0, validator=gt(0))
    send_s: float = attrs.field(default=10.0, validator=gt(0))
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=ge(256))
    max_body_bytes: int = attrs.field(default=64 * 1024, validator=ge(0))
    max_connections: int = attrs.field(default=64, validator=ge(1))
    max_handshakes: int = attrs.field(default=64, validator=ge(1))
    drain_s: float = attrs.field(default=1.0, validator=ge(0))


class Drain:
    """Tells the connections of one server that it is going to stop."""

    def __init__(self) -> None:
        self.begun = False
        self._idle: set[trio.CancelScope] = set()

    @contextlib.contextmanager
    def idle(self, timeout_s: float) -> Iterator[trio.CancelScope]:
        """Bound a wait in which nothing is lost: by a timeout, and by the beginning of the end."""
        with trio.move_on_after(timeout_s) as scope:
            if self.begun:
                scope.cancel()
            self._idle.add(scope)
            try:
                yield scope
            finally:
                self._idle.discard(scope)

    def begin(self) -> None:
        """End every idle wait now; from here on answers say ``Connection: close``."""
        self.begun = True
        for scope in self._idle:
            scope.cancel()
