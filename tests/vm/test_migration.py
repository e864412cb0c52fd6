"""Live migration between two QEMUs, each with a host of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.wire.channel_messages import Challenge, Init, InitAck
from vm.bed import Bed, Supply, open_bed
from vm.machine import BOOT_S, COMMAND_S, Hardware, Machine
from vm.raw_host import RawHost
from vm.words import DOWN, FOUND, HEARTBEATING

pytestmark = pytest.mark.vm

AFTER_THE_NOTICE = ("heartbeating", "back after live_migrate_end was sent")

#: From the moment at which the VM runs on the target until it has answered a challenge there.
RESUMED_S = 2.0

#: Answers that a guest cannot get rid of: its ring takes 128, its own queue 64.
BACKLOG = 400

#: The guest says init to its new host, which goes away.
SEEN = [FOUND[0], "from enabling to disabled, event=channel-down."]

#: The reconnect comes after 5 silent challenges. Often only the guest's next init is heard, which
#: comes 5 s later.
MENDED_S = 12.0


@asynccontextmanager
async def two_hosts(
    supply: Supply, place: Path, *, host: bool
) -> AsyncIterator[tuple[Bed, Machine, Bed, Machine]]:
    """A VM that is heartbeating on the one, and a QEMU on the other that waits for it."""
    async with open_bed(supply) as here, open_bed(supply, host=host) as there:
        vm = await here.resume()
        incoming = Hardware(incoming=f"unix:{place / 'migration.sock'}")
        target = await there.start(incoming, instance=vm.uuid)
        yield here, vm, there, target


@attrs.frozen
class Migrated:
    """What a migration took."""

    #: From when the VM runs on the target, with a host there, until it has answered a challenge.
    gap_s: float
    #: As QEMU counts it, from the last moment on the source to the first on the target.
    down_s: float


async def migrated(
    here: Bed, vm: Machine, there: Bed, target: Machine, place: Path, *, late: bool = False
) -> Migrated:
    """Moves a VM, as an orchestrator would.

    Args:
        here: where it is.
        vm: there.
        there: where it goes.
        target: there, and waiting.
        place: where the two QEMUs meet.
        late: whether the target's host is started only when the VM runs there.
    """
    if not late:
        await there.until(target, lambda one: one["connected"])
    assert await here.vote(vm, "live_migrate_begin") == ("accept", "")
    assert await here.notify(vm, "live_migrate_begin") == ("complete", "")
    await vm.qmp("migrate", uri=f"unix:{place / 'migration.sock'}")
    await target.qmp.event("RESUME", 60.0)
    if late:
        await there.scene.start_host()
        await there.until(target, lambda one: one["connected"])
    resumed = trio.current_time()
    assert await there.notify(target, "live_migrate_end") == ("complete", "")
    await there.event("heartbeating", target)
    gap_s = trio.current_time() - resumed
    about = await vm.qmp.until_migrated()
    await vm.qmp("quit")
    await here.until_forgotten(vm)
    return Migrated(gap_s, about["downtime"] / 1000)


@pytest.mark.parametrize("connected", ["before", "after"])
async def test_live_migration(supply: Supply, place: Path, connected: str) -> None:
    late = connected == "after"
    async with two_hosts(supply, place, host=not late) as (here, vm, there, target):
        since = here.now
        done = await migrated(here, vm, there, target, place, late=late)
        await there.beats(target, 3)
        assert done.gap_s < RESUMED_S
        # A guest answers a notice and a challenge in any order. One that has seen the moment with
        # no host says init to the next one, which may be heard before the notice is sent.
        heartbeating, notice = sorted(there.events(target))
        assert notice == ("notice", "")
        assert heartbeating in [AFTER_THE_NOTICE] + [HEARTBEATING] * late
        assert here.events(vm, since) == [
            ("vote", ""),
            ("notice", ""),
            ("stopped", "live_migrate_begin is in progress"),
            ("stopped", f"{vm.channel} was removed"),
        ]
        # One that a host awaits on the target sees nothing of it all.
        await vm.changed(*FOUND, shell=False)
        await target.changed(*(DOWN + FOUND if late else []), shell=False)


async def clog(vm: Machine, host: RawHost) -> None:
    """Asks, and reads no answer, until the guest waits for room."""
    init = await host.hear()
    assert isinstance(init, Init)
    await host.say(InitAck(init.invocation_id))
    number = 0
    with trio.fail_after(BOOT_S):
        while not await vm.stalled():
            number = await ask(host, number, 20)
        await ask(host, number, BACKLOG)
    # It has taken the last of them, and not one more byte leaves it.
    await trio.sleep(1.0)
    assert await vm.stalled()


async def ask(host: RawHost, number: int, times: int) -> int:
    """Sends challenges, no faster than an emulated guest takes them; the last one's number."""
    for _ in range(times):
        number += 1
        await host.say(Challenge(number))
        await trio.sleep(0.0025)
    return number


async def test_a_port_wedged_by_a_backlog_is_mended_by_one_reconnect(
    supply: Supply, place: Path
) -> None:
    async with open_bed(supply, host=False) as here, open_bed(supply, host=False) as there:
        vm = await here.start(Hardware(incoming=supply.booted))
        incoming = Hardware(incoming=f"unix:{place / 'migration.sock'}")
        target = await there.start(incoming, instance=vm.uuid)
        async with await trio.open_unix_socket(str(vm.channel)) as stream:
            await clog(vm, RawHost(stream))
            await vm.qmp("migrate", uri=f"unix:{place / 'migration.sock'}")
            await target.qmp.event("RESUME", COMMAND_S)
        # Connected before the VM has come, a host would be given the backlog: nothing is wedged.
        await there.scene.start_host()
        await there.until(target, lambda one: one["connected"])
        since = trio.current_time()
        silent = "the channel was closed: no answer to 5 challenges after its return"
        assert await there.notify(target, "live_migrate_end") == ("error", silent)
        await there.event("heartbeating", target)
        assert trio.current_time() - since < MENDED_S
        await there.beats(target, 3)
        assert there.events(target) == [("notice", silent), AFTER_THE_NOTICE]
        assert there.scene.host_log.read_text("utf-8").count(": reconnecting: ") == 1
        await vm.changed(*FOUND, shell=False)
        # It sees the one reconnect, or it is too quick to be seen: in part, or at all.
        with trio.move_on_after(COMMAND_S):
            await target.said("event=init-ack.")
        assert tuple(target.changes) in ((), (*DOWN, *FOUND), (*DOWN, *SEEN, *FOUND))
