"""Live migration between two QEMUs, each with a host of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from vm.bed import Bed, Supply, open_bed
from vm.machine import Hardware, Machine

pytestmark = pytest.mark.vm

BEATING = ("heartbeating", "init answered")

AFTER_THE_NOTICE = ("heartbeating", "after: live_migrate_end was sent")

#: From the moment at which the VM runs on the target until it has answered a challenge there.
RESUMED_S = 2.0


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
        beating, notice = sorted(there.events(target))
        assert notice == ("notice", "")
        assert beating in [AFTER_THE_NOTICE] + [BEATING] * late
        assert here.events(vm, since) == [
            ("vote", ""),
            ("notice", ""),
            ("stopped", "live_migrate_begin is under way"),
            ("stopped", f"{vm.channel} was removed"),
        ]
