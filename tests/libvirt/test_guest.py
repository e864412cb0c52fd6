"""What a host reports of a real guest, and does to it, while others act on its VM."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from libvirt.guest_domain import open_bed
from libvirt.private_libvirt import PrivateLibvirt
from vm.initramfs import Image
from vm.machine import BOOT_S

pytestmark = [pytest.mark.processes, pytest.mark.real_time, pytest.mark.slow, pytest.mark.vm]

#: Longer than a hung guest of the default interval takes to be lost.
SILENCE_S = 5.0


async def test_a_vm_that_is_paused_or_saved_is_left_alone(
    libvirt: PrivateLibvirt, image: Image
) -> None:
    async with open_bed(libvirt, image) as bed:
        one = await bed.line()
        assert one is not None
        assert one["domain"]["name"] == "web-1"
        since = bed.now
        await bed.virsh("suspend")
        assert (await bed.event("paused", since))["reason"] == "paused: user"
        await trio.sleep(SILENCE_S)
        await bed.virsh("resume")
        await bed.until_beating()
        assert "loss" not in bed.kinds(since)

        since = bed.now
        await bed.virsh("dump", str(bed.domain.directory / "core"), "--memory-only")
        await bed.until_beating()
        assert "loss" not in bed.kinds(since)

        since = bed.now
        await bed.virsh("managedsave")
        await bed.until_forgotten()
        await trio.sleep(SILENCE_S)
        await bed.virsh("start")
        await bed.until_beating(BOOT_S)
        assert "loss" not in bed.kinds(since)
        assert bed.commands == []


async def test_a_vm_that_others_reset_is_expected_back(
    libvirt: PrivateLibvirt, image: Image
) -> None:
    async with open_bed(libvirt, image) as bed:
        since = bed.now
        await bed.virsh("reset")
        await bed.until(lambda one: one["state"] == "restarting")
        await bed.until_beating(BOOT_S)
        # Its kernel panics, and restarts it.
        await bed.inside("echo c >/proc/sysrq-trigger")
        await bed.until(lambda one: one["state"] == "restarting")
        await bed.until_beating(BOOT_S)
        assert "loss" not in bed.kinds(since)
        since = bed.now
        await bed.virsh("destroy")
        await bed.event("stopped", since)
        await bed.until_forgotten()
        assert "loss" not in bed.kinds(since)
        assert bed.commands == []


async def test_a_vm_that_hangs_or_fails_is_lost(libvirt: PrivateLibvirt, image: Image) -> None:
    async with open_bed(libvirt, image) as bed:
        since = bed.now
        await bed.inside("kill -STOP $(cat /run/guest.pid)")
        loss = await bed.event("loss", since)
        assert loss["state"] == "running: booted"
        await bed.until_commanded()
        assert bed.commands == [["virsh", "reset", bed.domain.uuid]]
        await bed.until_beating(BOOT_S)

        since = bed.now
        os.kill(libvirt.qemu_pid(bed.domain), signal.SIGKILL)
        loss = await bed.event("loss", since)
        assert loss["reason"] == "shut off: crashed"
        await bed.until(lambda one: one["state"] == "lost")
        await bed.virsh("start")
        await bed.until_beating(BOOT_S)
        # A VM that is gone is not reset, and nobody had told the host to start one.
        assert len(bed.commands) == 1
