"""The HTTP server over real loopback and unix sockets: who calls, limits, faults, and its end."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hbtrio.http.server import (
    CERTIFICATE_EXTENSION,
    PEER_EXTENSION,
    ClosingStreamingResponse,
    HttpLimits,
    Place,
    RequestClasses,
    serve_http,
)
from hbtrio.http.slots import DISPLACED_S, MAX_DISPLACED, ONE_CLASS
from hbtrio.net.peer_credentials import PeerCredentials
from hbtrio.net.unix_socket import open_unix_listener
from support.http_server import GET, PATIENCE_S, App, HttpServer, running

WHO = (PEER_EXTENSION, CERTIFICATE_EXTENSION)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hbt-") as name:
        yield Path(name)


@attrs.define
class Server(HttpServer):
    async def is_unreachable(self) -> bool:
        try:
            await (await self.connect()).aclose()
        except OSError:
            return True
        return False

    async def ask(self, request: bytes = GET) -> bytes:
        """Send a request on a new connection; return the answer up to the end of the connection."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(request)
            await stream.send_eof()
            return b"".join([piece async for piece in stream])


def serving(
    app: App,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
    classes: RequestClasses = ONE_CLASS,
) -> AbstractAsyncContextManager[Server]:
    return running(Server, app, limits, classes)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({"hello": scope["path"]})(scope, receive, send)


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Stream for ever without ever asking whether somebody reads."""
    await send({"type": "http.response.start", "status": 200})
    while True:
        await send({"type": "http.response.body", "body": b"z" * 65536, "more_body": True})


def reset_on_close(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# -- who calls


def who_calls(scope: Any) -> dict[str, Any]:
    """What the extensions say of the client."""
    return {name: value for name, value in scope["extensions"].items() if name in WHO}


async def test_a_stock_client_over_tcp() -> None:
    seen: list[Any] = []

    async def index(request: Request) -> Response:
        seen.append((request.client, request.scope["server"], who_calls(request.scope)))
        return JSONResponse({"got": await request.json(), "url": str(request.url)})

    app = Starlette(routes=[Route("/v1/x", index, methods=["POST"])])
    async with serving(app) as server, httpx.AsyncClient(trust_env=False) as client:
        host, port = server.address
        url = f"http://{host}:{port}/v1/x?a=b"
        for number in range(3):
            answer = await client.post(url, json={"n": number})
            assert (answer.status_code, answer.json()) == (200, {"got": {"n": number}, "url": url})
        assert (await client.get(url)).status_code == 405
        [(first, at, extensions)] = {repr(entry): entry for entry in seen}.values()
        assert (first.host, at, extensions) == ("127.0.0.1", server.address, {})
        assert server.crashes == []


@pytest.mark.parametrize("ours", [True, False])
async def test_credentials_over_a_unix_socket(folder: Path, ours: bool) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"], scope["server"], who_calls(scope)))
        await hello(scope, receive, send)

    path = str(folder / "operator.sock")
    listener: Any
    if ours:
        listener = await open_unix_listener(path)
    else:
        bound = trio.socket.socket(socket.AF_UNIX)
        await bound.bind(path)
        bound.listen()
        listener = trio.SocketListener(bound)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, app, [listener], on_crash=seen.append)
            await nursery.start(serve)
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get("http://hbtrio/who")).json() == {"hello": "/who"}
            nursery.cancel_scope.cancel()
    me = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
    assert seen == [(None, (path, None), {PEER_EXTENSION: me})]
    assert ("operator.sock" in os.listdir(folder)) is not ours


async def test_several_listeners_share_one_application(folder: Path) -> None:
    listeners: list[Any] = [
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
        await open_unix_listener(folder / "a"),
        await open_unix_listener(folder / "b"),
    ]
    crashes: list[BaseException] = []
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_http, hello, listeners, on_crash=crashes.append))
            streams = [
                await trio.open_tcp_stream(*listeners[0].socket.getsockname()),
                await trio.open_unix_socket(str(folder / "a")),
                await trio.open_unix_socket(str(folder / "b")),
            ]
            for stream in streams:
                async with stream:
                    await stream.send_all(GET)
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
            nursery.cancel_scope.cancel()
    assert crashes == []
    assert sorted(os.listdir(folder)) == ["a.lock", "b.lock"]


# -- limits and faults

STREAM = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"
PREFERRED_STREAM = b"GET /events HTTP/1.1\r\nHost: x\r\nPreferred: yes\r\n\r\n"


async def at_work(server: Server, request: bytes = STREAM) -> trio.SocketStream:
    """A connection whose request is in progress, until it goes."""
    stream = await server.connect()
    await stream.send_all(request)
    heard = b""
    while b"data: 1" not in heard:
        heard += (await stream.receive_some()) or b"data: 1: it was closed"
    assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
    return stream


def two_classes(most: int) -> RequestClasses:
    """Streams and the others have so many places each; whoever says so is preferred."""

    def place_of(scope: dict[str, Any]) -> Place:
        preferred = (b"preferred", b"yes") in scope["headers"]
        return Place("streams" if scope["path"] == "/events" else "others", preferred=preferred)

    return RequestClasses({"streams": most, "others": most}, place_of)


async def test_when_all_places_are_taken_others_get_503_until_there_is_room() -> None:
    async with serving(everything, classes=two_classes(2)) as server:
        holders = [await at_work(server) for _ in range(2)]
        for _ in range(100):
            refused = await server.ask(STREAM)
            assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            text = b'{"status": "fail", "reason": "too many streams in progress, the limit is 2"}'
            assert refused.endswith(text)
        # The places of others are not theirs.
        for _ in range(5):
            assert (await server.ask()).startswith(b"HTTP/1.1 200 OK\r\n")
        await holders[0].aclose()
        again = None
        while again is None:
            stream = await server.connect()
            await stream.send_all(STREAM)
            if (await stream.receive_some()).startswith(b"HTTP/1.1 200 "):
                again = stream
            else:
                await stream.aclose()
        # The other was not disturbed, and is not by any number of those that want its place.
        with trio.move_on_after(0.05) as scope:
            await holders[1].receive_some()
        assert scope.cancelled_caught
        for one in (again, holders[1]):
            await one.aclose()
        assert server.crashes == []


async def test_a_503_leaves_the_connection_waiting_and_so_given_away() -> None:
    """However many get one and read nothing: who comes is answered."""
    limits = HttpLimits(max_connections=4)
    async with serving(everything, limits, two_classes(1)) as server:
        async with await at_work(server):
            refused = []
            for _ in range(12):
                stream = await server.connect()
                await stream.send_all(STREAM)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 503 ")
                refused.append(stream)
            assert (await server.ask()).startswith(b"HTTP/1.1 200 OK\r\n")
            for stream in refused:
                await stream.aclose()
        assert server.crashes == []


async def test_requests_in_progress_take_no_room_from_connections() -> None:
    limits = HttpLimits(max_connections=1)
    async with serving(everything, limits, two_classes(20)) as server:
        holders = [await at_work(server) for _ in range(20)]
        assert (await server.ask()).startswith(b"HTTP/1.1 200 OK\r\n")
        for stream in holders:
            await stream.aclose()
        assert server.crashes == []


async def test_a_preferred_request_takes_the_place_of_the_oldest_other() -> None:
    async with serving(everything, classes=two_classes(2)) as server:
        oldest, younger = [await at_work(server) for _ in range(2)]
        preferred = [await at_work(server, PREFERRED_STREAM) for _ in range(2)]
        for stream in (oldest, younger):
            # This application does not look at DISPLACED_EXTENSION, and so is cut off.
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        # Preferred ones do not displace each other, and others displace nobody.
        for request in (PREFERRED_STREAM, STREAM):
            assert (await server.ask(request)).startswith(b"HTTP/1.1 503 ")
        with trio.move_on_after(0.05) as scope:
            await preferred[0].receive_some()
        assert scope.cancelled_caught
        for stream in (oldest, younger, *preferred):
            await stream.aclose()
        assert server.crashes == []


async def test_displaced_requests_that_do_not_end_are_bounded() -> None:
    """Each has a second to end, unless more are displaced in that second than may be ending."""
    async with serving(everything, classes=two_classes(2 * MAX_DISPLACED)) as server:
        holders = [await at_work(server) for _ in range(2 * MAX_DISPLACED)]
        began = trio.current_time()
        preferred = [await at_work(server, PREFERRED_STREAM) for _ in range(MAX_DISPLACED + 1)]
        with contextlib.suppress(trio.BrokenResourceError):
            while await holders[0].receive_some():
                pass
        assert trio.current_time() - began < DISPLACED_S + 1
        for stream in holders + preferred:
            await stream.aclose()
        assert server.crashes == []


#: What those begin with that are none the further on for it, and what comes back.
WAITING = {
    "silent": (b"", b""),
    "a byte": (b"G", b""),
    "half a head": (GET[:-2], b""),
    "half a body": (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", b""),
    "half a chunk": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha",
        b"",
    ),
    "idle": (GET, b"HTTP/1.1 200 "),
    "half a second request": (GET + GET[:-2], b"HTTP/1.1 200 "),
    "refused": (b"?\r\n\r\n", b"HTTP/1.1 400 "),
}


@pytest.mark.parametrize("what", WAITING)
async def test_who_waits_gives_way(what: str) -> None:
    said, heard = WAITING[what]
    limits = HttpLimits(header_s=1000, body_s=1000, idle_s=1000, max_connections=4)
    async with serving(hello, limits) as server:
        streams = []
        for _ in range(12):
            stream = await server.connect()
            await stream.send_all(said)
            if heard:
                assert (await stream.receive_some()).startswith(heard)
            streams.append(stream)
            # Whoever means it is served at once, whatever the others do.
            assert (await server.ask()).startswith(b"HTTP/1.1 200 OK\r\n")
        for stream in streams[:8]:
            # The oldest are closed, with a reset if what they sent was not read.
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        for stream in streams:
            await stream.aclose()
        assert server.crashes == []


async def test_the_one_that_waits_longest_goes_first() -> None:
    async with serving(hello, HttpLimits(max_connections=3)) as server:
        streams = [await server.connect() for _ in range(3)]
        for stream in streams:
            await stream.send_all(GET)
            await stream.receive_some()
        # A request makes it the youngest; half a one does not.
        await streams[0].send_all(GET)
        await streams[0].receive_some()
        await streams[1].send_all(GET[:-2])
        for oldest in (1, 2, 0):
            newcomer = await server.connect()
            with contextlib.suppress(trio.BrokenResourceError):
                assert await streams[oldest].receive_some() == b""
            streams.append(newcomer)
        for stream in streams:
            await stream.aclose()
        assert server.crashes == []


async def test_a_request_that_has_begun_is_not_given_up_for_newcomers() -> None:
    begun, resume = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            begun.set()
            await resume.wait()
        await hello(scope, receive, send)

    async with serving(app, HttpLimits(max_connections=2)) as server:
        async with await server.connect() as stream:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            await begun.wait()
            silent = [await server.connect() for _ in range(10)]
            assert (await server.ask()).endswith(b'{"hello":"/"}')
            resume.set()
            assert (await stream.receive_some()).endswith(b'{"hello":"/slow"}')
            for one in silent:
                await one.aclose()
        assert server.crashes == []


async def test_a_newcomer_over_a_unix_socket_has_its_place(folder: Path) -> None:
    crashes: list[BaseException] = []
    serve = partial(serve_http, hello, limits=HttpLimits(max_connections=4))
    path = str(folder / "a")
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            listener = await open_unix_listener(path)
            await nursery.start(partial(serve, [listener], on_crash=crashes.append))
            silent = [await trio.open_unix_socket(path) for _ in range(20)]
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(GET)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
            for one in silent:
                await one.aclose()
            nursery.cancel_scope.cancel()
    assert crashes == []


async def test_a_crash_is_reported_and_the_server_goes_on() -> None:
    fault = ValueError("boom")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/boom":
            raise fault
        await hello(scope, receive, send)

    async with serving(app) as server:
        answer = await server.ask(b"GET /boom HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert server.crashes == [fault]
        assert (await server.ask()).endswith(b'{"hello":"/"}')


async def test_what_a_reporter_raises_is_not_swallowed() -> None:
    class ReporterError(Exception):
        pass

    def report(exc: BaseException) -> None:
        raise ReporterError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError

    # A reporter that fails when told of the application's fault is told of its own as well,
    # and that time it is let through.
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with pytest.RaisesGroup(ReporterError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_http, app, listeners, on_crash=report))
            stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
            async with stream:
                await stream.send_all(GET)
                with trio.fail_after(PATIENCE_S):
                    await stream.receive_some()
                    await trio.sleep_forever()


async def test_a_bug_of_the_driver_costs_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    import h11

    def broken(self: h11.Connection) -> None:
        raise ZeroDivisionError

    async with serving(hello) as server:
        with monkeypatch.context() as patch:
            patch.setattr(h11.Connection, "next_event", broken)
            assert await server.ask() == b""
        assert len(server.crashes) == 1
        assert isinstance(server.crashes[0], ExceptionGroup)
        assert server.crashes[0].subgroup(ZeroDivisionError) is not None
        assert (await server.ask()).endswith(b'{"hello":"/"}')


@pytest.mark.parametrize(
    "said", [b"", b"GET / HT", GET, GET[:-4] + b"\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_resets_stop_at_the_connection(said: bytes) -> None:
    async with serving(hello) as server:
        for _ in range(20):
            stream = await server.connect()
            if said:
                await stream.send_all(said)
            reset_on_close(stream)
            await stream.aclose()
        assert (await server.ask()).endswith(b'{"hello":"/"}')
        assert server.crashes == []


async def test_a_reset_ends_a_stream() -> None:
    ended = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await endless(scope, receive, send)
        finally:
            ended.set()

    async with serving(app) as server:
        stream = await server.connect()
        await stream.send_all(GET)
        await stream.receive_some(1)
        reset_on_close(stream)
        await stream.aclose()
        await ended.wait()
        assert server.crashes == []


async def test_a_413_reaches_a_client_that_is_still_sending() -> None:
    async with serving(hello) as server, httpx.AsyncClient(trust_env=False) as client:
        host, port = server.address
        answer = await client.post(f"http://{host}:{port}/", content=b"z" * 300_000)
        assert (answer.status_code, answer.json()["status"]) == (413, "fail")


async def test_a_broken_listener_ends_the_server() -> None:
    class BrokenListener(trio.abc.Listener[trio.SocketStream]):
        closed = False

        async def accept(self) -> trio.SocketStream:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EINVAL, "not listening")

        async def aclose(self) -> None:
            self.closed = True
            await trio.lowlevel.checkpoint()

    listener = BrokenListener()
    crashes: list[BaseException] = []
    with pytest.RaisesGroup(OSError, flatten_subgroups=True), trio.fail_after(PATIENCE_S):
        await serve_http(hello, [listener], on_crash=crashes.append)  # type: ignore[list-item]
    assert listener.closed
    assert crashes == []


# -- the end


async def idle_client(stream: trio.SocketStream) -> None:
    await stream.send_all(GET)
    await stream.receive_some()


async def silent_client(stream: trio.SocketStream) -> None:
    await trio.lowlevel.checkpoint()


async def client_that_was_refused(stream: trio.SocketStream) -> None:
    await stream.send_all(b"?\r\n\r\n")
    await stream.receive_some()


@pytest.mark.parametrize("behave", [idle_client, silent_client, client_that_was_refused])
async def test_the_end_does_not_wait_for_connections_without_a_request(behave: Any) -> None:
    async with serving(hello, HttpLimits(drain_s=math.inf)) as server:
        async with await server.connect() as stream:
            await behave(stream)
            # The server has seen the first once it has answered a second.
            assert (await server.ask()).startswith(b"HTTP/1.1 200 OK\r\n")
            assert await server.stop() < PATIENCE_S
        assert server.crashes == []


async def half_a_head(stream: trio.SocketStream) -> None:
    await stream.send_all(GET[:10])


async def half_a_body(stream: trio.SocketStream) -> None:
    await stream.send_all(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")


async def stream_without_reader(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    await stream.receive_some(1)


async def stream_with_half_a_reader(stream: trio.SocketStream) -> None:
    await stream_without_reader(stream)
    await stream.send_eof()


async def news_that_never_come(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await stream.receive_some(1)


async def handler_that_never_answers(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n" + GET * 1000)


async def everything(scope: Any, receive: Any, send: Any) -> None:
    async def news() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await trio.sleep_forever()

    match scope["path"]:
        case "/endless":
            await endless(scope, receive, send)
        case "/events":
            await ClosingStreamingResponse(news())(scope, receive, send)
        case "/never":
            await trio.sleep_forever()
        case _:
            await hello(scope, receive, send)


@pytest.mark.parametrize(
    "behave",
    [
        idle_client,
        silent_client,
        client_that_was_refused,
        half_a_head,
        half_a_body,
        stream_without_reader,
        stream_with_half_a_reader,
        news_that_never_come,
        handler_that_never_answers,
    ],
)
async def test_the_end_comes_within_drain_s(behave: Any) -> None:
    drain_s = 0.05
    async with serving(everything, HttpLimits(drain_s=drain_s)) as server:
        streams = [await server.connect() for _ in range(3)]
        for stream in streams:
            await behave(stream)
        # A shared machine may be late, but not by as much as any other limit would make it.
        assert await server.stop() < drain_s + 0.9
        for stream in streams:
            await stream.aclose()
        assert await server.is_unreachable()
        assert server.crashes == []


async def test_a_request_in_progress_is_answered_before_the_end() -> None:
    in_progress, resume = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        in_progress.set()
        await resume.wait()
        await hello(scope, receive, send)

    async with serving(app, HttpLimits(drain_s=math.inf)) as server:
        async with await server.connect() as stream:
            await stream.send_all(GET)
            await in_progress.wait()
            server.scope.cancel()
            while not await server.is_unreachable():
                pass
            assert not server.ended.is_set()
            resume.set()
            answer = b"".join([piece async for piece in stream])
            assert answer.endswith(b'\r\nConnection: close\r\n\r\n{"hello":"/"}')
            await server.ended.wait()
        assert server.crashes == []


async def test_what_an_application_raises_while_it_is_cut_is_reported() -> None:
    in_progress = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            in_progress.set()
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("cleanup failed")

    async with serving(app, HttpLimits(drain_s=0)) as server:
        async with await server.connect() as stream:
            await stream.send_all(GET)
            await in_progress.wait()
            await server.stop()
        assert len(server.crashes) == 1
        group = server.crashes[0]
        assert isinstance(group, ExceptionGroup)
        assert group.subgroup(ValueError) is not None


async def test_cancelled_from_the_start_it_closes_its_listeners(folder: Path) -> None:
    listener = await open_unix_listener(folder / "a")
    crashes: list[BaseException] = []
    with trio.fail_after(PATIENCE_S), trio.CancelScope() as scope:
        scope.cancel()
        await serve_http(hello, [listener], on_crash=crashes.append)
    assert scope.cancelled_caught
    assert crashes == []
    assert os.listdir(folder) == ["a.lock"]


@pytest.mark.parametrize(
    "wrong", [{"header_s": 0}, {"max_connections": 0}, {"drain_s": -1}, {"max_head_bytes": 1}]
)
def test_senseless_limits(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HttpLimits(**wrong)
