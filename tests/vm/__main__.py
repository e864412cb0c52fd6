"""What real machines take: ``PYTHONPATH=tests python -m vm`` prints the table of the docs.

Some minutes; see docs/real-machines.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import trio

from hbtrio.wire.channel_messages import MAX_ID, Challenge, ChallengeResponse, Init, InitAck
from vm import initramfs
from vm.bed import Supply, make_supply, open_bed
from vm.machine import BOOT_S, Hardware, Machine
from vm.raw_host import RawHost
from vm.test_migration import migrated, two_hosts
from vm.test_port import share_with_host_away

#: Between two challenges of the measurement of round trips: the guest is idle before each.
_PAUSE_S: Final = 0.02


async def _boot(supply: Supply) -> float:
    """From the start of QEMU to the first answered challenge, in seconds."""
    async with open_bed(supply) as bed:
        vm = await bed.start()
        await bed.event("heartbeating", vm, within_s=BOOT_S)
        return trio.current_time() - vm.started_at


async def _round_trips(supply: Supply, number: int) -> list[float]:
    """From the sending of a challenge to its answer, in seconds."""
    async with open_bed(supply, host=False) as bed:
        vm = await bed.start(Hardware(incoming=supply.booted))
        async with await trio.open_unix_socket(str(vm.channel)) as stream:
            return await _ask(RawHost(stream), number)


async def _ask(host: RawHost, number: int) -> list[float]:
    init = await host.hear()
    assert isinstance(init, Init)
    await host.say(InitAck(init.invocation_id))
    took = []
    for _ in range(number):
        challenge = random.randint(0, MAX_ID)
        sent_at = trio.current_time()
        await host.say(Challenge(challenge))
        answer = await host.hear()
        took.append(trio.current_time() - sent_at)
        assert isinstance(answer, ChallengeResponse)
        assert answer.heartbeat_response == challenge
        await trio.sleep(_PAUSE_S)
    return took


async def _migration(supply: Supply, place: Path) -> tuple[float, float]:
    """The silence of the beats around a migration, and that of the VM itself, in seconds."""
    async with two_hosts(supply, place, host=True) as (here, vm, there, target):
        done = await migrated(here, vm, there, target, place)
        return done.gap_s, done.down_s


async def _away(supply: Supply) -> tuple[float, float]:
    async with open_bed(supply) as bed:
        vm: Machine = await bed.resume()
        return await share_with_host_away(bed, vm)


def _spread(seconds: Sequence[float]) -> str:
    """Median and 99th percentile, or the most where there are few, in milliseconds."""
    ordered = sorted(seconds)
    high = ordered[math.ceil(len(ordered) * 0.99) - 1]
    return f"{median(ordered) * 1000:.3g}, {high * 1000:.3g} ms"


async def _measure(image: initramfs.Image, runs: int, trips: int) -> None:
    with tempfile.TemporaryDirectory(prefix="vm.") as name:
        place = Path(name)
        print("| what | median, p99 (most of few) |\n|---|---|")
        boots = [await _boot(Supply(image)) for _ in range(runs)]
        print(f"| boot to heartbeating, {runs} | {_spread(boots)} |", flush=True)
        supply = await make_supply(image, place / "booted")
        took = await _round_trips(supply, trips)
        print(f"| round trip over virtio-serial, {trips} | {_spread(took)} |", flush=True)
        gaps = []
        for run in range(runs):
            (place / str(run)).mkdir()
            gaps.append(await _migration(supply, place / str(run)))
        print(f"| migration: VM stands still, {runs} | {_spread([down for _, down in gaps])} |")
        print(f"| migration: until beats resume, {runs} | {_spread([gap for gap, _ in gaps])} |")
        emulated, share = await _away(supply)
        print(f"| processor with the host away | {emulated:.2%} emulated, {share:.3%} natively |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vm", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="boots and migrations (default 5)")
    parser.add_argument("--trips", type=int, default=500, help="round trips (default 500)")
    options = parser.parse_args()
    with initramfs.image(initramfs.cache_directory()) as image:
        trio.run(_measure, image, options.runs, options.trips)


if __name__ == "__main__":
    main()
