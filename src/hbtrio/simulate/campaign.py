"""Runs many seeds in worker processes, and outlives whatever a seed does.

A worker is forked for some ten seeds and ends with ``os._exit``: what killed processes of a
simulation leave behind must never be unwound, and what is left of ten seeds fits into memory. It
sends each result as a line. A seed whose run raises, hangs or takes the worker with it gets a
result that says so, and the seeds that the worker had left go to another one.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import selectors
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final, NoReturn

from hbtrio.simulate.seed_result import SeedResult, from_line, to_line

#: Runs a seed; called in a worker.
RunSeed = Callable[[int], SeedResult]

#: How many seeds a worker runs, at most.
SEEDS_PER_WORKER: Final = 10

#: How long a seed may take, in seconds; one of eight virtual minutes takes about one.
SEED_TIMEOUT_S: Final = 600.0

#: The longest result, in bytes.
MOST_LINE_BYTES: Final = 16 * 1024 * 1024

#: How much of a traceback is kept, in characters: its end.
_TRACEBACK_CHARS: Final = 8000


def run_campaign(
    seeds: Sequence[int],
    run_seed: RunSeed,
    jobs: int,
    seed_timeout_s: float = SEED_TIMEOUT_S,
) -> Generator[SeedResult, None, None]:
    """Yields the result of each seed, in the order in which they come.

    Blocks while it waits. If the caller closes the generator, or an exception leaves it, all
    workers are killed and reaped. Call it from a process with one thread, since it forks.

    Args:
        seeds: each once.
        run_seed: what to do with one; its exceptions become results.
        jobs: how many workers run at once, at least 1.
        seed_timeout_s: how long a seed may take before its worker is killed, in seconds.
    """
    campaign = _Campaign(seeds, run_seed, jobs, seed_timeout_s)
    try:
        yield from campaign.results()
    finally:
        campaign.close()


class _Worker:
    """A child process, and the seeds whose results it owes: the first one runs.

    Args:
        seeds: which to run, in this order.
        run_seed: how.
    """

    def __init__(self, seeds: list[int], run_seed: RunSeed) -> None:
        self.seeds = deque(seeds)
        self.deadline = 0.0
        self._received = bytearray()
        self.reader, writer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _work(writer, seeds, run_seed)
        os.close(writer)

    def receive(self) -> Iterator[SeedResult]:
        """Reads once, and yields what is complete.

        Raises:
            EOFError: the worker has ended.
            ValueError: it sent something else than the result that it owed.
        """
        data = os.read(self.reader, 1 << 16)
        if not data:
            raise EOFError
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        for line in lines:
            result = from_line(bytes(line))
            if not self.seeds or result.seed != self.seeds[0]:
                raise ValueError(f"a result of seed {result.seed}, which did not run")
            self.seeds.popleft()
            yield result
        if len(rest) > MOST_LINE_BYTES:
            raise ValueError(f"a result of over {MOST_LINE_BYTES} bytes")

    def end(self) -> str:
        """Kills it if it still runs, reaps it, and returns in words how it ended."""
        os.close(self.reader)
        os.kill(self._pid, signal.SIGKILL)  # harmless once it has ended: nobody has reaped it yet
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"status {code}" if code >= 0 else signal.Signals(-code).name


def _work(writer: int, seeds: list[int], run_seed: RunSeed) -> NoReturn:
    """The life of a worker. It never returns to what its parent was doing.

    The pipe is left open: its end, upon which the parent reaps, is then that of the process.
    """
    status = 1
    try:
        # Ctrl-C ends the parent, which kills us; nothing of its handlers is ours.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()
        for seed in seeds:
            _write(writer, to_line(_result(seed, run_seed)))
        status = 0
    finally:
        os._exit(status)


def _result(seed: int, run_seed: RunSeed) -> SeedResult:
    try:
        return run_seed(seed)
    except Exception:  # noqa: BLE001 - the campaign goes on
        return SeedResult(seed=seed, error=traceback.format_exc()[-_TRACEBACK_CHARS:])


def _write(writer: int, data: bytes) -> None:
    while data:
        data = data[os.write(writer, data) :]


class _Campaign:
    """The workers of a campaign."""

    def __init__(
        self, seeds: Sequence[int], run_seed: RunSeed, jobs: int, seed_timeout_s: float
    ) -> None:
        self._todo: Iterator[int] = iter(seeds)
        # Few seeds are shared out among all workers.
        self._per_worker = min(SEEDS_PER_WORKER, math.ceil(len(seeds) / jobs))
        self._run_seed = run_seed
        self._jobs = jobs
        self._seed_timeout_s = seed_timeout_s
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def results(self) -> Iterator[SeedResult]:
        """Yields all results."""
        self._hire()
        while self._workers:
            deadline = min(worker.deadline for worker in self._workers)
            wait_s = max(0.0, deadline - time.monotonic())
            for key, _ in self._selector.select(wait_s):
                yield from self._receive(key.data)
            now = time.monotonic()
            for worker in [one for one in self._workers if one.deadline <= now]:
                yield from self._dismiss(worker, f"no result within {self._seed_timeout_s:g} s")
            self._hire()

    def close(self) -> None:
        """Kills and reaps all workers."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._selector.close()

    def _hire(self) -> None:
        while len(self._workers) < self._jobs:
            seeds = list(itertools.islice(self._todo, self._per_worker))
            if not seeds:
                return
            worker = _Worker(seeds, self._run_seed)
            self._restart_clock(worker)
            self._workers.append(worker)
            self._selector.register(worker.reader, selectors.EVENT_READ, worker)

    def _restart_clock(self, worker: _Worker) -> None:
        worker.deadline = time.monotonic() + self._seed_timeout_s

    def _receive(self, worker: _Worker) -> Iterator[SeedResult]:
        try:
            for result in worker.receive():
                self._restart_clock(worker)
                yield result
        except EOFError:
            yield from self._dismiss(worker)
        except ValueError as error:  # msgspec's errors are ValueErrors, too
            yield from self._dismiss(worker, f"the worker sent no result: {error}")

    def _dismiss(self, worker: _Worker, fault: str = "") -> Iterator[SeedResult]:
        """Ends a worker. If it still owes results, the seed that runs is at fault."""
        self._selector.unregister(worker.reader)
        self._workers.remove(worker)
        ended = worker.end()
        if worker.seeds:
            seed = worker.seeds.popleft()
            self._todo = itertools.chain(worker.seeds, self._todo)
            yield SeedResult(seed=seed, error=fault or f"the worker died: {ended}")
