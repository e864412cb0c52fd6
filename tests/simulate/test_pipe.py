from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.simulate.pipe import NETWORK, Pipe, Quality
from hbtrio.simulate.timeline import Timeline

#: No chance: each arrival takes 0.5 to 1.5 ms, whole.
PLAIN = Quality(latency_s=0.001, long=0.0, split=0.0, short=0.0)


class Watched:
    """A pipe that notes each arrival, and how many bytes were unread then."""

    def __init__(self, quality: Quality = PLAIN, seed: int = 1) -> None:
        self.timeline = Timeline(seed)
        self.pipe = Pipe(self.timeline, self.timeline.random("pipe"), quality)
        self.arrivals: list[tuple[float, int]] = []
        self.pipe.on_arrival = lambda: self.arrivals.append(
            (self.timeline.now, len(self.pipe.unread))
        )

    def run_for(self, seconds: float) -> None:
        self.timeline.run(self.timeline.now + seconds)


def test_bytes_arrive_after_the_latency() -> None:
    watched = Watched()
    assert watched.pipe.write(b"hello") == 5
    watched.run_for(0.0005)
    assert not watched.pipe.has_news
    watched.run_for(0.001)
    assert watched.pipe.has_news
    assert watched.pipe.read(100) == b"hello"
    assert not watched.pipe.has_news


@given(
    seed=st.integers(0, 1000),
    writes=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=30),
)
def test_bytes_keep_their_order_whatever_happens(seed: int, writes: list[bytes]) -> None:
    wild = Quality(latency_s=0.001, long=0.3, split=0.5, short=0.5)
    watched = Watched(wild, seed)
    received = bytearray()
    for data in writes:
        assert watched.pipe.write(data) == len(data)
        watched.run_for(0.0003)
        received += watched.pipe.read(50)
    watched.run_for(10.0)
    while watched.pipe.unread:
        received += watched.pipe.read(50)
    assert bytes(received) == b"".join(writes)


def test_no_two_arrivals_are_at_one_time() -> None:
    watched = Watched(NETWORK)
    for _ in range(500):
        watched.pipe.write(b"ab")
    watched.run_for(10.0)
    times = [time for time, _ in watched.arrivals]
    assert len(times) > 500
    assert all(before < after for before, after in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("quality", "seen"),
    [
        (attrs.evolve(PLAIN, long=1.0), lambda w: w.arrivals[-1][0] > 0.005),
        (attrs.evolve(PLAIN, split=1.0), lambda w: len(w.arrivals) == 40),
        (PLAIN, lambda w: len(w.arrivals) == 20 and w.arrivals[-1][0] < 0.0015 + 1e-5),
    ],
)
def test_delays_and_splits(quality: Quality, seen: Callable[[Watched], bool]) -> None:
    watched = Watched(quality)
    for _ in range(20):
        watched.pipe.write(b"0123456789")
    watched.run_for(1.0)
    assert seen(watched)


def test_reads_are_short_sometimes_and_never_longer_than_asked() -> None:
    watched = Watched(attrs.evolve(PLAIN, short=1.0))
    watched.pipe.write(b"0123456789")
    watched.run_for(1.0)
    first = watched.pipe.read(5)
    assert 1 <= len(first) < 5
    assert watched.pipe.read(1)[:1] == b"0123456789"[len(first) :][:1]


def test_the_default_shares() -> None:
    watched = Watched(NETWORK)
    for _ in range(4000):
        watched.pipe.write(b"0123456789")
        watched.run_for(0.1)
        watched.pipe.read(100)
    splits = len(watched.arrivals) - 4000
    assert 0.03 < splits / 4000 < 0.07


def test_the_capacity_bounds_what_is_on_its_way_or_unread() -> None:
    watched = Watched(attrs.evolve(PLAIN, capacity=10))
    room: list[int] = []
    watched.pipe.on_room = lambda: room.append(watched.pipe.room)
    assert watched.pipe.write(b"0123456") == 7
    assert watched.pipe.write(b"789abc") == 3
    assert watched.pipe.write(b"x") == 0
    watched.run_for(1.0)
    assert watched.pipe.room == 0  # arrived, not read
    assert watched.pipe.read(4) == b"0123"
    assert room == [4]
    assert watched.pipe.write(b"abcdef") == 4


def test_the_end_comes_after_the_bytes() -> None:
    watched = Watched(attrs.evolve(PLAIN, long=0.5))
    watched.pipe.write(b"last")
    watched.pipe.finish()
    while not watched.pipe.ended:
        watched.run_for(0.0001)
    assert watched.pipe.read(10) == b"last"


def test_a_reset_may_take_unread_bytes_with_it() -> None:
    left = set()
    for seed in range(20):
        watched = Watched(seed=seed)
        watched.pipe.write(b"last")
        watched.run_for(1.0)
        watched.pipe.abort()
        watched.run_for(1.0)
        assert watched.pipe.reset
        left.add(bytes(watched.pipe.unread))
    assert left == {b"", b"last"}


def test_nothing_arrives_after_a_reset() -> None:
    watched = Watched()
    watched.pipe.abort()
    watched.pipe.write(b"late")
    watched.pipe.finish()
    watched.pipe.abort()
    watched.run_for(1.0)
    assert not watched.pipe.unread
    assert not watched.pipe.ended
    assert len(watched.arrivals) == 1


def test_a_deaf_reader_refuses() -> None:
    watched = Watched()
    refused: list[float] = []
    watched.pipe.deaf = True
    watched.pipe.on_refused = lambda: refused.append(watched.timeline.now)
    watched.pipe.write(b"hello")
    watched.run_for(1.0)
    assert len(refused) == 1
    assert not watched.pipe.unread


def test_a_clogged_pipe_delivers_everything_in_order_later() -> None:
    watched = Watched()
    watched.pipe.write(b"before ")
    watched.pipe.clog()
    watched.pipe.clog()
    watched.pipe.write(b"during ")
    watched.pipe.finish()
    watched.run_for(60.0)
    assert watched.pipe.clogged
    assert not watched.pipe.has_news
    watched.pipe.unclog()
    assert watched.pipe.read(100) == b"before during "
    assert watched.pipe.ended


def test_a_clogged_pipe_is_bounded_too() -> None:
    watched = Watched(attrs.evolve(PLAIN, capacity=10))
    watched.pipe.clog()
    assert watched.pipe.write(b"x" * 20) == 10
    watched.run_for(60.0)
    assert watched.pipe.room == 0


def test_a_cut_takes_effect_now_and_loses_what_is_on_its_way() -> None:
    watched = Watched()
    watched.pipe.clog()
    watched.pipe.write(b"held")
    watched.run_for(1.0)
    watched.pipe.write(b"on its way")
    watched.pipe.cut()
    assert watched.pipe.reset
    watched.pipe.unclog()
    watched.run_for(1.0)
    assert not watched.pipe.unread
