"""What a host does with what libvirt tells it; libvirt is fake, and so is the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
from trio.testing import MockClock

from hbtrio.api.host_status import host_status, instance_status
from hbtrio.config.host import LibvirtSettings
from hbtrio.nursery.host.libvirt_watch import Source
from hbtrio.nursery.host.virsh import QUESTION_S
from support.fake_libvirt import FakeDomain
from support.host_world import HostWorld, ScriptedGuest, host_world, now

ON = LibvirtSettings(enabled="on")


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[HostWorld]:
    """A host without guests, whose libvirt answers."""
    async with host_world(libvirt=ON) as world:
        yield world


@attrs.frozen
class Machine:
    """A guest in a running domain."""

    guest: ScriptedGuest
    domain: FakeDomain


async def running(world: HostWorld, name: str = "web-1") -> Machine:
    """A guest that is heartbeating, and its domain."""
    guest = world.guest()
    domain = world.libvirt.define(guest.uuid, name, (guest.path,))
    await world.libvirt.start(domain)
    guest.appear()
    await world.sleep(3)
    assert world.channel(guest).heartbeating
    return Machine(guest, domain)


async def test_status_has_the_domain_and_libvirt(world: HostWorld) -> None:
    machine = await running(world)
    libvirt = host_status(world.host, now()).libvirt
    assert libvirt is not None
    assert (libvirt.state, libvirt.domains, libvirt.why) == ("answers", 1, "")
    line = instance_status(world.host, world.channel(machine.guest), now())
    assert line.name == "vm"
    assert line.domain is not None
    assert (line.domain.name, line.domain.state) == ("web-1", "running: booted")


async def test_status_tells_of_a_silent_libvirt(world: HostWorld) -> None:
    await running(world)
    world.libvirt.stop()
    await world.sleep(2)
    libvirt = host_status(world.host, now()).libvirt
    assert libvirt is not None
    assert (libvirt.state, libvirt.why) == ("silent", "no socket")


async def test_a_host_without_libvirt_says_off(autojump_clock: MockClock) -> None:
    async with host_world() as world:
        libvirt = host_status(world.host, now()).libvirt
        assert libvirt is not None
        assert libvirt.state == "off"
        assert world.libvirt.questions == []


async def test_a_socket_outside_the_directory_is_found(world: HostWorld) -> None:
    guest = world.guest()
    guest.path = "/run/libvirt/qemu/channel/1-web-1/cgcs.heartbeat"
    world.dialer.listen(guest.path, guest.connected)
    domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
    await world.libvirt.start(domain)
    await world.sleep(3)
    assert world.channel(guest).heartbeating
    assert world.channel(guest).path == guest.path
    guest.peer.close()
    world.dialer.forget(guest.path)
    await world.libvirt.destroy(domain)
    await world.sleep(1)
    assert guest.uuid not in world.host.channels


async def test_restarts_are_counted(world: HostWorld) -> None:
    machine = await running(world)
    domains, uuid = world.host.domains, machine.guest.uuid
    before = domains.restarts(uuid)
    assert before is not None
    await world.libvirt.suspend(machine.domain)
    await world.sleep(1)
    await world.libvirt.resume(machine.domain)
    await world.sleep(1)
    assert domains.restarts(uuid) == before
    world.libvirt.reset(machine.domain)
    await world.sleep(1)
    after_reset = domains.restarts(uuid)
    assert after_reset is not None
    assert after_reset > before
    await world.libvirt.destroy(machine.domain)
    await world.sleep(1)
    await world.libvirt.start(machine.domain)
    await world.sleep(1)
    assert domains.restarts(uuid) == after_reset + 1
    assert domains.restarts("unknown") is None


async def test_restarts_are_unknown_while_no_events_are_followed(world: HostWorld) -> None:
    machine = await running(world)
    domains, uuid = world.host.domains, machine.guest.uuid
    before = domains.restarts(uuid)
    assert before is not None
    world.libvirt.stop()
    await world.sleep(1)
    assert domains.of(uuid) is not None
    assert domains.restarts(uuid) is None
    world.libvirt.restart()
    await world.sleep(10)
    # There may have been one in between.
    after = domains.restarts(uuid)
    assert after is not None
    assert after > before


async def test_traffic_is_asked_for(world: HostWorld) -> None:
    machine = await running(world)
    machine.domain.requests, machine.domain.packets = 20, 3
    assert await world.host.domains.traffic(machine.guest.uuid) == 23
    machine.domain.hung = True
    before = now()
    assert await world.host.domains.traffic(machine.guest.uuid) is None
    assert now() - before == pytest.approx(QUESTION_S, abs=0.1)
    assert await world.host.domains.traffic("unknown") is None


async def test_without_libvirt_nothing_is_known(autojump_clock: MockClock) -> None:
    async with host_world() as world:
        domains = world.host.domains
        assert (
            domains.changed_after("a")
            is domains.restarts("a")
            is await domains.traffic("a")
            is None
        )
        looks = await domains.look(["a"], 2.0)
        assert looks["a"].source is Source.NONE
