"""Keeps a host late, as a machine that is short of processors does."""

from __future__ import annotations

from typing import Final

from trio.testing import MockClock

from support.host_world import HostWorld

#: A pass of the loop that takes this long makes the guard late.
_PASS_S: Final = 1.2


async def be_late(world: HostWorld, clock: MockClock, seconds: float) -> None:
    """Keeps the host late for some time."""
    end = clock.current_time() + seconds
    while clock.current_time() < end:
        clock.jump(_PASS_S)
        await world.sleep(0.1)
