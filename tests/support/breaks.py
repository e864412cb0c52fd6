"""Faults that were corrected, put back one at a time: does the simulator find them?

Each patch in ``tests/simulate/breaks`` is one fault; its first lines say what it is, which
invariant it violates, and a seed that shows it. Run as a program, this looks for the first seed
that does::

    python -m support.breaks [--seeds A-B] [BREAK...]

It goes on where it was, and prints the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import msgspec

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/simulate/breaks"
BUILD = ROOT / "build/breaks"

#: How many seeds may be needed, at most.
MOST_SEEDS = 500


@attrs.frozen
class Break:
    """A fault of the product, as a patch.

    Args:
        path: the patch.
        text: what it breaks.
        invariant: the name of the one that it violates.
        seed: one that shows it.
    """

    path: Path
    text: str
    invariant: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the patch."""
        return self.path.stem

    @property
    def row(self) -> str:
        """Its row in docs/reliability.md."""
        return f"| {self.text} | `{self.invariant}` | {self.seed} |"

    def put_back(self, directory: Path) -> Path:
        """Puts the fault into a copy of the sources, and returns the directory to import from.

        Args:
            directory: where the copy is made.

        Raises:
            subprocess.CalledProcessError: the patch does not apply.
        """
        source = directory / "src"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        self.apply(directory)
        return source

    def apply(self, directory: Path, *options: str) -> None:
        """Applies the patch to the sources below a directory, or tries whether it does."""
        subprocess.run(
            ["git", "apply", *options, str(self.path)],
            cwd=directory,
            # The directory may be within a checkout, which is not to be patched.
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)},
            check=True,
        )


def breaks() -> list[Break]:
    """Returns all breaks, by their names."""
    return [_read(path) for path in sorted(FOLDER.glob("*.patch"))]


def _read(path: Path) -> Break:
    head = path.read_text().partition("\n--- ")[0]
    fields = re.fullmatch(r"(.+)\n\nInvariant: (\S+)\nSeed: (\d+)\n", head, re.DOTALL)
    if fields is None:
        raise ValueError(f"{path}: it begins with what it breaks, its invariant and its seed")
    return Break(path, " ".join(fields[1].split()), fields[2], int(fields[3]))


def violated(source: Path, seeds: str, report: Path) -> dict[int, set[str]]:
    """Runs seeds until one fails, and returns the violated invariants by the seeds that did.

    Args:
        source: where hbtrio is imported from.
        seeds: which, as for ``hbtrio simulate``.
        report: the directory of the results; a campaign that was ended goes on there.
    """
    command = [sys.executable, "-m", "hbtrio", "simulate", "--jobs", "1", "--no-shrink"]
    command += ["--stop-at-failure", "--seeds", seeds, "--report", str(report)]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if ended.returncode not in (0, 1):
        raise RuntimeError(f"the campaign ended with status {ended.returncode}")
    _, *lines = (report / "results.jsonl").read_bytes().splitlines()
    results = [msgspec.json.decode(line) for line in lines]
    return {
        result["seed"]: {one["invariant"] for one in result["violations"]} or {result["error"]}
        for result in results
        if result["violations"] or result["error"]
    }


def main() -> int:
    """Looks for each break's first seed; returns 1 if one is not found as its patch says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", default=f"1-{MOST_SEEDS}", metavar="A-B")
    parser.add_argument("names", nargs="*", metavar="BREAK")
    options = parser.parse_args()
    missed = 0
    for each in breaks():
        if options.names and each.name not in options.names:
            continue
        directory = BUILD / each.name
        source = each.put_back(directory)
        found = violated(source, options.seeds, directory / "report")
        shutil.rmtree(source)
        seeds = [seed for seed, names in found.items() if each.invariant in names]
        others = sorted(set().union(*found.values()) - {each.invariant})
        missed += not seeds
        words = f"seed {seeds[0]}" if seeds else "NOT FOUND"
        beside = f", and {', '.join(others)}" if others else ""
        print(f"{each.name}: {each.invariant}: {words}{beside}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
