"""A wake-up resets itself, loses no call and coalesces those that come together."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.wakeup import WakeUp

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def _times_out(wake_up: WakeUp) -> bool:
    with trio.move_on_after(1) as scope:
        await wake_up.wait()
    return scope.cancelled_caught


async def test_it_waits_until_it_is_set() -> None:
    wake_up = WakeUp()
    woken_at = []

    async def wait() -> None:
        await wake_up.wait()
        woken_at.append(trio.current_time())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(5)
        wake_up.set()
    assert woken_at == [start + 5]


async def test_a_call_before_the_wait_is_not_lost() -> None:
    wake_up = WakeUp()
    wake_up.set()
    assert not await _times_out(wake_up)


async def test_it_resets_by_itself() -> None:
    wake_up = WakeUp()
    wake_up.set()
    await wake_up.wait()
    assert await _times_out(wake_up)
    wake_up.set()
    assert not await _times_out(wake_up)


async def test_calls_coalesce() -> None:
    wake_up = WakeUp()
    for _ in range(3):
        wake_up.set()
    assert not await _times_out(wake_up)
    assert await _times_out(wake_up)


async def test_a_call_during_the_look_for_work_wakes_the_next_wait() -> None:
    wake_up = WakeUp()
    looks = []

    async def loop() -> None:
        while True:
            await wake_up.wait()
            looks.append(trio.current_time())
            await trio.sleep(2)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop)
        wake_up.set()
        await trio.sleep(1)
        wake_up.set()
        await trio.sleep(9)
        nursery.cancel_scope.cancel()
    assert looks == [start, start + 2]


async def test_a_wait_that_is_cancelled_resets_nothing() -> None:
    wake_up = WakeUp()
    wake_up.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wake_up.wait()
    assert scope.cancelled_caught
    assert not await _times_out(wake_up)


async def test_all_that_wait_are_woken_and_the_next_call_is_not_lost() -> None:
    wake_up = WakeUp()
    woken = []

    async def wait(name: str) -> None:
        await wake_up.wait()
        woken.append(name)
        if len(woken) == 1:
            # Before the other has run on: what that resets must not be this call.
            wake_up.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "first")
        nursery.start_soon(wait, "second")
        await wait_all_tasks_blocked()
        wake_up.set()
    assert sorted(woken) == ["first", "second"]
    assert not await _times_out(wake_up)
