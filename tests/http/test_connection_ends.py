"""How an HTTP connection ends: streams, disconnects, faults of the application, draining."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from trio.testing import (
    MockClock,
    wait_all_tasks_blocked,
)

from hbtrio.http.limits import HttpLimits
from support.http_cases import (
    GET,
    Echo,
    Receive,
    Scope,
    Send,
    answer,
    ask,
    failure,
    quiet,
    reply,
    serving,
    stream_app,
)

# -- streams and disconnects


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "text/event-stream"])
async def test_a_stream_arrives_at_once_and_ends_with_its_reader(
    clock: MockClock, media_type: str
) -> None:
    ended = trio.Event()
    async with serving(stream_app(ended, 1e9, media_type)) as client:
        await client.send(GET)
        expected = b'8\r\n{"n":0}\n\r\n'
        heard = await client.receive(1)
        while not heard.endswith(expected):
            heard += await client.receive(1)
        assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
        assert media_type.encode() in heard
        assert b"transfer-encoding: chunked\r\n" in heard.lower()
        assert not ended.is_set()
        await client.stream.aclose()
        await client.closed.wait()
        assert ended.is_set()
        assert client.crashes == []


async def test_the_head_of_a_stream_does_not_wait_for_its_first_piece(clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await trio.sleep_forever()

    async with serving(app) as client:
        await client.send(GET)
        assert await client.receive(15) == b"HTTP/1.1 200 OK"


async def test_a_stream_to_http_1_0_is_ended_by_close(clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for piece in (b"a", b"", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    heard = await ask(app, b"GET / HTTP/1.0\r\n\r\n")
    assert heard == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab"


async def test_head_of_an_endless_stream_ends_and_the_connection_goes_on(clock: MockClock) -> None:
    # A generator that was started and not closed would fail this test with a ResourceWarning.
    app = stream_app(trio.Event(), 0, "text/plain")
    async with serving(app) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.send(b"HEAD /no HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heard = await client.hear_all()
        assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
        assert heard.count(b"\r\n\r\n") == 2
        assert heard[heard.index(b"\r\n\r\n") + 4 :].startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert client.crashes == []


@pytest.mark.parametrize("listens", [True, False])
async def test_head_of_a_stream_by_a_bare_application(clock: MockClock, listens: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        if listens:
            await receive()
            assert (await receive())["type"] == "http.disconnect"
            return
        while True:
            await send({"type": "http.response.body", "body": b"z", "more_body": True})

    heard = await ask(app, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert heard == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".replace(
        b"transfer-encoding", b"Transfer-Encoding"
    )


async def test_a_stream_that_listens_to_nothing_is_cancelled_when_its_reader_has_gone(
    clock: MockClock,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"z", "more_body": True})

    async with serving(app) as client:
        await client.send(GET)
        await client.receive(100)
        await client.stream.aclose()
        await client.closed.wait()
        assert client.crashes == []


async def test_is_disconnected_polls_without_waiting(clock: MockClock) -> None:
    seen: list[bool] = []
    gone = trio.Event()

    async def poll(request: Request) -> Response:
        await request.body()
        seen.append(await request.is_disconnected())
        await gone.wait()
        await trio.testing.wait_all_tasks_blocked()
        seen.append(await request.is_disconnected())
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", poll)])
    async with serving(app) as client:
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        gone.set()
        await client.closed.wait()
        assert seen == [False, True]
        assert client.crashes == []


async def test_an_ordinary_handler_finishes_for_a_client_that_has_gone(clock: MockClock) -> None:
    gone = trio.Event()
    finished = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gone.wait()
        await trio.testing.wait_all_tasks_blocked()
        await reply(send, b"nobody reads this")
        finished.set()

    async with serving(app) as client:
        await client.send(GET)
        await client.stream.aclose()
        gone.set()
        await client.closed.wait()
        assert finished.is_set()
        assert client.crashes == []


# -- applications that fail


async def test_a_crash_before_the_answer_is_500(clock: MockClock) -> None:
    fault = ValueError("boom")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise fault

    async with serving(app) as client:
        await client.send(GET, GET)
        assert await client.hear_all() == failure("500 Internal Server Error", "internal error")
        assert client.crashes == [fault]


async def test_a_crash_between_head_and_body_is_500(clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        length = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        raise ValueError("boom")

    async with serving(app) as client:
        await client.send(GET)
        assert await client.hear_all() == failure("500 Internal Server Error", "internal error")
        assert [type(crash) for crash in client.crashes] == [ValueError]


async def test_a_crash_in_a_stream_leaves_it_visibly_incomplete(clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise ValueError("boom")

    async with serving(app) as client:
        await client.send(GET)
        heard = await client.hear_all()
        assert heard == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert [type(crash) for crash in client.crashes] == [ValueError]


async def test_starlettes_own_500_is_followed_by_a_close(clock: MockClock) -> None:
    async def boom(request: Request) -> Response:
        raise ValueError("boom")

    app = Starlette(routes=[Route("/", boom)])
    async with serving(app) as client:
        await client.send(GET)
        heard = await client.hear_all()
        assert heard.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert heard.endswith(b"\r\n\r\nInternal Server Error")
        assert [str(crash) for crash in client.crashes] == ["boom"]


HEAD_OF_5 = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"5")],
}
BODY = {"type": "http.response.body", "body": b"12345"}


@pytest.mark.parametrize(
    ("messages", "answered"),
    [
        pytest.param([], 500, id="no answer"),
        pytest.param([BODY], 500, id="body first"),
        pytest.param([HEAD_OF_5, HEAD_OF_5], 500, id="two heads"),
        pytest.param([{"type": "http.response.trailers"}], 500, id="unknown"),
        pytest.param([HEAD_OF_5, BODY, BODY], 200, id="two bodies"),
        pytest.param([HEAD_OF_5, BODY | {"body": b"123456"}], None, id="too much"),
        pytest.param([HEAD_OF_5, BODY | {"body": b"1234"}], None, id="too little"),
        pytest.param([{"type": "http.response.start", "status": 99}, BODY], 500, id="no status"),
        pytest.param(
            [HEAD_OF_5 | {"headers": [(b"a", b"b\r\nc: d")]}, BODY], 500, id="header injection"
        ),
    ],
)
async def test_illegal_answers_are_crashes(
    clock: MockClock, messages: list[dict[str, Any]], answered: int | None
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async with serving(app) as client:
        await client.send(GET)
        heard = await client.hear_all()
        assert len(client.crashes) == 1
        if answered == 500:
            assert heard == failure("500 Internal Server Error", "internal error")
        else:
            assert heard == (answer(b"12345") if answered == 200 else b"")


# -- draining


async def test_draining_closes_an_idle_connection_at_once(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        await client.send(GET)
        await client.receive(len(answer(b"GET / ")))
        await trio.testing.wait_all_tasks_blocked()
        client.drain.begin()
        await client.closed.wait()
        assert client.elapsed_s == 0


async def test_draining_completes_a_request_that_has_begun_to_arrive(clock: MockClock) -> None:
    async with serving(Echo()) as client:
        await client.send(GET[:5])
        await trio.testing.wait_all_tasks_blocked()
        client.drain.begin()
        await client.send(GET[5:])
        assert await client.hear_all() == answer(b"GET / ", "200 OK", "Connection: close")


async def test_draining_ends_a_connection_whose_answer_was_already_under_way(
    clock: MockClock,
) -> None:
    resume = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await resume.wait()
        await send({"type": "http.response.body", "body": b"end"})

    async with serving(app) as client:
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        client.drain.begin()
        resume.set()
        heard = await client.hear_all()
        assert heard.endswith(b"\r\n\r\n3\r\nend\r\n0\r\n\r\n")
        # Its head had promised keep-alive; the idle wait it then begins is over before it starts.
        assert client.elapsed_s == 0


# -- its place is given away


@pytest.mark.parametrize("said", [b"", GET[:-2], GET])
async def test_a_place_that_is_given_away(clock: MockClock, said: bytes) -> None:
    """Even in the moment in which the last bytes come the application is not asked any more."""
    app = Echo()
    async with serving(app, HttpLimits(max_connections=1)) as dialogue:
        await wait_all_tasks_blocked()
        if said:
            await dialogue.send(said)
        dialogue.places.take(quiet)
        assert await dialogue.hear_all() == b""
        assert dialogue.elapsed_s == 0
        assert (app.scopes, dialogue.crashes) == ([], [])


async def test_a_place_is_kept_for_as_long_as_an_answer_lasts(clock: MockClock) -> None:
    ended = trio.Event()
    limits = HttpLimits(max_connections=1)
    async with serving(stream_app(ended, 5, "text/plain"), limits) as dialogue:
        await dialogue.send(GET)
        await dialogue.receive(1)
        for _ in range(3):
            await trio.sleep(1000)
            dialogue.places.take(quiet)
        assert not ended.is_set()
        await dialogue.stream.aclose()
        await dialogue.closed.wait()
        assert (ended.is_set(), dialogue.crashes) == (True, [])
