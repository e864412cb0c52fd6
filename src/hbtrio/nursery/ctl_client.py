"""The client of a host's or agent's operator API, and the boundary where its faults become words.

Nothing that a server does can make it wait for ever or fill the memory: every wait has a timeout,
every line and every body has a bound. A host that goes away in the middle is no success and no
failure either: what it was doing may have been done, and the fault says so.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import attrs
import httpx
import trio

from hbtrio.config.source import printable
from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.ctl_replies import (
    FleetStatus,
    Released,
    ReplyFault,
    Status,
    parse,
    parse_status,
)
from hbtrio.nursery.tls import client_tls, connection_reason

T = TypeVar("T")

#: A host accepts a connection within this many seconds, and so nothing was asked for before.
CONNECT_S: Final = 5.0

#: It begins its answer within this many seconds.
ANSWER_S: Final = 10.0

#: A whole status arrives within this many seconds.
BODY_S: Final = 60.0

#: The most that a status may hold: about 100,000 instances, more than a host can be set to serve.
BODY_BYTES: Final = 256 * 1024 * 1024

#: A line may carry a command of 64 KiB whose every second argument is the instance's uuid.
LINE_BYTES: Final = 1024 * 1024

#: What is read of a server's own words about a fault.
_FAULT_BYTES: Final = 65536

#: What this machine is called by itself.
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

#: A request of another kind than the host understands, or without the right to make it; every
#: other refusal is about the instance.
_STATUS: Final = {
    **dict.fromkeys((400, 405, 413, 414, 422), ExitStatus.USAGE),
    **dict.fromkeys((401, 403), ExitStatus.DENIED),
}


@attrs.frozen
class Address:
    """Where an API is: the path of a unix socket, or the base of an ``http`` or ``https`` URL."""

    text: str
    socket: str | None
    base: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``unix:PATH``, ``http://HOST[:PORT]`` or ``https://HOST[:PORT]``.

        Raises:
            UserError: USAGE, it is none of them.
        """
        shown = printable(text[:200])
        scheme, _, rest = text.partition(":")
        if scheme == "unix":
            path = "/" + rest.lstrip("/") if rest.startswith("//") else rest
            if not path.strip("/") or "\0" in path:
                raise UserError(f"{shown}: names no socket, such as unix:/run/hbtrio/host.sock")
            return cls(shown, path, "http://host")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            url = httpx.URL()
        known = url.scheme in ("http", "https")
        if not known or not url.host or url.userinfo or url.raw_path != b"/":
            raise UserError(f"{shown}: neither unix:PATH nor http[s]://HOST[:PORT]")
        return cls(shown, None, str(url))

    @property
    def is_tls(self) -> bool:
        """Whether it is reached through TLS."""
        return self.base.startswith("https:")

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read what is sent there."""
        return self.socket is not None or self.is_tls or httpx.URL(self.base).host in _LOOPBACK


class Lines:
    """An answer of JSON lines, read one by one.

    Args:
        chunks: the answer's bytes.
        lost: makes the error for an answer that fails in the middle.
    """

    def __init__(self, chunks: AsyncIterator[bytes], lost: _Lost) -> None:
        self._chunks = chunks
        self._held = bytearray()
        self.lost = lost

    async def next(self, cls: type[T], within_s: float) -> T | None:
        """The next line, empty ones left out; None at the end.

        Args:
            cls: what it is, see :func:`parse`.
            within_s: an empty line, with which a host says that it is alive, starts it anew.

        Raises:
            UserError: UNREACHABLE, the daemon went away, was silent for too long, or said what is
                no line of this kind.

        After a cancellation nothing more can be read.
        """
        while (line := await self._line(within_s)) is not None:
            if line:
                try:
                    return parse(line, cls)
                except ReplyFault as fault:
                    raise self.lost(f"the daemon said what is not understood: {fault}") from fault
        return None

    async def _line(self, within_s: float) -> bytes | None:
        with trio.move_on_after(within_s):
            while (end := self._held.find(b"\n")) < 0:
                if len(self._held) > LINE_BYTES:
                    raise self.lost(f"the daemon sent a line of over {LINE_BYTES} bytes")
                try:
                    self._held += await anext(self._chunks)
                except StopAsyncIteration:
                    if self._held:
                        raise self.lost("the daemon stopped in the middle of a line") from None
                    return None
                except httpx.HTTPError as error:
                    raise self.lost(_words(error)) from error
            line = bytes(self._held[:end])
            del self._held[: end + 1]
            return line
        raise self.lost(f"not a word from the daemon for {within_s:g} s")


@attrs.frozen
class _Lost:
    """Makes the error of an answer that is not going to be complete."""

    where: str
    unknown: str

    def __call__(self, what: str) -> UserError:
        text = f"{self.where}: {what}" + (f"; {self.unknown}" if self.unknown else "")
        return UserError(text, ExitStatus.UNREACHABLE)


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
        return await self._whole(path, "answer", read, {"alarms": alarms})

    async def _whole(
        self,
        path: str,
        what: str,
        read: Callable[[bytes], T],
        body: dict[str, Any] | None = None,
    ) -> T:
        method = "GET" if body is None else "POST"
        lost = _Lost(self.address.text, "")
        with trio.move_on_after(BODY_S):
            async with self._answer(method, path, body, lost) as chunks:
                answer = await _read(chunks, BODY_BYTES, lost)
                if len(answer) > BODY_BYTES:
                    raise lost(f"the daemon's {what} is over {BODY_BYTES} bytes")
                try:
                    return read(answer)
                except ReplyFault as fault:
                    raise lost(f"the daemon's {what} is not understood: {fault}") from fault
        raise lost(f"the daemon's {what} took over {BODY_S:g} s")

    @asynccontextmanager
    async def lines(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, unknown: str = ""
    ) -> AsyncIterator[Lines]:
        """Asks for something that is answered in lines.

        Args:
            method: GET or POST.
            path: what is asked for, with its query.
            body: a JSON object.
            unknown: what to tell if the host is lost before the answer is complete.

        Raises:
            UserError: UNREACHABLE, DENIED, or the host refuses: USAGE for a faulty request, FAILED
                for one that can't be served now.

        Cancelled or left early, it hangs up, which ends nothing that was begun in the host.
        """
        lost = _Lost(self.address.text, unknown)
        async with self._answer(method, path, body, lost) as chunks:
            yield Lines(chunks, lost)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, lost: _Lost
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        request = self._http.build_request(method, path, json=body)
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
            if not self.address.is_tls and self.address.socket is None:
                hint = "; or it speaks https only"
            raise lost(_words(error) + hint) from error
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
        cause = _os_error(error)
        reason = "no connection in time" if cause is None else connection_reason(cause)
        text = f"{self.address.text}: {reason}"
        if isinstance(cause, ssl.SSLError | socket.gaierror):
            return UserError(text, ExitStatus.UNREACHABLE)
        match cause and cause.errno:
            case errno.EACCES | errno.EPERM:
                return UserError(text, ExitStatus.DENIED)
            case errno.ENOENT:
                text = f"{self.address.text}: no such socket"
        return UserError(f"{text}; is hbtrio host or agent running?", ExitStatus.UNREACHABLE)

    async def _refusal(self, code: int, chunks: AsyncIterator[bytes], lost: _Lost) -> UserError:
        with trio.move_on_after(ANSWER_S):
            try:
                said = parse(await _read(chunks, _FAULT_BYTES, lost), dict[str, Any])
            except ReplyFault:
                said = {}
            reason = said.get("reason")
            if isinstance(reason, str):
                status = _STATUS.get(code, ExitStatus.FAILED)
                # Other refusals are about the instance, whoever is asked.
                where = f"{self.address.text}: " if status is ExitStatus.DENIED else ""
                return UserError(where + printable(reason), status)
        text = f"{self.address.text}: HTTP status {code} without a reason: no hbtrio daemon?"
        return UserError(text, ExitStatus.FAILED)


async def _read(chunks: AsyncIterator[bytes], limit: int, lost: _Lost) -> bytes:
    """The whole, or more than the limit of what is larger."""
    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                break
    except httpx.HTTPError as error:
        raise lost(_words(error)) from error
    return bytes(body)


def _words(error: httpx.HTTPError) -> str:
    # The library's own text is not for users, and may hold the server's bytes.
    cause = _os_error(error)
    return "the daemon went away" + ("" if cause is None else f": {connection_reason(cause)}")


def _os_error(error: BaseException) -> OSError | None:
    """The operating system's error that a chain of others was made from."""
    found: OSError | None = None
    cause: BaseException | None = error
    for _ in range(16):
        if isinstance(cause, OSError):
            found = cause
            if cause.errno is not None:  # else it sums up those of several addresses
                break
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif cause is not None:
            cause = cause.__cause__ or cause.__context__
    return found
