"""A VM that is reset again and again, and never heard in between."""

from __future__ import annotations

import pytest
import trio

from libvirt.guest_domain import open_bed
from libvirt.private_libvirt import PrivateLibvirt
from vm.initramfs import Image

pytestmark = [pytest.mark.processes, pytest.mark.real_time, pytest.mark.slow, pytest.mark.vm]

RESTART_S = 10


async def test_a_boot_loop_ends_as_a_loss(libvirt: PrivateLibvirt, image: Image) -> None:
    """The channel is as virt-clone leaves it, without a path: libvirt makes one."""
    async with open_bed(libvirt, image, restart_s=RESTART_S, path="") as bed:
        one = await bed.line()
        assert one is not None
        assert one["path"].startswith("/var/lib/libvirt/qemu/channel/")
        bed.begin()
        began = trio.current_time()
        while "loss" not in bed.kinds:
            await bed.virsh("reset")
            await trio.sleep(1.0)
        # Twice RESTART after the first reset, and not before.
        assert trio.current_time() - began >= 2 * RESTART_S - 1
        await bed.until_commanded()
        for line in bed.story():
            print(line)
