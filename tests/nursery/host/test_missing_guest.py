"""A host whose VMs run without a guest, or whose guests have left."""

from __future__ import annotations

import pytest

from hbtrio.config.host import CorrectiveCommands, HeartbeatSettings, LibvirtSettings
from hbtrio.config.instances import InstanceSettings
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, uuid_of

pytestmark = pytest.mark.usefixtures("autojump_clock")

ON = LibvirtSettings(enabled="on")
AFTER_50 = HeartbeatSettings(absent_after_s=50.0)
NOBODY = ("unwatched", "no guest has begun to heartbeat within 50 s", False)
GONE = ("absent", "its guest had exited, and is not back within 50 s", False)
COMMANDS = CorrectiveCommands(reboot=("reset", "{uuid}"), stop=("stop",), log=("log",))


def told(world: HostWorld) -> list[tuple[str, str, bool]]:
    """What was reported of guests that are not there, and of losses."""
    kinds = ("unwatched", "absent", "loss", "corrective", "not-acted", "restart-expired")
    return [
        (report.kind, report.reason, report.alarm)
        for report in world.host.reports.recent
        if report.kind in kinds
    ]


def state_of(world: HostWorld, guest: ScriptedGuest) -> str:
    return world.channel(guest).heartbeat.state.shown


def mute(guest: ScriptedGuest) -> ScriptedGuest:
    """A guest in whose VM no daemon runs."""
    guest.sends_init = False
    return guest.appear()


async def test_one_without_a_guest_is_unwatched_and_nothing_is_done() -> None:
    async with host_world(
        heartbeat=AFTER_50, corrective_commands=COMMANDS, runs={"reset": FakeRun()}
    ) as world:
        guest = mute(world.guest())
        await world.sleep(45)
        assert (told(world), state_of(world, guest)) == ([], "waiting")
        await world.sleep(10)
        assert (told(world), state_of(world, guest)) == ([NOBODY], "unwatched")
        assert world.channel(guest).why == NOBODY[1]
        await world.sleep(1000)
        assert told(world) == [NOBODY]
        guest.send_init()
        await world.sleep(5)
        assert state_of(world, guest) == "heartbeating"
        guest.answers_after_s = None
        await world.sleep(10)
        assert [kind for kind, _, _ in told(world)] == ["unwatched", "loss", "corrective"]


async def test_one_that_has_said_exit_is_absent_and_nothing_is_done() -> None:
    async with host_world(heartbeat=AFTER_50, corrective_commands=COMMANDS) as world:
        guest = await world.heartbeating()
        guest.sends_init = False
        guest.send_exit()
        await world.sleep(49)
        assert (told(world), state_of(world, guest)) == ([], "waiting")
        await world.sleep(2)
        assert (told(world), state_of(world, guest)) == ([GONE], "absent")
        await world.sleep(1000)
        assert told(world) == [GONE]


async def test_what_is_set_for_an_instance_holds_for_it() -> None:
    instances = {uuid_of(1): InstanceSettings(absent_after_s=5.0)}
    async with host_world(heartbeat=AFTER_50, instances=instances) as world:
        one, other = mute(world.guest()), mute(world.guest())
        assert one.uuid == uuid_of(1)
        await world.sleep(10)
        assert (state_of(world, one), state_of(world, other)) == ("unwatched", "waiting")


async def test_one_that_libvirt_has_stopped_is_not_missed() -> None:
    async with host_world(heartbeat=AFTER_50, libvirt=ON) as world:
        guest = world.guest()
        domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
        await world.libvirt.start(domain)
        guest.appear()
        await world.sleep(2)
        guest.sends_init = False
        guest.send_exit()
        await world.sleep(10)
        await world.libvirt.destroy(domain)
        await world.sleep(500)
        assert told(world) == []


async def test_paused_time_does_not_count() -> None:
    async with host_world(heartbeat=AFTER_50, libvirt=ON) as world:
        guest = world.guest()
        domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
        await world.libvirt.start(domain)
        mute(guest)
        await world.sleep(30)
        await world.libvirt.suspend(domain)
        await world.sleep(500)
        assert (told(world), state_of(world, guest)) == ([], "paused")
        await world.libvirt.resume(domain)
        await world.sleep(15)
        assert (told(world), state_of(world, guest)) == ([], "waiting")
        await world.sleep(15)
        assert (told(world), state_of(world, guest)) == ([NOBODY], "unwatched")


async def test_while_libvirt_is_silent_nothing_is_said() -> None:
    async with host_world(heartbeat=AFTER_50, libvirt=ON) as world:
        guest = world.guest()
        domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
        await world.libvirt.start(domain)
        mute(guest)
        await world.sleep(30)
        world.libvirt.hang()
        await world.sleep(300)
        assert (told(world), state_of(world, guest)) == ([], "waiting")
        world.libvirt.go_on()
        await world.sleep(30)
        assert (told(world), state_of(world, guest)) == ([NOBODY], "unwatched")


async def test_a_socket_that_cannot_be_reached_of_a_vm_that_runs() -> None:
    """As one whose folder the host may not enter."""
    async with host_world(heartbeat=AFTER_50, libvirt=ON) as world:
        guest = world.guest()
        domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
        await world.libvirt.start(domain)
        await world.sleep(40)
        assert (told(world), state_of(world, guest)) == ([], "waiting")
        await world.sleep(20)
        assert (told(world), state_of(world, guest)) == ([NOBODY], "unwatched")
