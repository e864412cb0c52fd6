"""The port itself: pulled out, put in, missing at the start, and with nobody on the other side."""

from __future__ import annotations

import sys

import pytest
import trio

from vm.bed import Bed, Supply, open_bed
from vm.machine import Hardware, Machine, Transport
from vm.words import DOWN, FAREWELL, FOUND, HEARTBEATING, LOST, RECOVERED, STOPPED

pytestmark = pytest.mark.vm

NOT_CONFIGURED = [
    "hbtrio guest: /dev/virtio-ports/cgcs.heartbeat: no such device; "
    "this VM has no heartbeat channel",
    "6",
]

#: What a guest does in vain that finds no channel.
INITIAL_DOWN = "from initial to disabled, event=channel-down."

#: As long as a guest that takes what it should not is given to show it: it speaks after 1 s.
WATCHED_S = 4.0

#: How long a guest is watched while its host is away, and how often a second it may wake up then.
#: They are counted, since the VM's own account of processor time goes on while this machine's
#: processors do something else. It is once a second; what polls the port does so more often.
IDLE_S = 10.0
IDLE_WAKEUPS_HZ = 2.0


async def cpu_of_threads(vm: Machine) -> dict[str, float]:
    """Processor time of each thread of the guest so far, in seconds, as the VM's kernel counts it.

    /proc/PID/schedstat is the main thread's alone.
    """
    lines = await vm.sh("cd /proc/$(cat /run/guest.pid)/task; grep . */schedstat")
    threads = dict(line.split("/schedstat:") for line in lines.splitlines())
    return {thread: int(counted.split()[0]) / 1e9 for thread, counted in threads.items()}


async def wakeups_of_threads(vm: Machine) -> tuple[float, dict[str, int]]:
    """The VM's time, and how often each thread of the guest has waited for something so far."""
    lines = await vm.sh("cd /proc/$(cat /run/guest.pid)/task; cat /proc/uptime; grep ^vol */status")
    uptime, *counts = lines.splitlines()
    threads = dict(line.split("/status:") for line in counts)
    return float(uptime.split()[0]), {one: int(count.split()[1]) for one, count in threads.items()}


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
        assert bed.events(vm, since) == [LOST, RECOVERED]
        await vm.changed(*FOUND, *DOWN, *FOUND)
        assert "channel: no such device" in vm.console


async def test_a_port_has_one_opener(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        said = await vm.sh("hbtrio guest; echo $?")
        assert said.splitlines() == ["hbtrio guest: /dev/vport0p1: another process holds it", "7"]
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == []
        await vm.changed(*FOUND)


async def test_a_port_that_is_missing_at_the_start(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        await vm.sh("kill $(cat /run/guest.pid)")
        await bed.event("stopped", vm)
        await vm.unplug()
        said = await vm.sh("hbtrio guest; echo $?")
        assert said.splitlines() == NOT_CONFIGURED
        await vm.sh("guest --wait-device")
        await vm.said("channel can't be opened: no such file or directory; retrying")
        since = bed.now
        await vm.plug()
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert bed.events(vm) == [HEARTBEATING, FAREWELL, HEARTBEATING]
        await vm.changed(*FOUND, *STOPPED, INITIAL_DOWN, *FOUND)


async def test_a_serial_port_without_hardware(supply: Supply) -> None:
    """It can be opened, and then fails whatever is done with it."""
    async with open_bed(supply, host=False) as bed:
        vm = await bed.start(Hardware(incoming=supply.booted))
        await vm.sh("kill $(cat /run/guest.pid)")
        said = await vm.sh("hbtrio guest --device /dev/ttyS3; echo $?")
        assert said.splitlines() == ["hbtrio guest: /dev/ttyS3: no device behind it", "6"]
        await vm.sh("guest --device /dev/ttyS3 --wait-device")
        await vm.said("channel can't be opened: input/output error; retrying")
        await trio.sleep(WATCHED_S)
        assert (await vm.sh("grep -c input/output /run/guest.log")).strip() == "1"
        await vm.changed("from disabled to initial, event=shutdown.", INITIAL_DOWN)


async def left_alone(vm: Machine, stream: trio.SocketStream) -> None:
    """Asserts that no guest takes the port which is there, and says a word on it."""
    assert (await vm.sh("cat /sys/class/virtio-ports/*/name")).split() == [
        "org.qemu.guest_agent.0",
        "hbtrio.test",
    ]
    said = await vm.sh("hbtrio guest; echo $?")
    assert said.splitlines() == NOT_CONFIGURED
    await vm.sh("guest --wait-device")
    await vm.said("channel can't be opened: no such file or directory; retrying")
    with trio.move_on_after(WATCHED_S):
        pytest.fail(f"it said {bytes(await stream.receive_some())!r}")


async def test_anothers_port_in_the_place_of_ours_is_left_alone(supply: Supply) -> None:
    """It is what the deployed client opens when it is told nothing."""
    async with open_bed(supply, host=False) as bed:
        vm = await bed.start(Hardware(transport=Transport.OTHER, second=True))
        async with await trio.open_unix_socket(str(vm.channel)) as stream:
            await vm.booted()
            await vm.sh("test -c /dev/vport1p1")
            await vm.said(NOT_CONFIGURED[0])
            await left_alone(vm, stream)
        await vm.changed(INITIAL_DOWN)


async def test_anothers_port_with_the_number_of_ours_is_left_alone(supply: Supply) -> None:
    """Also where a link of our name is left that now leads to it."""
    async with open_bed(supply, host=False) as bed:
        vm = await bed.start(Hardware(incoming=supply.booted))
        await vm.sh("kill $(cat /run/guest.pid)")
        await vm.unplug()
        async with await trio.open_unix_socket(str(vm.channel)) as stream:
            await vm.plug(Transport.OTHER)
            await vm.sh("until test -c /dev/virtio-ports/cgcs.heartbeat; do usleep 20000; done")
            await left_alone(vm, stream)
        await vm.changed("from disabled to initial, event=shutdown.", INITIAL_DOWN)


async def share_with_host_away(bed: Bed, vm: Machine) -> tuple[float, float]:
    """What the guest uses of a processor while its host is away: emulated, and reckoned natively.

    Every instruction inside is emulated, which takes many outside, so the share is divided by how
    much slower a loop of Python is in there.
    """
    assert bed.scene.host is not None
    await bed.scene.host.stop()
    await vm.said("event=channel-down.")
    slowness = await slowness_of(vm)
    before = await cpu_of_threads(vm)
    await trio.sleep(IDLE_S)
    # Of threads: one that has ended meanwhile takes its time with it out of any sum.
    after = await cpu_of_threads(vm)
    emulated = sum(spent - before.get(thread, 0.0) for thread, spent in after.items()) / IDLE_S
    return emulated, emulated / slowness


async def test_a_host_that_is_away_is_not_polled(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        assert bed.scene.host is not None
        await bed.scene.host.stop()
        await vm.said("event=channel-down.")
        began_s, before = await wakeups_of_threads(vm)
        await trio.sleep(IDLE_S)
        # Of threads: one that has ended meanwhile takes its count with it out of any sum.
        over_s, after = await wakeups_of_threads(vm)
        woken = sum(count - before.get(thread, 0) for thread, count in after.items())
        since = bed.now
        await bed.scene.start_host()
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert woken < IDLE_WAKEUPS_HZ * (over_s - began_s)
        assert bed.events(vm, since) == [HEARTBEATING]
        await vm.changed(*FOUND, *DOWN, *FOUND)
