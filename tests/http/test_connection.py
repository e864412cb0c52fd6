"""One HTTP connection over memory streams: bytes in, bytes out, every timeout on the fake clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import (
    MockClock,
    lockstep_stream_pair,
    memory_stream_pair,
)

from hbtrio.http.connection import LINGER_S
from hbtrio.http.limits import HttpLimits
from hbtrio.http.request import DELIVERED_EXTENSION, DISPLACED_EXTENSION
from support.http_cases import (
    GET,
    Echo,
    Receive,
    Scope,
    Send,
    answer,
    ask,
    failure,
    reply,
    serving,
    stream_app,
)

# -- requests that are served


async def test_get_with_its_scope(clock: MockClock) -> None:
    echo = Echo()
    heard = await ask(echo, b"GET /a%20b/%C3%A9?x=%31 HTTP/1.1\r\nHost: x\r\nX-Y: 1\r\n\r\n")
    assert heard == answer("GET /a b/é ".encode())
    assert callable(echo.scopes[0]["extensions"].pop(DELIVERED_EXTENSION))
    assert not echo.scopes[0]["extensions"].pop(DISPLACED_EXTENSION).begun
    assert echo.scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a b/é",
            "raw_path": b"/a%20b/%C3%A9",
            "query_string": b"x=%31",
            "root_path": "",
            "headers": [(b"host", b"x"), (b"x-y", b"1")],
            "client": None,
            "server": None,
            "extensions": {},
        }
    ]


async def test_byte_by_byte_is_the_same(clock: MockClock) -> None:
    request = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + GET
    pieces = [request[i : i + 1] for i in range(len(request))]
    assert await ask(Echo(), *pieces) == answer(b"POST /p hello") + answer(b"GET / ")


async def test_keep_alive_and_connection_close(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        for _ in range(3):
            await client.send(GET)
            expected = answer(b"GET / ")
            assert await client.receive(len(expected)) == expected
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert await client.hear_all() == answer(b"GET / ", "200 OK", "Connection: close")


async def test_http_1_0_is_answered_and_closed(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert await client.hear_all() == answer(b"GET / ", "200 OK", "Connection: close")


async def test_pipelined_requests_are_answered_in_order(clock: MockClock) -> None:
    requests = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(200)]
    expected = [answer(b"GET /%d " % i) for i in range(200)]
    assert await ask(Echo(), b"".join(requests)) == b"".join(expected)


async def test_read_ahead_is_bounded(clock: MockClock) -> None:
    taken = 0
    client_stream, server_stream = memory_stream_pair()
    real = server_stream.receive_some

    async def count(max_bytes: int | None = None) -> bytes:
        nonlocal taken
        data = await real(max_bytes)
        taken += len(data)
        return bytes(data)

    server_stream.receive_some = count  # type: ignore[method-assign]
    asked = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await trio.sleep_forever()

    limits = HttpLimits(max_head_bytes=1000)
    async with serving(app, limits, lambda: (client_stream, server_stream)) as client:
        await client.send(GET * 10_000)
        await asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert 1000 <= taken < 2000


@pytest.mark.parametrize("target", [b"/", b"//[::1", b"/%00%ff", b"/?%zz", b"/[\\]^`{|}#?"])
async def test_odd_targets_reach_the_application(clock: MockClock, target: bytes) -> None:
    echo = Echo()
    await ask(echo, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    path, _, query = target.partition(b"?")
    assert (echo.scopes[0]["raw_path"], echo.scopes[0]["query_string"]) == (path, query)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://h/a?b", "/a", b"b"),
        (b"HTTPS://h", "/", b""),
        (b"http://h?b", "/", b"b"),
        (b"http://[::1/a", "/a", b""),
    ],
)
async def test_absolute_form(clock: MockClock, target: bytes, path: str, query: bytes) -> None:
    echo = Echo()
    await ask(echo, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (echo.scopes[0]["path"], echo.scopes[0]["query_string"]) == (path, query)


async def test_asterisk_form_is_for_options(clock: MockClock) -> None:
    assert await ask(Echo(), b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n") == answer(b"OPTIONS * ")


@pytest.mark.parametrize(
    "host", [b"", b"h", b"h:80", b"h:", b"127.0.0.1:2410", b"[::1]", b"[::1]:1", b"a_b~%41"]
)
async def test_good_hosts(clock: MockClock, host: bytes) -> None:
    assert await ask(Echo(), b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") == answer(b"GET / ")


async def test_chunked_body_and_100_continue(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n")
        await client.send(b"Transfer-Encoding: chunked\r\n\r\n")
        resume = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await client.receive(len(resume)) == resume
        await client.send(b"3\r\nabc\r\n", b"2;ext\r\nde\r\n", b"0\r\nTrailer: 1\r\n\r\n")
        expected = answer(b"PUT / abcde")
        assert await client.receive(len(expected)) == expected


async def test_no_100_continue_when_the_body_is_already_here(clock: MockClock) -> None:
    request = b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nZ"
    assert await ask(Echo(), request) == answer(b"PUT / Z")


async def test_a_post_without_length_is_the_applications_business(clock: MockClock) -> None:
    assert await ask(Echo(), b"POST / HTTP/1.1\r\nHost: x\r\n\r\n") == answer(b"POST / ")


async def test_head_gets_the_head_and_the_connection_goes_on(clock: MockClock) -> None:
    head = answer(b"HEAD / ")[: -len(b"HEAD / ")]
    request = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert await ask(Echo(), request, GET) == head + answer(b"GET / ")


async def test_a_client_that_only_closed_its_half_gets_its_answer(clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.testing.wait_all_tasks_blocked()
        await reply(send, b"late")

    assert await ask(app, GET) == answer(b"late")


@pytest.mark.parametrize("status", [204, 304, 299])
async def test_answers_without_body_and_unknown_status(clock: MockClock, status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    heard = await ask(app, GET)
    assert heard.startswith(f"HTTP/1.1 {status} ".encode())


# -- requests that the driver refuses

REFUSED = {
    b"\x00" * 100: ("400 Bad Request", "illegal request line"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": ("400 Bad Request", "illegal request line"),
    b"GET /\r\n\r\n": ("400 Bad Request", "illegal request line"),
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n": ("400 Bad Request", "illegal request line"),
    b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n": ("400 Bad Request", "illegal header line"),
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n": ("400 Bad Request", "illegal header line"),
    b"GET / HTTP/1.1\r\n\r\n": ("400 Bad Request", "Missing mandatory Host"),
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n": ("400 Bad Request", "Found multiple Host"),
    b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n": ("400 Bad Request", "malformed Host"),
    b"GET / HTTP/1.1\r\nHost: [1.2.3.4]\r\n\r\n": ("400 Bad Request", "malformed Host"),
    b"GET / HTTP/1.1\r\nHost: h:65536\r\n\r\n": ("400 Bad Request", "malformed Host"),
    b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n": ("400 Bad Request", "malformed Host"),
    b"GET / HTTP/1.0\r\nHost: [::::]\r\n\r\n": ("400 Bad Request", "malformed Host"),
    b"GET foo HTTP/1.1\r\nHost: x\r\n\r\n": ("400 Bad Request", "unsupported request target"),
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n": ("400 Bad Request", "unsupported request target"),
    b"GET ftp://h/ HTTP/1.1\r\nHost: x\r\n\r\n": ("400 Bad Request", "unsupported request target"),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n": (
        "400 Bad Request",
        "ambiguous framing of the body",
    ),
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n": (
        "400 Bad Request",
        "ambiguous framing of the body",
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": (
        "400 Bad Request",
        "conflicting Content-Length headers",
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n": (
        "400 Bad Request",
        "bad Content-Length",
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n": (
        "400 Bad Request",
        "illegal chunk header",
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n": (
        "501 Not Implemented",
        "Only Transfer-Encoding",
    ),
    b"CONNECT h:1 HTTP/1.1\r\nHost: x\r\n\r\n": (
        "501 Not Implemented",
        "this server is not a proxy",
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": (
        "505 HTTP Version Not Supported",
        "only HTTP/1.0 and HTTP/1.1 are served",
    ),
    b"GET / HTTP/9.9\r\n\r\n": (
        "505 HTTP Version Not Supported",
        "only HTTP/1.0 and HTTP/1.1 are served",
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\nExpect: 100-continue\r\n\r\n": (
        "413 Request Entity Too Large",
        "the body is larger than 65536 bytes",
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n" + b"z" * 65537: (
        "413 Request Entity Too Large",
        "the body is larger than 65536 bytes",
    ),
    b"G" * 200_000: ("431 Request Header Fields Too Large", "Receive buffer too long"),
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000 + b"\r\n\r\n": (
        "431 Request Header Fields Too Large",
        "Receive buffer too long",
    ),
    b"GET / HT": ("400 Bad Request", "peer unexpectedly closed connection"),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf": (
        "400 Bad Request",
        "peer closed connection without sending complete message body (received 4 bytes, "
        "expected 9)",
    ),
}


@pytest.mark.parametrize("request_bytes", REFUSED, ids=lambda data: repr(data[:60]))
async def test_refused(clock: MockClock, request_bytes: bytes) -> None:
    echo = Echo()
    assert await ask(echo, request_bytes) == failure(*REFUSED[request_bytes])
    assert echo.scopes == []


async def test_a_refused_head_request_gets_no_body(clock: MockClock) -> None:
    heard = await ask(Echo(), b"HEAD foo HTTP/1.1\r\nHost: x\r\n\r\n")
    whole = failure("400 Bad Request", "unsupported request target")
    assert heard == whole[: whole.index(b"\r\n\r\n") + 4]


async def test_a_malformed_request_after_a_head_request_gets_its_body(clock: MockClock) -> None:
    heard = await ask(Echo(), b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", b"?\r\n\r\n")
    head = answer(b"HEAD / ")[: -len(b"HEAD / ")]
    assert heard == head + failure("400 Bad Request", "illegal request line")


async def test_a_fault_after_a_good_request_closes(clock: MockClock) -> None:
    heard = await ask(Echo(), GET, b"\r\n\r\n", GET)
    expected = failure("400 Bad Request", "no request line received")
    assert heard == answer(b"GET / ") + expected


async def test_the_largest_head_and_the_largest_body(clock: MockClock) -> None:
    start = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\nA: "
    limit = HttpLimits().max_head_bytes
    head = start + b"a" * (limit - len(start) - 4) + b"\r\n\r\n"
    assert len(head) == limit
    body = b"z" * 65536
    assert await ask(Echo(), head + body) == answer(b"POST / " + body)
    heard = await ask(Echo(), head.replace(b"A: ", b"A: a") + body)
    assert heard == failure("431 Request Header Fields Too Large", "Receive buffer too long")


async def test_an_answer_comes_before_the_whole_of_what_is_refused(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n")
        expected = failure("413 Request Entity Too Large", "the body is larger than 65536 bytes")
        assert await client.receive(1 << 20) == expected
        await client.send(b"z" * 50_000)
        await client.closed.wait()
        assert client.elapsed_s == pytest.approx(LINGER_S)


async def test_one_who_will_not_stop_sending_is_cut_off(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        await client.send(b"?\r\n\r\n" + b"z" * 2_000_000)
        await client.closed.wait()


# -- time


async def test_a_new_connection_that_says_nothing(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        assert await client.receive(100) == b""
        assert client.elapsed_s == pytest.approx(10)


async def test_an_idle_connection_is_closed(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        await client.send(GET)
        assert await client.receive(1000) == answer(b"GET / ")
        assert client.elapsed_s == pytest.approx(30)


@pytest.mark.parametrize(
    ("request_bytes", "limit_s", "reason"),
    [
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 100, 10, "the request took too long to arrive"),
        (
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n" + b"a" * 100,
            7,
            "the body took too long to arrive",
        ),
    ],
)
async def test_a_drip_is_ended_although_it_never_pauses(
    clock: MockClock, request_bytes: bytes, limit_s: float, reason: str
) -> None:
    async with serving(Echo(), HttpLimits(body_s=7)) as client, trio.open_nursery() as nursery:
        await client.send(request_bytes)

        async def drip() -> None:
            while True:
                await trio.sleep(1)
                await client.send(b"a")

        nursery.start_soon(drip)
        assert await client.receive(1000) == failure("408 Request Timeout", reason)
        assert client.elapsed_s == pytest.approx(limit_s)
        nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_read_is_cut_off(clock: MockClock) -> None:
    ended_at: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"z" * 100, "more_body": True})
        finally:
            ended_at.append(trio.current_time())

    async with serving(app, HttpLimits(send_s=4), lockstep_stream_pair) as client:
        await client.send(GET)
        await client.receive(200)
        await client.closed.wait()
        assert client.elapsed_s == pytest.approx(4)
        assert ended_at == [pytest.approx(client.started_at + 4)]
        assert client.crashes == []


async def test_a_slow_reader_of_a_large_answer_is_not_cut_off(clock: MockClock) -> None:
    body = b"z" * 200_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, body)

    async with serving(app, HttpLimits(send_s=4), lockstep_stream_pair) as client:
        await client.send(GET)
        heard = b""
        while len(heard) < len(answer(body)):
            await trio.sleep(1)
            heard += await client.stream.receive_some(10_000)
        assert heard == answer(body)
        assert client.elapsed_s > 5 * 4


async def test_the_generator_of_a_stream_is_closed_when_a_send_is_cut_off(clock: MockClock) -> None:
    ended = trio.Event()
    app = stream_app(ended, 0, "text/plain")
    async with serving(app, HttpLimits(send_s=4), lockstep_stream_pair) as client:
        await client.send(GET)
        await client.receive(300)
        await client.closed.wait()
        assert ended.is_set()
        assert client.elapsed_s == pytest.approx(4)
        assert client.crashes == []


async def test_an_ordinary_handler_finishes_for_a_client_that_does_not_read(
    clock: MockClock,
) -> None:
    finished: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"z")
        finished.append((await receive())["type"])
        finished.append((await receive())["type"])

    async with serving(app, HttpLimits(send_s=4), lockstep_stream_pair) as client:
        await client.send(GET)
        await client.closed.wait()
        assert finished == ["http.request", "http.disconnect"]
        assert client.crashes == []
