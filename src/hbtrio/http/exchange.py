"""Sends the response to one request: from ASGI messages to bytes, with a send timeout."""

from __future__ import annotations

from http import HTTPStatus

import h11
import trio
from starlette.types import Message

from hbtrio.http.limits import Drain

#: Large responses are sent in pieces of this size, each within ``send_s``.
SEND_PIECE_BYTES = 16 * 1024


class PeerLostError(Exception):
    """The peer has disconnected or doesn't read in time."""


class ResponseWriter:
    """Frames responses and sends them.

    Args:
        protocol: the connection's h11 state.
        stream: the connection's stream.
        drain: once it has begun, responses have ``Connection: close``.
        send_s: how long the peer may take to read each piece, in seconds.
    """

    def __init__(
        self, protocol: h11.Connection, stream: trio.abc.SendStream, drain: Drain, send_s: float
    ) -> None:
        self._h11 = protocol
        self._stream = stream
        self._drain = drain
        self._send_s = send_s
        #: False during a HEAD request.
        self.wants_body = True

    def encode_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Encode a response head; h11.LocalProtocolError if it is invalid."""
        if self._drain.begun:
            headers = [*headers, (b"Connection", b"close")]
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        head = h11.Response(status_code=status, headers=headers, reason=phrase)
        return self._h11.send(head)

    def encode_body(self, data: bytes, *, last: bool) -> bytes:
        """Encode a piece of a response body; after HEAD, only the end of the message."""
        out = self._h11.send(h11.Data(data=data)) if data and self.wants_body else b""
        return out + self._h11.send(h11.EndOfMessage()) if last else out

    async def transmit(self, data: bytes) -> None:
        """Send bytes; PeerLostError if the peer has disconnected or doesn't read in time."""
        for start in range(0, len(data), SEND_PIECE_BYTES):
            with trio.move_on_after(self._send_s) as sending:
                try:
                    await self._stream.send_all(data[start : start + SEND_PIECE_BYTES])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise PeerLostError from None
            if sending.cancelled_caught:
                raise PeerLostError


class Exchange:
    """One request and its response, with ASGI's ``receive`` and ``send``.

    Attributes:
        scope: the application's cancel scope.
        over: set when the client reads no more of the response: the response is complete, or the
            client sent EOF or disconnected.
        lost: whether bytes can no longer be delivered.
        complete: whether the whole response was encoded.
        crashed: whether the application raised.
        delivered: whether the whole response was written while the client still waited.
    """

    def __init__(self, writer: ResponseWriter, body: bytes) -> None:
        self._writer = writer
        self._body: bytes | None = body
        self._start: Message | None = None
        self._head_is_out = False
        self._ended = False
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.lost = False
        self.complete = False
        self.crashed = False
        self.delivered = False

    @property
    def abandoned(self) -> bool:
        """Whether the client still waits for the rest of the response."""
        return not (self.over.is_set() or self.scope.cancelled_caught)

    async def receive(self) -> Message:
        """ASGI receive: the body in one message, then http.disconnect when ``over`` is set."""
        # No checkpoint if the message is available, because Starlette's is_disconnected() polls
        # this under a cancelled scope.
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self.over.is_set():
            await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI send; RuntimeError or h11.LocalProtocolError for an illegal sequence."""
        match message["type"]:
            case "http.response.start" if self._start is None:
                await self._send_start(message)
            case "http.response.body" if self._start is not None and not self._ended:
                more = message.get("more_body", False)
                self._ended = not more
                await self._send_body(message.get("body", b""), more=more)
            case illegal:
                raise RuntimeError(f"{illegal} is illegal here")

    async def _send_start(self, message: Message) -> None:
        self._start = message
        names = [name.lower() for name, _ in message.get("headers", ())]
        if self._writer.wants_body and b"content-length" in names:
            # With a length, the body follows at once: send both in one segment, so that a failure
            # in between still gets a 500. Without a length it is a stream: send the head now,
            # because the first piece may be hours away.
            await trio.lowlevel.checkpoint()
            return
        out = self._head()
        if not self._writer.wants_body:
            out += self._writer.encode_body(b"", last=True)
            self.complete = True
        await self._deliver(out, streaming=False)

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        if self.complete:
            # The body of a response to HEAD.
            await self._deliver(b"", streaming=more)
            return
        out = b"" if self._head_is_out else self._head()
        out += self._writer.encode_body(bytes(data), last=not more)
        self.complete = not more
        await self._deliver(out, streaming=more)

    def _head(self) -> bytes:
        assert self._start is not None
        headers = [(bytes(name), bytes(value)) for name, value in self._start.get("headers", ())]
        head = self._writer.encode_head(self._start["status"], headers)
        self._head_is_out = True
        return head

    async def _deliver(self, out: bytes, *, streaming: bool) -> None:
        # Checked before sending: a client may close as soon as it has the whole response.
        waited_for = not (self.lost or self.over.is_set())
        if out and not self.lost:
            try:
                await self._writer.transmit(out)
            except PeerLostError:
                self.lost, waited_for = True, False
        if self.complete and waited_for:
            self.delivered = True
        if self.lost or self.complete:
            self.over.set()
            if streaming:
                self.scope.cancel()
        await trio.lowlevel.checkpoint()
