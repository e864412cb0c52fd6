"""The VIM's answer is in the socket when this process, which was stopped, finds its time over.

The VIM is a thread here: it goes on while the loop of this process stands still.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.wire.vim import VimRequest
from hbtrio.wire.vim_result import Delivered, NotSent, SendResult
from support.run_order import ORDERS, in_every_order_on_the_real_clock

pytestmark = pytest.mark.slow

REQUEST = VimRequest("GET", "/nfvi-plugins/v1/hosts/1", b"")
BODY = b"x" * 100_000
ANSWER = b"HTTP/1.0 200 OK\r\n\r\n" + BODY

#: Real seconds.
LIMIT_S = 0.1
NEVER_S = 30.0

CONNECT_S = 5.0


class Vim:
    """Answers a connection at a time, once it may."""

    def __init__(self, answer: bytes) -> None:
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.answered = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._answer = answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(65536)
            self.asked.set()
            self.may_answer.wait(NEVER_S)
            connection.sendall(self._answer)
        self.answered.set()


@contextmanager
def vim() -> Iterator[Vim]:
    one = Vim(ANSWER)
    thread = threading.Thread(target=one.serve)
    with one.listener:
        thread.start()
        try:
            yield one
        finally:
            one.may_answer.set()
            thread.join(NEVER_S)


def test_an_answer_that_has_arrived() -> None:
    async def scenario() -> SendResult:
        while True:
            result, in_time = await stop_over_the_limit()
            if in_time:
                return result

    assert in_every_order_on_the_real_clock(scenario) == [Delivered(200, BODY, "")] * ORDERS


async def stop_over_the_limit() -> tuple[SendResult, bool]:
    """Stops the loop once the VIM was asked, until it has answered and the limit is over.

    Returns the result, and whether the limit was not over before: a busy machine may come too late.
    """
    results: list[SendResult] = []
    with vim() as one:
        client = VimClient(one.url, answer_s=LIMIT_S)

        async def send() -> None:
            results.append(await client.send(REQUEST))

        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(send)
            while not one.asked.is_set():  # noqa: ASYNC110 - a thread sets no event of trio's
                await trio.sleep(0.001)
            one.may_answer.set()
            one.answered.wait(NEVER_S)
            in_time = trio.current_time() - began < LIMIT_S
            time.sleep(LIMIT_S)  # noqa: ASYNC251 - the stop
    return results[0], in_time


class Dialer:
    """Is stopped until so long after a connection's time has run out, then finds a VIM."""

    def __init__(self, stops_s: list[float], clock: MockClock) -> None:
        self.attempts = 0
        self._stops_s = stops_s
        self._clock = clock

    async def connect(self) -> trio.abc.Stream:
        self.attempts += 1
        if self._stops_s:
            self._clock.jump(CONNECT_S + self._stops_s.pop(0))
            await trio.sleep_forever()
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(b"HTTP/1.0 200 OK\r\n\r\n")
        await theirs.send_eof()
        return ours


@pytest.mark.parametrize(
    ("stops_s", "attempts", "is_sent"),
    [([0.0], 1, False), ([0.01], 1, False), ([0.1], 2, True), ([60.0, 60.0], 2, False)],
)
async def test_a_connection_whose_time_ran_out_while_the_process_was_stopped(
    stops_s: list[float], attempts: int, is_sent: bool, autojump_clock: MockClock
) -> None:
    """It is attempted again, once: that says nothing about the VIM."""
    dialer = Dialer(stops_s, autojump_clock)
    client = VimClient("http://vim.example", connect=dialer.connect, connect_s=CONNECT_S)
    result = await client.send(REQUEST)
    assert dialer.attempts == attempts
    assert isinstance(result, Delivered) is is_sent
    assert isinstance(result, NotSent) is not is_sent
