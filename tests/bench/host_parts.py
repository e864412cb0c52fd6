"""The parts of the benchmark that are about the host daemon."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any, Final

import attrs

from bench.c_floor import compiler
from bench.comparison import C_FLOOR, Comparison, members, table
from bench.detection import Group, Losses
from bench.farms import open_farms
from bench.measure import Measure
from bench.part import Part
from bench.progress import progress
from bench.sample import Sample
from bench.turns import compare, run_host, sample_host
from support.start_up import seconds_until_all_beat

_INTERVAL_MS: Final = 1000

#: An interval that the pacer's slots do not divide.
_ODD_MS: Final = 707

#: Guests of the detection, and how many fall silent with each interval.
_DETECTED: Final = 1020
_SILENT: Final = 30

#: The shortest interval a host grants, so many guests with it, and for how long, in seconds.
_SHORT_MS: Final = 400
_SHORT: Final = 100
_SHORT_S: Final = 10.0

_STARTED: Final = 500
_START_WITHIN_S: Final = 30.0

#: In a crowd one channel in so many is timed, and so many guests fall silent in the end.
_CROWD_TIMED: Final = 32
_CROWD_SILENT: Final = 20

#: What the project aims for.
EXCESS_MS: Final = 20.0
CROWD_EXCESS_MS: Final = 50.0
SHORT_P99_MS: Final = 10.0
START_S: Final = 2.0
CROWD_START_S: Final = 6.0
CROWD_P99_MS: Final = 20.0
CHANNEL_KB: Final = 8.0
_LATE_MS: Final = 1000.0


async def comparison(options: argparse.Namespace) -> Part:
    """Floors and hosts by turns, at each number of channels."""
    seen = [
        Comparison(count, await compare(count, options.shapes, options.rounds, options.seconds))
        for count in options.channels
    ]
    return Part(
        "comparison",
        "\n".join([table(seen), *no_c_floor(options.shapes)]),
        [measure for one in seen for measure in one.measures()],
        [members(one) for one in seen],
        missed=any(one.host_missed for one in seen),
        comparisons=seen,
    )


def no_c_floor(shapes: Sequence[str]) -> list[str]:
    """Says why the C floor is missing, if it is wanted and is."""
    return ["C floor: no gcc"] if C_FLOOR in shapes and compiler() is None else []


async def detection(_: argparse.Namespace) -> Part:
    """Guests that fall silent among a thousand that do not."""
    progress("detection")
    others = _DETECTED - 2 * _SILENT
    step = (_DETECTED - _SILENT) // _SILENT
    groups = (
        Group(_INTERVAL_MS, tuple(range(0, step * _SILENT, step))),
        Group(_ODD_MS, tuple(range(_DETECTED - _SILENT, _DETECTED))),
    )
    async with open_farms(_DETECTED) as farms:
        await farms.listen(_DETECTED - _SILENT)
        await farms.listen(_SILENT, interval_ms=_ODD_MS)
        losses = (await run_host(farms, 0, silent=groups))[1]
    return Part(
        "detection",
        "\n".join(losses_line(one, others) for one in losses),
        [loss_measure(f"loss among {others} VMs", losses, EXCESS_MS)],
        [attrs.asdict(one) for one in losses],
    )


async def short_interval(_: argparse.Namespace) -> Part:
    """VMs with the shortest interval."""
    progress(f"{_SHORT} VMs at {_SHORT_MS} ms")
    async with open_farms(_SHORT) as farms:
        await farms.listen(_SHORT, interval_ms=_SHORT_MS)
        sample = await sample_host(farms, _SHORT_S, interval_ms=_SHORT_MS, timed=1)
    name = f"{_SHORT} VMs at {_SHORT_MS} ms"
    p50, p99, most = sample.late_ms
    return Part(
        "short_interval",
        f"{name}: {sample.beats} beats in {sample.seconds:.0f} s, {sample.misses} missed; "
        f"late p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms",
        [
            Measure.at_most(f"{name}: beats missed", sample.misses, 0, digits=0),
            Measure.at_most(f"{name}: late, p99", p99, SHORT_P99_MS, "ms"),
        ],
        attrs.asdict(sample),
        missed=bool(sample.misses),
    )


async def start(_: argparse.Namespace) -> Part:
    """Channels that are made at once, and a host that runs already."""
    progress("start")
    took_s = await seconds_until_all_beat(_STARTED, within_s=_START_WITHIN_S)
    return Part(
        "start",
        f"{_STARTED} channels made at once: all heartbeating after {took_s:.2f} s",
        [
            Measure.at_most(
                f"{_STARTED} channels made at once, all heartbeating", took_s, START_S, "s"
            )
        ],
        {"channels": _STARTED, "start_s": took_s},
    )


async def crowd(options: argparse.Namespace) -> Part:
    """A host of very many channels, for long; in the end some guests fall silent."""
    count, seconds = options.crowd, options.crowd_seconds
    progress(f"{count} channels for {seconds:g} s")
    silent = tuple(range(0, count, max(1, count // _CROWD_SILENT)))[:_CROWD_SILENT]
    async with open_farms(count) as farms:
        await farms.listen(count)
        sample, losses = await run_host(
            farms,
            seconds,
            timed=_CROWD_TIMED,
            unfrozen=options.unfrozen,
            silent=(Group(_INTERVAL_MS, silent),),
        )
    assert sample is not None
    return Part(
        "crowd",
        "\n".join(
            [_crowd_text(sample), *(losses_line(one, count - len(silent)) for one in losses)]
        ),
        crowd_measures(sample, losses),
        {"sample": attrs.asdict(sample), "losses": [attrs.asdict(one) for one in losses]},
        missed=bool(sample.misses),
    )


def crowd_measures(sample: Sample, losses: Sequence[Losses]) -> list[Measure]:
    """A crowd's lines of the summary."""
    name = f"{sample.channels} VMs at 1 s"
    share = sample.beats / (sample.channels * sample.seconds) * 1e3 / _INTERVAL_MS
    _, p99, most = sample.late_ms
    return [
        Measure(
            f"{name} for {sample.seconds:.0f} s: beats, missed, latest",
            "100 %, 0, < 1 s",
            f"{share * 100:.1f} %, {sample.misses}, {most:.0f} ms",
            # The first and the last beats of the time may be counted or not.
            share > 0.995 and not sample.misses and most < _LATE_MS,
        ),
        Measure.at_most(f"{name}: late, p99", p99, CROWD_P99_MS, "ms"),
        Measure.at_most(f"{name}: memory of a channel", sample.channel_kb, CHANNEL_KB, "KiB"),
        Measure.at_most(
            f"{name}: all heartbeating after a start of the host",
            sample.start_s,
            CROWD_START_S,
            "s",
        ),
        loss_measure(f"loss among {sample.channels} VMs", losses, CROWD_EXCESS_MS),
    ]


def _crowd_text(sample: Sample) -> str:
    p50, p99, most = sample.late_ms
    longest_s = max(sample.collections_s, default=0.0)
    at_start_s = max(sample.start_collections_s, default=0.0)
    return "\n".join(
        [
            f"{sample.channels} channels, {sample.seconds:.0f} s: {sample.beats} beats, "
            f"{sample.misses} missed, {sample.beat_us:.1f} us/beat, "
            f"{100 * sample.cpu_s / sample.seconds:.0f} % of a core, "
            f"{sample.channel_kb:.1f} KiB/ch.",
            f"late p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms; {sample.late_ticks} late ticks "
            "of the guard",
            f"all heartbeating after {sample.start_s:.1f} s, longest full collection until then "
            f"{at_start_s:.3f} s",
            f"full collections while beating: {len(sample.collections_s)}, longest "
            f"{longest_s:.3f} s; metrics read {sample.scrapes} times, CPU time of one "
            f"{sample.scrape_cpu_s * 1e3:.0f} ms",
        ]
    )


def losses_line(losses: Losses, others: int) -> str:
    """What was seen of guests that fell silent."""
    text = f"{losses.silent} guests of {losses.interval_ms} ms fall silent among {others}: "
    if losses.excess_ms:
        text += (
            f"{len(losses.excess_ms)} lost after 3 intervals {min(losses.excess_ms):+.1f} to "
            f"{max(losses.excess_ms):+.1f} ms, median {statistics.median(losses.excess_ms):+.1f}"
        )
    else:
        text += "none is lost"
    return f"{text}; others lost: {losses.wrong}"


def loss_measure(name: str, losses: Sequence[Losses], most_ms: float) -> Measure:
    """The line of the summary about the losses of all groups."""
    excess_ms: list[float] = [ms for one in losses for ms in one.excess_ms]
    silent = sum(one.silent for one in losses)
    goal = f"all, 3 intervals + <= {most_ms:g} ms"
    if not excess_ms:
        return Measure(name, goal, f"0 of {silent}", met=False)
    right = len(excess_ms) == silent and not any(one.wrong for one in losses)
    wrong = sum(one.wrong for one in losses[:1])
    seen: Any = f"{len(excess_ms)} of {silent}, {max(excess_ms):+.1f} ms, {wrong} wrongly"
    return Measure(name, goal, seen, right and max(excess_ms) <= most_ms)
