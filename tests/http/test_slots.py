"""Which connections are closed to make room, and which requests are refused or displaced."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import trio

from hbtrio.http.limits import HttpLimits
from hbtrio.http.request import RequestRefusedError
from hbtrio.http.slots import (
    DISPLACED_S,
    MAX_DISPLACED,
    ONE_CLASS,
    Place,
    RequestClasses,
    Slot,
    Slots,
)
from hbtrio.http.waiting import PATIENCE_S
from support.http_cases import quiet

pytestmark = pytest.mark.usefixtures("autojump_clock")


def given_away(slots: list[Slot]) -> list[bool]:
    return [slot.scope.cancel_called for slot in slots]


async def test_a_burst_is_not_given_away() -> None:
    slots = Slots(HttpLimits(max_waiting=2, max_connections=10))
    burst = [slots.take(quiet) for _ in range(10)]
    assert not any(given_away(burst))
    await trio.sleep(PATIENCE_S)
    assert not any(given_away(burst))


async def test_of_those_that_had_their_time_only_so_many_stay() -> None:
    slots = Slots(HttpLimits(max_waiting=2, max_connections=10))
    burst = [slots.take(quiet) for _ in range(8)]
    await trio.sleep(PATIENCE_S + 0.01)
    # With the new one there are as many as may wait for long.
    slots.take(quiet)
    assert given_away(burst) == [True] * 7 + [False]


async def test_the_bound_holds_at_once() -> None:
    slots = Slots(HttpLimits(max_waiting=2, max_connections=3))
    taken = [slots.take(quiet) for _ in range(7)]
    assert given_away(taken) == [True] * 4 + [False] * 3


async def test_a_small_bound_is_the_bound() -> None:
    slots = Slots(HttpLimits(max_waiting=64, max_connections=1))
    taken = [slots.take(quiet) for _ in range(2)]
    await trio.sleep(PATIENCE_S + 0.01)
    taken.append(slots.take(quiet))
    assert given_away(taken) == [True, True, False]


async def test_a_request_in_progress_does_not_wait() -> None:
    slots = Slots(HttpLimits(max_connections=2))
    first = slots.take(quiet)
    with first.at_work({}):
        others = [slots.take(quiet) for _ in range(3)]
        assert given_away([first, *others]) == [False, True, False, False]
    # It waits again, as the youngest.
    slots.take(quiet)
    assert given_away([first, *others]) == [False, True, True, True]


def by_kind() -> RequestClasses:
    return RequestClasses({"a": 2, "b": 1}, lambda scope: Place(*scope["place"]))


def request(kind: str, *, preferred: bool = False) -> dict[str, Any]:
    return {"place": (kind, preferred)}


async def test_each_class_has_its_own_places() -> None:
    slots = Slots(HttpLimits(), by_kind())
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(slots.take(quiet).at_work(request("a")))
        with (
            pytest.raises(
                RequestRefusedError, match=r"^503 too many a in progress, the limit is 2$"
            ),
            slots.take(quiet).at_work(request("a")),
        ):
            pass
        stack.enter_context(slots.take(quiet).at_work(request("b")))
        with pytest.raises(RequestRefusedError), slots.take(quiet).at_work(request("b")):
            pass


async def test_whoever_is_refused_waits_on() -> None:
    slots = Slots(HttpLimits(max_connections=1), by_kind())
    with slots.take(quiet).at_work(request("b")):
        refused = slots.take(quiet)
        with pytest.raises(RequestRefusedError), refused.at_work(request("b")):
            pass
        slots.take(quiet)
        assert given_away([refused]) == [True]


async def test_a_place_is_free_again_afterwards() -> None:
    slots = Slots(HttpLimits(), ONE_CLASS)
    for _ in range(200):
        slot = slots.take(quiet)
        with slot.at_work({}):
            pass
        slot.leave()


async def test_the_oldest_that_is_not_preferred_is_displaced() -> None:
    slots = Slots(HttpLimits(), by_kind())
    preferred, other, newcomer = (slots.take(quiet) for _ in range(3))
    with ExitStack() as stack:
        stack.enter_context(preferred.at_work(request("a", preferred=True)))
        with other.at_work(request("a")):
            stack.enter_context(newcomer.at_work(request("a", preferred=True)))
            assert other.displaced.begun
            assert other.scope.deadline == trio.current_time() + DISPLACED_S
            assert [slot.displaced.begun for slot in (preferred, newcomer)] == [False, False]
            with (
                pytest.raises(RequestRefusedError),
                slots.take(quiet).at_work(request("a", preferred=True)),
            ):
                pass
        # It ended; it does not wait for another request.
        other.leave()


async def test_no_more_than_so_many_are_ending() -> None:
    most = MAX_DISPLACED + 5
    slots = Slots(HttpLimits(), RequestClasses({"a": most}, by_kind().place_of))
    readers = [slots.take(quiet) for _ in range(most)]
    with ExitStack() as stack:
        for slot in readers:
            stack.enter_context(slot.at_work(request("a")))
        for _ in range(most):
            stack.enter_context(slots.take(quiet).at_work(request("a", preferred=True)))
        assert all(slot.displaced.begun for slot in readers)
        # The oldest are cut off at once.
        assert given_away(readers) == [True] * 5 + [False] * MAX_DISPLACED
