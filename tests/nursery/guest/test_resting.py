"""How often the on-time guard wakes a guest: once a second while no timeout is near."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.fsm.guest_session_table import SessionState
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_messages import ActionNotify, Challenge, Init, InitAck
from hbtrio.wire.vocabulary import Event, NotificationType
from support.fake_processes import HANGS, FakeRun
from support.guest_world import SETTINGS, Applications, GuestWorld, handlers
from support.memory_device import MemoryDevice

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: With the challenge timeout as shipped, 5 s.
SHIPPED = SessionSettings(name="vm1")

RESTING, GUARDED = 10, 50


class CountedTicks(OnTimeGuard):
    """Counts the times at which the guest's process is woken by its guard."""

    def __init__(self) -> None:
        super().__init__(trio.current_time())
        self.ticks = 0

    def tick(self, now: float, *, resting: bool = False) -> float:
        self.ticks += 1
        return super().tick(now, resting=resting)

    async def within_10_s(self) -> int:
        """Begins a little later, when it has noticed what has just changed."""
        await trio.sleep(1.05)
        before = self.ticks
        await trio.sleep(10)
        return self.ticks - before


@asynccontextmanager
async def challenged(bench: GuestWorld, every_s: float = 1.0) -> AsyncIterator[None]:
    """A host that challenges the guest."""

    async def challenge() -> None:
        number = 0
        while True:
            bench.device.send(Challenge(number := number + 1))
            await trio.sleep(every_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(challenge)
        yield
        nursery.cancel_scope.cancel()


async def test_a_guest_rests_without_a_host_and_not_while_an_application_may_time_out() -> None:
    guard, voters = CountedTicks(), Applications()
    async with trio.open_nursery() as nursery:
        device = MemoryDevice(persistent=True)
        bench = GuestWorld(device=device, guard=guard, voters=voters)
        await bench.enable(nursery)
        device.disconnect()
        assert await guard.within_10_s() == RESTING
        voters.states.append(HealthStatus(True))
        assert await guard.within_10_s() == GUARDED
        voters.states.clear()
        device.connect()
        assert await guard.within_10_s() == RESTING  # only its next init is due
        nursery.cancel_scope.cancel()


async def test_a_guest_rests_between_the_beats_and_not_when_they_cease() -> None:
    guard = CountedTicks()
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SHIPPED, device=MemoryDevice(persistent=True), guard=guard)
        await bench.enable(nursery)
        async with challenged(bench):
            assert await guard.within_10_s() == RESTING
        before = guard.ticks
        await trio.sleep(5.5)
        assert bench.guest.session.state is SessionState.ENABLING
        assert guard.ticks - before >= 15
        nursery.cancel_scope.cancel()


async def test_a_guest_whose_timeout_is_short_never_rests() -> None:
    guard = CountedTicks()
    short = SessionSettings(name="vm1", hb_min_timeout_ms=0)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(short, device=MemoryDevice(persistent=True), guard=guard)
        nursery.start_soon(bench.run)
        await trio.sleep(2)
        assert await guard.within_10_s() == GUARDED  # a host may answer its init at any moment
        inits = [one.message for one in bench.device.unread() if isinstance(one.message, Init)]
        bench.device.send(InitAck(inits[-1].invocation_id))
        async with challenged(bench):
            assert await guard.within_10_s() == GUARDED
        nursery.cancel_scope.cancel()


async def test_a_guest_does_not_rest_during_a_vote(tmp_path: Path) -> None:
    guard = CountedTicks()
    processes = handlers(tmp_path, {"slow": FakeRun(delay_s=30.0)})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, processes=processes, events=tmp_path, guard=guard)
        await bench.enable(nursery)
        assert await guard.within_10_s() == RESTING
        bench.device.send(ActionNotify(9, Event.STOP, NotificationType.REVOCABLE, 20_000))
        assert await guard.within_10_s() == GUARDED
        await trio.sleep(10)
        assert await guard.within_10_s() == RESTING
        nursery.cancel_scope.cancel()


async def test_a_guest_does_not_rest_while_its_health_script_may_time_out(tmp_path: Path) -> None:
    guard = CountedTicks()
    script = str(tmp_path / "health")
    processes = handlers(tmp_path, {"health": HANGS})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, health=script, guard=guard)
        await bench.enable(nursery)
        assert await guard.within_10_s() == GUARDED
        nursery.cancel_scope.cancel()
