"""The client of the operator API, and servers that are not what they should be."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.cli.ctl.watch import MARGIN_S
from hbtrio.client import client as ctl_client
from hbtrio.client.address import Address
from hbtrio.client.client import ANSWER_S, BODY_S, CONNECT_S, CtlClient
from hbtrio.client.stream import LINE_BYTES, SILENCE_S
from hbtrio.errors import BACKLOG_FULL, ExitStatus, UserError
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.wire.operator import EventLine, ProgressLine, ReplyFault, Status, parse
from support.control_socket import Ctl, call, socket_path
from support.json_values import nested

UUID = "11111111-1111-4111-8111-111111111111"
UNKNOWN = (
    f"the outcome of the vote on stop on {UUID} is unknown; see `hbtrio ctl status` and "
    "`hbtrio ctl events`"
)

OPENING = b'{"step": "vote", "event": "stop", "window": "VOTE", "seconds": 30}\n'
CLOSING = b'{"step": "vote", "event": "stop", "result": "accept", "reason": ""}\n'

#: What may be the matter with a socket that does not answer in HTTP.
OR_ANOTHER = "; or this is not the operator socket"

Script = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[str]:
    """Reads the request of each connection, does as the script says, and closes.

    It is too old to let requests expire.
    """

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while not (request.startswith(b"GET") or b"}" in request) or b"\r\n\r\n" not in request:
                request += await stream.receive_some(4096)
            with suppress(trio.BrokenResourceError):  # the client has hung up
                await (no_clock if b"/v1/clock" in request else script)(stream)

    with socket_path() as path, trio.fail_after(10_000):
        listener = await open_unix_listener(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield path
            nursery.cancel_scope.cancel()


def says(*pieces: bytes | float) -> Script:
    """Sends the bytes, pausing for the numbers of seconds between them."""

    async def script(stream: trio.SocketStream) -> None:
        for piece in pieces:
            if isinstance(piece, bytes):
                await stream.send_all(piece)
            else:
                await trio.sleep(piece)

    return script


def head(status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/x-ndjson", *more, "", ""]
    return "\r\n".join(lines).encode()


NO_CLOCK = head("404 Not Found", "content-length: 0", "connection: close")


async def no_clock(stream: trio.SocketStream) -> None:
    await stream.send_all(NO_CLOCK)


CHUNKED = head("200 OK", "transfer-encoding: chunked")


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


END = b"0\r\n\r\n"


async def fault_of(script: Script, *words: str) -> tuple[str, ExitStatus, float]:
    """The fault without the address, its status, and after how many seconds it came."""
    async with server(script) as path:
        began = trio.current_time()
        with pytest.raises(UserError) as caught:
            await call(path, *words)
        text = str(caught.value)
        assert text.isprintable()
        lasted_s = round(trio.current_time() - began, 3)
        return text.removeprefix(f"unix:{path}: "), caught.value.status, lasted_s


def fails_with(body: Any, status: str) -> Script:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return says(head(status, f"content-length: {len(data)}") + data)


# -- streams of lines -----------------------------------------------------------------------

VOTE = ("vote", UUID, "stop")


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_lines_in_any_pieces(autojump_clock: MockClock, size: int) -> None:
    data = b"\n" + OPENING + b"\n\n" + CLOSING + b"never read"
    pieces = [chunk(data[start : start + size]) for start in range(0, len(data), size)]
    async with server(says(CHUNKED, *pieces)) as path:
        called = await call(path, *VOTE)
    assert called.lines == ["vote on stop: VOTE window of 30 s", "vote on stop: accepted"]
    assert called.status == ExitStatus.DONE


@pytest.mark.parametrize(
    ("script", "said", "after_s"),
    [
        (says(), f"the daemon went away{OR_ANOTHER}", 0),
        (says(3), f"the daemon went away{OR_ANOTHER}", 3),
        (says(b"HTTP/1.1 2"), f"the daemon went away{OR_ANOTHER}", 0),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), f"the daemon went away{OR_ANOTHER}", 0),
        (says(b"\x1b[31m\r\n\r\n"), f"the daemon went away{OR_ANOTHER}", 0),
        (says(b"x" * 200_000), f"the daemon went away{OR_ANOTHER}", 0),
        (says(1000), f"no answer from the daemon within {ANSWER_S:g} s", ANSWER_S),
        (says(head()), "the daemon ended it without an outcome", 0),
        (says(CHUNKED, chunk(OPENING)), "the daemon went away", 0),
        (says(CHUNKED, chunk(OPENING), 5), "the daemon went away", 5),
        (says(CHUNKED, chunk(OPENING), b"zz\r\n"), "the daemon went away", 0),
        (says(CHUNKED, chunk(OPENING), END), "the daemon ended it without an outcome", 0),
        (
            says(CHUNKED, chunk(OPENING), chunk(b"{"), END),
            "the daemon stopped in the middle of a line",
            0,
        ),
        (says(CHUNKED, 1000), f"nothing from the daemon for {MARGIN_S:g} s", MARGIN_S),
        (
            says(CHUNKED, chunk(OPENING), 1000),
            f"nothing from the daemon for {30 + MARGIN_S:g} s",
            30 + MARGIN_S,
        ),
        (
            says(CHUNKED, chunk(b"hello\n")),
            "the daemon sent an invalid line: not JSON",
            0,
        ),
        (
            says(CHUNKED, chunk(b"[1]\n")),
            "the daemon sent an invalid line: Expected `object`, got `array`",
            0,
        ),
        (
            says(CHUNKED, chunk(b'{"step": 1}\n')),
            "the daemon sent an invalid line: Expected `str`, got `int`",
            0,
        ),
        (
            says(CHUNKED, chunk(b'{"stepp": "\x1b[1m"}\n')),
            "the daemon sent an invalid line: not JSON",
            0,
        ),
        (
            says(CHUNKED, chunk(b'{"step": "vote", "seconds": 1e999}\n')),
            "the daemon sent an invalid line: Number out of range",
            0,
        ),
        (
            says(CHUNKED, *[chunk(b"x" * 65536)] * 20),
            f"the daemon sent a line of over {LINE_BYTES} bytes",
            0,
        ),
    ],
)
async def test_a_vote_whose_outcome_is_not_known(
    autojump_clock: MockClock, script: Script, said: str, after_s: float
) -> None:
    assert await fault_of(script, *VOTE) == (
        f"{said}; {UNKNOWN}",
        ExitStatus.UNREACHABLE,
        after_s,
    )


async def test_an_empty_line_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    quiet = (chunk(b"\n"), MARGIN_S - 1)
    script = says(CHUNKED, MARGIN_S - 1, *quiet * 10, chunk(OPENING), 44, chunk(CLOSING), END)
    async with server(script) as path:
        called = await call(path, *VOTE)
    assert called.status == ExitStatus.DONE


async def test_words_that_nobody_knows_yet(autojump_clock: MockClock) -> None:
    """A newer host may say more than this version understands."""
    script = says(
        CHUNKED,
        chunk(b'{"step": "thinking"}\n'),
        chunk(b'{"step": "fence", "window": "FENCE", "seconds": 5, "colour": [1]}\n'),
        chunk(b'{"step": "fence", "result": "up"}\n'),
        chunk(b'{"step": "end", "outcome": "postponed", "reason": "\\u009b1m"}\n'),
    )
    async with server(script) as path:
        called = await call(path, "act", UUID, "stop")
    assert called.lines == [
        "fence: FENCE window of 5 s",
        "fence: up",
        "stop: postponed (\\x9b1m)",
    ]
    assert called.status == ExitStatus.FAILED


@pytest.mark.parametrize("seconds", ["-5", "1e300"])
async def test_windows_of_an_odd_length(autojump_clock: MockClock, seconds: str) -> None:
    opening = OPENING.replace(b"30", seconds.encode())
    async with server(says(CHUNKED, chunk(opening), 3, chunk(CLOSING), END)) as path:
        called = await call(path, *VOTE, terminal=True)
    assert called.status == ExitStatus.DONE


async def test_a_silent_stream_of_events(autojump_clock: MockClock) -> None:
    line = b'{"kind": "loss"}\n'
    script = says(CHUNKED, chunk(line), 44, chunk(b"\n"), 44, chunk(line), 1000)
    assert await fault_of(script, "events", "--follow") == (
        f"nothing from the daemon for {SILENCE_S:g} s",
        ExitStatus.UNREACHABLE,
        88 + SILENCE_S,
    )


async def test_events_that_end_are_over(autojump_clock: MockClock) -> None:
    async with server(says(CHUNKED, chunk(b'{"kind": "loss"}\n'), END)) as path:
        called = await call(path, "events")
    assert (called.text, called.status) == ("loss\n", ExitStatus.DONE)


async def test_an_event_that_has_a_name_needs_no_status(autojump_clock: MockClock) -> None:
    """The name is that of the time, and this server has no status."""
    named = {"kind": "loss", "uuid": UUID, "name": "web-1"}
    body = b"".join(json.dumps(one).encode() + b"\n" for one in (named, named | {"name": ""}))
    async with server(says(CHUNKED, chunk(body), END)) as path:
        called = await call(path, "events")
    assert called.lines == [f"{UUID} (web-1) loss", f"{UUID} loss"]
    assert called.status == ExitStatus.DONE


async def test_hanging_up_is_noticed_by_the_server(autojump_clock: MockClock) -> None:
    gone = trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await stream.send_all(CHUNKED + chunk(b'{"kind": "loss"}\n'))
        assert await stream.receive_some(1) == b""
        gone.set()

    async with server(script) as path, trio.open_nursery() as nursery:
        called = Ctl()
        nursery.start_soon(called.run, path, "events", "--follow")
        await trio.testing.wait_all_tasks_blocked()
        assert called.text == "loss\n"
        nursery.cancel_scope.cancel()
    await gone.wait()


# -- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("400 Bad Request", ExitStatus.USAGE),
        ("404 Not Found", ExitStatus.FAILED),
        ("405 Method Not Allowed", ExitStatus.USAGE),
        ("409 Conflict", ExitStatus.FAILED),
        ("413 Too Large", ExitStatus.USAGE),
        ("500 Oh", ExitStatus.FAILED),
        ("503 Busy", ExitStatus.FAILED),
        ("504 Unknown", ExitStatus.UNREACHABLE),
    ],
)
async def test_a_refusal_and_its_reason(
    autojump_clock: MockClock, code: str, status: ExitStatus
) -> None:
    script = fails_with({"status": "fail", "reason": "not \u202e now\nor \x1b ever"}, code)
    assert await fault_of(script, *VOTE) == ("not \\u202e now\\nor \\x1b ever", status, 0)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("404 Not Found", b"<html>nginx</html>"),
        ("404 Not Found", b"[]"),
        ("404 Not Found", {"reason": 1}),
        ("500 No", b""),
        ("502 No", b"[" * 60_000),
        ("503 No", b"x" * 1_000_000),
        ("301 Moved", b""),
        ("204 Nothing", b""),
    ],
)
async def test_a_refusal_of_somebody_else(autojump_clock: MockClock, code: str, body: Any) -> None:
    assert await fault_of(fails_with(body, code), *VOTE) == (
        f"HTTP status {code[:3]} without a reason; is it an hbtrio daemon?",
        ExitStatus.FAILED,
        0,
    )


@pytest.mark.parametrize("reason", ["no such path", "unknown User-Agent"])
async def test_the_port_of_the_vim(autojump_clock: MockClock, reason: str) -> None:
    script = fails_with({"status": "fail", "reason": reason}, "403 Forbidden")
    assert await fault_of(script, *VOTE) == (
        "this is the agent's API for the VIM, not its operator API",
        ExitStatus.USAGE,
        0,
    )


async def test_a_refusal_that_never_comes_to_its_end(autojump_clock: MockClock) -> None:
    script = says(head("409 Conflict", "content-length: 100"), b'{"reason": ', 1000)
    assert await fault_of(script, *VOTE) == (
        "HTTP status 409 without a reason; is it an hbtrio daemon?",
        ExitStatus.FAILED,
        ANSWER_S,
    )


# -- status ---------------------------------------------------------------------------------

HOST = {"hostname": "h", "version": "1", "started": "2026-01-01T00:00:00", "heartbeating": 0}


async def test_a_status_of_the_least_that_a_host_must_say(autojump_clock: MockClock) -> None:
    body = json.dumps({"host": HOST, "instances": []}).encode()
    async with server(says(head(), body)) as path:
        called = await call(path, "status")
    assert called.text == "h: 0 of 0 heartbeating, hbtrio 1 since 2026-01-01 00:00:00\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b'{"a":' * 60_000, "not JSON"),
        (b"{}", "Object missing required field `host`"),
        (
            json.dumps({"host": HOST, "instances": [{}]}).encode(),
            "Object missing required field `uuid`",
        ),
        (
            json.dumps({"host": HOST | {"late": 1}, "instances": []}).encode(),
            "Expected `bool`, got `int`",
        ),
    ],
)
async def test_a_status_that_is_none(autojump_clock: MockClock, body: bytes, said: str) -> None:
    assert await fault_of(says(head(), body), "status") == (
        f"the daemon sent an invalid status: {said}",
        ExitStatus.UNREACHABLE,
        0,
    )


async def test_a_status_without_an_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trickle(stream: trio.SocketStream) -> None:
        await stream.send_all(CHUNKED)
        while True:
            await stream.send_all(chunk(b" "))
            await trio.sleep(1)

    assert await fault_of(trickle, "status") == (
        f"the daemon's status took over {BODY_S:g} s",
        ExitStatus.UNREACHABLE,
        BODY_S,
    )
    # Of the real size it would only take longer.
    monkeypatch.setattr(ctl_client, "BODY_BYTES", 100_000)
    assert await fault_of(says(CHUNKED, *[chunk(b" " * 65536)] * 3), "status") == (
        "the daemon's status is over 100000 bytes",
        ExitStatus.UNREACHABLE,
        0,
    )
    assert await fault_of(says(CHUNKED, chunk(b"{"), 5), "status") == (
        "the daemon went away",
        ExitStatus.UNREACHABLE,
        5,
    )


async def test_uuids_that_are_none_are_no_candidates(autojump_clock: MockClock) -> None:
    """What a server says ends up in no path of a request."""
    instance = {"uuid": "../../x", "name": "x", "state": "", "why": "", "health": ""}
    body = json.dumps({"host": HOST, "instances": [instance | {"beats": 0, "missed": 0}]}).encode()
    assert await fault_of(says(head(), body), "vote", "x", "stop") == (
        "no instance x on this host",
        ExitStatus.FAILED,
        0,
    )


# -- a full backlog -------------------------------------------------------------------------


@contextmanager
def full_backlog() -> Iterator[tuple[str, socket.socket]]:
    """A socket on which one client waits, and no other has a place."""
    with (
        socket_path() as path,
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as first,
    ):
        listener.bind(path)
        listener.listen(0)
        listener.setblocking(False)
        first.connect(path)
        yield path, listener


async def test_a_backlog_that_stays_full_is_named(autojump_clock: MockClock) -> None:
    with full_backlog() as (path, _):
        for words in (("status",), VOTE):
            began = trio.current_time()
            with pytest.raises(UserError) as caught:
                await call(path, *words)
            assert str(caught.value) == f"unix:{path}: {BACKLOG_FULL}"
            assert caught.value.status == ExitStatus.UNREACHABLE
            assert CONNECT_S <= trio.current_time() - began < CONNECT_S + 0.2


async def test_a_place_in_the_backlog_is_waited_for(autojump_clock: MockClock) -> None:
    async def serve(listener: socket.socket) -> None:
        await trio.sleep(CONNECT_S - 0.5)
        listener.accept()[0].close()
        await trio.lowlevel.wait_readable(listener)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(listener.accept()[0])) as one:
            assert (await one.receive_some(4096)).startswith(b"GET /v1/status ")
            await one.send_all(head() + json.dumps({"host": HOST, "instances": []}).encode())

    with full_backlog() as (path, listener):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener)
            async with CtlClient(Address.parse(f"unix:{path}")) as client:
                assert (await client.status(Status)).host.hostname == "h"


# -- TCP ------------------------------------------------------------------------------------


async def test_a_host_on_tcp() -> None:
    """In real time, as a loopback connection is not there in the same instant."""
    body = json.dumps({"host": HOST, "instances": []}).encode()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            assert (await stream.receive_some(4096)).startswith(b"GET /v1/status HTTP/1.1\r\n")
            await stream.send_all(head() + body)

    with trio.fail_after(20):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            async with CtlClient(Address.parse(f"http://127.0.0.1:{port}")) as client:
                assert (await client.status(Status)).host.hostname == "h"
            nursery.cancel_scope.cancel()
        async with CtlClient(Address.parse(f"http://127.0.0.1:{port}/")) as client:
            with pytest.raises(UserError, match="refused; is hbtrio host or agent") as no:
                await client.status(Status)
        assert no.value.status == ExitStatus.UNREACHABLE


# -- the readers ----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ProgressLine, EventLine, Status])
@given(data=st.binary() | st.text().map(str.encode))
def test_no_bytes_raise_anything_but_a_reply_fault(cls: type[Any], data: bytes) -> None:
    with suppress(ReplyFault):
        assert isinstance(parse(data, cls), cls)


_JSON = nested(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.text()
)


@pytest.mark.slow
@given(
    members=st.dictionaries(
        st.sampled_from(["step", "event", "seconds", "argv", "reason", "x"]), _JSON
    )
)
def test_any_object_is_read_or_refused(members: dict[str, Any]) -> None:
    try:
        said = parse(json.dumps(members).encode(), ProgressLine)
    except ReplyFault:
        return
    assert said.step == members["step"]


@pytest.mark.parametrize(
    ("text", "socket", "base"),
    [
        ("unix:/run/hbtrio/host.sock", "/run/hbtrio/host.sock", "http://host"),
        ("unix:///run/x", "/run/x", "http://host"),
        ("unix:x.sock", "x.sock", "http://host"),
        ("http://10.0.0.1:8080", None, "http://10.0.0.1:8080"),
        ("http://[::1]:8080/", None, "http://[::1]:8080/"),
    ],
)
def test_addresses(text: str, socket: str | None, base: str) -> None:
    assert Address.parse(text) == Address(text, socket, base)
