"""The client of a host's or agent's operator API, and the boundary where its faults become words.

Nothing that a server does can make it wait for ever or fill the memory: every wait has a timeout,
every line and every body has a bound. A host that goes away in the middle is no success and no
failure either: what it was doing may have been done, and the fault says so.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
import trio

from hbtrio.client.address import Address
from hbtrio.client.stream import Lines, StreamLost, os_error, read_whole, words
from hbtrio.config.source import printable
from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.tls import client_tls, connection_reason
from hbtrio.wire.operator import (
    FleetStatus,
    Forgotten,
    Released,
    ReleaseRequest,
    ReplyFault,
    Status,
    encode,
    parse,
    parse_status,
)

T = TypeVar("T")

#: A host accepts a connection within this many seconds, and so nothing was asked for before.
CONNECT_S: Final = 5.0

#: It begins its answer within this many seconds.
ANSWER_S: Final = 10.0

#: A whole status arrives within this many seconds.
BODY_S: Final = 60.0

#: The most that a status may hold: about 100,000 instances, more than a host can be set to serve.
BODY_BYTES: Final = 256 * 1024 * 1024

#: What is read of a server's own words about a fault.
_FAULT_BYTES: Final = 65536

#: With which an agent's API for the VIM refuses what it does not know (with 403).
_OF_THE_VIM: Final = frozenset({"no such path", "unknown User-Agent"})

#: A request of another kind than the host understands, or without the right to make it; every
#: other refusal is about the instance.
_STATUS: Final = {
    **dict.fromkeys((400, 405, 413, 414, 422), ExitStatus.USAGE),
    **dict.fromkeys((401, 403), ExitStatus.DENIED),
}


class CtlClient:
    """A client of one host or agent.

    Args:
        address: where it is.
        token: the bearer token that it wants over TCP, or "".
        certificate: for https: what to show as well or instead, or "".
        key: the certificate's.
        authority: for https: what has signed the server's certificate; without it, whom the system
            trusts.

    Raises:
        UserError: the token would leave this machine for everybody on the way to read; a file can't
            be used, or is not for this address.
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
            raise UserError(f"{address.text}: a token is sent to this machine only, without TLS")
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
        """Opens nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes what is left open."""
        await self._http.aclose()

    async def status(self, cls: type[T]) -> T:
        """The status of the host and its instances, or of an agent's fleet.

        Args:
            cls: ``Status``, ``FleetStatus``, or ``dict`` for all that is said.

        Raises:
            UserError: UNREACHABLE, DENIED, or what the host said is no status.
        """
        return await self._whole("/v1/status", "status", partial(parse, cls=cls))

    async def any_status(self) -> Status | FleetStatus:
        """The status of whatever is there; raises as :meth:`status` does."""
        return await self._whole("/v1/status", "status", parse_status)

    async def history(self, query: str, cls: type[T]) -> T:
        """A page of an agent's history.

        Args:
            query: which.
            cls: ``History``, or ``WholeHistory`` for all that the agent says.

        Raises:
            UserError: UNREACHABLE, DENIED, or what the agent said is no history.
        """
        return await self._whole(f"/v1/history?{query}", "history", partial(parse, cls=cls))

    async def release(self, hostname: str, alarms: str) -> Released:
        """Has an agent let go what is held back of a host's alarms.

        Args:
            hostname: the host.
            alarms: what becomes of them, "send" or "withdraw".

        Raises:
            UserError: UNREACHABLE, DENIED, or nothing is held back.
        """
        path = f"/v1/hosts/{quote(hostname, safe='')}/release"
        read = partial(parse, cls=Released)
        return await self._whole(path, "answer", read, ReleaseRequest(alarms=alarms))

    async def forget(self, hostname: str) -> Forgotten:
        """Has an agent forget a host.

        Raises:
            UserError: UNREACHABLE, DENIED, or it has a link or is unknown.
        """
        path = f"/v1/hosts/{quote(hostname, safe='')}/forget"
        return await self._whole(path, "answer", partial(parse, cls=Forgotten), {})

    async def _whole(
        self,
        path: str,
        what: str,
        read: Callable[[bytes], T],
        body: object = None,
    ) -> T:
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
                    raise lost(f"the daemon's {what} is not understood: {fault}") from fault
        raise lost(f"the daemon's {what} took over {BODY_S:g} s")

    @asynccontextmanager
    async def lines(
        self, method: str, path: str, body: object = None, *, unknown: str = ""
    ) -> AsyncIterator[Lines]:
        """Asks for something that is answered in lines.

        Args:
            method: GET or POST.
            path: what is asked for, with its query.
            body: a request of :mod:`hbtrio.wire.operator`, if any.
            unknown: what to tell if the host is lost before the answer is complete.

        Raises:
            UserError: UNREACHABLE, DENIED, or the host refuses: USAGE for a faulty request, FAILED
                for one that can't be served now.

        Cancelled or left early, it hangs up, which ends nothing that was begun in the host.
        """
        lost = StreamLost(self.address.text, unknown)
        async with self._answer(method, path, body, lost) as chunks:
            yield Lines(chunks, lost)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: object, lost: StreamLost
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        content = None if body is None else encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        request = self._http.build_request(method, path, content=content, headers=headers)
        response: httpx.Response | None = None
        try:
            with trio.move_on_after(ANSWER_S):
                response = await self._http.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            # trio sends no alert when it refuses a certificate, and with TLS 1.3 we have sent our
            # request by then.
            hint = "; or it refuses the certificate, see its log" if self._certified else ""
            if self.address.socket is not None:
                hint = "; or this is not its operators' socket"
            elif not self.address.is_tls:
                hint = "; or it speaks https only"
            raise lost(words(error) + hint) from error
        if response is None:
            raise lost(f"no answer from the daemon within {ANSWER_S:g} s")
        chunks = response.aiter_raw()
        try:
            if response.status_code != 200:
                raise await self._refusal(response.status_code, chunks, lost)
            yield chunks
        finally:
            # Hangs up. httpx leaves its generators, each of which iterates over the next one, to
            # the garbage collector; what ends them all in time is an exception that passes through.
            with trio.CancelScope() as at_once, suppress(httpx.HTTPError):
                at_once.cancel()
                async for _ in chunks:
                    pass

    def _unreachable(self, error: httpx.HTTPError) -> UserError:
        cause = os_error(error)
        reason = "no connection in time" if cause is None else connection_reason(cause)
        text = f"{self.address.text}: {reason}"
        if isinstance(cause, ssl.SSLError | socket.gaierror):
            return UserError(text, ExitStatus.UNREACHABLE)
        match cause and cause.errno:
            case errno.EACCES | errno.EPERM:
                return UserError(text, ExitStatus.DENIED)
            case errno.ENOENT:
                text = f"{self.address.text}: no such socket"
            case errno.ECONNREFUSED if self.address.socket is not None:
                if _is_no_socket(self.address.socket):
                    return UserError(f"{self.address.text}: is no socket")
        return UserError(f"{text}; is hbtrio host or agent running?", ExitStatus.UNREACHABLE)

    async def _refusal(
        self, code: int, chunks: AsyncIterator[bytes], lost: StreamLost
    ) -> UserError:
        with trio.move_on_after(ANSWER_S):
            try:
                said = parse(await read_whole(chunks, _FAULT_BYTES, lost), dict[str, Any])
            except ReplyFault:
                said = {}
            reason = said.get("reason")
            if isinstance(reason, str):
                if code == 403 and reason in _OF_THE_VIM:
                    text = f"{self.address.text}: not an operators' API, but an agent's for its VIM"
                    return UserError(text)
                # Whoever uses ctl has written no body.
                reason = reason.removeprefix("body: ")
                status = _STATUS.get(code, ExitStatus.FAILED)
                # Other refusals are about the instance, whoever is asked.
                where = f"{self.address.text}: " if status is ExitStatus.DENIED else ""
                return UserError(where + printable(reason), status)
        text = f"{self.address.text}: HTTP status {code} without a reason: no hbtrio daemon?"
        return UserError(text, ExitStatus.FAILED)


def _is_no_socket(path: str) -> bool:
    """Whether there is something else; the kernel refuses connections to it as to a dead socket."""
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
