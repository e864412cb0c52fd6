"""The client of a host's or agent's operator API; its errors are texts for users.

A server can neither make it wait forever nor fill its memory: every wait has a timeout, every line
and body a limit. If the daemon goes away during a request, the outcome is unknown, and the error
states that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Self, TypeVar

import httpx
import trio

from hbtrio.client.address import Address
from hbtrio.client.faults import refusal, unreachable
from hbtrio.client.stream import Lines, StreamLost, os_error, read_whole, words
from hbtrio.errors import BACKLOG_FULL, ExitStatus, UserError
from hbtrio.net.begin_by_header import begin_by_header
from hbtrio.net.tls import client_tls
from hbtrio.net.unix_connect import was_never_connected
from hbtrio.wire.operator import (
    ClockReply,
    FleetInstanceDetail,
    FleetStatus,
    InstanceDetail,
    ReplyFault,
    Status,
    TaskTree,
    encode,
    parse,
    parse_detail,
    parse_status,
)
from hbtrio.wire.operator.requests import BEGIN_BY_HEADER

T = TypeVar("T")

#: All about one instance, of whichever daemon was asked.
AnyDetail = InstanceDetail | FleetInstanceDetail

#: The timeout for connecting, in seconds; no request has been sent before.
CONNECT_S: Final = 5.0

#: Seconds between two attempts to get a place in the backlog of a unix socket.
_BACKLOG_RETRY_S: Final = 0.1

#: The timeout for the beginning of an answer, in seconds.
ANSWER_S: Final = 10.0

#: The timeout for a whole status, in seconds.
BODY_S: Final = 60.0

#: The most that a status may hold: about 100,000 instances, more than a host can be set to serve.
BODY_BYTES: Final = 256 * 1024 * 1024

_CLOCK: Final = "/v1/clock"

#: What is answered without a body.
NO_ANSWER: Final = "/v1/brake/release"

#: The most that is read of a refusal.
_FAULT_BYTES: Final = 65536


class _NoClockError(Exception):
    """The daemon is too old to let requests expire."""


class CtlClient:
    """A client of one host or agent.

    Args:
        address: the daemon's address.
        token: the bearer token that it requires over TCP, or "".
        certificate: for https: a client certificate, or "".
        key: the private key of the certificate.
        authority: for https: CA certificates to verify the server with; "" for the system's trust
            store.

    Raises:
        UserError: the token would leave this machine unencrypted; a file can't be used, or is of
            no use for this address.
    """

    def __init__(
        self,
        address: Address,
        token: str = "",
        *,
        certificate: str = "",
        key: str = "",
        authority: str = "",
    ) -> None:
        if token and not address.is_private:
            raise UserError(f"{address.text}: without TLS a token is sent to this machine only")
        if bool(certificate) != bool(key):
            raise UserError("--certificate and --key go together")
        if (certificate or authority) and not address.is_tls:
            raise UserError(f"{address.text}: certificates are for https only")
        self.address = address
        self._certified = bool(certificate)
        headers = {"accept-encoding": "identity"}
        if token and address.socket is None:
            headers["authorization"] = f"Bearer {token}"
        # A certificate store takes longer to load than a host takes to answer. Without TLS there is
        # nothing to verify.
        tls = client_tls(address.text, certificate, key, authority) if address.is_tls else False
        # Without its own timeouts, which are per read, as ours are per answer or line.
        self._http = httpx.AsyncClient(
            base_url=address.base,
            transport=httpx.AsyncHTTPTransport(uds=address.socket, verify=tls),
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        """Connects on the first request only."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def status(self, cls: type[T]) -> T:
        """The status of the host and its instances, or of an agent's fleet.

        Args:
            cls: ``Status``, ``FleetStatus``, or ``dict`` for all that the daemon sent.

        Raises:
            UserError: UNREACHABLE, DENIED, or the answer is not a status.
        """
        return await self.ask("/v1/status", "status", partial(parse, cls=cls))

    async def any_status(self) -> Status | FleetStatus:
        """The status of a host or an agent; raises as :meth:`status` does."""
        return await self.ask("/v1/status", "status", parse_status)

    async def line(self, uuid: str, cls: type[T], part: str = "") -> T:
        """One instance, as in the status.

        Args:
            uuid: the instance.
            cls: ``InstanceLine`` at a host, ``FleetInstanceLine`` at an agent.
            part: ``/look`` for the ``LookLine`` of an agent's instance.

        Raises:
            UserError: UNREACHABLE, DENIED, or FAILED: the daemon does not know it.
        """
        path = f"/v1/instances/{uuid}{part}"
        return await self.ask(path, "instance", partial(parse, cls=cls))

    async def history(self, query: str, cls: type[T]) -> T:
        """A page of a daemon's history.

        Args:
            query: the query of the URL.
            cls: ``History``, or ``WholeHistory`` for all that the daemon sent.

        Raises:
            UserError: UNREACHABLE, DENIED, or the answer is not a history.
        """
        return await self.ask(f"/v1/history?{query}", "history", partial(parse, cls=cls))

    async def instance(self, uuid: str) -> AnyDetail:
        """All that a host or agent knows of an instance.

        Raises:
            UserError: UNREACHABLE, DENIED, or FAILED: it does not know the instance.
        """
        return await self.ask(f"/v1/instances/{uuid}", "instance", parse_detail)

    async def members(self, uuid: str) -> dict[str, Any]:
        """As :meth:`instance`, with all that the daemon sent."""
        read = partial(parse, cls=dict[str, Any])
        return await self.ask(f"/v1/instances/{uuid}", "instance", read)

    async def tree(self) -> TaskTree:
        """The live tasks of a host or agent.

        Raises:
            UserError: UNREACHABLE, DENIED, or FAILED: the daemon is too old.
        """
        return await self.ask("/v1/tree", "tree", partial(parse, cls=TaskTree))

    async def ask(
        self,
        path: str,
        what: str,
        read: Callable[[bytes], T],
        body: object = None,
    ) -> T:
        """Makes a request that is answered with one body.

        Args:
            path: the path, with its query.
            what: what the answer is, for errors.
            read: decodes it.
            body: a request of :mod:`hbtrio.wire.operator`, to be posted; None to get.

        Raises:
            UserError: UNREACHABLE, DENIED, or the daemon refuses.
        """
        method = "GET" if body is None else "POST"
        lost = StreamLost(self.address.text, "")
        with trio.move_on_after(BODY_S):
            async with self._answer(method, path, body, lost) as chunks:
                answer = await read_whole(chunks, BODY_BYTES, lost)
                if len(answer) > BODY_BYTES:
                    raise lost(f"the daemon's {what} is over {BODY_BYTES} bytes")
                try:
                    return read(answer)
                except ReplyFault as fault:
                    raise lost(f"the daemon sent an invalid {what}: {fault}") from fault
        raise lost(f"the daemon's {what} took over {BODY_S:g} s")

    @asynccontextmanager
    async def lines(
        self, method: str, path: str, body: object = None, *, unknown: str = ""
    ) -> AsyncIterator[Lines]:
        """Makes a request that is answered with lines.

        Args:
            method: GET or POST.
            path: the path, with its query.
            body: a request of :mod:`hbtrio.wire.operator`, if any.
            unknown: what the error adds if the daemon goes away before the answer is complete.

        Raises:
            UserError: UNREACHABLE, DENIED, or the host refuses: USAGE for a faulty request, FAILED
                for one that can't be served now.

        Cancelled or left early, it closes the connection; what was begun in the host goes on.
        """
        lost = StreamLost(self.address.text, unknown)
        async with self._answer(method, path, body, lost) as chunks:
            yield Lines(chunks, lost)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: object, lost: StreamLost
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        content = None if body is None else encode(body)
        headers = {} if body is None else await self._headers()
        request = self._http.build_request(method, path, content=content, headers=headers)
        response: httpx.Response | None = None
        try:
            with trio.move_on_after(ANSWER_S):
                response = await self._send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise unreachable(self.address, error) from error
        except httpx.HTTPError as error:
            # trio sends no alert when it refuses a certificate, and with TLS 1.3 we have sent our
            # request by then.
            hint = "; or it refuses the certificate, see its log" if self._certified else ""
            if self.address.socket is not None:
                hint = "; or this is not the operator socket"
            elif not self.address.is_tls:
                hint = "; or it speaks https only"
            raise lost(words(error) + hint) from error
        if response is None:
            raise lost(f"no answer from the daemon within {ANSWER_S:g} s")
        chunks = response.aiter_raw()
        try:
            if response.status_code == 404 and path == _CLOCK:
                raise _NoClockError
            if response.status_code != (204 if path == NO_ANSWER else 200):
                raise await self._refusal(response.status_code, chunks, lost)
            yield chunks
        finally:
            # Hangs up. httpx leaves its generators, each of which iterates over the next one, to
            # the garbage collector; what ends them all in time is an exception that passes through.
            with trio.CancelScope() as at_once, suppress(httpx.HTTPError):
                at_once.cancel()
                async for _ in chunks:
                    pass

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, and again while there is no place in the backlog of a unix socket.

        Raises:
            UserError: UNREACHABLE, there was none within ``CONNECT_S``.
            httpx.HTTPError: it failed.
        """
        until = trio.current_time() + CONNECT_S
        while True:
            try:
                return await self._http.send(request, stream=True)
            except httpx.ReadError as error:
                if self.address.socket is None or not was_never_connected(os_error(error)):
                    raise
                if trio.current_time() >= until:
                    text = f"{self.address.text}: {BACKLOG_FULL}"
                    raise UserError(text, ExitStatus.UNREACHABLE) from error
            await trio.sleep(_BACKLOG_RETRY_S)

    async def _headers(self) -> dict[str, str]:
        """Makes the headers of a request that changes something.

        They name the last moment at which it may begin, so that the daemon does nothing any more
        once this client has given up, whatever has held the request up. An older daemon has no
        clock, and gets no moment.

        Raises:
            UserError: UNREACHABLE or DENIED; nothing was requested.
        """
        headers = {"content-type": "application/json"}
        try:
            reply = await self.ask(_CLOCK, "clock", partial(parse, cls=ClockReply))
        except _NoClockError:
            return headers
        return headers | {BEGIN_BY_HEADER: begin_by_header(reply)}

    async def _refusal(
        self, code: int, chunks: AsyncIterator[bytes], lost: StreamLost
    ) -> UserError:
        answer = b""
        with trio.move_on_after(ANSWER_S):
            answer = await read_whole(chunks, _FAULT_BYTES, lost)
        return refusal(self.address, code, answer)
