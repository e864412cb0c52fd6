"""Serves one HTTP/1.1 connection with h11 and an ASGI application.

A connection is one task. It reads the head and the whole body, and only then calls the application.
Bodies are at most 64 KiB, so a slow sender never occupies application code, one place handles all
faulty requests, and memory is bounded by ``max_head_bytes + max_body_bytes`` for each connection.
While the application runs, a second task reads ahead, at most ``max_head_bytes``, because reading
is the only way to notice that the client has disconnected. Every wait has a limit from HttpLimits.

A client that sends EOF may still read (``nc -N``), so EOF alone doesn't end a response. It is
delivered as http.disconnect: Starlette then ends a stream but completes other responses. If bytes
can no longer be delivered, a stream is cancelled, while any other handler runs to its end and only
its response is dropped.

Not implemented, because nothing here needs them: WebSocket, HTTP/2, trailers, the ASGI lifespan
(the nursery that calls the application has its resources), and a Date header (no response is
cacheable).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import h11
import trio
from starlette.types import ASGIApp, Scope

from hbtrio.http.exchange import Exchange, PeerLostError, ResponseWriter
from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.http.request import (
    DELIVERED_EXTENSION,
    DISPLACED_EXTENSION,
    RequestRefusedError,
    check_request,
    request_scope,
)
from hbtrio.http.slots import Slot
from hbtrio.net.connections import ConnectionEnds
from hbtrio.wire.operator import Refusal, encode_line

_LOG = logging.getLogger("hbtrio.http")

#: After an error response, the connection is read for at most this long and this many reads.
LINGER_S = 1.0
LINGER_READS = 64
LINGER_READ_BYTES = 16 * 1024

#: How long the close of a TLS connection may take to notify the peer, in seconds.
CLOSE_S = 0.5


class HttpConnection:
    """Serves one stream until either side ends it, then closes it.

    Args:
        app: an ASGI 3 application.
        stream: any byte stream.
        limits: see HttpLimits; the server applies ``max_connections`` and ``drain_s``.
        on_crash: called with every exception that the application raises.
        drain: shared by all connections of a server.
        endpoint: the client and the server, for the ASGI scope.
    """

    def __init__(
        self,
        app: ASGIApp,
        stream: trio.abc.Stream,
        *,
        limits: HttpLimits,
        on_crash: Callable[[BaseException], None],
        drain: Drain,
        endpoint: ConnectionEnds,
    ) -> None:
        self._app = app
        self._stream = stream
        self._limits = limits
        self._on_crash = on_crash
        self._drain = drain
        self._endpoint = endpoint
        # One less, because h11 refuses a head above its limit and it has to do so at the limit:
        # _receive() stops there.
        self._h11 = h11.Connection(h11.SERVER, limits.max_head_bytes - 1)
        self._writer = ResponseWriter(self._h11, stream, drain, limits.send_s)
        self._peer_sent_eof = False

    async def run(self, slot: Slot) -> None:
        """Serve requests until the connection ends; doesn't raise for faults of the peer.

        Cancellation and the loss of the slot end the connection at once. The stream is always
        closed.
        """
        try:
            with slot.scope:
                await self._converse(slot)
        finally:
            if given_away := slot.scope.cancelled_caught:
                _LOG.debug("%s: closed to give its slot to a new connection", self._endpoint)
            await self._close(forced=given_away)

    async def _converse(self, slot: Slot) -> None:
        try:
            silence_s = self._limits.header_s
            while (request := await self._next_request(silence_s)) is not None:
                body = await self._read_body()
                # The slot may have been lost just as the last bytes arrived.
                await trio.lowlevel.checkpoint_if_cancelled()
                scope = request_scope(request, self._endpoint)
                scope["extensions"][DISPLACED_EXTENSION] = slot.displaced
                with slot.at_work(scope):
                    goes_on = await self._respond(scope, body)
                if not goes_on or slot.displaced.begun:
                    break
                silence_s = self._limits.idle_s
        except RequestRefusedError as refused:
            with contextlib.suppress(PeerLostError):
                await self._refuse(refused.status, refused.reason)
        except PeerLostError:
            pass

    async def _close(self, *, forced: bool) -> None:
        # Shielded, because otherwise the Cancelled of this close would replace an exception that
        # the application raised while it was cancelled. Usually not forced, because the client
        # could take a truncated response without a length for a complete one (RFC 9112 9.8). A
        # connection that waits for a request hasn't sent such a response.
        with trio.move_on_after(0 if forced else CLOSE_S, shield=True):
            await self._stream.aclose()

    # -- reading

    async def _next_request(self, silence_s: float) -> h11.Request | None:
        """Return the next request head; None to close the connection without a response."""
        if not self._buffered_bytes() and not self._peer_sent_eof:
            with self._drain.idle(silence_s) as idle:
                await self._receive()
            if idle.cancelled_caught:
                return None
        with trio.move_on_after(self._limits.header_s):
            event = await self._next_event()
            if isinstance(event, h11.ConnectionClosed):
                return None
            assert isinstance(event, h11.Request)
            self._writer.wants_body = event.method != b"HEAD"
            check_request(event, self._limits.max_body_bytes)
            return event
        raise RequestRefusedError(408, "the request took too long to arrive")

    async def _read_body(self) -> bytes:
        body = bytearray()
        with trio.move_on_after(self._limits.body_s):
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
                if len(body) > self._limits.max_body_bytes:
                    text = f"the body is larger than {self._limits.max_body_bytes} bytes"
                    raise RequestRefusedError(413, text)
            return bytes(body)
        raise RequestRefusedError(408, "the body took too long to arrive")

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                # After the colon, h11's texts contain the peer's bytes, which may be a token.
                reason = str(exc).partition(":")[0]
                raise RequestRefusedError(exc.error_status_hint, reason) from None
            if isinstance(event, h11.Event):
                return event
            assert event is h11.NEED_DATA
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                await self._writer.transmit(self._h11.send(go_on))
            await self._receive()

    def _buffered_bytes(self) -> int:
        return len(self._h11.trailing_data[0])

    async def _receive(self) -> None:
        try:
            data = await self._stream.receive_some(
                self._limits.max_head_bytes - self._buffered_bytes()
            )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerLostError from None
        self._peer_sent_eof = not data
        self._h11.receive_data(bytes(data))

    # -- answering

    async def _respond(self, scope: Scope, body: bytes) -> bool:
        """Call the application; return whether the connection may be used again."""
        exchange = Exchange(self._writer, body)
        scope["extensions"][DELIVERED_EXTENSION] = lambda: exchange.delivered
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_disconnect, exchange)
            try:
                with exchange.scope:
                    await self._app(scope, exchange.receive, exchange.send)
                if exchange.abandoned:
                    raise RuntimeError(f"{scope['path']}: application returned without a response")
            except Exception as exc:  # noqa: BLE001 - reported to on_crash
                self._on_crash(exc)
                exchange.crashed = True
            nursery.cancel_scope.cancel()
        if exchange.crashed:
            if not exchange.lost and not exchange.complete:
                await self._refuse(500, "internal error")
            return False
        if self._h11.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._h11.start_next_cycle()
        # The next request may be malformed, and its error response needs a body.
        self._writer.wants_body = True
        return True

    async def _watch_for_disconnect(self, exchange: Exchange) -> None:
        # Stops when the read-ahead is full; a disconnect is then noticed at the next send.
        while not self._peer_sent_eof and self._buffered_bytes() < self._limits.max_head_bytes:
            try:
                await self._receive()
            except PeerLostError:
                exchange.lost = True
                break
        if self._peer_sent_eof or exchange.lost:
            exchange.over.set()

    async def _refuse(self, status: int, reason: str) -> None:
        """Send an error response, unless a response has begun, and end the connection."""
        _LOG.debug("%s: answered %d: %s", self._endpoint, status, reason)
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = encode_line(Refusal(reason=reason))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"Connection", b"close"),
        ]
        head = self._writer.encode_head(status, headers)
        await self._writer.transmit(head + self._writer.encode_body(body, last=True))
        await self._linger()

    async def _linger(self) -> None:
        # Closing a TCP socket with unread bytes sends a reset, which can destroy the response at
        # the client (RFC 9112 9.6). So read for a moment first.
        with self._drain.idle(LINGER_S), contextlib.suppress(trio.BrokenResourceError):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            for _ in range(LINGER_READS):
                if self._peer_sent_eof or not await self._stream.receive_some(LINGER_READ_BYTES):
                    break
