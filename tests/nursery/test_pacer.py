"""The pacer's grid on a fake clock: when it wakes up, for whom, and what it never does."""

from __future__ import annotations

import math
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import groupby

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.nursery.pacer import SHARED, SLOT_S, Pacer

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Beater:
    """Notes when it is called; ``then`` says when it wants to be called again."""

    def __init__(self, then: Callable[[float], float] = lambda _: math.inf) -> None:
        self.slot: int | None = None
        self.calls: list[float] = []
        self.then = then

    def on_time(self, now: float) -> float:
        self.calls.append(round(now, 6))
        return self.then(now)


@asynccontextmanager
async def pacing() -> AsyncIterator[Pacer]:
    pacer = Pacer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pacer.run)
        await wait_all_tasks_blocked()
        yield pacer
        nursery.cancel_scope.cancel()


def test_the_numbers_of_the_design() -> None:
    assert (SLOT_S, SHARED) == (0.01, 64)


@pytest.mark.parametrize(
    ("due", "called"),
    [(0.0, 0.0), (0.02, 0.02), (0.0201, 0.03), (1.0, 1.0), (1.019, 1.02), (60.0, 60.0)],
)
async def test_called_in_the_slot_of_its_time_never_before(due: float, called: float) -> None:
    beater = Beater()
    async with pacing() as pacer:
        pacer.schedule(beater, due)
        if called:
            await trio.sleep_until(called - 0.001)
            assert beater.calls == []
        await trio.sleep_until(called)
        await wait_all_tasks_blocked()
        assert beater.calls == [called]
        assert beater.slot is None
        await trio.sleep(100)
        assert beater.calls == [called]
        assert pacer.worst_lateness_s == pytest.approx(0, abs=1e-9)


@given(st.floats(0, 1000), st.lists(st.floats(0, 50), max_size=40))
def test_everybody_is_called_within_one_slot(start: float, dues: list[float]) -> None:
    beaters = [Beater() for _ in dues]

    async def main() -> None:
        await trio.sleep(start)
        async with pacing() as pacer:
            for beater, due in zip(beaters, dues, strict=True):
                pacer.schedule(beater, start + due)
            await trio.sleep(51)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    for beater, due in zip(beaters, dues, strict=True):
        (called,) = beater.calls
        assert -1e-6 <= called - (start + due) <= SLOT_S + 2e-6


async def test_an_earlier_time_wakes_it_up() -> None:
    late, early = Beater(), Beater()
    async with pacing() as pacer:
        pacer.schedule(late, 10)
        await trio.sleep(1)
        pacer.schedule(early, 2)
        await trio.sleep(8.5)
        assert (early.calls, late.calls) == ([2.0], [])
        await trio.sleep(1)
        assert (early.calls, late.calls) == ([2.0], [10.0])


async def test_only_the_last_time_counts() -> None:
    beater = Beater()
    async with pacing() as pacer:
        for due in (3, 5, 3, 4):
            pacer.schedule(beater, due)
        await trio.sleep(10)
    assert beater.calls == [4.0]


async def test_back_in_a_slot_that_it_left_it_is_called_once() -> None:
    beater = Beater()
    async with pacing() as pacer:
        for due in (3, 5, 3):
            pacer.schedule(beater, due)
        await trio.sleep(10)
    assert beater.calls == [3.0]


async def test_infinity_takes_it_out() -> None:
    beater, other = Beater(), Beater()
    async with pacing() as pacer:
        pacer.schedule(beater, 3)
        pacer.schedule(other, 3)
        pacer.schedule(beater, math.inf)
        assert beater.slot is None
        await trio.sleep(10)
    assert (beater.calls, other.calls) == ([], [3.0])


def test_who_leaves_a_slot_that_is_weeks_away_leaves_nothing_behind() -> None:
    """A tenant says when it is due, and may say it often, or go and come again."""
    pacer = Pacer()
    beaters = [Beater() for _ in range(100)]
    known = [weakref.ref(beater) for beater in beaters]
    tracemalloc.start()
    try:
        for number in range(20_000):
            pacer.schedule(beaters[number % len(beaters)], 2e6 + number)
        for beater in beaters:
            pacer.schedule(beater, math.inf)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
    del beaters, beater
    assert [beater() for beater in known] == [None] * 100


async def test_a_slot_that_all_have_left_may_be_joined_again() -> None:
    beaters = [Beater() for _ in range(300)]
    async with pacing() as pacer:
        for due in (7, 9, 5, 7):
            for number, beater in enumerate(beaters):
                pacer.schedule(beater, due + number / 50)
        await trio.sleep(20)
    assert [beater.calls for beater in beaters] == [
        [round(7 + number / 50, 6)] for number in range(300)
    ]


async def test_what_it_returns_is_its_next_time() -> None:
    beater = Beater(lambda now: now + 1 if now < 3.5 else math.inf)
    async with pacing() as pacer:
        pacer.schedule(beater, 1)
        await trio.sleep(10)
    assert beater.calls == [1.0, 2.0, 3.0, 4.0]


async def test_one_that_another_ones_call_takes_out_is_not_called() -> None:
    victim = Beater()

    def take_out(_: float) -> float:
        pacer.schedule(victim, math.inf)
        return math.inf

    killer = Beater(take_out)
    async with pacing() as pacer:
        pacer.schedule(killer, 1)
        pacer.schedule(victim, 1)
        await trio.sleep(2)
    assert (killer.calls, victim.calls) == ([1.0], [])


async def test_after_a_freeze_each_is_called_once_and_the_lateness_is_told(
    autojump_clock: MockClock,
) -> None:
    beaters = [Beater() for _ in range(100)]
    async with pacing() as pacer:
        for number, beater in enumerate(beaters):
            pacer.schedule(beater, 1 + number / 20)
        autojump_clock.jump(9)
        await wait_all_tasks_blocked()
        assert [beater.calls for beater in beaters] == [[9.0]] * 100
        assert pacer.worst_lateness_s == pytest.approx(8)


async def test_readers_run_though_it_never_catches_up(autojump_clock: MockClock) -> None:
    # Its work takes a slot or longer: what came due meanwhile waits for one pass of the readers.
    order: list[str] = []

    def slow(now: float) -> float:
        order.append("beat")
        autojump_clock.jump(2 * SLOT_S)
        return now + SLOT_S if len(order) < 100 else math.inf

    async def read() -> None:
        while len(order) < 100:
            order.append("read")
            await trio.lowlevel.checkpoint()

    async with pacing() as pacer:
        pacer.schedule(Beater(slow), SLOT_S)
        await trio.sleep(SLOT_S)
        await read()
    assert order.count("beat") > 10
    assert max(len(list(run)) for what, run in groupby(order) if what == "beat") == 1


async def test_a_time_in_the_past_means_the_next_slot() -> None:
    beater = Beater(lambda now: now - 1 if len(beater.calls) < 5 else math.inf)
    async with pacing() as pacer:
        pacer.schedule(beater, 1)
        await trio.sleep(2)
    assert beater.calls == [1.0, 1.01, 1.02, 1.03, 1.04]


class TestSharing:
    """A new channel's beats are put where others are already."""

    def pacer(self, **slots: int) -> Pacer:
        pacer = Pacer()
        for slot, count in slots.items():
            for _ in range(count):
                pacer.schedule(Beater(), int(slot[1:]) * SLOT_S)
        return pacer

    def test_with_nobody_there_is_no_slot_to_share(self) -> None:
        assert self.pacer().shared_slot(0, 1) is None

    def test_the_fullest_is_shared(self) -> None:
        assert self.pacer(s10=1, s20=3, s30=2).shared_slot(0, 1) == pytest.approx(0.2)

    def test_the_later_of_two(self) -> None:
        assert self.pacer(s10=2, s20=2).shared_slot(0, 1) == pytest.approx(0.2)

    @pytest.mark.parametrize(("count", "shared"), [(63, 0.1), (64, 0.2), (65, 0.2)])
    def test_up_to_64_share_one(self, count: int, shared: float) -> None:
        assert self.pacer(s10=count, s20=1).shared_slot(0, 1) == pytest.approx(shared)

    @pytest.mark.parametrize(
        ("after", "until", "found"),
        [(0.09, 0.1, True), (0.1, 0.2, False), (0.0, 0.09, False), (0.0, 0.1, True)],
    )
    def test_it_lies_after_the_first_time_and_not_after_the_second(
        self, after: float, until: float, found: bool
    ) -> None:
        slot = self.pacer(s10=1).shared_slot(after, until)
        assert slot == (pytest.approx(0.1) if found else None)
