"""What is many is frozen, and none of their objects stays behind when they end."""

from __future__ import annotations

import gc
import logging
import os
import types
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from hbtrio.nursery.host.heap_freezer import LONG_S, HeapFreezer
from hbtrio.wire.vocabulary import Event
from support.host_world import HostWorld, ScriptedGuest, host_world
from support.socket_guests import open_socket_guests

#: `make test-channels` sets it to 100,000, which takes a few minutes.
LIVES: Final = int(os.environ.get("HBTRIO_LIVES", "6000"))
_BATCH: Final = max(600, LIVES // 50)

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


class _Clock:
    """The CPU time of a collection, as the test sets it."""

    def __init__(self) -> None:
        self.collection_s = 0.0
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self.collection_s
        return self._now


@pytest.mark.parametrize(
    ("collection_s", "freezes"), [(0.0, 0), (LONG_S - 0.001, 0), (LONG_S, 1), (1.0, 1)]
)
def test_freezes_after_a_long_full_collection(collection_s: float, freezes: int) -> None:
    clock = _Clock()
    with HeapFreezer(clock) as freezer:
        clock.collection_s = collection_s
        one = [object()]
        gc.collect()
        assert freezer.freezes == freezes
        # The count of all frozen objects also falls, whenever one of them is freed.
        assert any(thing is one for thing in gc.get_objects()) is not bool(freezes)
        assert gc.is_tracked(one)


def test_young_collections_do_not_count() -> None:
    clock = _Clock()
    with HeapFreezer(clock) as freezer:
        clock.collection_s = 1.0
        gc.collect(0)
        gc.collect(1)
        assert freezer.freezes == 0


def test_nothing_is_frozen_after_its_end() -> None:
    clock = _Clock()
    with HeapFreezer(clock) as freezer:
        clock.collection_s = 1.0
    gc.collect()
    assert freezer.freezes == 0


def test_what_exists_at_the_start_is_frozen() -> None:
    gc.unfreeze()
    with HeapFreezer():
        assert gc.get_freeze_count() > 1000


def test_a_simulation_freezes_nothing() -> None:
    gc.unfreeze()
    frozen: list[None] = []
    clock = _Clock()
    with HeapFreezer(clock, lambda: frozen.append(None)):
        clock.collection_s = 1.0
        gc.collect()
    assert len(frozen) == 2
    assert gc.get_freeze_count() == 0


async def test_with_many_channels_a_full_collection_scans_few_of_their_objects() -> None:
    async with open_socket_guests() as (host, guests):
        guests.appear(0, 2500)
        await guests.all_heartbeating(host, 2500)
        # The interpreter puts a full one off while there is much else on the heap.
        gc.collect()
        assert host.heap.freezes > 0
        for _ in range(3):
            guests.answer()
            await trio.sleep(0.01)
            gc.collect()
        scanned = len(gc.get_objects())
        print(f"{scanned} of {scanned + gc.get_freeze_count()} objects are scanned")
        assert scanned < gc.get_freeze_count() / 5


# -- what an ended channel leaves behind ----------------------------------------------------


async def _quietly(_world: HostWorld, guest: ScriptedGuest) -> None:
    guest.vanish()


async def _with_an_open_vote(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.reply = lambda _: None
    world.vote(guest)
    await world.settle()
    guest.vanish()


async def _after_a_vote(world: HostWorld, guest: ScriptedGuest) -> None:
    world.vote(guest)
    await world.sleep(1)
    guest.vanish()


async def _in_a_restart(world: HostWorld, guest: ScriptedGuest) -> None:
    world.notice(guest, Event.REBOOT)
    await world.sleep(1)
    guest.vanish()
    await world.sleep(200)


async def _lost(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.answers_after_s = None
    await world.sleep(30)
    guest.vanish()


async def _reset(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.peer.reset()
    await world.sleep(10)
    guest.peer.reset()
    guest.vanish()


async def _refused(world: HostWorld, guest: ScriptedGuest) -> None:
    world.dialer.refuse(guest.path)
    guest.peer.close()
    await world.sleep(30)
    guest.vanish()


async def _hostile(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.peer.send_bytes(b"no message\n" * 200)
    await world.sleep(3)
    guest.vanish()


async def _not_reading(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.peer.reading = False
    for _ in range(200):
        guest.peer.send_bytes(b"no message, and nobody reads the answer\n")
        await world.sleep(0.2)
    guest.vanish()


@pytest.mark.parametrize(
    "end",
    [
        _quietly,
        _with_an_open_vote,
        _after_a_vote,
        _in_a_restart,
        _lost,
        _reset,
        _refused,
        _hostile,
        _not_reading,
    ],
)
async def test_an_ended_channel_is_no_garbage(
    autojump_clock: object, end: Callable[[HostWorld, ScriptedGuest], Awaitable[None]]
) -> None:
    async with host_world() as world:
        guest = await world.heartbeating()
        other = await world.heartbeating()
        channel = weakref.ref(world.channel(guest))
        await world.sleep(5)
        gc.collect()
        gc.disable()
        await end(world, guest)
        await world.sleep(5)
        assert set(world.host.channels) == {other.uuid}
        world.rounds.clear()
        assert channel() is None
        assert _collected() == {}


def _collected() -> Counter[str]:
    """The objects of hbtrio and trio, exceptions and frames that only the collector could free."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(thing).__qualname__ for thing in gc.garbage if _counts(thing))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def _counts(thing: object) -> bool:
    module = type(thing).__module__.partition(".")[0]
    kinds = (BaseException, types.TracebackType, types.CoroutineType, types.FrameType)
    return module in {"hbtrio", "trio"} or isinstance(thing, kinds)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@pytest.mark.slow
async def test_memory_stays_flat_while_channels_come_and_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="hbtrio")  # pytest keeps all lines
    seen: list[int] = []
    async with open_socket_guests() as (host, guests):
        for first in range(0, LIVES, _BATCH):
            guests.appear(first, _BATCH)
            await guests.all_heartbeating(host, _BATCH)
            # As if it had been a long collection: each channel is frozen.
            gc.collect()
            gc.freeze()
            guests.vanish(first, _BATCH)
            await guests.none_left(host)
            guests.close()
            seen.append(_resident_bytes())
        assert len(seen) >= 10
        assert host.supervisor.crashes == 0
    print("RSS in KiB after each batch:", *(size >> 10 for size in seen))
    # A leaked channel is 7 KiB at least, 20 MiB for half of the fewest lives.
    grown = max(seen[-3:]) - min(seen[len(seen) // 2 - 1 : len(seen) // 2 + 2])
    assert grown < 5 << 20, [size >> 10 for size in seen]
