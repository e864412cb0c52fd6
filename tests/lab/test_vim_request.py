"""The lab's VIM as a client: what it writes, what it takes for a reply, and when it gives up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.lab.fake_vim import loopback_socket
from hbtrio.lab.vim_request import VimReply, ask_agent

REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"timeout":"8"}'


@asynccontextmanager
async def serving(answer: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A server that answers each connection so; yields its port."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve() -> None:
        async with listener, await listener.accept() as stream:
            await answer(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def request(stream: trio.SocketStream, length: int) -> bytes:
    """What was asked, with a body of so many bytes."""
    raw = b""
    while b"\r\n\r\n" not in raw or len(raw.partition(b"\r\n\r\n")[2]) < length:
        raw += await stream.receive_some(4096)
    return raw


async def test_a_request_as_the_deployed_vim_makes_it_and_its_reply_before_the_close() -> None:
    got = b""
    replied, heard = trio.Event(), []

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal got
        got = await request(stream, 18)
        await stream.send_all(REPLY[:40])
        await stream.send_all(REPLY[40:])
        # Not closed before the client has taken it for whole.
        await replied.wait()

    def on_reply(reply: VimReply) -> None:
        heard.append(reply)
        replied.set()

    async with serving(answer) as port:
        with trio.fail_after(5):
            reply = await ask_agent(port, "POST", "/x", {"action": "stop"}, on_reply=on_reply)
    assert heard == [reply] == [VimReply(200, {"timeout": "8"})]
    assert got.decode().split("\r\n") == [
        "POST /x HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: vim/1.0",
        "X-Auth-Token: a-token-of-the-lab",
        "Content-Type: application/json",
        "Connection: close",
        "Content-Length: 18",
        "",
        '{"action": "stop"}',
    ]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"", "invalid answer: "),
        (b"220 no.agent ESMTP\r\n\r\n", "invalid answer: illegal status line: "),
        (REPLY[:-3], "invalid answer: peer closed connection without sending complete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "invalid answer: Expecting"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "invalid answer: the body is no"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000, "invalid answer: a body of over 65536"),
    ],
)
async def test_what_is_no_reply_is_one_clear_fault(said: bytes, fault: str) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await request(stream, 0)
        await stream.send_all(said)

    async with serving(answer) as port:
        with pytest.raises(UserError) as caught, trio.fail_after(5):
            await ask_agent(port, "GET", "/x")
    assert str(caught.value).startswith(f"the agent: GET /x: {fault}")
    assert caught.value.status == ExitStatus.UNREACHABLE


async def test_a_reply_without_a_body_is_one() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await request(stream, 0)
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with serving(answer) as port:
        with trio.fail_after(5):
            assert await ask_agent(port, "DELETE", "/x") == VimReply(204, {})


async def test_an_agent_that_says_nothing_is_given_up() -> None:
    async def say_nothing(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serving(say_nothing) as port:
        with pytest.raises(UserError, match=r"the agent: GET /x: no answer within 0\.05 s"):
            await ask_agent(port, "GET", "/x", within_s=0.05)


async def test_no_agent_at_all_is_said_so() -> None:
    refused = "the agent: connection refused"
    with loopback_socket() as place, pytest.raises(UserError, match=refused):
        await ask_agent(place.getsockname()[1], "GET", "/x")
