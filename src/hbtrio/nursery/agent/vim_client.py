"""Sends requests to the VIM and classifies the results, with h11 on a stream of trio's.

A missing answer means nothing by itself, see :mod:`hbtrio.wire.vim_result`. What matters is whether
the request was written completely.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Final

import attrs
import h11
import httpx
import trio

from hbtrio.errors import UserError
from hbtrio.net.endpoints import Unreachable
from hbtrio.net.faults import os_text
from hbtrio.net.http_connect import connect_http
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

#: Bytes per read.
_READ_BYTES: Final = 65536

#: The VIM answers soon or not at all: nothing more comes while this process calms down.
_NEVER_LATE: Final = OnTimeGuard(math.inf)


@attrs.define
class _Progress:
    """The progress of one request on its connection."""

    whole: bool = False
    #: When this stage has to be over, on trio's clock.
    due: float = math.inf
    status: int = 0
    body: bytearray = attrs.field(factory=bytearray)
    _seen: tuple[bool, int, int] = (False, 0, 0)

    def has_passed(self, due: float) -> bool:
        """Returns whether the stage that had to be over at ``due`` is over."""
        return self.due != due

    def has_advanced(self) -> bool:
        """Returns whether something was written or read since the last call."""
        seen, self._seen = self._seen, (self.whole, self.status, len(self.body))
        return seen != self._seen

    def answered(self, cut: str) -> Delivered | ErrorStatus:
        if 200 <= self.status < 300:
            return Delivered(self.status, bytes(self.body), cut)
        return ErrorStatus(self.status)

    def missing(self, answer: MissingAnswer, cut: str = "cut short") -> SendResult:
        """The result of an answer that ended early."""
        return self.answered(cut) if self.status else Unconfirmed(answer)


class VimClient:
    """Sends requests, each on a connection of its own: the VIM closes each after one.

    Args:
        url: where the VIM listens; http or https.
        tls: for https, the context that verifies the VIM's certificate, see
            :func:`hbtrio.net.tls_files.client_files`; None: one with the system's trust store.
        on_certificate: called with the time when the VIM's certificate expires, after each
            handshake.
        connect: makes a connection instead, ``url`` and ``tls`` are then names only. It raises
            ``Unreachable`` with the reason; its time is limited by ``connect_s``.
        connect_s: time limit of the connection and its TLS handshake, in seconds.
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
        connect: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
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
        self._host = parsed.netloc.decode("ascii")
        self._path = parsed.raw_path.decode("ascii").rstrip("/")
        self._connect = connect or partial(
            connect_http, parsed, tls if parsed.scheme == "https" else None, on_certificate
        )
        self._connect_s = connect_s
        self._write_s = write_s
        self._answer_s = answer_s
        self._answer_bytes = answer_bytes

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
        connected = await self._connected()
        if isinstance(connected, NotSent):
            return connected
        try:
            if on_sending is not None:
                await on_sending()
            return await self._exchange(connected, request)
        finally:
            # Its result must not get lost because the caller is cancelled just now.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(connected)

    async def _connected(self) -> trio.abc.Stream | NotSent:
        tried_again = False
        while True:
            due = trio.current_time() + self._connect_s
            try:
                with trio.fail_at(due):
                    return await self._connect()
            except Unreachable as error:
                return NotSent(f"no connection to {self.url}: {error}")
            except trio.TooSlowError:
                # The timer knows nothing of what arrived while this process was stopped.
                if tried_again or trio.current_time() - due <= BEHIND_S:
                    return NotSent(f"no connection to {self.url} within {self._connect_s:g} s")
                tried_again = True

    async def _exchange(self, stream: trio.abc.Stream, request: VimRequest) -> SendResult:
        progress = _Progress()
        result: SendResult | None = None
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                def limit(seconds: float) -> None:
                    before, progress.due = progress.due, trio.current_time() + seconds
                    # One task for both stages, unless it would wake up too late for this one.
                    if progress.due < before:
                        nursery.start_soon(_end_when_due, progress, scope)

                parser = h11.Connection(h11.CLIENT)
                limit(self._write_s)
                result = await self._write(stream, self._http(parser, request))
                if result is None:
                    progress.whole = True
                    limit(self._answer_s)
                    result = await self._read(stream, parser, progress)
            nursery.cancel_scope.cancel()
        return self._late(progress) if result is None else result

    def _http(self, parser: h11.Connection, request: VimRequest) -> bytes:
        # Exactly the headers of the deployed agent.
        headers = [("Host", self._host)]
        if request.body:
            headers.append(("Content-Length", str(len(request.body))))
        headers += [
            ("User-Agent", _USER_AGENT),
            ("Content-Type", "application/json"),
            ("Connection", "close"),
        ]
        head = h11.Request(
            method=request.method, target=self._path + request.target, headers=headers
        )
        events = [head, h11.Data(request.body), h11.EndOfMessage()]
        return b"".join(parser.send(event) or b"" for event in events)

    async def _write(self, stream: trio.abc.Stream, request: bytes) -> NotSent | None:
        try:
            await stream.send_all(request)
        except trio.BrokenResourceError as error:
            text = os_text(error)
            return NotSent(
                f"the connection broke while the request was being written{text and f': {text}'}"
            )
        return None

    async def _read(
        self, stream: trio.abc.Stream, parser: h11.Connection, progress: _Progress
    ) -> SendResult:
        """Reads the answer; the body of an error is not used, and not read."""
        at_end = False
        try:
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    data = await stream.receive_some(_READ_BYTES)
                    at_end = not data
                    parser.receive_data(bytes(data))
                elif isinstance(event, h11.Response):
                    progress.status = event.status_code
                elif isinstance(event, h11.Data):
                    if len(progress.body) + len(event.data) > self._answer_bytes:
                        return progress.answered(f"longer than {self._answer_bytes} bytes")
                    progress.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return progress.answered("")
                elif event is h11.PAUSED:  # it wants another protocol
                    return Unconfirmed(MissingAnswer.GARBLED)
                if progress.status and not 200 <= progress.status < 300:
                    return ErrorStatus(progress.status)
        except trio.BrokenResourceError as error:
            return progress.missing(MissingAnswer.RESET, os_text(error) or "cut short")
        except h11.RemoteProtocolError:
            return progress.missing(MissingAnswer.CLOSED if at_end else MissingAnswer.GARBLED)

    def _late(self, progress: _Progress) -> SendResult:
        if not progress.whole:
            return NotSent(f"could not be written within {self._write_s:g} s")
        return progress.missing(MissingAnswer.STALLED, f"not whole within {self._answer_s:g} s")


async def _end_when_due(progress: _Progress, scope: trio.CancelScope) -> None:
    """Ends a request whose present stage is not over when it has to be.

    What the VIM has answered by then is read first, also after a stop of this process.
    """
    due = math.nan
    while progress.due != due:
        due = progress.due
        await sleep_until_on_time(
            due,
            _NEVER_LATE,
            at_most_s=TAKE_IN_S,
            sources=[progress.has_advanced],
            unless=partial(progress.has_passed, due),
        )
    scope.cancel()
