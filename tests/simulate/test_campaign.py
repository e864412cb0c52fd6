"""Campaigns: whatever a seed does to its worker, it is reported and the others have results."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hbtrio.simulate import campaign
from hbtrio.simulate.campaign import SEEDS_PER_WORKER, run_campaign
from hbtrio.simulate.seed_result import SeedResult

#: How long the seed that hangs may, in seconds; far longer than any other takes on a busy machine.
TIMEOUT_S = 4.0


def fine(seed: int) -> SeedResult:
    return SeedResult(seed=seed, digest=f"of {seed}")


def results(
    run_seed: Callable[[int], SeedResult], seeds: range, jobs: int = 2, timeout_s: float = 60.0
) -> dict[int, SeedResult]:
    found = list(run_campaign(seeds, run_seed, jobs, timeout_s))
    by_seed = {result.seed: result for result in found}
    assert len(by_seed) == len(found), "a seed has two results"
    return by_seed


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert (children(), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_seed_has_its_result(jobs: int) -> None:
    assert results(fine, range(35), jobs) == {seed: fine(seed) for seed in range(35)}


def test_no_seeds_no_results() -> None:
    assert results(fine, range(0)) == {}


def test_a_worker_runs_some_ten_seeds() -> None:
    def run_seed(seed: int) -> SeedResult:
        return SeedResult(seed=seed, digest=str(os.getpid()))

    pids = [result.digest for result in results(run_seed, range(25), 1).values()]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [SEEDS_PER_WORKER] * 2 + [5]
    assert str(os.getpid()) not in pids


def test_few_seeds_are_shared_out_and_run_side_by_side() -> None:
    """Each of two waits for the other, for a minute at most."""
    ends = socket.socketpair()

    def run_seed(seed: int) -> SeedResult:
        ends[seed].settimeout(60)
        ends[seed].send(b"here")
        assert ends[seed].recv(4) == b"here"
        return fine(seed)

    with ends[0], ends[1]:
        assert results(run_seed, range(2), 2) == {0: fine(0), 1: fine(1)}


def test_a_seed_that_raises_is_reported_and_the_worker_goes_on() -> None:
    def run_seed(seed: int) -> SeedResult:
        if seed == 3:
            raise KeyError("what happened")
        return SeedResult(seed=seed, digest=str(os.getpid()))

    found = results(run_seed, range(8), 1)
    error = found.pop(3).error
    assert error.startswith("Traceback")
    assert error.rstrip().endswith("KeyError: 'what happened'")
    assert len({result.digest for result in found.values()}) == 1


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "the worker died: SIGTERM"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the worker died: SIGKILL"),
        (lambda: os._exit(0), "the worker died: status 0"),
        (lambda: sys.exit(5), "the worker died: status 1"),
    ],
)
def test_a_seed_that_takes_its_worker_with_it(death: Callable[[], object], words: str) -> None:
    def run_seed(seed: int) -> SeedResult:
        if seed in (3, 4):
            death()
        return fine(seed)

    found = results(run_seed, range(12))
    assert [found.pop(seed).error for seed in (3, 4)] == [words, words]
    assert found == {seed: fine(seed) for seed in range(12) if seed not in (3, 4)}


def test_a_seed_that_hangs_is_killed_and_the_others_run() -> None:
    def run_seed(seed: int) -> SeedResult:
        while seed == 2:
            signal.pause()
        return fine(seed)

    found = results(run_seed, range(12), timeout_s=TIMEOUT_S)
    assert found.pop(2).error == "no result within 4 s"
    assert found == {seed: fine(seed) for seed in range(12) if seed != 2}


def test_a_worker_that_sends_nonsense_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "MOST_LINE_BYTES", 100_000)

    def run_seed(seed: int) -> SeedResult:
        if seed == 1:
            return SeedResult(seed=99)
        if seed == 2:
            return SeedResult(seed=seed, digest="x" * 300_000)
        return fine(seed)

    found = results(run_seed, range(5))
    assert found.pop(1).error == (
        "the worker sent no result: a result of seed 99, which did not run"
    )
    assert found.pop(2).error == "the worker sent no result: a result of over 100000 bytes"
    assert found == {seed: fine(seed) for seed in (0, 3, 4)}


def test_who_stops_early_leaves_no_worker() -> None:
    def run_seed(seed: int) -> SeedResult:
        while seed:
            signal.pause()
        return fine(seed)

    running = run_campaign(range(40), run_seed, 3)
    assert next(running) == fine(0)
    assert len(children()) >= 3
    running.close()


def test_what_a_worker_does_not_flush_is_not_written_twice() -> None:
    """It ends with os._exit: buffers that it has inherited are its parent's to write."""
    script = (
        "import sys; from hbtrio.simulate.campaign import run_campaign\n"
        "from hbtrio.simulate.seed_result import SeedResult\n"
        "sys.stdout.write('once'); import atexit; atexit.register(sys.stdout.write, ' at exit')\n"
        "list(run_campaign(range(3), lambda seed: SeedResult(seed=seed), 2))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert ended.stdout == "once at exit"
