"""Runs the benchmark and prints what it saw: `make bench`, or with options

PYTHONPATH=tests python -m bench --channels 5000 --json bench.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from bench.detection import Group
from bench.report import FLOOR, HOST, PACKED, Comparison, Detection, Result
from bench.sample import Sample
from support.guest_farm import GuestFarm, module_environment, open_guest_farm
from support.start_up import seconds_until_all_beat

#: The module that is run for a shape, and what its command line ends with.
_RUNS: Final = {
    FLOOR: ("bench.floor", ()),
    PACKED: ("bench.floor", ("packed",)),
    HOST: ("bench.subject", ()),
}

#: Guests are started over one interval, so that their beats are at all phases of it.
_SPREAD_S: Final = 1.0

#: Intervals of guests that fall silent: the pacer's slots divide one and do not divide the other.
_SILENT_MS: Final = (1000, 707)

#: They come in batches, one of each of these intervals and so many others.
_BATCHES: Final = 30
_BATCH_OTHERS: Final = 33

_STARTED: Final = 500
_START_WITHIN_S: Final = 30.0

#: Much longer than any one process of the benchmark takes, in seconds.
_PROCESS_S: Final = 60.0


@asynccontextmanager
async def _new_farm() -> AsyncIterator[tuple[str, GuestFarm]]:
    with tempfile.TemporaryDirectory(prefix="hbb.") as directory:
        async with open_guest_farm(Path(directory)) as farm:
            yield directory, farm


def _command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


async def compare(channels: int, rounds: int, seconds: float) -> Comparison:
    """Measures all shapes over the same farm, in turns: a noisy neighbour then hits all."""
    samples: dict[str, list[Sample]] = {shape: [] for shape in _RUNS}
    async with _new_farm() as (directory, farm):
        await farm.listen(channels, spread_s=_SPREAD_S)
        for turn in range(rounds):
            for shape, (module, how) in _RUNS.items():
                _progress(f"{channels} channels, {shape}, {turn + 1} of {rounds}")
                command = _command(module, directory, channels, seconds, *how)
                with trio.fail_after(_PROCESS_S + seconds):
                    done = await trio.run_process(
                        command, capture_stdout=True, env=module_environment()
                    )
                samples[shape].append(Sample(**json.loads(done.stdout)))
    return Comparison(channels, samples)


async def detect() -> list[Detection]:
    """Lets guests fall silent among others and sees how long their losses take."""
    _progress("detection")
    size = len(_SILENT_MS) + _BATCH_OTHERS
    groups = [
        Group(interval_ms, tuple(range(place, _BATCHES * size, size)))
        for place, interval_ms in enumerate(_SILENT_MS)
    ]
    async with _new_farm() as (directory, farm):
        process = await trio.lowlevel.open_process(
            _command("bench.detection", directory, _BATCHES * size, *groups),
            stdout=subprocess.PIPE,
            env=module_environment(),
        )
        try:
            with trio.fail_after(_PROCESS_S):
                for _ in range(_BATCHES):
                    for interval_ms in _SILENT_MS:
                        await farm.listen(1, interval_ms=interval_ms)
                    await farm.listen(_BATCH_OTHERS)
                    await trio.sleep(_SPREAD_S / _BATCHES)
                excess = await _silence(process, farm, groups)
        finally:
            if process.returncode is None:
                process.kill()
    return [Detection(group.interval_ms, late) for group, late in zip(groups, excess, strict=True)]


async def _silence(
    process: trio.Process, farm: GuestFarm, groups: Sequence[Group]
) -> list[list[float]]:
    assert process.stdout is not None
    output = b""
    async for data in process.stdout:
        if not output:  # it is ready
            await farm.mute([index for group in groups for index in group.indexes])
        output += data
    if await process.wait():
        raise SystemExit("the measurement of the detection failed")
    excess: list[list[float]] = json.loads(output.partition(b"\n")[2])
    return excess


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


async def _run(options: argparse.Namespace) -> Result:
    return Result(
        comparisons=[
            await compare(count, options.rounds, options.seconds) for count in options.channels
        ],
        others=_BATCHES * _BATCH_OTHERS,
        detections=await detect(),
        started=_STARTED,
        start_s=await seconds_until_all_beat(_STARTED, within_s=_START_WITHIN_S),
    )


def main() -> int:
    """Runs it; exit status 1 if the host missed a healthy guest."""
    parser = argparse.ArgumentParser(prog="bench", description="Measures the host daemon.")
    parser.add_argument("--channels", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--rounds", type=int, default=3, help="of each shape (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    options = parser.parse_args()
    result = trio.run(_run, options)
    print(result.as_text())
    if options.json is not None:
        options.json.write_text(result.as_json())
    return 1 if result.missed else 0


if __name__ == "__main__":
    sys.exit(main())
