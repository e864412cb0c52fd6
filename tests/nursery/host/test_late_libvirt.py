"""libvirt's answer that has come by the deadline counts, if the host is stopped over it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.host import LibvirtSettings
from hbtrio.nursery.host.libvirt_watch import Source
from hbtrio.nursery.host.virsh import QUESTION_S
from support.fake_libvirt import ANSWER_S
from support.host_world import HostWorld, host_world
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.slow

LOOK_S = 2.0

STALLS = pytest.mark.parametrize("stall_s", [0.1, 0.75, 3.0])


async def look(world: HostWorld, uuid: str) -> bool:
    return (await world.host.domains.look([uuid], LOOK_S))[uuid].source is Source.ANSWER


async def traffic(world: HostWorld, uuid: str) -> bool:
    return await world.host.domains.traffic(uuid) == 0


@STALLS
@pytest.mark.parametrize(("ask", "limit_s"), [(look, LOOK_S), (traffic, QUESTION_S)])
def test_an_answer_of_libvirt(
    stall_s: float, ask: Callable[[HostWorld, str], Awaitable[bool]], limit_s: float
) -> None:
    """virsh ends 10 ms before the deadline, and the host stands still over both."""

    async def scenario(clock: MockClock) -> bool:
        async with host_world(libvirt=LibvirtSettings(enabled="on")) as world:
            guest = world.guest()
            domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
            await world.libvirt.start(domain)
            guest.appear()
            await world.at(4.5)
            world.libvirt.hang()
            answered: list[bool] = []

            async def asks() -> None:
                answered.append(await ask(world, guest.uuid))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(asks)
                await world.at(4.5 + limit_s - ANSWER_S - 0.01)
                world.libvirt.go_on()
                await world.sleep(0.02)
                clock.jump(stall_s)
            return answered[0]

    assert in_every_order(scenario) == [True] * ORDERS
