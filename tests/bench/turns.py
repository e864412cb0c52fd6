"""Runs the measured processes over the same farms: floors and hosts, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.c_floor import build_c_floor, compiler
from bench.comparison import C_FLOOR, CORE, HOST, PACKED
from bench.detection import Group, Losses
from bench.farms import Farms, open_farms
from bench.host_run import START_S, Order
from bench.process import module, open_measured
from bench.progress import progress
from bench.sample import Sample

#: Longer than any process of the benchmark takes besides what it measures, in seconds.
_PROCESS_S: Final = START_S + 180.0


async def compare(
    channels: int, shapes: Sequence[str], rounds: int, seconds: float
) -> dict[str, list[Sample]]:
    """Measures all shapes over the same farms, in turns: a noisy neighbour then hits all.

    The C floor is left out where there is no compiler.

    Raises:
        FarmDied: a farm did.
        BenchFailed: another process did.
    """
    samples: dict[str, list[Sample]] = {shape: [] for shape in shapes}
    gcc = compiler()
    if gcc is None:
        samples.pop(C_FLOOR, None)
    async with open_farms(channels) as farms:
        await farms.listen(channels)
        program = None
        if gcc is not None and C_FLOOR in samples:
            program = await build_c_floor(farms.directory, gcc)
        for turn in range(rounds):
            for shape, taken in samples.items():
                progress(f"{channels} channels, {shape}, {turn + 1} of {rounds}")
                taken.append(await _sample(farms, shape, seconds, program))
    return samples


async def run_host(
    farms: Farms, seconds: float, **order: Any
) -> tuple[Sample | None, list[Losses]]:
    """Runs a host over all guests of the farms.

    Args:
        farms: of the guests.
        seconds: for how long it is measured; 0: not at all.
        order: what else an :class:`Order` has.

    Raises:
        BenchFailed: the host's process failed, or took too long.
    """
    silent: tuple[Group, ...] = order.get("silent", ())
    what = Order(channel_dir=str(farms.channel_dir), channels=farms.count, seconds=seconds, **order)
    with tempfile.TemporaryDirectory(prefix="host.", dir=farms.directory) as directory:
        command = module("bench.host_run", directory, what.as_json())
        async with open_measured("the host's process", command, _PROCESS_S + seconds) as process:
            sample = await process.line()
            await farms.mute(index for group in silent for index in group.indexes)
            losses = await process.line() if silent else []
    return (
        None if sample is None else Sample(**sample),
        [Losses(**one) for one in losses],
    )


async def sample_host(farms: Farms, seconds: float, **order: Any) -> Sample:
    """The sample of a host over all guests of the farms, none of which falls silent."""
    sample, _ = await run_host(farms, seconds, **order)
    assert sample is not None
    return sample


async def _sample(farms: Farms, shape: str, seconds: float, program: Path | None) -> Sample:
    if shape in (HOST, CORE):
        return await sample_host(farms, seconds, complete=shape == HOST)
    place = str(farms.channel_dir), str(farms.count), str(seconds)
    if shape == C_FLOOR:
        command = [str(program), *place]
    else:
        command = module("bench.floor", *place, *(["packed"] if shape == PACKED else []))
    async with open_measured(f"the {shape}", command, _PROCESS_S + seconds) as process:
        return Sample(**await process.line())
