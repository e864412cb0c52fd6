"""Sends requests to the VIM and classifies the results, with httpx.

A missing answer means nothing by itself, see :mod:`hbtrio.wire.vim_result`. What matters is whether
the request was written completely, which httpcore's trace events show.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

import attrs
import h11
import httpx
import trio

from hbtrio.errors import UserError, is_thread_shortage
from hbtrio.net.faults import causes, os_text
from hbtrio.net.renewed_transport import RenewedTransport
from hbtrio.net.tls import expiry_of
from hbtrio.net.tls_files import TlsFiles, client_files
from hbtrio.nursery.time_guard import TAKE_IN_S, sleep_until_on_time
from hbtrio.policy.time_guard import BEHIND_S, OnTimeGuard
from hbtrio.wire.vim import VimRequest
from hbtrio.wire.vim_result import (
    Delivered,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    SendResult,
    Unconfirmed,
)

DEFAULT_URL: Final = "http://127.0.0.1:30002"

_USER_AGENT: Final = "guest-agent/1.0"

#: Bytes of an answer at most: four times those of an audit of a thousand instances.
_ANSWER_BYTES: Final = 1 << 20

#: Seconds that closing a response may take; closing does not wait for the peer.
_CLOSE_S: Final = 1.0

#: The VIM answers soon or not at all: nothing more comes while this process calms down.
_NEVER_LATE: Final = OnTimeGuard(math.inf)


@attrs.define
class _Progress:
    """The progress of one request, from httpcore's trace events."""

    #: When the connection, or then its TLS handshake, was begun, on trio's clock.
    since: float
    socket: trio.socket.SocketType | None = None
    began: bool = False
    whole: bool = False
    #: When this stage has to be over, on trio's clock.
    due: float = math.inf
    status: int = 0
    body: bytearray = attrs.field(factory=bytearray)
    too_long: bool = False
    _seen: tuple[bool, int, int] = (False, 0, 0)

    def has_advanced(self) -> bool:
        """Returns whether something was written or read since the last call."""
        seen, self._seen = self._seen, (self.whole, self.status, len(self.body))
        return seen != self._seen

    def answered(self, cut: str) -> Delivered | ErrorStatus:
        if 200 <= self.status < 300:
            return Delivered(self.status, bytes(self.body), cut)
        return ErrorStatus(self.status)


class _Body(httpx.AsyncByteStream):
    """A request's body; not a generator, as httpcore leaves those open when a write fails."""

    def __init__(self, body: bytes) -> None:
        self._rest = body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        chunk, self._rest = self._rest, b""
        return chunk


class VimClient:
    """Sends requests, each on a connection of its own: the VIM closes each after one.

    Args:
        url: where the VIM listens; http or https.
        tls: for https, the context that verifies the VIM's certificate, see
            :func:`hbtrio.net.tls_files.client_files`; None: one with the system's trust store.
        on_certificate: called with the time when the VIM's certificate expires, after each
            handshake.
        connect_s: time limit of the connection, and again of the TLS handshake, in seconds.
        write_s: time limit of writing the request, in seconds.
        answer_s: time limit of the whole answer after that, in seconds.
        answer_bytes: bytes of an answer's body at most.

    Raises:
        UserError: ``url`` is not an http or https URL.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        tls: TlsFiles | None = None,
        on_certificate: Callable[[datetime | None], None] = lambda expires: None,
        connect_s: float = 5.0,
        write_s: float = 5.0,
        answer_s: float = 10.0,
        answer_bytes: int = _ANSWER_BYTES,
    ) -> None:
        self.url = url.rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"{url}: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UserError(f"{url}: not an http or https URL")
        if parsed.scheme == "https":
            tls = tls or client_files("vim.url")
        self._on_certificate = on_certificate
        self._connect_s = connect_s
        self._write_s = write_s
        self._answer_s = answer_s
        self._answer_bytes = answer_bytes
        self._transport = RenewedTransport(tls if parsed.scheme == "https" else None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._transport.aclose()

    async def send(
        self, request: VimRequest, on_sending: Callable[[], Awaitable[None]] | None = None
    ) -> SendResult:
        """Sends one request and returns its result, in bounded time.

        Args:
            request: what to send.
            on_sending: awaited once the connection is made, before the first byte is written. An
                exception from it ends the request unsent and is raised here. Its time does not
                count.

        Cancelled before ``on_sending`` was called, nothing was sent; after it, that is unknown. The
        connection is closed on return, on an exception and on cancellation.
        """
        tried_again = False
        while True:
            progress = _Progress(trio.current_time())
            try:
                return await self._exchange(request, on_sending, progress)
            except httpx.ConnectTimeout:
                # httpcore's timer knows nothing of what arrived while this process was stopped.
                late_s = trio.current_time() - progress.since - self._connect_s
                if tried_again or late_s <= BEHIND_S:
                    return NotSent(f"no connection to {self.url} within {self._connect_s:g} s")
                tried_again = True
            finally:
                # On most ways it is closed by now; httpcore leaves it open when a TLS handshake is
                # cancelled.
                if progress.socket is not None:
                    progress.socket.close()

    async def _exchange(
        self,
        request: VimRequest,
        on_sending: Callable[[], Awaitable[None]] | None,
        progress: _Progress,
    ) -> SendResult:
        fault: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                result = await self._attempt(request, on_sending, progress, nursery)
            except Exception as error:  # noqa: BLE001 - raised below, in no group
                fault = error
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault
        return result

    async def _attempt(
        self,
        request: VimRequest,
        on_sending: Callable[[], Awaitable[None]] | None,
        progress: _Progress,
        nursery: trio.Nursery,
    ) -> SendResult:
        with trio.CancelScope() as scope:

            def limit(seconds: float) -> None:
                due = progress.due = trio.current_time() + seconds
                nursery.start_soon(self._end_at, due, progress, scope)

            async def trace(name: str, info: dict[str, Any]) -> None:
                if name == "connection.connect_tcp.complete":
                    progress.since = trio.current_time()
                    progress.socket = info["return_value"].get_extra_info("socket")
                elif name == "connection.start_tls.complete":
                    shown = info["return_value"].get_extra_info("ssl_object")
                    self._on_certificate(expiry_of(shown.getpeercert()))
                elif name == "http11.send_request_headers.started":
                    if on_sending is not None:
                        await on_sending()
                    progress.began = True
                    limit(self._write_s)
                elif name == "http11.send_request_body.complete":
                    progress.whole = True
                    limit(self._answer_s)

            try:
                response = await self._transport.handle_async_request(self._http(request, trace))
                progress.status = response.status_code
                await self._read(response, progress, scope)
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                return self._broken(progress, error)
            except RuntimeError as error:
                if not is_thread_shortage(error):
                    raise
                # The VIM's name is looked up in a thread, so nothing was sent.
                return NotSent(f"no connection to {self.url}: {error}")
        # The end of a too long body may have been read already; then nothing was cancelled.
        if scope.cancelled_caught or progress.too_long:
            return self._late(progress)
        return progress.answered("")

    async def _end_at(self, due: float, progress: _Progress, scope: trio.CancelScope) -> None:
        """Ends a request whose present stage is not over at ``due``.

        What the VIM has answered by then is read first, also after a stop of this process.
        """
        await sleep_until_on_time(
            due, _NEVER_LATE, at_most_s=TAKE_IN_S, sources=[progress.has_advanced]
        )
        if progress.due == due:
            scope.cancel()

    def _http(self, request: VimRequest, trace: Callable[..., Awaitable[None]]) -> httpx.Request:
        # Exactly the headers of the deployed agent.
        url = httpx.URL(self.url + request.target)
        headers = {"Host": url.netloc.decode("ascii")}
        if request.body:
            headers["Content-Length"] = str(len(request.body))
        headers["User-Agent"] = _USER_AGENT
        headers["Content-Type"] = "application/json"
        headers["Connection"] = "close"
        return httpx.Request(
            request.method,
            url,
            headers=headers,
            stream=_Body(request.body),
            # Timed by httpcore, not by our scope: cancelling a TLS handshake leaks the socket.
            extensions={"trace": trace, "timeout": {"connect": self._connect_s}},
        )

    async def _read(
        self, response: httpx.Response, progress: _Progress, scope: trio.CancelScope
    ) -> None:
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        try:
            # The body of an error answer is not used.
            if response.is_success:
                await self._read_body(stream, progress, scope)
        finally:
            # Reading the body to its end closes nothing: httpcore keeps the connection and its
            # place in the pool until aclose().
            with trio.move_on_after(_CLOSE_S, shield=True):
                await stream.aclose()

    async def _read_body(
        self, stream: httpx.AsyncByteStream, progress: _Progress, scope: trio.CancelScope
    ) -> None:
        # The loop must end by itself or by cancellation: only that closes the generators below it.
        async for chunk in stream:
            if len(progress.body) + len(chunk) > self._answer_bytes:
                progress.too_long = True
                scope.cancel()
            else:
                progress.body += chunk

    def _broken(self, progress: _Progress, error: Exception) -> SendResult:
        text = os_text(error)
        if progress.status:
            return progress.answered(text or "cut short")
        if not progress.began:
            return NotSent(f"no connection to {self.url}: {text or error}")
        if not progress.whole:
            return NotSent(
                f"the connection broke while the request was being written{text and f': {text}'}"
            )
        if isinstance(error, httpx.NetworkError):
            return Unconfirmed(MissingAnswer.RESET)
        # httpcore has one exception for both cases; only a garbled answer comes from the parser.
        garbled = any(isinstance(one, h11.RemoteProtocolError) for one in causes(error))
        return Unconfirmed(MissingAnswer.GARBLED if garbled else MissingAnswer.CLOSED)

    def _late(self, progress: _Progress) -> SendResult:
        if progress.too_long:
            return progress.answered(f"longer than {self._answer_bytes} bytes")
        if progress.status:
            return progress.answered(f"not whole within {self._answer_s:g} s")
        if not progress.whole:
            return NotSent(f"could not be written within {self._write_s:g} s")
        return Unconfirmed(MissingAnswer.STALLED)
