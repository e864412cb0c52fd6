"""From boot to heartbeating, votes and notices, and the ways in which guest, host and VM end."""

from __future__ import annotations

import pytest

from vm.bed import Supply, open_bed
from vm.machine import CHANNELS, Hardware, Transport
from vm.words import DOWN, FAREWELL, FOUND, HEARTBEATING, LOST, MISSED, RECOVERED, RELEASED, STOPPED

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("transport", CHANNELS)
async def test_boot_to_heartbeating(supply: Supply, transport: Transport) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.boot(Hardware(transport=transport))
        await bed.beats(vm, 3)
        assert bed.events(vm) == [HEARTBEATING]
        await vm.changed(*RELEASED)
        one = await bed.instance(vm)
        assert one is not None
        assert (one["name"], one["state"], one["health"], one["faulty_messages"]) == (
            "vm",
            "heartbeating",
            "healthy",
            0,
        )
        assert await bed.vote(vm, "stop") == ("accept", "")


async def test_votes_and_notices_are_the_scripts_inside(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        assert await bed.vote(vm, "live_migrate_begin") == ("accept", "")
        await vm.sh("echo 'a call is up' >/run/guest-client/veto.live_migrate_begin")
        assert await bed.vote(vm, "live_migrate_begin") == ("reject", "a call is up")
        assert await bed.vote(vm, "stop") == ("accept", "")
        assert await bed.notify(vm, "live_migrate_begin") == ("complete", "")
        assert await bed.notify(vm, "live_migrate_end") == ("complete", "")
        await bed.beats(vm)
        assert bed.events(vm) == [
            HEARTBEATING,
            ("vote", ""),
            ("vote", "a call is up"),
            ("vote", ""),
            ("notice", ""),
            ("stopped", "live_migrate_begin is in progress"),
            ("heartbeating", "back after live_migrate_end was sent"),
            ("notice", ""),
        ]
        await vm.changed(*FOUND)


async def test_a_killed_guest_is_lost_by_its_beats_alone(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        await vm.sh("kill -9 $(cat /run/guest.pid)")
        await bed.event("loss", vm, since=since)
        one = await bed.instance(vm)
        assert one is not None
        assert (one["state"], one["connected"]) == ("lost", True)
        await vm.sh("guest")
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm)
        assert bed.events(vm, since) == [LOST, RECOVERED]
        await vm.changed(*FOUND, *RELEASED)


async def test_a_guest_that_is_stopped_says_farewell(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        await vm.sh("kill $(cat /run/guest.pid)")
        await bed.event("stopped", vm, since=since)
        await vm.sh("guest")
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm)
        assert bed.events(vm, since) == [FAREWELL, HEARTBEATING]
        await vm.changed(*FOUND, *STOPPED, *RELEASED)


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("transport", CHANNELS)
async def test_a_restarted_host_loses_nobody_and_counts_nobody_twice(
    supply: Supply, transport: Transport, how: str
) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.heartbeating(transport)
        await vm.said("event=init-ack.")
        assert bed.scene.host is not None
        if how == "stopped":
            await bed.scene.host.stop()
            await bed.event("stopped", vm)
        else:
            await bed.scene.host.kill()
        # Only a virtio port tells that its host has gone; elsewhere its silence does.
        tells = transport is Transport.VIRTIO
        await vm.said("event=channel-down." if tells else "event=challenge-timeout.")
        since = bed.now
        await bed.scene.start_host()
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [HEARTBEATING]
        status = await bed.scene.status()
        assert [one["uuid"] for one in status["instances"]] == [vm.uuid]
        await vm.changed(*(FOUND + DOWN + FOUND if tells else RELEASED + MISSED))


async def test_a_host_that_reconnects_unseen_is_found(supply: Supply) -> None:
    """The guest stands still and sees neither the end of the one host nor the other's beginning."""
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        await vm.said("event=init-ack.")
        assert bed.scene.host is not None
        await vm.qmp("stop")
        await bed.scene.host.kill()
        since = bed.now
        await bed.scene.start_host()
        await bed.until(vm, lambda one: one["connected"])
        await vm.qmp("cont")
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [HEARTBEATING]
        await vm.changed(*FOUND, *MISSED)


async def test_a_killed_qemu_is_stopped_and_forgotten(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        await vm.said("event=init-ack.")
        since = bed.now
        await vm.kill()
        stopped = await bed.event("stopped", vm, since=since)
        assert stopped["reason"] in ("closed by the peer", "connection reset")
        # Killed, it can't remove its socket; libvirt does, when it sees that QEMU has ended.
        vm.channel.unlink()
        removed = ("stopped", f"{vm.channel} was removed")
        await bed.event("stopped", vm, since=since, reason=removed[1])
        await bed.until_forgotten(vm)
        assert bed.events(vm, since) == [("stopped", stopped["reason"]), removed]
        await vm.changed(*FOUND, shell=False)


async def test_a_qemu_that_quits_is_stopped_and_forgotten(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        await vm.said("event=init-ack.")
        since = bed.now
        await vm.qmp("quit")
        assert await vm.ended() == 0
        await bed.until_forgotten(vm)
        # Both are seen at the same moment, in either order.
        said = bed.events(vm, since)
        assert set(said) <= {
            ("stopped", "closed by the peer"),
            ("stopped", f"{vm.channel} was removed"),
        }
        assert said
        await vm.changed(*FOUND, shell=False)
