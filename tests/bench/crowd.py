"""Measures a host with very many channels: its beats, their lateness, and losses in the end.

    PYTHONPATH=tests python -m bench.crowd --channels 15000 --seconds 30
    PYTHONPATH=tests python -m bench.crowd --channels 15000 --seconds 30 --unfrozen

``--unfrozen`` leaves the channels to the garbage collector, as the host did before it froze them.
A farm needs two descriptors for each guest, so there are several.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import trio

from bench.sample import Meter, allow_descriptors, resident_kb
from bench.subject import INTERVAL_S, TimedDialer, open_host
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.reports import ReportKind
from support.guest_farm import module_environment, open_guest_farm, uuid_of

#: Guests of a farm.
_FARM: Final = 5000

#: One channel in so many is timed.
_TIMED: Final = 32

#: How long all channels may take to be heartbeating, in seconds.
_START_S: Final = 120.0

#: Guests that fall silent at the end, how long their losses may take, and what the measured process
#: prints to have them do so.
_DEAD: Final = 20
_LOSS_S: Final = 180.0
_DIE: Final = "die"

#: From then on until they are measured: long enough for the last freeze.
_SETTLE_S: Final = 5.0


class Collections:
    """Notes how long the garbage collector's full collections take."""

    def __init__(self) -> None:
        self.full_s: list[float] = []
        self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            if phase == "start":
                self._began = time.perf_counter()
            else:
                self.full_s.append(time.perf_counter() - self._began)


async def _measure(directory: str, count: int, seconds: float, *, unfrozen: bool) -> dict[str, Any]:
    numbers = iter(range(sys.maxsize))
    dialer = TimedDialer(lambda _: next(numbers) % _TIMED == 0)
    collections = Collections()
    before_kb = resident_kb()
    async with open_host(directory, dialer) as host:
        if unfrozen:
            host.heap._cpu_time = lambda: 0.0
        began = time.monotonic()
        with trio.fail_after(_START_S):
            while host.heartbeating < count:  # noqa: ASYNC110 - an Event would be the host's
                await trio.sleep(0.1)
        start_s = time.monotonic() - began
        longest_at_start_s = max(collections.full_s, default=0.0)
        await trio.sleep(_SETTLE_S)
        channels = list(host.channels.values())
        dialer.forget()
        collections.full_s.clear()
        beats = sum(channel.heartbeat.beats for channel in channels)
        missed = sum(channel.heartbeat.missed for channel in channels)
        late_ticks = host.guard.late_ticks
        begin = Meter.read()
        await trio.sleep(seconds)
        end = Meter.read()
        beats = sum(channel.heartbeat.beats for channel in channels) - beats
        missed = sum(channel.heartbeat.missed for channel in channels) - missed
        late_ticks = host.guard.late_ticks - late_ticks
        full_s = list(collections.full_s)
        p50, p99, most = dialer.late_ms()
        # The farm's guests die now; see _run.
        print(_DIE, flush=True)
        died = time.monotonic()
        with trio.move_on_after(_LOSS_S):
            while len(_lost(host)) < _DEAD:  # noqa: ASYNC110 - an Event would be the host's
                await trio.sleep(0.1)
        return {
            "channels": count,
            "start s": round(start_s, 1),
            "longest collection at the start, s": round(longest_at_start_s, 3),
            "beats %": round(100 * beats * INTERVAL_S / (count * (end.at - begin.at)), 1),
            "misses": missed,
            "late p50 ms": round(p50, 1),
            "late p99 ms": round(p99),
            "late max ms": round(most),
            "late ticks": late_ticks,
            "core %": round(100 * (end.cpu_s - begin.cpu_s) / (end.at - begin.at)),
            "us/beat": round((end.cpu_s - begin.cpu_s) / max(beats, 1) * 1e6, 1),
            "full collections": len(full_s),
            "longest, s": round(max(full_s, default=0.0), 3),
            "freezes": host.heap.freezes,
            "dead found": f"{len(_lost(host))} of {_DEAD}",
            "dead found after, s": round(time.monotonic() - died, 1),
            "others lost": len(_losses(host)) - len(_lost(host)),
            "KiB/channel": round((resident_kb() - before_kb) / count, 1),
        }


def _losses(host: Host) -> set[str]:
    return {one.uuid for one in host.reports.recent if one.kind is ReportKind.LOSS}


def _lost(host: Host) -> set[str]:
    return _losses(host) & {uuid_of(index) for index in range(_DEAD)}


async def _run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="hbc.") as directory:
        async with contextlib.AsyncExitStack() as stack:
            farms = []
            for first in range(0, options.channels, _FARM):
                farm = await stack.enter_async_context(open_guest_farm(Path(directory), first))
                await farm.listen(min(_FARM, options.channels - first), spread_s=INTERVAL_S)
                farms.append(farm)
            command = [sys.executable, "-m", "bench.crowd", "--measure", directory]
            command += ["--channels", str(options.channels), "--seconds", str(options.seconds)]
            command += ["--unfrozen"] * options.unfrozen
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, env=module_environment()
            )
            assert process.stdout is not None
            async for data in process.stdout:
                if data.startswith(_DIE.encode()):
                    await farms[0].mute(range(_DEAD))
                print(data.decode().removeprefix(f"{_DIE}\n"), end="")
            await process.wait()


def main() -> None:
    """Runs it, or with ``--measure`` is the measured process."""
    parser = argparse.ArgumentParser(prog="bench.crowd", description="Measures a large host.")
    parser.add_argument("--channels", type=int, default=15_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the run (default 30)")
    parser.add_argument("--unfrozen", action="store_true", help="as if nothing were frozen")
    parser.add_argument("--measure", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.measure:
        trio.run(_run, options)
        return
    allow_descriptors()
    found = trio.run(
        lambda: _measure(
            options.measure, options.channels, options.seconds, unfrozen=options.unfrozen
        )
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
