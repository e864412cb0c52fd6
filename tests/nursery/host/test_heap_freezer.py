"""Channels are frozen in bulk, and none of their objects stays behind when they end."""

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

from hbtrio.nursery.host.heap_freezer import MANY, SETTLE_S, HeapFreezer
from hbtrio.nursery.pacer import Pacer
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


class _Paced:
    slot: int | None = None

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s

    def on_time(self, now: float) -> float:
        return now + self._interval_s


async def _run(freezer: HeapFreezer, nursery: trio.Nursery) -> None:
    nursery.start_soon(freezer.run)
    await trio.testing.wait_all_tasks_blocked()


async def test_freezes_when_there_are_many(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        freezer = HeapFreezer(Pacer())
        await _run(freezer, nursery)
        for number in range(MANY - 1):
            freezer.came(number)
        await trio.sleep(100)
        assert freezer.freezes == 0
        freezer.came(MANY)
        await trio.sleep(SETTLE_S - 0.01)
        assert freezer.freezes == 0
        await trio.sleep(0.02)
        assert freezer.freezes == 1
        nursery.cancel_scope.cancel()


async def test_freezes_at_most_once_in_a_while(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        freezer = HeapFreezer(Pacer())
        await _run(freezer, nursery)
        for number in range(100 * MANY):
            freezer.came(number)
            if number % MANY == 0:
                await trio.sleep(SETTLE_S / 10)
        assert freezer.freezes <= 10
        nursery.cancel_scope.cancel()


async def test_channels_that_end_again_are_not_counted(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        freezer = HeapFreezer(Pacer())
        await _run(freezer, nursery)
        for number in range(10 * MANY):
            freezer.came(number)
            freezer.ended(number - MANY // 2)
        await trio.sleep(100)
        assert freezer.freezes == 0
        nursery.cancel_scope.cancel()


async def test_channels_that_ended_while_it_waited_are_not_counted(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        freezer = HeapFreezer(Pacer())
        await _run(freezer, nursery)
        for number in range(MANY):
            freezer.came(number)
        await trio.sleep(SETTLE_S / 2)
        freezer.ended(0)
        await trio.sleep(100)
        assert freezer.freezes == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("phases", "at"),
    [
        pytest.param([0.995], 0.0, id="now: the next slot is far"),
        pytest.param([0.01], 0.015, id="after the only slot"),
        pytest.param([n / 100 for n in range(50)], 0.495, id="after the last of fifty"),
    ],
)
async def test_collects_in_a_pause_of_the_pacer(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, phases: list[float], at: float
) -> None:
    frozen: list[float] = []
    async with trio.open_nursery() as nursery:
        pacer = Pacer()
        freezer = HeapFreezer(pacer)
        monkeypatch.setattr(freezer, "freeze", lambda: frozen.append(trio.current_time()))
        nursery.start_soon(pacer.run)
        await _run(freezer, nursery)
        began = trio.current_time()
        for number in range(MANY):
            freezer.came(number)
        due = began + SETTLE_S
        for phase in phases:
            pacer.schedule(_Paced(10.0), due + phase)
        await trio.sleep(SETTLE_S + 1)
        assert frozen[0] - due == pytest.approx(at, abs=0.006)
        nursery.cancel_scope.cancel()


async def test_a_pacer_without_a_pause_puts_it_off_for_a_second(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        pacer = Pacer()
        freezer = HeapFreezer(pacer)
        nursery.start_soon(pacer.run)
        await _run(freezer, nursery)
        pacer.schedule(_Paced(0.01), trio.current_time())
        for number in range(MANY):
            freezer.came(number)
        await trio.sleep(SETTLE_S + 1.2)
        assert freezer.freezes == 1
        nursery.cancel_scope.cancel()


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
            freezes = host.heap.freezes
            guests.appear(first, _BATCH)
            await guests.all_heartbeating(host, _BATCH)
            with trio.fail_after(20):
                while host.heap.freezes == freezes:
                    guests.answer()
                    await trio.sleep(0.01)
            guests.vanish(first, _BATCH)
            await guests.none_left(host)
            guests.close()
            seen.append(_resident_bytes())
        assert host.heap.freezes == len(seen) >= 10
        assert host.supervisor.crashes == 0
    # A leaked channel is 7 KiB at least, 20 MiB for half of the fewest lives.
    grown = max(seen[-3:]) - min(seen[len(seen) // 2 - 1 : len(seen) // 2 + 2])
    assert grown < 5 << 20, [size >> 10 for size in seen]
