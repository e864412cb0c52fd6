"""The benchmark's parts on a small scale: what it says, what it writes, and how it fails."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest
import trio

from bench import __main__ as command
from bench import c_floor
from bench.chart import chart
from bench.comparison import C_FLOOR, FLOOR, HOST, PACKED, SHAPES, Comparison, members
from bench.detection import Group, Losses
from bench.farms import check_descriptors, farm_size, open_farms
from bench.faults import FAILED, FARM_DIED, MISSED, BenchFailed
from bench.host_parts import crowd_measures, loss_measure, no_c_floor
from bench.host_run import Order
from bench.measure import Measure, summary
from bench.part import Part
from bench.process import last_line, open_measured
from bench.sample import SCRAPE_S, Sample
from bench.turns import compare, run_host
from support.guest_farm import FarmDied

SVG = "{http://www.w3.org/2000/svg}"


def sample(us: float = 20.0, **changes: Any) -> Sample:
    """A sample of 2000 beats with this CPU time each."""
    members: dict[str, Any] = {
        "channels": 1000,
        "seconds": 2.0,
        "beats": 2000,
        "cpu_s": us * 2000 / 1e6,
        "wakeups": 64,
        "channel_kb": 10.0,
        "late_ms": (1.0, 2.0, 3.0),
        "misses": 0,
    }
    return Sample(**(members | changes))


def comparison(channels: int = 1000, host_us: float = 20.0) -> Comparison:
    """Three rounds of each shape; the packed floor takes 10 us."""
    samples = {shape: [sample(10.0)] * 3 for shape in SHAPES}
    samples[HOST] = [sample(host_us * part) for part in (0.5, 1.0, 4.0)]
    return Comparison(channels, samples)


# -- samples and goals ------------------------------------------------------------------------


def test_a_short_run_is_charged_its_share_of_a_scrape() -> None:
    scraped = sample(scrape_cpu_s=0.15)
    assert scraped.beat_us == pytest.approx(20 + 0.15 * 2 / SCRAPE_S / 2000 * 1e6)


def test_a_run_with_as_many_scrapes_as_usual_is_charged_none() -> None:
    scraped = sample(seconds=2 * SCRAPE_S, scrapes=2, scrape_cpu_s=0.15)
    assert scraped.beat_us == pytest.approx(20)


@pytest.mark.parametrize(("host_us", "met"), [(20.0, True), (20.2, False)])
def test_the_host_is_compared_with_the_packed_floor_by_medians(host_us: float, met: bool) -> None:
    (measure,) = comparison(host_us=host_us).measures()
    assert (measure.goal, measure.met) == ("<= 2", met)


def test_a_comparison_without_the_packed_floor_has_no_goal() -> None:
    alone = Comparison(1000, {HOST: [sample()]})
    assert (alone.ratio(HOST), alone.measures()) == (None, [])
    assert "host" in alone.line(HOST)


def test_the_summary_has_a_line_for_each_measure() -> None:
    lines = summary(
        [
            Measure.at_most("one", 1.0, 2, "ms"),
            Measure.at_most("another", 3.0, 2, "ms"),
            Measure("a third", "", "7", None),
        ]
    ).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["measure", "one", "another", "a third"]
    assert [line.split()[-1] for line in lines[1:]] == ["met", "missed", "7"]


@pytest.mark.parametrize(
    ("excess_ms", "wrong", "met"),
    [
        pytest.param([49.0, 50.0], 0, True, id="all in time"),
        pytest.param([49.0, 51.0], 0, False, id="one late"),
        pytest.param([49.0], 0, False, id="one not seen"),
        pytest.param([49.0, 50.0], 1, False, id="another lost"),
        pytest.param([], 0, False, id="none seen"),
    ],
)
def test_losses_have_to_be_seen_all_and_in_time(
    excess_ms: list[float], wrong: int, met: bool
) -> None:
    losses = Losses(1000, 2, excess_ms, wrong)
    assert loss_measure("loss", [losses], 50.0).met is met


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"misses": 1}, id="missed"),
        pytest.param({"late_ms": (1.0, 2.0, 1001.0)}, id="late"),
        pytest.param({"beats": 1900}, id="too few"),
    ],
)
def test_a_crowd_loses_no_beat(changes: dict[str, Any]) -> None:
    seen = [crowd_measures(one, [])[0].met for one in (sample(), sample(**changes))]
    assert seen == [True, False]


@pytest.mark.parametrize(("shape", "missed"), [(HOST, True), (PACKED, False)])
def test_a_host_may_miss_no_beat_and_a_floor_may(shape: str, missed: bool) -> None:
    one = comparison()
    assert not one.host_missed
    seen = Comparison(1000, {**one.samples, shape: [sample(), sample(misses=1)]})
    assert seen.host_missed is missed


# -- what it writes ---------------------------------------------------------------------------


def test_the_diagrams_are_one_well_formed_svg() -> None:
    drawn = ElementTree.fromstring(
        chart([comparison(5000), comparison(100), comparison()], "load <1> & more")
    )
    assert drawn.tag == f"{SVG}svg"
    text = ["".join(one.itertext()) for one in drawn.iter(f"{SVG}text")]
    assert text[0] == "load <1> & more"
    assert set(SHAPES) <= set(text)
    panels = drawn.findall(f"{SVG}g")
    assert [len(one.findall(f"{SVG}polyline")) for one in panels] == [len(SHAPES)] * 4
    # A place of each number of channels, from left to right, inside the diagram.
    for line in drawn.iter(f"{SVG}polyline"):
        places = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(places) == 3
        assert places == sorted(places, key=lambda place: place[0])
        assert all(0 <= x <= 420 and 0 <= y <= 300 for x, y in places)
    # It needs nothing from elsewhere.
    assert not [one for one in drawn.iter() if {"href", "src"} & set(one.attrib)]


def test_one_number_of_channels_and_values_of_zero_can_be_drawn() -> None:
    flat = Comparison(100, {FLOOR: [sample(channel_kb=0.0, late_ms=(0.0, 0.0, 0.0))]})
    ElementTree.fromstring(chart([flat], "one"))


def ran(
    tmp_path: Path, part: Part | BaseException, *arguments: str
) -> tuple[int, dict[str, Any], str]:
    """Runs the command with one part of this result; its status and the files that it wrote."""

    async def measuring(_: argparse.Namespace) -> Part:
        await trio.lowlevel.checkpoint()
        if isinstance(part, BaseException):
            raise part
        return part

    files = tmp_path / "new" / "bench.json", tmp_path / "bench.svg"
    status = command.main(
        ["start", "--json", str(files[0]), "--svg", str(files[1]), *arguments], {"start": measuring}
    )
    written = json.loads(files[0].read_text()) if files[0].exists() else {}
    return status, written, files[1].read_text() if files[1].exists() else ""


def test_the_json_of_a_run_has_every_sample_and_the_summary(tmp_path: Path) -> None:
    one = comparison()
    part = Part("start", "its page", one.measures(), [members(one)], comparisons=[one])
    status, written, svg = ran(tmp_path, part)
    assert status == 0
    (seen,) = written["parts"]["start"]
    assert {shape: len(samples) for shape, samples in seen["samples"].items()} == dict.fromkeys(
        SHAPES, 3
    )
    assert [Sample(**each) for each in seen["samples"][HOST]][2].beat_us == pytest.approx(80)
    assert [line["met"] for line in written["summary"]] == [True]
    assert written["load"]["start"] >= 0
    ElementTree.fromstring(svg)


def test_a_missed_beat_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Part("start", "its page", [Measure.at_most("beats missed", 1, 0)], [], missed=True)
    status, written, svg = ran(tmp_path, part)
    assert (status, svg) == (MISSED, "")
    assert written["summary"][0]["met"] is False
    assert "its page" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "status"),
    [(FarmDied("the farm ended"), FARM_DIED), (BenchFailed("the host ended"), FAILED)],
)
def test_what_ends_it_is_one_line_and_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Exception, status: int
) -> None:
    assert ran(tmp_path, fault) == (status, {}, "")
    assert capsys.readouterr().err == f"bench: {fault}\n"


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["comparisons"])
    assert "no part 'comparisons'" in capsys.readouterr().err


def test_every_part_that_make_runs_is_there() -> None:
    assert {*command.BENCH, *command.SCALE} <= set(command.PARTS)


# -- farms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "size"), [(20_000, 5000), (4096, 1898), (256, 1)])
def test_a_farm_has_no_more_guests_than_its_descriptors_allow(limit: int, size: int) -> None:
    assert farm_size(limit) == size


def test_too_low_a_limit_of_open_files_is_said_before_anything_runs() -> None:
    check_descriptors(15_000, 20_000)
    with pytest.raises(BenchFailed, match="15000 channels need 15300 open files, the limit"):
        check_descriptors(15_000, 15_299)


async def test_a_farm_that_dies_ends_the_measurement() -> None:
    async def measure() -> None:
        async with open_farms(20, size=10) as farms:
            await farms.listen(20)
            os.kill(farms.farms[1].pid, signal.SIGKILL)
            await trio.sleep_forever()

    with pytest.raises(FarmDied, match="the farm of the guests from 10 ended with -9: no message"):
        await measure()


async def test_a_farm_without_descriptors_says_so() -> None:
    async def measure() -> None:
        async with open_farms(20) as farms:
            await farms.listen(1)
            resource.prlimit(farms.farms[0].pid, resource.RLIMIT_NOFILE, (8, 8))
            await farms.listen(10)

    with pytest.raises(FarmDied, match=r"ended with 1: .*Too many open files"):
        await measure()


async def test_a_process_that_fails_is_one_line() -> None:
    with pytest.raises(BenchFailed, match="the host ended with 1: ValueError: no such order"):
        async with open_measured(
            "the host", [sys.executable, "-c", "raise ValueError('no such order')"], 60
        ) as process:
            await process.line()


def test_the_last_line_of_a_group_of_exceptions_is_the_innermost_exception() -> None:
    text = "".join(
        traceback.format_exception(
            ExceptionGroup("tasks", [ExceptionGroup("inner", [ValueError("no such order")])])
        )
    )
    assert last_line(text) == "ValueError: no such order"
    assert last_line(" \n") == "no message"


async def test_a_process_that_takes_too_long_is_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(BenchFailed, match="the host took longer than 60 s"):
        async with open_measured("the host", ["sleep", "1000"], 60) as process:
            await process.line()


# -- real processes ---------------------------------------------------------------------------


@pytest.mark.processes
async def test_all_shapes_beat_over_two_farms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.farms.FARM", 10)
    shapes = [PACKED, C_FLOOR, HOST]
    seen = await compare(20, shapes, rounds=1, seconds=1.0)
    there = [shape for shape in shapes if shape != C_FLOOR or c_floor.compiler()]
    assert list(seen) == there
    for (one,) in seen.values():
        assert one.channels == 20
        assert one.beats > 0
        assert one.cpu_s > 0
    assert seen[HOST][0].scrape_cpu_s > 0


async def test_without_a_compiler_there_is_no_c_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert no_c_floor([HOST]) == []
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert no_c_floor([HOST, C_FLOOR]) == ["C floor: no gcc"]
    assert await compare(1, [C_FLOOR], rounds=1, seconds=1.0) == {}


@pytest.mark.processes
async def test_guests_that_fall_silent_are_lost_and_no_others() -> None:
    groups = (Group(1000, (3, 17)), Group(707, (19,)))
    async with open_farms(20, size=10) as farms:
        await farms.listen(19)
        await farms.listen(1, interval_ms=707)
        sampled, losses = await run_host(farms, 0, silent=groups)
    assert sampled is None
    assert [(one.interval_ms, len(one.excess_ms), one.wrong) for one in losses] == [
        (1000, 2, 0),
        (707, 1, 0),
    ]


def test_an_order_is_read_as_it_was_written() -> None:
    order = Order(channel_dir="/ch", channels=3, seconds=1.5, silent=(Group(1000, (1, 2)),))
    read = Order.parse(order.as_json())
    assert [tuple(group.indexes) for group in read.silent] == [(1, 2)]
    assert attrs.evolve(read, silent=()) == attrs.evolve(order, silent=())
