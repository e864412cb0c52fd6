"""A pause, and then a hang, with the host daemon or libvirtd in trouble: ``make test-libvirt``."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio

from libvirt.guest_domain import Bed, open_bed
from libvirt.private_libvirt import PrivateLibvirt
from vm.initramfs import Image
from vm.machine import BOOT_S

pytestmark = [
    pytest.mark.processes,
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.vm,
    pytest.mark.skipif(
        os.environ.get("HBTRIO_LIBVIRT_TROUBLE") != "1", reason="run by make test-libvirt"
    ),
]

#: How long what is stopped stands still.
STOPPED_S = 60.0

#: How long what has ended is away.
AWAY_S = 5.0


async def host_restarted(bed: Bed) -> None:
    assert bed.scene.host is not None
    await bed.scene.host.stop()
    await trio.sleep(AWAY_S)
    await bed.scene.start_host()


async def host_killed(bed: Bed) -> None:
    assert bed.scene.host is not None
    await bed.scene.host.kill()
    await trio.sleep(AWAY_S)
    await bed.scene.start_host()


async def host_stopped(bed: Bed) -> None:
    assert bed.scene.host is not None
    os.kill(bed.scene.host.pid, signal.SIGSTOP)
    await trio.sleep(STOPPED_S)
    os.kill(bed.scene.host.pid, signal.SIGCONT)


async def libvirtd_restarted(bed: Bed) -> None:
    await trio.to_thread.run_sync(bed.libvirt.end)
    await trio.sleep(AWAY_S)
    await trio.to_thread.run_sync(bed.libvirt.start)


async def libvirtd_killed(bed: Bed) -> None:
    await trio.to_thread.run_sync(bed.libvirt.end, signal.SIGKILL)
    await trio.sleep(AWAY_S)
    await trio.to_thread.run_sync(bed.libvirt.start)


async def libvirtd_stopped(bed: Bed) -> None:
    bed.libvirt.hang()
    await trio.sleep(STOPPED_S)
    bed.libvirt.go_on()


@pytest.mark.parametrize(
    "trouble",
    [
        host_restarted,
        host_killed,
        host_stopped,
        libvirtd_restarted,
        libvirtd_killed,
        libvirtd_stopped,
    ],
)
async def test_a_pause_is_left_alone_and_a_hang_is_found(
    libvirt: PrivateLibvirt, image: Image, trouble: Callable[[Bed], Awaitable[None]]
) -> None:
    async with open_bed(libvirt, image) as bed:
        bed.begin()
        await bed.virsh("suspend")
        await bed.event("paused")
        await trouble(bed)
        # The file of its channel is found anew, and libvirt is asked anew.
        await bed.until(lambda one: one["domain"] is not None)
        await bed.virsh("resume")
        await bed.until_beating(BOOT_S)
        assert "loss" not in bed.kinds
        assert bed.commands == []

        bed.begin()
        began = trio.current_time()
        await bed.inside("kill -STOP $(cat /run/guest.pid)")
        await bed.event("loss")
        lost_after_s = trio.current_time() - began
        await bed.until_commanded()
        await bed.until_beating(BOOT_S)
        assert bed.commands == [["virsh", "reset", bed.domain.uuid]]
        print(f"{trouble.__name__}: lost after {lost_after_s:.1f} s")


async def test_a_qemu_that_hangs_is_not_reset_twice(libvirt: PrivateLibvirt, image: Image) -> None:
    """libvirt says that it runs, and its reset hangs as well."""
    async with open_bed(libvirt, image, timeout_s=10.0) as bed:
        bed.begin()
        bed.signal_qemu(signal.SIGSTOP)
        try:
            loss = await bed.event("loss")
            assert loss["state"].startswith("running")
            corrective = await bed.event("corrective")
            assert corrective["outcome"] == "timed-out"
            await trio.sleep(STOPPED_S)
            assert len(bed.commands) == 1
        finally:
            bed.signal_qemu(signal.SIGCONT)
        await bed.until_beating(BOOT_S)
        assert bed.kinds.count("loss") == 1
        assert len(bed.commands) == 1
        print(*bed.story(), sep="\n")
