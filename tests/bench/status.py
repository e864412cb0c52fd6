"""Measures ``hbtrio ctl status`` of a host with many instances, as an operator waits for it.

Each run is a process of its own, whose output is read and dropped.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import trio

from bench.measure import Measure
from bench.part import Part
from bench.progress import progress
from support.guest_farm import open_guest_farm

#: How long all instances may take to be heartbeating, in seconds.
_START_S: Final = 120.0

#: Those of the guests: a host that has nothing else to do is what is asked.
_INTERVAL_MS: Final = 10_000

#: What the project aims for.
AIM_S: Final = 0.5

_HBTRIO: Final = (sys.executable, "-m", "hbtrio")


async def _until_heartbeating(ctl: list[str], count: int) -> None:
    with trio.fail_after(_START_S):
        while True:
            asked = await trio.run_process(
                [*ctl, "--json"], capture_stdout=True, capture_stderr=True, check=False
            )
            if asked.returncode == 0:
                host = json.loads(asked.stdout)["host"]
                if host["heartbeating"] >= count:
                    return
            await trio.sleep(1)


def _time(ctl: list[str]) -> tuple[float, float]:
    """Runs it once; returns its wall time and its processor time, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(ctl, stdout=subprocess.PIPE, check=True)
    wall_s = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, used_s


async def status(options: argparse.Namespace) -> Part:
    """Runs of the command, one after the other."""
    progress("status")
    with tempfile.TemporaryDirectory(prefix="hbs.") as name:
        directory = Path(name)
        (directory / "ch").mkdir()
        async with open_guest_farm(directory / "ch") as farm:
            await farm.listen(options.instances, interval_ms=_INTERVAL_MS, spread_s=1.0)
            socket = str(directory / "host.sock")
            words = ["host", "--channel-dir", str(directory / "ch"), "--control-socket", socket]
            with (directory / "log").open("wb") as log:
                host = await trio.lowlevel.open_process([*_HBTRIO, *words], stderr=log)
            try:
                ctl = [*_HBTRIO, "ctl", "--url", f"unix:{socket}", "status"]
                await _until_heartbeating(ctl, options.instances)
                runs = [_time(ctl) for _ in range(options.runs)]
            finally:
                host.terminate()
                await host.wait()
    walls, used = zip(*runs, strict=True)
    return Part(
        "status",
        f"ctl status of {options.instances} instances: {min(walls):.2f} s at best, "
        f"{statistics.median(walls):.2f} in the median, {max(walls):.2f} at most; processor time "
        f"{statistics.median(used):.2f} s",
        [Measure.at_most("ctl status, wall time, median", statistics.median(walls), AIM_S, "s", 2)],
        {"instances": options.instances, "wall_s": walls, "cpu_s": used},
    )
