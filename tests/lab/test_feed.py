"""Waits on a feed: bounded, and nothing that came is missed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from hbtrio.lab.feed import KEPT, Feed, NotSeen


async def test_what_has_come_already_is_found_from_the_given_position_on() -> None:
    feed: Feed[str] = Feed()
    feed.put("a1")
    mark = feed.end
    feed.put("b")
    feed.put("a2")

    def is_a(item: str) -> bool:
        return item.startswith("a")

    assert await feed.wait_for(is_a, within_s=0) == "a1"
    assert await feed.wait_for(is_a, within_s=0, since=mark) == "a2"


async def test_what_comes_in_time_is_found_at_once(autojump_clock: MockClock) -> None:
    feed: Feed[int] = Feed()

    async def grow() -> None:
        for number in range(10):
            await trio.sleep(1)
            feed.put(number)

    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(grow)
        assert await feed.wait_for(lambda item: item == 4, within_s=5.5) == 4
        assert trio.current_time() - began_at == pytest.approx(5)
        nursery.cancel_scope.cancel()


async def test_what_does_not_come_is_named_with_what_came(autojump_clock: MockClock) -> None:
    feed: Feed[str] = Feed()
    feed.put("old")
    mark = feed.end
    began_at = trio.current_time()
    with pytest.raises(NotSeen, match=r"^not seen within 3 s; the last that came: nothing$"):
        await feed.wait_for(lambda item: item == "old", within_s=3, since=mark)
    assert trio.current_time() - began_at == pytest.approx(3)
    for item in "abcdefg":
        feed.put(item)
    with pytest.raises(NotSeen, match=r"the last that came: \['c', 'd', 'e', 'f', 'g'\]$"):
        await feed.wait_for(lambda item: item == "z", within_s=3, since=mark)


async def test_a_follower_sees_everything_once_and_ends_with_the_feed() -> None:
    feed: Feed[int] = Feed()
    seen: list[int] = []
    feed.put(0)

    async def follow() -> None:
        async for item in feed.follow():
            seen.append(item)
            await trio.lowlevel.checkpoint()  # more may come while it is busy

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for number in range(1, 50):
            feed.put(number)
            if number % 7 == 0:
                await trio.testing.wait_all_tasks_blocked()
        feed.close()
        await feed.wait_closed()
    assert seen == list(range(50))
    assert feed.closed


def test_only_so_many_items_are_kept_and_positions_go_on() -> None:
    feed: Feed[int] = Feed()
    for number in range(KEPT + 10):
        feed.put(number)
    assert feed.end == KEPT + 10
    assert feed.since(0)[0] == 10
    assert len(feed.since(0)) == KEPT
    assert feed.since(KEPT + 8) == [KEPT + 8, KEPT + 9]
    assert feed.since(feed.end) == []
