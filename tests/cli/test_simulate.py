"""``hbtrio simulate``: its options, what it prints and writes, and a fleet for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hbtrio.cli import main
from hbtrio.cli import simulate as command
from hbtrio.cli.simulate import seeds_of
from hbtrio.errors import ExitStatus, UserError
from hbtrio.simulate import schedule_file
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.invariant import Violation
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.seed_result import SeedResult, from_line

FAULTS = (
    Fault(at_s=31.25, kind=Kind.STOP_HOST, who=1, for_s=2.5),
    Fault(at_s=40.0, kind=Kind.CUT_LINK),
)


def ran(schedule: Schedule, on_trace: object = None) -> SeedResult:
    """A run that fails if a seed ends with 7, or if the link is cut; seed 13 dies."""
    if schedule.seed == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    cut = Violation(50.0, "healthy-not-lost", "vm0 is well and reported lost")
    fails = schedule.seed % 10 == 7
    if schedule.seed == 1000:
        fails = any(fault.kind is Kind.CUT_LINK for fault in schedule.faults)
    if callable(on_trace):
        on_trace(["0.1 agent#1 started", "0.2 vm0 \x1b[31m"])
    return SeedResult(
        seed=schedule.seed,
        digest=f"{schedule.seed}/{schedule.vms}/{schedule.hosts}/{schedule.minutes:g}",
        violations=(cut,) if fails else (),
        faults={str(fault.kind): 1 for fault in schedule.faults},
    )


@pytest.fixture(autouse=True)
def fake_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_schedule", ran)


@pytest.fixture
def faults_file(tmp_path: Path) -> Path:
    path = tmp_path / "my faults"
    schedule = Schedule(seed=1000, minutes=5.0, vms=3, hosts=2, faults=FAULTS)
    path.write_text(f"# found on a Monday\n{schedule_file.to_text(schedule)}")
    return path


def simulate(*words: object) -> int:
    return main(["simulate", *map(str, words)])


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("1", range(1, 2)),
        ("20", range(1, 21)),
        ("17-17", range(17, 18)),
        ("0-3", range(4)),
        ("10000000", range(1, 10_000_001)),
    ],
)
def test_seeds(text: str, seeds: range) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "x", "-3", "3-", "5-4", "0", "1.5", "1-10000001", "٣", "1\n", "1" * 13]
)
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(UserError, match=r"^--seeds: must be "):
        seeds_of(text)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--minutes", "0"], "--minutes: must be over 0, at most 100000"),
        (["--minutes", "nan"], "--minutes: must be over 0, at most 100000"),
        (["--minutes", "inf"], "--minutes: must be over 0, at most 100000"),
        (["--vms", "0"], "--vms: must be 1 to 1000"),
        (["--hosts", "1001"], "--hosts: must be 1 to 1000"),
        (["--jobs", "0"], "--jobs: must be at least 1"),
        (["--seeds", "a"], "--seeds: must be N or A-B, got a"),
        (["--trace"], "--trace: takes one seed, such as --seeds 1-1"),
        (["--check-replay", "1"], "--check-replay: must be 2 to 1000"),
        (["--faults", "/no/such"], "/no/such: cannot be read: No such file or directory"),
    ],
)
def test_faults_of_options_are_one_line(
    words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(*words) == ExitStatus.USAGE
    assert capsys.readouterr() == ("", f"hbtrio simulate: {fault}\n")


@pytest.mark.parametrize("option", ["--seeds", "--minutes", "--vms", "--hosts"])
def test_a_file_of_faults_says_it_all(
    option: str, faults_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("--faults", faults_file, option, 3) == ExitStatus.USAGE
    assert f"{option}: the file of --faults says it" in capsys.readouterr().err


# -- campaigns ---------------------------------------------------------------------------------


def test_a_campaign_in_which_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--seeds", 6, "--jobs", 2) == ExitStatus.DONE
    output, errors = capsys.readouterr()
    assert output.startswith("6 seeds, 0 failed; ")
    assert "NOT SEEN" in output
    assert errors == ""


def test_the_options_are_those_of_each_run(tmp_path: Path) -> None:
    fleet = ["--minutes", 2, "--vms", 7, "--hosts", 3]
    simulate("--seeds", "5-6", *fleet, "--faults", "none", "--report", tmp_path)
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines()[1:]
    results = {result.seed: result for result in map(from_line, lines)}
    assert {seed: result.digest for seed, result in results.items()} == {
        5: "5/7/3/2",
        6: "6/7/3/2",
    }
    assert results[5].faults == {}


def test_faults_are_drawn_unless_told_otherwise(tmp_path: Path) -> None:
    simulate("--seeds", "5-5", "--report", tmp_path)
    line = (tmp_path / "results.jsonl").read_bytes().splitlines()[1]
    drawn = Schedule(seed=5, minutes=8.0, vms=4, hosts=2).drawn()
    assert set(from_line(line).faults) == {fault.kind for fault in drawn.faults}


def test_a_failure_is_told_shrunk_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "a report"
    assert simulate("--seeds", "6-7", "--report", report) == ExitStatus.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "seed 7 failed:",
        "  50.000 s: healthy-not-lost: vm0 is well and reported lost",
        "  after 2 runs 0 faults are left:",
        f"  replay it: hbtrio simulate --faults '{report}/seed-7.faults'",
    ]
    assert lines[4].startswith("2 seeds, 1 failed; ")
    written = schedule_file.read(str(report / "seed-7.faults"))
    assert written == Schedule(seed=7, minutes=8.0, vms=4, hosts=2)
    page = (report / "index.html").read_text()
    assert "Seed 7: vm0 is well and reported lost" in page


def test_a_failure_without_a_directory_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--seeds", "7-7", "--no-shrink") == ExitStatus.FAILED
    output = capsys.readouterr().out
    assert "seed 7 failed:" in output
    assert "replay it" not in output
    assert "runs" not in output


def test_not_every_failure_is_shrunk(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--seeds", "1-47", "--faults", "none") == ExitStatus.FAILED
    output = capsys.readouterr().out
    assert output.count("failed:") == 6  # 7, 13, 17, 27, 37, 47
    assert output.count(" are left") == 3


def test_a_campaign_stops_at_a_failure_if_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--no-shrink", "--stop-at-failure", "--jobs", 1, "--report", tmp_path)
    assert simulate("--seeds", "6-47", *words) == ExitStatus.FAILED
    assert "2 seeds, 1 failed; " in capsys.readouterr().out
    # Nor does it go on later.
    assert simulate("--seeds", "6-47", *words) == ExitStatus.FAILED
    assert "2 seeds, 1 failed; " in capsys.readouterr().out


def test_a_seed_that_dies_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--seeds", "12-14", "--no-shrink") == ExitStatus.FAILED
    output = capsys.readouterr().out
    assert "seed 13 failed:\n  the worker died: SIGKILL\n" in output
    assert "3 seeds, 1 failed; " in output
    assert "seeds without a result: 1" in output


def test_a_campaign_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate("--seeds", 5, "--report", tmp_path)

    def never_again(schedule: Schedule, on_trace: object = None) -> SeedResult:
        assert schedule.seed > 5
        return ran(schedule)

    monkeypatch.setattr(command, "run_schedule", never_again)
    capsys.readouterr()
    assert simulate("--seeds", "3-6", "--report", tmp_path) == ExitStatus.DONE
    assert capsys.readouterr().out.startswith("4 seeds, 0 failed; ")
    assert simulate("--seeds", 5, "--vms", 5, "--report", tmp_path) == ExitStatus.USAGE
    assert "results of another campaign" in capsys.readouterr().err


def test_a_directory_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert simulate("--report", tmp_path / "file" / "x") == ExitStatus.USAGE
    assert capsys.readouterr().err.endswith("/file/x: not a directory\n")


@pytest.mark.processes
def test_sigterm_ends_a_campaign_with_its_workers_and_keeps_the_results(tmp_path: Path) -> None:
    """As Ctrl-C does. Seed 2 says who runs it once the first result is kept, and never ends."""
    script = (
        "import os, signal, sys, time\n"
        "from hbtrio.cli import main, simulate\n"
        "from hbtrio.simulate.seed_result import SeedResult\n"
        "def run(schedule, on_trace=None):\n"
        "    while schedule.seed == 2:\n"
        "        end = time.monotonic() + 60\n"
        "        while open(f'{sys.argv[1]}/results.jsonl').read().count('\\n') < 2:\n"
        "            assert time.monotonic() < end\n"
        "            time.sleep(0.01)\n"
        "        os.write(1, b'%d\\n' % os.getpid())\n"
        "        signal.pause()\n"
        "    return SeedResult(seed=schedule.seed)\n"
        "simulate.run_schedule = run\n"
        "sys.exit(main(['simulate', '--seeds', '3', '--jobs', '1', '--report', sys.argv[1]]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as campaign:
        assert campaign.stdout is not None
        worker = int(campaign.stdout.readline())
        campaign.terminate()
        assert campaign.wait(60) == 130
    assert not Path(f"/proc/{worker}").exists()
    assert (tmp_path / "results.jsonl").read_bytes().count(b"\n") == 2


# -- files and traces --------------------------------------------------------------------------


def test_a_file_of_faults_is_replayed_and_shrunk(
    faults_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    assert simulate("--faults", faults_file, "--report", report) == ExitStatus.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert "1 faults are left:" in lines[2]
    assert lines[3] == "  40 s: the link between compute-0 and the agent is reset"
    (result,) = map(from_line, (report / "results.jsonl").read_bytes().splitlines()[1:])
    assert result.digest == "1000/3/2/5"
    assert schedule_file.read(str(report / "seed-1000.faults")).faults == FAULTS[1:]


def test_the_results_of_a_file_are_not_those_of_another(
    faults_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    simulate("--faults", faults_file, "--report", report)
    faults_file.write_text(faults_file.read_text().replace("31.25", "31.5"))
    assert simulate("--faults", faults_file, "--report", report) == ExitStatus.USAGE
    assert "results of another campaign" in capsys.readouterr().err


def test_a_trace_has_the_events_and_the_digest(capfd: pytest.CaptureFixture[str]) -> None:
    assert simulate("--seeds", "5-5", "--trace") == ExitStatus.DONE
    assert capfd.readouterr().out == ("0.1 agent#1 started\n0.2 vm0 \\x1b[31m\ntrace 5/4/2/8\n")


def test_the_trace_of_a_failure_fails(capfd: pytest.CaptureFixture[str]) -> None:
    assert simulate("--seeds", "7-7", "--trace") == ExitStatus.FAILED
    assert "seed 7 failed:" in capfd.readouterr().out


# -- replays -----------------------------------------------------------------------------------


def replayed(monkeypatch: pytest.MonkeyPatch, digest: str) -> list[str]:
    """Has the second of two runs give another digest for seed 2; returns the hash seeds."""
    hash_seeds = []

    def run_again(options: object, plan: object, directory: str, hash_seed: str) -> None:
        hash_seeds.append(hash_seed)
        other = digest if hash_seed == "2" else "same"

        def run(schedule: Schedule, on_trace: object = None) -> SeedResult:
            return SeedResult(seed=schedule.seed, digest=other if schedule.seed == 2 else "same")

        monkeypatch.setattr(command, "run_schedule", run)
        simulate("--seeds", 3, "--report", directory)

    monkeypatch.setattr(command, "_run_again", run_again)
    return hash_seeds


def test_the_same_traces_in_two_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hash_seeds = replayed(monkeypatch, "same")
    assert simulate("--seeds", 3, "--check-replay") == ExitStatus.DONE
    assert capsys.readouterr().out.endswith("3 seeds run twice, 0 differ\n")
    assert len(set(hash_seeds)) == 2
    assert simulate("--seeds", 3, "--check-replay", 20) == ExitStatus.DONE
    assert capsys.readouterr().out.endswith("3 seeds run 20 times, 0 differ\n")
    assert len(hash_seeds) == 22


@pytest.mark.parametrize("digest", ["other", ""])
def test_other_traces_fail(
    digest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed(monkeypatch, digest)
    assert simulate("--seeds", 3, "--check-replay") == ExitStatus.FAILED
    assert capsys.readouterr().out.endswith(
        f"seed 2: same, {digest or 'no result'}\n3 seeds run twice, 1 differ\n"
    )


# -- for real ----------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_small_fleet_gives_the_same_trace_whatever_the_hash_seed(tmp_path: Path) -> None:
    fleet = ["--seeds", "1-2", "--minutes", "0.5", "--vms", "1", "--hosts", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "hbtrio", "simulate", *fleet, "--check-replay"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "2 seeds run twice, 0 differ\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_a_stopped_guest_is_simulated_to_the_end(tmp_path: Path) -> None:
    """All that strikes one small fleet, stops among it: no run ends with an exception."""
    path = tmp_path / "faults"
    fault = Fault(at_s=20.0, kind=Kind.STOP_GUEST, for_s=1.5)
    schedule = Schedule(seed=1, minutes=0.5, vms=1, hosts=1, faults=(fault,))
    path.write_text(schedule_file.to_text(schedule))
    ended = subprocess.run(
        [sys.executable, "-m", "hbtrio", "simulate", "--faults", str(path), "--no-shrink"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("1 seeds, 0 failed; ")
    assert "faults: 1 of 1 kinds" in ended.stdout
