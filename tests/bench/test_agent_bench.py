"""What the benchmark's VIM and its end of a link say, and how they count."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.agent_report import FARMED, FLOOR, Votes, votes_measures
from bench.link_sink import Sink
from bench.scraper import scrape
from bench.storm import Storm, storm
from bench.vim_wire import Target, is_whole
from bench.votes import vote
from bench.wire_vim import WireVim
from hbtrio.lab.fake_vim import loopback_socket
from hbtrio.wire.link_messages import Ack, Hello, LinkReport, Ping, Pong, Reporting, Welcome
from support.guest_farm import uuid_of
from support.scripted_host import INSTANCE, VM


def http(head: bytes, body: bytes = b"") -> bytes:
    """A request or an answer."""
    return b"%b\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)


_OK = http(b"HTTP/1.1 200 OK", b'{"timeout":"9"}')
_BUSY = http(b"HTTP/1.1 503 Service Unavailable")
_TAKEN = uuid_of(2).encode() + b": a vote is open"
_OPEN = http(b"HTTP/1.1 200 OK", b'{"timeout":"0","log":"%b"}' % _TAKEN)


def port_of(place: socket.socket) -> int:
    port: int = place.getsockname()[1]
    return port


@contextmanager
def agent(vim_port: int, replies: list[bytes]) -> Iterator[int]:
    """Gives these replies to as many votes, one after the other, and a verdict for each 200 OK."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve() -> None:
        for number, reply in enumerate(replies):
            caller, _ = listener.accept()
            with caller:
                request = b""
                while not is_whole(request):
                    request += caller.recv(65536)
                caller.sendall(reply)
            if reply is _OK:
                place = b"PATCH /nfvi-plugins/v1/instances/%b HTTP/1.1" % uuid_of(number).encode()
                with socket.create_connection(("127.0.0.1", vim_port)) as vim:
                    vim.sendall(http(place, b'{"event_type":"guest-response"}'))
                    vim.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield port_of(listener)
    finally:
        thread.join()
        listener.close()


@contextmanager
def wire_vim() -> Iterator[tuple[WireVim, int]]:
    with loopback_socket() as place:
        vim = WireVim(port_of(place))
        try:
            yield vim, port_of(place)
        finally:
            vim.close()


def test_a_storm_counts_verdicts_and_refusals_by_their_reason() -> None:
    with wire_vim() as (vim, port), agent(port, [_OK, _BUSY, _OPEN, _OK]) as at:
        seen = storm(vim, at, 4)
    assert (seen.votes, len(seen.verdict_ms)) == (4, 2)
    assert seen.refused == {"HTTP/1.1 503 Service Unavailable": 1, "UUID: a vote is open": 1}
    assert "refused 1 times: UUID: a vote is open" in seen.as_text()


def test_a_vote_has_its_times_in_their_order() -> None:
    with wire_vim() as (vim, port), agent(port, [_OK]) as at:
        one = vote(vim, Target("agent", at, uuid_of(0)))
    assert one.began <= one.replied <= one.answered


@pytest.mark.parametrize(
    ("verdict_ms", "in_window", "in_time"),
    [
        pytest.param([1.0] * 99 + [8999.0], True, True, id="one in a hundred is slow"),
        pytest.param([1.0] * 98 + [8999.0] * 2, True, False, id="two are"),
        pytest.param([1.0] * 99 + [9001.0], False, True, id="one is too late"),
        pytest.param([1.0] * 98, False, False, id="two never come"),
        pytest.param([], False, False, id="none comes"),
    ],
)
def test_goals_of_a_storm(verdict_ms: list[float], in_window: bool, in_time: bool) -> None:
    measures = Storm(100, verdict_ms, {}).measures()
    assert [one.met for one in measures] == [in_window, in_time]


def test_a_storm_states_how_many_verdicts_are_missing() -> None:
    measures = Storm(100, [1.0] * 60, {}).measures()
    assert (measures[1].seen, measures[1].met) == ("none, 40 are missing", False)


def test_a_vote_is_compared_with_the_floor_s() -> None:
    floor = Votes(FLOOR, [], [], [1.0, 2.0, 3.0])
    farmed = Votes(FARMED, [], [], [12.0, 13.0, 14.0])
    ratio, p50, p99 = votes_measures([floor, farmed], 1000)
    assert (ratio.seen, ratio.met) == ("6.5", False)
    assert (p50.met, p99.met) == (False, True)
    assert not math.isinf(farmed.p99)


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        pytest.param(http(b"HTTP/1.1 200 OK", b"up 1"), 42, id="metrics"),
        pytest.param(_BUSY, 0, id="refused"),
        pytest.param(b"", 0, id="no answer"),
    ],
)
def test_a_host_without_metrics_is_no_fault_of_the_run(
    tmp_path: Path, answer: bytes, size: int
) -> None:
    path = str(tmp_path / "observe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.recv(4096)
                caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert scrape(path) == size
        thread.join()
    assert scrape(str(tmp_path / "nobody")) == 0


def test_the_link_s_end_says_what_an_agent_says() -> None:
    sink = Sink()
    hello = Hello(1, "compute-0", uuid_of(0), "boot", "1.0", 0)
    welcome, whole = sink.answers(hello)
    assert isinstance(welcome, Welcome)
    assert whole == Reporting("", True)
    assert sink.answers(INSTANCE) == [Reporting(VM, True)]
    assert sink.answers(INSTANCE) == []
    assert sink.answers(LinkReport(7, "2025-01-01T00:00:00+00:00", "loss", VM, "silent")) == [
        Ack(7)
    ]
    pong, ping = sink.answers(Ping(3))
    assert isinstance(pong, Pong)
    assert (pong.number, ping) == (3, Ping(3))
