"""The HTTP server over TLS: real handshakes, those that come to nothing, and its end."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import ssl
import struct
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import attrs
import httpx
import pytest
import trio
from starlette.responses import JSONResponse

from hbtrio.http.server import CERTIFICATE_EXTENSION, HttpLimits, Place, RequestClasses, serve_http
from hbtrio.http.slots import ONE_CLASS
from hbtrio.net.tls_files import TlsFiles, server_files
from hbtrio.net.unix_socket import open_unix_listener
from support.certificates import AUTHORITY, of_agent, pair, trusting
from support.control_socket import socket_path
from support.http_server import GET, PATIENCE_S, HttpServer, running
from support.real_processes import descriptors

#: How the log begins about a failed handshake.
FAILED = "tcp:127.0.0.1: TLS handshake failed"


@attrs.define
class Server(HttpServer):
    async def shake(self, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
        """A client that is through its end of the handshake."""
        stream = trio.SSLStream(await self.connect(), context, server_hostname="127.0.0.1")
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def ask(self, request: bytes = GET, context: ssl.SSLContext | None = None) -> bytes:
        """One request; its answer up to the end, of which TLS has to tell."""
        stream = await self.shake(trusting() if context is None else context)
        async with stream:
            await stream.send_all(request[:-2] + b"Connection: close\r\n\r\n")
            return b"".join([bytes(piece) async for piece in stream])

    async def is_fine(self) -> bool:
        return (await self.ask()).startswith(b"HTTP/1.1 200 OK\r\n") and self.crashes == []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"z" * 65536, "more_body": True})
    if scope["path"] == "/never":
        await trio.sleep_forever()
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"whole", "more_body": False})
        return
    certified = scope["extensions"].get(CERTIFICATE_EXTENSION)
    body = {"scheme": scope["scheme"], "certified": certified, "client": scope["client"][0]}
    await JSONResponse(body)(scope, receive, send)


def serving(
    limits: HttpLimits = HttpLimits(),  # noqa: B008
    context: TlsFiles | None = None,
    classes: RequestClasses = ONE_CLASS,
) -> AbstractAsyncContextManager[Server]:
    return running(Server, app, limits, classes, of_agent() if context is None else context)


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """All that comes until the other end closes or resets."""
    read = bytearray()
    with suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            read += data
    return bytes(read)


# -- who calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_stock_client(version: ssl.TLSVersion) -> None:
    context = trusting()
    context.minimum_version = context.maximum_version = version
    async with serving() as server, httpx.AsyncClient(verify=context, trust_env=False) as client:
        for _ in range(3):
            answer = await client.get(f"https://127.0.0.1:{server.address[1]}/")
            assert answer.json() == {"scheme": "https", "certified": None, "client": "127.0.0.1"}
        assert (await client.get(f"https://127.0.0.1:{server.address[1]}/stream")).text == "whole"
        assert server.crashes == []


async def test_an_older_version_is_not_spoken() -> None:
    context = trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving() as server:
        with pytest.raises(trio.BrokenResourceError):
            await server.shake(context)
        assert await server.is_fine()


async def test_client_certificates(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    optional = of_agent(clients=True)
    async with serving(context=optional) as server:
        assert b'"certified":null' in await server.ask()
        assert b'"certified":"CN=compute-0"' in await server.ask(context=trusting("compute-0"))
        # One that is no good is worse than none.
        stream = await server.shake(trusting("compute-0-by-other"))
        assert await read_to_end(stream) == b""
        await stream.aclose()
        assert server.crashes == []
    required = server_files("test", *pair("agent"), AUTHORITY)
    async with serving(context=required) as server:
        assert b'"certified":"CN=compute-0"' in await server.ask(context=trusting("compute-0"))
        stream = await server.shake(trusting())
        assert await read_to_end(stream) == b""
        await stream.aclose()
        assert server.crashes == []
    assert [without_port(line) for line in said(caplog)] == [
        f"{FAILED}: the certificate is refused: unable to get local issuer certificate",
        f"{FAILED}: TLS: peer did not return a certificate",
    ]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def without_port(line: str) -> str:
    return re.sub(r"(tcp:127\.0\.0\.1):[0-9]+", r"\1", line)


async def test_a_session_that_is_resumed_keeps_its_certificate() -> None:
    optional = of_agent(clients=True)
    context = trusting("compute-0")
    async with serving(context=optional) as server:
        first = await server.shake(context)
        await first.send_all(GET)
        assert b'"certified":"CN=compute-0"' in await first.receive_some(65536)
        ssl_object = context.wrap_bio(
            incoming := ssl.MemoryBIO(),
            outgoing := ssl.MemoryBIO(),
            server_hostname="127.0.0.1",
            session=first.session,
        )
        await first.aclose()
        async with await server.connect() as stream:
            while True:
                try:
                    ssl_object.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await stream.send_all(outgoing.read())
                    incoming.write(await stream.receive_some(65536))
            assert ssl_object.session_reused
            ssl_object.write(GET)
            await stream.send_all(outgoing.read())
            answer = b""
            while b"client" not in answer:
                incoming.write(await stream.receive_some(65536))
                with suppress(ssl.SSLWantReadError):
                    answer += ssl_object.read()
        assert b'"certified":"CN=compute-0"' in answer


async def test_a_unix_socket_beside_it_has_none() -> None:
    async def hello(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({"scheme": scope["scheme"]})(scope, receive, send)

    with socket_path() as path, trio.fail_after(PATIENCE_S):
        listener = await open_unix_listener(path)
        crashes: list[BaseException] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: serve_http(
                    hello,
                    [listener],
                    tls=of_agent(),
                    on_crash=crashes.append,
                )
            )
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(GET)
                assert (await stream.receive_some(4096)).endswith(b'{"scheme":"http"}')
            nursery.cancel_scope.cancel()
        assert crashes == []


async def test_the_end_of_an_answer_without_a_length_is_told() -> None:
    """Else whoever cuts the connection could pass a part for the whole."""
    async with serving() as server:
        stream = await server.shake(trusting())
        async with stream:
            await stream.send_all(b"GET /stream HTTP/1.0\r\n\r\n")
            # Not https_compatible: a missing closure alert raises.
            answer = b"".join([bytes(piece) async for piece in stream])
        assert answer.endswith(b"\r\n\r\nwhole")


async def test_a_413_reaches_a_client_that_is_still_sending() -> None:
    async with serving() as server:
        async with httpx.AsyncClient(verify=trusting(), trust_env=False) as client:
            url = f"https://127.0.0.1:{server.address[1]}/"
            answer = await client.post(url, content=b"z" * 300_000)
        assert (answer.status_code, answer.json()["status"]) == (413, "fail")
        assert server.crashes == []


# -- handshakes that come to nothing ---------------------------------------------------------


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    ssl_object = trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        ssl_object.do_handshake()
    return outgoing.read()


UNFINISHED = {
    "silent": b"",
    "a byte": b"\x16",
    "half a hello": client_hello()[:100],
    "a hello": client_hello(),
}
GARBAGE = {
    "http": GET,
    "noise": bytes(range(256)) * 100,
    "a record of nonsense": b"\x16\x03\x01\x02\x00" + b"\xff" * 512,
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "ssl 2": b"\x80\x2e\x01\x00\x02" + b"\x00" * 43,
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(HttpLimits(max_connections=1)) as server:
        for _ in range(20):
            async with await server.connect() as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(GARBAGE[what])
                assert GET not in await read_to_end(stream)
        assert await server.is_fine()
    lines = said(caplog)
    assert len(lines) == 20
    # A mere alert is as it says; what is no TLS at all is called that.
    reasons = ("TLS: ", "the other end does not use TLS", "the other end refuses the connection")
    for line in lines:
        assert without_port(line).startswith(
            tuple(f"tcp:127.0.0.1: TLS handshake failed: {one}" for one in reasons)
        )
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("what", UNFINISHED)
async def test_a_handshake_has_its_time(what: str) -> None:
    # Long enough for an honest handshake on a busy machine.
    async with serving(HttpLimits(handshake_s=1.0, header_s=1000)) as server:
        began = trio.current_time()
        async with await server.connect() as stream:
            await stream.send_all(UNFINISHED[what])
            await read_to_end(stream)
            assert 1.0 <= trio.current_time() - began < PATIENCE_S
        assert await server.is_fine()


async def test_a_client_that_drips_gets_no_more_time() -> None:
    async with serving(HttpLimits(handshake_s=0.2)) as server:
        async with await server.connect() as stream:
            sent = 0
            with suppress(trio.BrokenResourceError):
                for byte in client_hello() * 100:
                    await stream.send_all(bytes([byte]))
                    sent += 1
                    await trio.sleep(0.02)
        assert 0 < sent < 100
        assert await server.is_fine()


@pytest.mark.parametrize("what", UNFINISHED)
async def test_handshakes_take_no_place_from_those_that_are_served(what: str) -> None:
    limits = HttpLimits(handshake_s=1000, max_connections=4)
    async with serving(limits) as server:
        streams = []
        for _ in range(10):
            stream = await server.connect()
            await stream.send_all(UNFINISHED[what])
            streams.append(stream)
            # Whoever means it gets in, whatever the others do.
            assert await server.is_fine()
        for stream in streams[:6]:
            await read_to_end(stream)  # the oldest have given way
        for stream in streams:
            await stream.aclose()
        assert await server.is_fine()


async def test_a_served_connection_is_not_dropped_for_handshakes() -> None:
    limits = HttpLimits(handshake_s=1000, max_connections=2)
    async with serving(limits) as server:
        served = await server.shake(trusting())
        await served.send_all(GET)
        assert (await served.receive_some(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
        streams = [await server.connect() for _ in range(10)]
        assert await server.is_fine()
        await served.send_all(GET)
        assert (await served.receive_some(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
        for stream in (served, *streams):
            await stream.aclose()


@pytest.mark.parametrize("what", UNFINISHED)
async def test_resets_in_the_handshake(what: str) -> None:
    async with serving() as server:
        for _ in range(20):
            stream = await server.connect()
            await stream.send_all(UNFINISHED[what])
            linger = struct.pack("ii", 1, 0)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await stream.aclose()
        assert await server.is_fine()


async def test_too_many_requests_are_told_so() -> None:
    one = RequestClasses({"requests": 1}, lambda _: Place("requests"))
    async with serving(classes=one) as server:
        first = await server.shake(trusting())
        await first.send_all(GET.replace(b"/", b"/endless", 1))
        await first.receive_some(1)
        assert (await server.ask()).startswith(b"HTTP/1.1 503 ")
        await trio.aclose_forcefully(first)


@pytest.mark.parametrize("said", [b"", GET[:-2], GET])
async def test_who_waits_gives_way(said: bytes) -> None:
    limits = HttpLimits(header_s=1000, idle_s=1000, max_connections=2)
    async with serving(limits) as server:
        streams = []
        for _ in range(6):
            stream = await server.shake(trusting())
            await stream.send_all(said)
            if said == GET:
                assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
            streams.append(stream)
            assert await server.is_fine()
        for stream in streams:
            await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("path", [b"/never", b"/endless"])
@pytest.mark.parametrize("data", [b"\x17\x03\x03\x00\x20" + b"\xff" * 32, GET, b""])
async def test_garbage_within(path: bytes, data: bytes) -> None:
    """Somebody on the way, or a client without manners: a stream ends, a handler does not."""
    async with serving(HttpLimits(drain_s=0.05, header_s=1)) as server:
        stream = await server.shake(trusting())
        await stream.send_all(GET.replace(b"/", path, 1))
        if path == b"/endless":
            await stream.receive_some(1)
        await stream.transport_stream.send_all(data)
        await stream.transport_stream.send_eof()
        if path == b"/endless":
            while await stream.transport_stream.receive_some(65536):
                pass
        assert await server.is_fine()
        await trio.aclose_forcefully(stream)


async def test_nothing_stays_open() -> None:
    """Whatever became of a handshake or a connection, its descriptor is closed."""
    async with serving(HttpLimits(handshake_s=1.0)) as server:

        async def send(data: bytes) -> None:
            async with await server.connect() as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(data)
                await read_to_end(stream)

        assert await server.is_fine()
        before = descriptors(os.getpid())
        async with trio.open_nursery() as nursery:
            for data in (*UNFINISHED.values(), *GARBAGE.values()):
                nursery.start_soon(send, data)
        assert await server.is_fine()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert descriptors(os.getpid()) == before


# -- the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", UNFINISHED)
async def test_the_end_does_not_wait_for_handshakes(what: str) -> None:
    async with serving(HttpLimits(handshake_s=1000, drain_s=math.inf)) as server:
        async with await server.connect() as stream:
            await stream.send_all(UNFINISHED[what])
            # The server has seen the first once it has answered a second.
            assert await server.is_fine()
            assert await server.stop() < 1
            assert len(await read_to_end(stream)) < 8192
        assert server.crashes == []


@pytest.mark.parametrize("sent", [b"", GET, GET[:9], GET.replace(b"/", b"/endless", 1)])
async def test_the_end_comes_within_2_s(sent: bytes) -> None:
    """With the daemons' own limits."""
    async with serving() as server:
        streams = []
        for _ in range(3):
            stream = await server.shake(trusting())
            if sent:
                await stream.send_all(sent)
            streams.append(stream)
        assert await server.is_fine()
        assert await server.stop() < 2
        for stream in streams:
            await trio.aclose_forcefully(stream)
        assert server.crashes == []
