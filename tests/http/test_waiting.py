"""Which waiting connections are closed when descriptors run short; test_slots.py has the rest."""

from __future__ import annotations

import pytest
import trio

from hbtrio.http.limits import HttpLimits
from hbtrio.http.waiting import MOST_IN_RESERVE, MOST_SPARED, PATIENCE_S, Waiting
from support.http_cases import quiet

pytestmark = pytest.mark.usefixtures("autojump_clock")


def wait(waiting: Waiting, count: int, *, in_reserve: bool = False) -> list[trio.CancelScope]:
    scopes = []
    for _ in range(count):
        waiting.make_room(in_reserve=in_reserve)
        scopes.append(trio.CancelScope())
        waiting.add(scopes[-1], quiet)
    return scopes


def closed(scopes: list[trio.CancelScope]) -> int:
    """How many; they are the oldest."""
    count = sum(scope.cancel_called for scope in scopes)
    assert all(scope.cancel_called for scope in scopes[:count])
    return count


async def test_in_the_reserve_only_a_few_wait() -> None:
    waiting = Waiting(HttpLimits())
    scopes = wait(waiting, MOST_IN_RESERVE, in_reserve=True)
    assert closed(scopes) == 0
    for _ in range(100):
        scopes += wait(waiting, 1, in_reserve=True)
        assert MOST_IN_RESERVE // 2 < len(scopes) - closed(scopes) <= MOST_IN_RESERVE


async def test_of_a_burst_that_reaches_the_reserve_the_younger_half_stays() -> None:
    waiting = Waiting(HttpLimits())
    scopes = wait(waiting, 500)
    wait(waiting, 1, in_reserve=True)
    assert closed(scopes) == 250


async def test_waiting_connections_never_take_the_whole_reserve() -> None:
    """Each new one gets the lowest free descriptor, as from Linux."""
    waiting = Waiting(HttpLimits())
    limit, reserve = 64, 32
    open_files: dict[int, trio.CancelScope] = {}
    for _ in range(5000):
        open_files = {fd: one for fd, one in open_files.items() if not one.cancel_called}
        fd = next(fd for fd in range(limit) if fd not in open_files)
        (open_files[fd],) = wait(waiting, 1, in_reserve=fd >= limit - reserve)
        assert fd < limit - reserve / 2


async def test_in_the_reserve_patience_has_the_same_end() -> None:
    waiting = Waiting(HttpLimits(max_waiting=3))
    scopes = wait(waiting, 500)
    await trio.sleep(PATIENCE_S + 0.01)
    scopes += wait(waiting, 1, in_reserve=True)
    assert closed(scopes) == 498


async def test_one_that_waits_no_longer_is_not_closed() -> None:
    waiting = Waiting(HttpLimits(max_connections=1))
    (first,) = wait(waiting, 1)
    waiting.discard(first)
    waiting.discard(first)
    wait(waiting, 1)
    assert not first.cancel_called


async def test_one_whose_request_has_arrived_goes_on_waiting() -> None:
    """A stalled server accepts the next connections before it reads those that it has."""
    waiting = Waiting(HttpLimits(max_waiting=3))
    unread = {1, 2}
    scopes = [trio.CancelScope() for _ in range(4)]
    for number, scope in enumerate(scopes):
        waiting.add(scope, lambda number=number: number in unread)
    await trio.sleep(PATIENCE_S + 0.01)
    waiting.make_room()
    assert [scope.cancel_called for scope in scopes] == [True, False, False, True]
    # It was read, and is still no request.
    unread.clear()
    await trio.sleep(PATIENCE_S + 0.01)
    wait(waiting, 2)
    assert [scope.cancel_called for scope in scopes] == [True, True, False, True]


async def test_however_much_is_unread_the_looks_and_all_that_wait_are_bounded() -> None:
    waiting = Waiting(HttpLimits(max_waiting=3, max_connections=100))
    looks = 0

    def has_unread() -> bool:
        nonlocal looks
        looks += 1
        return True

    scopes = [trio.CancelScope() for _ in range(99)]
    for scope in scopes:
        waiting.add(scope, has_unread)
    await trio.sleep(PATIENCE_S + 0.01)
    waiting.make_room()
    assert (looks, closed(scopes)) == (MOST_SPARED, 0)
    waiting.add(trio.CancelScope(), has_unread)
    waiting.make_room()
    assert sum(scope.cancel_called for scope in scopes) == 1
