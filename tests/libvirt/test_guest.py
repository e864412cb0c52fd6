"""What a host reports of a real guest, and does to it, while others act on its VM.

One test for each line of libvirt's that can run here; docs/libvirt.md has the table. Only the last
ones are failures, and only those are corrected.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest
import trio

from libvirt.equipment import SMALL_DISK, START_WATCHDOG, make_room
from libvirt.guest_domain import Bed, open_bed
from libvirt.private_libvirt import PrivateLibvirt
from libvirt.shared_bed import SharedBed, played, share
from vm.initramfs import Image
from vm.machine import BOOT_S

pytestmark = [pytest.mark.processes, pytest.mark.real_time, pytest.mark.slow, pytest.mark.vm]

#: Longer than a hung guest of the default interval takes to be lost.
SILENCE_S: Final = 5.0

#: Crashes the guest's kernel.
CRASH: Final = "echo c >/proc/sysrq-trigger"

#: The same, but nobody outside is told.
NO_PANIC_DEVICE: Final = "rmmod pvpanic_mmio"

#: Stops the guest's heartbeat daemon, and nothing else.
HANG: Final = "kill -STOP $(cat /run/guest.pid)"


@pytest.fixture(scope="module")
def shared(libvirtd: PrivateLibvirt, image: Image) -> Iterator[SharedBed]:
    """A guest that is heartbeating, with disks, a watchdog and a device for panics."""
    with share(open_bed(libvirtd, image, equipped=True)) as shared:
        yield shared


def assert_left_alone(bed: Bed) -> None:
    """It was neither lost nor corrected."""
    assert not {"loss", "unhealthy", "not-acted"} & set(bed.kinds)
    assert bed.commands == []


# -- paused, and runs again -----------------------------------------------------------------


@played
async def test_suspended(bed: Bed) -> None:
    one = await bed.line()
    assert one is not None
    assert one["domain"]["name"] == "web-1"
    await bed.virsh("suspend")
    await bed.reported("paused", "paused: user")
    await trio.sleep(SILENCE_S)
    await bed.virsh("resume")
    await bed.until_beating()
    assert_left_alone(bed)


@played
async def test_dumped(bed: Bed) -> None:
    core = bed.domain.directory / "core"
    for how in (["--memory-only"], ["--memory-only", "--live"]):
        await bed.virsh("dump", str(core), *how)
        await bed.until_beating()
        core.unlink()
    assert_left_alone(bed)


@played
async def test_snapshots(bed: Bed) -> None:
    await bed.virsh("snapshot-create-as", "inside")
    await bed.until_beating()
    await bed.virsh("snapshot-revert", "inside")
    # It is a new QEMU, and its guest goes on.
    await bed.until_beating(BOOT_S)
    await bed.virsh("snapshot-delete", "inside")
    assert_left_alone(bed)


@played
async def test_external_snapshots(bed: Bed) -> None:
    directory = bed.domain.directory
    for number, how in enumerate(([], ["--live"])):
        memory, disk = directory / f"memory-{number}", directory / f"disk-{number}.qcow2"
        specs = ("--memspec", f"file={memory}", "--diskspec", f"vda,file={disk}")
        small = ("--diskspec", "vdb,snapshot=no")
        name = f"outside-{number}"
        await bed.virsh("snapshot-create-as", name, *how, *specs, *small)
        await bed.until_beating()
        memory.unlink()
    await bed.virsh("snapshot-create-as", "disks", "--disk-only", "--diskspec", "vdb,snapshot=no")
    await bed.until_beating()
    for name in ("outside-0", "outside-1", "disks"):
        await bed.virsh("snapshot-delete", name, "--metadata")
    assert_left_alone(bed)


@played
async def test_its_disk_is_moved(bed: Bed) -> None:
    target = bed.domain.directory / "moved.qcow2"
    await bed.virsh("blockcopy", "vda", str(target), "--wait", "--pivot", "--transient-job")
    await bed.until_beating()
    assert_left_alone(bed)


@played
async def test_its_devices_and_memory_change(bed: Bed) -> None:
    path = bed.domain.directory / "channel.xml"
    path.write_text("<channel type='unix'><target type='virtio' name='other'/></channel>")
    await bed.virsh("attach-device", str(path), "--live")
    await bed.virsh("setmem", "200M", "--live")
    await bed.until_beating()
    assert_left_alone(bed)


@played
async def test_a_shutdown_and_a_reboot_that_it_ignores(bed: Bed) -> None:
    await bed.virsh("shutdown", "--mode", "acpi")
    await bed.virsh("reboot", "--mode", "acpi")
    await bed.until_beating()
    assert_left_alone(bed)


@played
async def test_its_watchdog_pauses_it(bed: Bed) -> None:
    await bed.inside(START_WATCHDOG)
    paused = await bed.event("paused")
    assert (paused["reason"], paused["alarm"]) == ("paused: watchdog", True)
    await bed.virsh("resume")
    await bed.until_beating()
    assert_left_alone(bed)


@played
async def test_a_full_disk_pauses_it(bed: Bed) -> None:
    await bed.inside(f"dd if=/dev/zero of={SMALL_DISK} bs=64k count=64 oflag=direct &")
    paused = await bed.event("paused")
    assert (paused["reason"], paused["alarm"]) == ("paused: I/O error", True)
    # It is still full.
    await bed.virsh("resume")
    await bed.until_in("paused")
    await trio.to_thread.run_sync(make_room, bed.libvirt)
    await bed.virsh("resume")
    await bed.until_beating()
    assert_left_alone(bed)


@played
async def test_it_suspends_itself(bed: Bed) -> None:
    await bed.inside("(sleep 1; echo mem >/sys/power/state) &")
    await bed.reported("paused", "suspended by its guest (pm)")
    await bed.virsh("dompmwakeup")
    await bed.until_beating()
    assert_left_alone(bed)


# -- saved, and started ---------------------------------------------------------------------


@played
async def test_saved(bed: Bed) -> None:
    await bed.virsh("managedsave")
    await bed.until_forgotten()
    assert bed.kinds[-1] == "stopped"
    await trio.sleep(SILENCE_S)
    await bed.boot()
    assert_left_alone(bed)


@played
async def test_saved_and_restored_paused(bed: Bed) -> None:
    file = bed.domain.directory / "saved"
    await bed.virsh("save", str(file), "--paused")
    await bed.until_forgotten()
    await bed.libvirt_does("restore", str(file))
    file.unlink()
    await bed.until_in("paused")
    await trio.sleep(SILENCE_S)
    await bed.virsh("resume")
    await bed.until_beating()
    assert_left_alone(bed)


@played
async def test_started_paused(bed: Bed) -> None:
    await bed.virsh("destroy")
    await has_stopped(bed, "shut off: destroyed")
    await bed.virsh("start", "--paused")
    await bed.until_in("paused")
    await bed.virsh("resume")
    await bed.until_beating(BOOT_S)
    assert bed.kinds.count("stopped") == 1
    assert_left_alone(bed)


# -- reset, by anyone -----------------------------------------------------------------------


async def is_expected_back(bed: Bed) -> None:
    await bed.until_in("restarting")
    await bed.until_beating(BOOT_S)
    assert_left_alone(bed)


@played
async def test_reset(bed: Bed) -> None:
    await bed.virsh("reset")
    await is_expected_back(bed)


@played
async def test_it_reboots(bed: Bed) -> None:
    await bed.inside("reboot -f")
    await is_expected_back(bed)


@played
async def test_its_kernel_crashes_and_reboots(bed: Bed) -> None:
    await bed.inside(f"{NO_PANIC_DEVICE}; {CRASH}")
    await is_expected_back(bed)


@played
async def test_its_kernel_crashes_and_libvirt_restarts_it(bed: Bed) -> None:
    await bed.virsh("set-lifecycle-action", "crash", "restart", "--live")
    await bed.inside(CRASH)
    await is_expected_back(bed)


@played
async def test_its_watchdog_resets_it(bed: Bed) -> None:
    await bed.virsh("qemu-monitor-command", "--hmp", "watchdog_action reset")
    await bed.inside(START_WATCHDOG)
    await is_expected_back(bed)


@pytest.mark.skipif(
    os.environ.get("HBTRIO_LIBVIRT_TROUBLE") != "1",
    reason="libvirtd 9.0 may crash in it; run by make test-libvirt",
)
@played
async def test_dumped_and_reset(bed: Bed) -> None:
    core = bed.domain.directory / "core"
    await bed.virsh("dump", str(core), "--memory-only", "--reset")
    core.unlink()
    await is_expected_back(bed)


# -- ended on request -----------------------------------------------------------------------


async def has_stopped(bed: Bed, reason: str) -> None:
    await bed.until_forgotten()
    ((_, given),) = [report for report in bed.reports if report[0] == "stopped"]
    assert given == reason
    assert_left_alone(bed)


@played
async def test_it_powers_off(bed: Bed) -> None:
    await bed.inside("poweroff -f")
    await has_stopped(bed, "shut off: shutdown")


@played
async def test_destroyed(bed: Bed) -> None:
    await bed.virsh("destroy")
    await has_stopped(bed, "shut off: destroyed")


@played
async def test_its_qemu_is_terminated(bed: Bed) -> None:
    bed.signal_qemu(signal.SIGTERM)
    await has_stopped(bed, "shut off: shutdown")


# -- failed ---------------------------------------------------------------------------------


async def is_lost(bed: Bed, reason: str) -> None:
    await bed.event("loss")
    await bed.until_in("lost")
    assert [report for report in bed.reports if report[0] in ("loss", "stopped")] == [
        ("loss", reason)
    ]


async def is_reset_and_back(bed: Bed) -> None:
    await bed.until_commanded()
    await bed.until_beating(BOOT_S)
    assert bed.commands == [["virsh", "reset", bed.domain.uuid]]


@played
async def test_its_qemu_is_killed(bed: Bed) -> None:
    bed.signal_qemu(signal.SIGKILL)
    await is_lost(bed, "shut off: crashed")
    await bed.boot()
    # A VM that is gone is not reset, and nobody had told the host to start one.
    assert bed.commands == []


@played
async def test_its_kernel_crashes_and_libvirt_destroys_it(bed: Bed) -> None:
    await bed.virsh("set-lifecycle-action", "crash", "destroy", "--live")
    await bed.inside(CRASH)
    await bed.event("loss")
    await bed.boot()
    assert bed.kinds.count("loss") == 1
    assert bed.commands == []


@played
async def test_its_kernel_crashes_and_is_preserved(bed: Bed) -> None:
    await bed.inside(CRASH)
    loss = await bed.event("loss")
    assert loss["reason"] == "crashed: panicked"
    # It is reset, and resumed.
    await is_reset_and_back(bed)


@played
async def test_its_kernel_crashes_and_nobody_is_told(bed: Bed) -> None:
    await bed.inside(f"{NO_PANIC_DEVICE}; echo 0 >/proc/sys/kernel/panic; {CRASH}")
    loss = await bed.event("loss")
    assert loss["state"].startswith("running")
    await is_reset_and_back(bed)


@played
async def test_its_daemon_hangs(bed: Bed) -> None:
    await bed.inside(HANG)
    loss = await bed.event("loss")
    assert loss["state"].startswith("running")
    await is_reset_and_back(bed)
