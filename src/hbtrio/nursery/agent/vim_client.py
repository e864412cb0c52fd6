"""One request to the VIM and what is known of it afterwards. The agent's only use of httpx.

No answer says nothing by itself, see :mod:`hbtrio.wire.vim_result`. What decides is whether the
request had been written whole, which httpcore's trace events tell.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import attrs
import h11
import httpx
import trio

from hbtrio.errors import UserError
from hbtrio.net.tls import client_tls, connection_reason
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

#: What an audit of a thousand instances takes, four times over.
_ANSWER_BYTES: Final = 1 << 20

#: How long a response may take to be closed, in seconds. It waits for nobody, so this is ample.
_CLOSE_S: Final = 1.0

#: Exceptions looked at below the one that httpx raises.
_CHAIN: Final = 32


@attrs.define
class _Progress:
    """How far one request has come, from httpcore's trace events."""

    socket: trio.socket.SocketType | None = None
    began: bool = False
    whole: bool = False
    status: int = 0
    body: bytearray = attrs.field(factory=bytearray)
    too_long: bool = False

    def answered(self, cut: str) -> Delivered | ErrorStatus:
        if 200 <= self.status < 300:
            return Delivered(self.status, bytes(self.body), cut)
        return ErrorStatus(self.status)


class _Body(httpx.AsyncByteStream):
    """A request's body. No generator, as httpcore leaves those open when a write fails."""

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
        authority: for https, the file of the authority that has signed the VIM's certificate;
            empty: the system's trust store.
        where: the setting that ``authority`` comes from, for errors about it.
        connect_s: seconds within which a connection has to be made, and again a TLS handshake.
        write_s: seconds within which the request has to be written.
        answer_s: seconds after that within which the whole answer has to come.
        answer_bytes: how much of an answer's body is read.

    Raises:
        UserError: ``url`` is no http or https URL, or ``authority`` can't be used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        authority: str = "",
        where: str = "url_authority",
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
            raise UserError(f"{url}: is no http or https URL")
        # In clear there is nothing to verify, and loading a trust store takes its time.
        tls = client_tls(where, authority=authority) if parsed.scheme == "https" else False
        self._connect_s = connect_s
        self._write_s = write_s
        self._answer_s = answer_s
        self._answer_bytes = answer_bytes
        # The transport and not a client: no proxies from the environment, redirects, cookies or
        # pool that would keep a connection which the VIM is about to close.
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

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
        """Sends one request and waits for what becomes of it, in bounded time.

        Args:
            request: what to send.
            on_sending: awaited when the connection stands and before the first byte is written.
                What it raises ends the request unsent and is raised here. Its time does not count.

        Cancelled before ``on_sending`` was called, nothing was sent; afterwards that is not known.
        The connection is closed when this returns or raises, also when it was cancelled.
        """
        progress = _Progress()
        try:
            return await self._exchange(request, on_sending, progress)
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
        with trio.CancelScope() as scope:

            async def trace(name: str, info: dict[str, Any]) -> None:
                if name == "connection.connect_tcp.complete":
                    progress.socket = info["return_value"].get_extra_info("socket")
                elif name == "http11.send_request_headers.started":
                    if on_sending is not None:
                        scope.deadline = math.inf
                        await on_sending()
                    progress.began = True
                    scope.deadline = trio.current_time() + self._write_s
                elif name == "http11.send_request_body.complete":
                    progress.whole = True
                    scope.deadline = trio.current_time() + self._answer_s

            try:
                response = await self._transport.handle_async_request(self._http(request, trace))
                progress.status = response.status_code
                await self._read(response, progress, scope)
            except httpx.ConnectTimeout:
                return NotSent(f"no connection to {self.url} within {self._connect_s:g} s")
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                return self._broken(progress, error)
        # The end of a body that is too long may already have been read; then nothing was cancelled.
        if scope.cancelled_caught or progress.too_long:
            return self._late(progress)
        return progress.answered("")

    def _http(self, request: VimRequest, trace: Callable[..., Awaitable[None]]) -> httpx.Request:
        # These headers and no others: the deployed agent's.
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
            # By httpcore and not by our scope: cancelled in a TLS handshake it leaks the socket.
            extensions={"trace": trace, "timeout": {"connect": self._connect_s}},
        )

    async def _read(
        self, response: httpx.Response, progress: _Progress, scope: trio.CancelScope
    ) -> None:
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        try:
            # Why it refused is in its log; nothing here would be done differently for it.
            if response.is_success:
                await self._read_body(stream, progress, scope)
        finally:
            # A body that was read to its end has closed nothing: httpcore waits to be told, and
            # keeps the connection and its place in the pool until then.
            with trio.move_on_after(_CLOSE_S, shield=True):
                await stream.aclose()

    async def _read_body(
        self, stream: httpx.AsyncByteStream, progress: _Progress, scope: trio.CancelScope
    ) -> None:
        # The loop is never left but by its end or by cancelling: only that ends the generators
        # inside it.
        async for chunk in stream:
            if len(progress.body) + len(chunk) > self._answer_bytes:
                progress.too_long = True
                scope.cancel()
            else:
                progress.body += chunk

    def _broken(self, progress: _Progress, error: Exception) -> SendResult:
        words = _os_words(error)
        if progress.status:
            return progress.answered(words or "cut short")
        if not progress.began:
            return NotSent(f"no connection to {self.url}: {words or error}")
        if not progress.whole:
            return NotSent(
                f"the connection broke while it was being written{words and f': {words}'}"
            )
        if isinstance(error, httpx.NetworkError):
            return Unconfirmed(MissingAnswer.RESET)
        # httpcore has one exception for both; the parser raised only one of them.
        garbled = any(isinstance(one, h11.RemoteProtocolError) for one in _below(error))
        return Unconfirmed(MissingAnswer.GARBLED if garbled else MissingAnswer.CLOSED)

    def _late(self, progress: _Progress) -> SendResult:
        if progress.too_long:
            return progress.answered(f"longer than {self._answer_bytes} bytes")
        if progress.status:
            return progress.answered(f"not whole within {self._answer_s:g} s")
        if not progress.whole:
            return NotSent(f"could not be written within {self._write_s:g} s")
        return Unconfirmed(MissingAnswer.STALLED)


def _os_words(error: BaseException) -> str:
    """The system's words for the fault that an exception was made of; "" if none."""
    for one in _below(error):
        if isinstance(one, OSError) and one.errno is not None:
            return connection_reason(one)
    return ""


def _below(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was made of, a bounded number of them."""
    waiting: deque[BaseException | None] = deque([error])
    for _ in range(_CHAIN):
        if not waiting:
            return
        one = waiting.popleft()
        if one is not None:
            yield one
            waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
