"""The port itself: pulled out, put in, missing at the start, and with nobody on the other side."""

from __future__ import annotations

import sys

import pytest
import trio

from vm.bed import Bed, Supply, open_bed
from vm.machine import Machine

pytestmark = pytest.mark.vm

BEATING = ("heartbeating", "init answered")

#: The processor time that a guest may use while its host is away, of one processor.
IDLE_SHARE = 0.005
IDLE_S = 10.0


async def cpu_s(vm: Machine) -> float:
    """Processor time of the guest so far, in seconds, as the VM's kernel counts it."""
    return int((await vm.sh("cut -d' ' -f1 /proc/$(cat /run/guest.pid)/schedstat")).strip()) / 1e9


_LOOP = "import time; s = time.process_time(); sum(map(hash, map(str, range(100000)))); "
_LOOP += "print(time.process_time() - s)"


async def slowness_of(vm: Machine) -> float:
    """How much longer Python takes inside, where every instruction is emulated."""
    outside = await trio.run_process([sys.executable, "-c", _LOOP], capture_stdout=True)
    inside = await vm.sh(f"python3.11 -c '{_LOOP}'")
    return float(inside) / float(outside.stdout)


async def test_unplugged_and_plugged_again(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        await vm.said("event=init-ack.")
        since = bed.now
        await vm.unplug()
        await vm.said("event=channel-down.")
        await bed.event("loss", vm, since=since)
        await vm.plug()
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [
            ("loss", "no answer for 3 s"),
            ("heartbeating", "after: no answer for 3 s"),
        ]
        assert "channel: no such device" in vm.console


async def test_a_port_has_one_opener(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        said = await vm.sh("hbtrio guest; echo $?")
        assert said.splitlines() == [
            "hbtrio guest: /dev/virtio-ports/cgcs.heartbeat: another process holds it",
            "7",
        ]


async def test_a_port_that_is_missing_at_the_start(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        await vm.sh("kill $(cat /run/guest.pid)")
        await bed.event("stopped", vm)
        await vm.unplug()
        text = "no such device; this VM has no heartbeat channel"
        said = await vm.sh("hbtrio guest; echo $?")
        assert said.splitlines() == [f"hbtrio guest: /dev/vport1p1: {text}", "6"]
        await vm.sh("guest --wait-device")
        await vm.said("channel can't be opened: no such file or directory; retrying")
        since = bed.now
        await vm.plug()
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert bed.events(vm) == [BEATING, ("stopped", "guest exited: Exiting..."), BEATING]


async def share_with_host_away(bed: Bed, vm: Machine) -> tuple[float, float]:
    """What the guest uses of a processor while its host is away: emulated, and reckoned natively.

    Every instruction inside is emulated, which takes many outside, so the share is divided by how
    much slower a loop of Python is in there.
    """
    assert bed.scene.host is not None
    await bed.scene.host.stop()
    await vm.said("event=channel-down.")
    slowness = await slowness_of(vm)
    before = await cpu_s(vm)
    await trio.sleep(IDLE_S)
    emulated = (await cpu_s(vm) - before) / IDLE_S
    return emulated, emulated / slowness


async def test_a_host_that_is_away_costs_no_processor_time(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        _, share = await share_with_host_away(bed, vm)
        since = bed.now
        await bed.scene.start_host()
        await bed.event("heartbeating", vm, since=since)
        assert share < IDLE_SHARE
