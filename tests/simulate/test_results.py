"""Results: the file of a campaign that goes on where it was, and what the results add up to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import attrs
import pytest

from hbtrio.errors import ExitStatus, UserError
from hbtrio.simulate.invariant import Violation
from hbtrio.simulate.latencies import Latency
from hbtrio.simulate.results_file import Options, ResultsFile
from hbtrio.simulate.seed_result import SeedResult
from hbtrio.simulate.sightings import Sighting
from hbtrio.simulate.summary import MOST_FAILED, Summary, share_of, spread_of

OPTIONS = Options(minutes=8.0, vms=4, hosts=2, faults="default", version="1.0")
VIOLATION = Violation(50.0, "healthy-not-lost", "vm0 is well and reported lost")


def test_a_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "results")
    with ResultsFile(path, OPTIONS) as file:
        assert file.results == []
        file.append(SeedResult(seed=1))
        file.append(SeedResult(seed=2, violations=(VIOLATION,)))
    with ResultsFile(path, OPTIONS) as file:
        assert [result.seed for result in file.results] == [1, 2]
        file.append(SeedResult(seed=3))
    with ResultsFile(path, OPTIONS) as file:
        assert file.results == [
            SeedResult(seed=1),
            SeedResult(seed=2, violations=(VIOLATION,)),
            SeedResult(seed=3),
        ]


def test_a_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "results"
    with ResultsFile(str(path), OPTIONS) as file:
        file.append(SeedResult(seed=1))
        file.append(SeedResult(seed=2))
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:-cut])
        with ResultsFile(str(path), OPTIONS) as file:
            kept = len(file.results)
            file.append(SeedResult(seed=3))
        assert kept == max(0, whole[:-cut].count(b"\n") - 1)
        assert path.read_bytes().endswith(b"\n")
        with ResultsFile(str(path), OPTIONS) as file:
            assert file.results[-1].seed == 3


@pytest.mark.parametrize(
    "other",
    [
        attrs.evolve(OPTIONS, minutes=9.0),
        attrs.evolve(OPTIONS, vms=5),
        attrs.evolve(OPTIONS, hosts=1),
        attrs.evolve(OPTIONS, faults="none"),
        attrs.evolve(OPTIONS, version="1.1"),
    ],
)
def test_results_of_another_campaign_are_refused(tmp_path: Path, other: Options) -> None:
    path = str(tmp_path / "results")
    with ResultsFile(path, OPTIONS):
        pass
    with pytest.raises(UserError, match="results: results of another campaign or version"):
        ResultsFile(path, other)
    with ResultsFile(path, OPTIONS):  # untouched
        pass


def test_two_campaigns_do_not_share_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "results")
    with ResultsFile(path, OPTIONS), pytest.raises(UserError) as caught:
        ResultsFile(path, OPTIONS)
    assert str(caught.value) == f"{path}: another campaign uses it"
    assert caught.value.status is ExitStatus.IN_USE


def test_faults_of_the_file_are_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    with ResultsFile(str(damaged), OPTIONS):
        pass
    damaged.write_bytes(damaged.read_bytes() + b"{}\n")
    for path, fault in (
        (damaged, f"{damaged}: damaged: Object missing required field `seed`"),
        (tmp_path / "no" / "results", f"{tmp_path}/no/results: no such file or directory"),
        (tmp_path, f"{tmp_path}: is a directory"),
    ):
        with pytest.raises(UserError) as caught:
            ResultsFile(str(path), OPTIONS)
        assert str(caught.value) == fault


def test_a_device_is_refused() -> None:
    with pytest.raises(UserError, match=r"^/dev/full: not a regular file$"):
        ResultsFile("/dev/full", OPTIONS)


def test_a_full_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "")

    path = str(tmp_path / "results")
    with ResultsFile(path, OPTIONS) as file:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UserError) as caught:
            file.append(SeedResult(seed=1))
    assert str(caught.value) == f"{path}: no space left on device"
    assert caught.value.status is ExitStatus.FAILED


# -- the sums ----------------------------------------------------------------------------------


def test_results_add_up() -> None:
    verdict, late = Sighting.EXPIRED.value, Sighting.LATE_VERDICT.value
    summary = Summary(
        [
            SeedResult(
                seed=1,
                cpu_s=0.5,
                vm_hours=0.5,
                faults={"kill-host": 2},
                sightings={verdict: 2},
                excused={"a: b": 1},
                detections=(Latency(3.0, 4.5),),
            ),
            SeedResult(
                seed=2,
                cpu_s=0.5,
                vm_hours=0.5,
                violations=(VIOLATION, VIOLATION),
                faults={"kill-host": 1, "cut-link": 1},
                sightings={verdict: 1, late: 4},
                detections=(Latency(4.0, 4.5),),
                verdicts=(Latency(1.0, 10.0),),
            ),
            SeedResult(seed=3, error="the worker died: SIGSEGV"),
        ]
    )
    assert (summary.seeds, summary.failed, summary.errors) == (3, 2, 1)
    assert [failure.seed for failure in summary.failures] == [2, 3]
    assert summary.violations == {"healthy-not-lost": 1}
    assert summary.faults == {"kill-host": 3, "cut-link": 1}
    assert summary.sightings[verdict] == 3
    assert summary.excused == {"a: b": 1}
    assert len(summary.unseen) == len(Sighting) - 2
    lines = list(summary.lines())
    assert lines[:6] == [
        "3 seeds, 2 failed; 1.0 VM-hours in 1.0 CPU s (1.0 VM-hours per CPU s)",
        "seeds without a result: 1",
        "violated in 1 seeds: healthy-not-lost",
        "faults: 4 of 2 kinds",
        "losses: 2, median 4.000 s, 99 % within 4.000 s, at most 4.000 s; "
        "at most 89 % of the bound",
        "verdicts: 1, median 1.000 s, 99 % within 1.000 s, at most 1.000 s; "
        "at most 10 % of the bound",
    ]
    assert f"       3 {verdict}" in lines
    assert lines[-1] == f"NOT SEEN: {len(Sighting) - 2} of {len(Sighting)}; it proves nothing there"


def test_a_campaign_that_saw_everything_does_not_complain() -> None:
    everything = SeedResult(seed=1, sightings={sighting.value: 1 for sighting in Sighting})
    summary = Summary([everything])
    assert summary.unseen == []
    assert not any("NOT SEEN" in line for line in summary.lines())


def test_a_campaign_without_results_has_a_summary() -> None:
    assert next(Summary().lines()).startswith("0 seeds, 0 failed")


def test_not_every_failure_is_kept() -> None:
    summary = Summary(SeedResult(seed=seed, error="x") for seed in range(MOST_FAILED + 1))
    assert summary.failed == MOST_FAILED + 1
    assert len(summary.failures) == MOST_FAILED


def test_percentiles() -> None:
    hundred = [Latency(float(n), 100.0) for n in range(1, 101)]
    assert spread_of(hundred) == (
        "100, median 51.000 s, 99 % within 99.000 s, at most 100.000 s; at most 100 % of the bound"
    )
    assert share_of(Latency(0.0, 0.0)) == 1.0
