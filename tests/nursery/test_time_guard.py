"""The ticking of the guard, and waits that hold a deadline back while the process is late."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from hbtrio.nursery.time_guard import TAKE_IN_S, run_guard, sleep_until_on_time, take_in
from hbtrio.policy.time_guard import BEHIND_S, CALM_S, LATE_S, TICK_S, OnTimeGuard

pytestmark = pytest.mark.usefixtures("autojump_clock")

AT_MOST_S = 10.0


async def believed_at(
    deadline: float, guard: OnTimeGuard, *, at_most_s: float = AT_MOST_S
) -> float:
    await sleep_until_on_time(deadline, guard, at_most_s=at_most_s)
    return round(trio.current_time(), 6)


async def test_ticks_come_in_time_and_count_nothing() -> None:
    guard = OnTimeGuard(trio.current_time())
    with trio.move_on_after(60):
        await run_guard(guard)
    assert guard.late_ticks == 0
    assert not guard.is_late(trio.current_time())


async def test_a_frozen_process_is_late_until_it_has_been_calm(autojump_clock: MockClock) -> None:
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)
        await trio.sleep_until(1.05)
        autojump_clock.jump(12)
        # The tick is owed and has not run yet: is_late() counts it nevertheless.
        assert guard.late_ticks == 0
        assert guard.is_late(trio.current_time())
        await trio.testing.wait_all_tasks_blocked()
        assert guard.late_ticks == 1
        await trio.sleep_until(13.05 + CALM_S - 0.001)
        assert guard.is_late(trio.current_time())
        await trio.sleep_until(13.05 + CALM_S)
        assert not guard.is_late(trio.current_time())
        assert guard.late_ticks == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("frozen_s", "late"), [(TICK_S + LATE_S - 0.001, False), (TICK_S + LATE_S + 0.001, True)]
)
async def test_a_short_freeze_is_nothing(
    frozen_s: float, late: bool, autojump_clock: MockClock
) -> None:
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)
        await trio.testing.wait_all_tasks_blocked()
        # Tasks woken by the same jump run in any order; the one that ticks may be the last.
        autojump_clock.jump(frozen_s)
        assert await believed_at(0.5, guard) == round(frozen_s + (CALM_S if late else 0), 6)
        assert guard.late_ticks == late
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("deadline", [0.0, 0.1, 8.0])
async def test_on_time_a_deadline_is_believed_at_once(deadline: float) -> None:
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)
        assert await believed_at(deadline, guard) == deadline
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("frozen_s", [2.0, 12.0, 300.0, 86_400.0])
async def test_a_deadline_that_passed_in_a_freeze_is_believed_after_the_calm(
    frozen_s: float, autojump_clock: MockClock
) -> None:
    """However long the freeze was: it is no time in which the answers could have been read."""
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)
        await trio.sleep_until(1.0)
        autojump_clock.jump(frozen_s)
        assert await believed_at(2.0, guard) == 1.0 + frozen_s + CALM_S
        nursery.cancel_scope.cancel()


async def test_a_freeze_that_is_over_by_the_deadline_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)
        autojump_clock.jump(4)
        assert await believed_at(8.0, guard) == 8.0
        nursery.cancel_scope.cancel()


async def test_a_second_freeze_holds_it_back_again(autojump_clock: MockClock) -> None:
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)

        async def freeze_again() -> None:
            await trio.sleep_until(4.0)
            autojump_clock.jump(3)

        nursery.start_soon(freeze_again)
        autojump_clock.jump(3)  # judged at 3.0, put off to 5.0, and again at 7.0
        assert await believed_at(1.0, guard) == 7.0 + CALM_S
        nursery.cancel_scope.cancel()


async def test_a_process_that_is_always_late_comes_to_an_end(autojump_clock: MockClock) -> None:
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)

        async def stutter() -> None:
            while True:
                await trio.sleep(0.01)
                autojump_clock.jump(1.5)

        nursery.start_soon(stutter)
        at = await believed_at(2.0, guard)
        # Found passed at the stutter after 2.0, and put off by at most ten seconds, give or take
        # the stutters at both ends.
        assert 2.0 + AT_MOST_S - 1.51 <= at <= 2.0 + AT_MOST_S + 3.02
        nursery.cancel_scope.cancel()


async def test_a_wait_can_be_cancelled() -> None:
    guard = OnTimeGuard(trio.current_time())
    with trio.move_on_after(5) as scope:
        await sleep_until_on_time(8.0, guard, at_most_s=AT_MOST_S)
    assert scope.cancelled_caught
    assert trio.current_time() == 5.0


# -- what has arrived is read first -----------------------------------------------------------


async def test_a_source_at_work_is_waited_for_until_it_is_done() -> None:
    left = 30

    def at_work() -> bool:
        nonlocal left
        left -= 1
        return left > 0

    await take_in([at_work])
    assert left < 0
    assert 0.029 <= trio.current_time() <= TAKE_IN_S


async def test_a_source_without_an_end_postpones_nothing() -> None:
    await take_in([lambda: True])
    assert TAKE_IN_S <= trio.current_time() < TAKE_IN_S + 0.002


async def test_each_source_is_read_whatever_the_others_say() -> None:
    reads = [0, 0, 0]

    def source(number: int, *, at_work: bool) -> bool:
        reads[number] += 1
        return at_work and reads[number] < 3

    await take_in(
        [
            lambda: source(0, at_work=True),
            lambda: source(1, at_work=False),
            lambda: source(2, at_work=True),
        ]
    )
    assert reads[0] == reads[1] == reads[2]


async def test_a_source_is_read_a_bounded_number_of_times() -> None:
    reads = 0

    def flood() -> bool:
        nonlocal reads
        reads += 1
        return False

    await take_in([flood])
    assert 3 <= reads <= 10
    assert trio.current_time() == 0.0


@pytest.mark.parametrize(
    ("stall_s", "further_s"),
    [(BEHIND_S - 0.001, 0.0), (BEHIND_S + 0.001, TAKE_IN_S), (0.7, TAKE_IN_S)],
)
async def test_a_deadline_noticed_late_leaves_time_for_what_is_on_its_way(
    stall_s: float, further_s: float, autojump_clock: MockClock
) -> None:
    """Also where the stall is too short for the guard: a thread or the store may be as late."""
    async with trio.open_nursery() as nursery:

        async def stall() -> None:
            await trio.sleep_until(2.0 - 0.001)
            autojump_clock.jump(stall_s + 0.001)

        nursery.start_soon(stall)
        at = await believed_at(2.0, OnTimeGuard(math.inf))
    assert at == round(2.0 + stall_s + further_s, 6)


@pytest.mark.parametrize(
    ("work_s", "ends_s"),
    [
        # Done in the further time; done as late as the process was; never done.
        (0.01, TAKE_IN_S),
        (0.3, 0.3),
        (math.inf, 0.5),
    ],
)
async def test_a_late_process_reads_on_while_a_source_is_at_work_on_what_has_arrived(
    work_s: float, ends_s: float, autojump_clock: MockClock
) -> None:
    """Thirty reports that arrived in a stall of half a second may take longer than 50 ms."""
    done_at = 2.5 + work_s
    async with trio.open_nursery() as nursery:

        async def stall() -> None:
            await trio.sleep_until(2.0 - 0.001)
            autojump_clock.jump(0.501)

        nursery.start_soon(stall)
        await sleep_until_on_time(
            2.0,
            OnTimeGuard(math.inf),
            at_most_s=AT_MOST_S,
            sources=[lambda: trio.current_time() < done_at],
        )
    assert 2.5 + ends_s <= trio.current_time() <= 2.5 + ends_s + 2 * TAKE_IN_S


async def test_the_further_time_is_bounded_too(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:

        async def stall() -> None:
            await trio.sleep_until(1.0)
            autojump_clock.jump(1.5)

        nursery.start_soon(stall)
        assert await believed_at(2.0, OnTimeGuard(math.inf), at_most_s=0.01) == 2.51


async def test_a_deadline_that_was_past_at_the_call_was_not_noticed_late() -> None:
    await trio.sleep(5)
    assert await believed_at(2.0, OnTimeGuard(math.inf)) == 5.0


@pytest.mark.parametrize("in_vain", [False, True])
async def test_nothing_is_read_if_nothing_is_left_to_decide(in_vain: bool) -> None:
    guard = OnTimeGuard(math.inf)
    looks: list[float] = []
    asked: list[float] = []

    def source() -> bool:
        looks.append(trio.current_time())
        return False

    def unless() -> bool:
        asked.append(trio.current_time())
        return in_vain

    await sleep_until_on_time(8.0, guard, at_most_s=AT_MOST_S, sources=[source], unless=unless)
    assert asked == [8.0]
    assert bool(looks) is not in_vain
