"""Simulate a fleet with faults: the real daemons on one virtual clock, seed by seed.

Each seed draws what goes wrong, and when: processes that are stopped, killed and restarted, links
and channels that are cut or held back, disks, libvirt and the VIM that fail. Invariants say what
must hold all the same. A seed that violates one is shrunk to the fewest faults, which --faults
replays. The summary says which situations were seen; what was not seen is not proved.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from functools import partial
from typing import Final

import attrs

import hbtrio
from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.output import write_out
from hbtrio.simulate import schedule_file
from hbtrio.simulate.campaign import run_campaign
from hbtrio.simulate.every_step import try_every_step
from hbtrio.simulate.fault_words import describe
from hbtrio.simulate.progress import CampaignProgress
from hbtrio.simulate.replay import run_apart, shrink_failure
from hbtrio.simulate.report import report
from hbtrio.simulate.results_file import RESULTS_NAME, Options, ResultsFile
from hbtrio.simulate.run import run_schedule
from hbtrio.simulate.scenario import Scenario
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.seed_result import SeedResult
from hbtrio.simulate.summary import Summary
from hbtrio.text import printable

#: How many failed seeds are shrunk: one takes up to some minutes.
_SHRUNK: Final = 3

_MOST_SEEDS: Final = 10_000_000
_MOST_MINUTES: Final = 100_000
_MOST_MACHINES: Final = 1000

#: How often a seed is run again at most; each time the hash seed is another one.
_MOST_REPLAYS: Final = 1000

_REPORT_NAME: Final = "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--seeds",
        metavar="N|A-B",
        help="how many seeds, from 1 on, or which: 17-17 is one (default: 20)",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="virtual minutes of a seed (default: 8)"
    )
    parser.add_argument("--vms", type=int, metavar="V", help="VMs of the fleet (default: 4)")
    parser.add_argument("--hosts", type=int, metavar="H", help="hosts of the fleet (default: 2)")
    parser.add_argument(
        "--faults",
        default="default",
        metavar="default|none|FILE",
        help="what goes wrong: what the seed draws, nothing, or what a file says, which then "
        "has the seed and the size of the fleet too (default: default)",
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="seeds at once"
    )
    parser.add_argument(
        "--no-shrink", action="store_true", help="leave the schedules that failed as they are"
    )
    parser.add_argument(
        "--stop-at-failure", action="store_true", help="run no further seed after one that failed"
    )
    parser.add_argument("--trace", action="store_true", help="print the events of a single seed")
    parser.add_argument(
        "--check-replay",
        type=int,
        nargs="?",
        const=2,
        metavar="N",
        help="run each seed in N processes with different hash seeds, and compare the traces "
        "(default: 2)",
    )
    parser.add_argument(
        "--every-step",
        choices=[scenario.value for scenario in Scenario],
        help="run a short scenario again and again, with each daemon killed before each of its "
        "task steps, and at each of its effects",
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        help=f"write {_REPORT_NAME}, the results, and the schedules that failed to DIR; a "
        "campaign that was ended goes on where it was",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the campaign; FAILED if a seed failed, or a trace differs.

    Raises:
        UserError: an option, the file of faults or the directory can't be used.
    """
    if options.jobs < 1:
        raise UserError("--jobs: must be at least 1")
    if options.every_step is not None:
        return _every_step(options)
    plan = _plan(options)
    if options.trace:
        return _trace(plan)
    if options.check_replay is not None:
        if not 2 <= options.check_replay <= _MOST_REPLAYS:
            raise UserError(f"--check-replay: must be 2 to {_MOST_REPLAYS}")
        return _check_replay(options, plan)
    return _campaign(options, plan)


# -- what to run -----------------------------------------------------------------------------------


@attrs.frozen
class _Plan:
    """What to run.

    Args:
        seeds: which.
        template: of all schedules, or the only one, with the faults of a file.
        faults: ``default``, ``none``, or what identifies the file.
    """

    seeds: range
    template: Schedule
    faults: str

    def schedule(self, seed: int) -> Schedule:
        """Returns what is run for a seed."""
        schedule = attrs.evolve(self.template, seed=seed)
        return schedule.drawn() if self.faults == "default" else schedule

    @property
    def options(self) -> Options:
        """What all results have in common."""
        fleet = self.template
        return Options(fleet.minutes, fleet.vms, fleet.hosts, self.faults, hbtrio.__version__)


def _plan(options: argparse.Namespace) -> _Plan:
    if options.faults not in ("default", "none"):
        for name in ("seeds", "minutes", "vms", "hosts"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name}: the file of --faults says it")
        schedule = schedule_file.read(options.faults)
        text = schedule_file.to_text(schedule).encode()
        digest = hashlib.blake2b(text, digest_size=8).hexdigest()
        return _Plan(range(schedule.seed, schedule.seed + 1), schedule, f"file {digest}")
    minutes = 8.0 if options.minutes is None else options.minutes
    vms = 4 if options.vms is None else options.vms
    hosts = 2 if options.hosts is None else options.hosts
    if not 0 < minutes <= _MOST_MINUTES:
        raise UserError(f"--minutes: must be over 0, at most {_MOST_MINUTES}")
    for name, number in (("vms", vms), ("hosts", hosts)):
        if not 1 <= number <= _MOST_MACHINES:
            raise UserError(f"--{name}: must be 1 to {_MOST_MACHINES}")
    seeds = seeds_of("20" if options.seeds is None else options.seeds)
    template = Schedule(seed=seeds.start, minutes=minutes, vms=vms, hosts=hosts)
    return _Plan(seeds, template, options.faults)


def seeds_of(text: str) -> range:
    """Returns the seeds that ``N``, those from 1 on, or ``A-B`` stands for.

    Raises:
        UserError: it is neither, or has no seed.
    """
    match = re.fullmatch(r"(?:([0-9]{1,12})-)?([0-9]{1,12})", text)
    if match is None:
        raise UserError(f"--seeds: must be N or A-B, got {printable(text)}")
    seeds = range(int(match[1] or 1), int(match[2]) + 1)
    if not 1 <= len(seeds) <= _MOST_SEEDS:
        raise UserError(f"--seeds: must be 1 to {_MOST_SEEDS} seeds, got {text}")
    return seeds


# -- a campaign ------------------------------------------------------------------------------------


def _campaign(options: argparse.Namespace, plan: _Plan) -> int:
    with contextlib.ExitStack() as stack:
        # As Ctrl-C: the workers must not outlive a campaign that is ended.
        handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, handler)
        file = None
        done: list[SeedResult] = []
        if options.report is not None:
            file = stack.enter_context(_results_file(options.report, plan.options))
            done = [result for result in file.results if result.seed in plan.seeds]
        summary = Summary(done)
        have = {result.seed for result in done}
        seeds = [seed for seed in plan.seeds if seed not in have]
        if summary.failed and options.stop_at_failure:
            seeds = []
        results = run_campaign(seeds, lambda seed: run_schedule(plan.schedule(seed)), options.jobs)
        stack.enter_context(contextlib.closing(results))
        with CampaignProgress(len(plan.seeds), len(done)) as progress:
            for result in results:
                if file is not None:
                    file.append(result)
                summary.add(result)
                progress.advance(failed=result.failed)
                if result.failed and options.stop_at_failure:
                    break
        shrunk = 0 if options.no_shrink else _SHRUNK
        for place, result in enumerate(summary.failures):
            _tell_failure(plan, result, options.report, shrinks=place < shrunk)
        if options.report is not None:
            _write(options.report, _REPORT_NAME, report(summary, plan.options))
    write_out("".join(f"{line}\n" for line in summary.lines()))
    return ExitStatus.FAILED if summary.failed else ExitStatus.DONE


def _results_file(directory: str, options: Options) -> ResultsFile:
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise UserError(f"{printable(directory)}: {os_reason(error)}") from error
    return ResultsFile(os.path.join(directory, RESULTS_NAME), options)


def _tell_failure(plan: _Plan, result: SeedResult, directory: str | None, *, shrinks: bool) -> None:
    """Prints a failed seed, and the schedule that fails as it does, as small as it gets."""
    lines = [f"seed {result.seed} failed:"]
    lines += [f"  {one.at_s:.3f} s: {one.invariant}: {one.text}" for one in result.violations]
    lines += [f"  {line}" for line in result.error.splitlines()[-1:]]
    schedule = plan.schedule(result.seed)
    if shrinks:
        write_out("".join(f"{printable(line)}\n" for line in lines))
        shrunk = shrink_failure(schedule, result, run_schedule)
        if shrunk is None:
            lines = ["  it did not fail again: a run does not depend on its seed alone"]
        else:
            least = "" if shrunk.minimal else ", and there may be fewer"
            schedule = shrunk.schedule
            number = len(schedule.faults)
            lines = [f"  after {shrunk.runs} runs {number} faults are left{least}:"]
        lines += [f"  {describe(fault, schedule)}" for fault in schedule.faults]
    if directory is not None:
        path = _write(directory, f"seed-{result.seed}.faults", schedule_file.to_text(schedule))
        lines.append(f"  replay it: hbtrio simulate --faults {shlex.quote(path)}")
    write_out("".join(f"{printable(line)}\n" for line in lines))


def _write(directory: str, name: str, text: str) -> str:
    """Writes a file and returns its path."""
    path = os.path.join(directory, name)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{printable(path)}: {os_reason(error)}", ExitStatus.FAILED) from error
    return path


# -- a scenario ------------------------------------------------------------------------------------


def _every_step(options: argparse.Namespace) -> int:
    """Runs a scenario with a kill at each step; FAILED if one of the runs failed."""
    for name in ("seeds", "minutes", "vms", "hosts", "report"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: --every-step has a fleet of its own, and no report")
    lines, failed = try_every_step(Scenario(options.every_step), options.jobs)
    write_out("".join(f"{printable(line)}\n" for line in lines))
    return ExitStatus.FAILED if failed else ExitStatus.DONE


# -- one seed, or each one twice -------------------------------------------------------------------


def _trace(plan: _Plan) -> int:
    if len(plan.seeds) != 1:
        raise UserError(f"--trace: takes one seed, such as --seeds {plan.seeds[0]}-{plan.seeds[0]}")
    schedule = plan.schedule(plan.seeds[0])

    def show(events: list[str]) -> None:
        write_out("".join(f"{printable(line)}\n" for line in events))

    result = run_apart(schedule, partial(run_schedule, on_trace=show))
    write_out(f"trace {result.digest}\n")
    if result.failed:
        _tell_failure(plan, result, None, shrinks=False)
    return ExitStatus.FAILED if result.failed else ExitStatus.DONE


def _check_replay(options: argparse.Namespace, plan: _Plan) -> int:
    with tempfile.TemporaryDirectory(prefix="hbtrio-replay-") as directory:
        digests: dict[int, list[str]] = {seed: [] for seed in plan.seeds}
        for hash_seed in map(str, range(1, options.check_replay + 1)):
            results = os.path.join(directory, hash_seed)
            _run_again(options, plan, results, hash_seed)
            with _results_file(results, plan.options) as file:
                for result in file.results:
                    digests[result.seed].append(result.digest)
    other = {seed: found for seed, found in digests.items() if len({*found}) > 1 or "" in found}
    lines = [
        f"seed {seed}: {', '.join(digest or 'no result' for digest in dict.fromkeys(found))}"
        for seed, found in other.items()
    ]
    times = "twice" if options.check_replay == 2 else f"{options.check_replay} times"
    lines.append(f"{len(plan.seeds)} seeds run {times}, {len(other)} differ")
    write_out("".join(f"{line}\n" for line in lines))
    return ExitStatus.FAILED if other else ExitStatus.DONE


def _run_again(options: argparse.Namespace, plan: _Plan, directory: str, hash_seed: str) -> None:
    words = [sys.executable, "-m", "hbtrio", "simulate", "--no-shrink", "--report", directory]
    words += ["--jobs", str(options.jobs), "--faults", options.faults]
    if options.faults in ("default", "none"):
        fleet = plan.template
        words += ["--seeds", f"{plan.seeds[0]}-{plan.seeds[-1]}", "--minutes", str(fleet.minutes)]
        words += ["--vms", str(fleet.vms), "--hosts", str(fleet.hosts)]
    ended = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=False,
    )
    if ended.returncode not in (ExitStatus.DONE, ExitStatus.FAILED):
        raise UserError(
            f"a run of the seeds ended with status {ended.returncode}", ExitStatus.FAILED
        )
