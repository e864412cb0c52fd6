"""Faults that were corrected, put back one at a time: does the simulator find them?

Each patch in ``tests/simulate/breaks`` is one fault; its first lines say what it is, which
invariant it violates, and a seed that shows it. Run as a program, this tries these seeds, looks for
the first one that does in place of each that no longer shows it, and writes what it has measured
into the patches and the table of docs/reliability.md::

    python -m support.breaks [--anew] [--seeds A-B] [BREAK...]

A search that was ended goes on where it was, as long as the sources are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import attrs
import msgspec

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/simulate/breaks"
BUILD = ROOT / "build/breaks"
PAGE = ROOT / "docs/reliability.md"

#: How the table of the page begins.
TABLE = "| break | invariant | found by seed |\n| --- | --- | --- |\n"

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

    def note(self, seed: int) -> None:
        """Writes a seed that shows it into the patch."""
        head, mark, patch = self.path.read_text().partition("\n--- ")
        head = head.replace(f"\nSeed: {self.seed}\n", f"\nSeed: {seed}\n")
        self.path.write_text(f"{head}{mark}{patch}")

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


def measured(each: Break, seeds: str, *, anew: bool) -> int | None:
    """Returns the break's own seed if it shows it still, or else the first of ``seeds`` that does.

    Args:
        each: the break.
        seeds: which are tried, as ``A-B``.
        anew: whether the first of them is looked for in any case.

    Returns:
        The seed; None if none of them shows it.
    """
    directory = BUILD / each.name
    source = each.put_back(directory)
    try:
        if not anew and _shown(each, source, f"{each.seed}-{each.seed}", directory) is not None:
            return each.seed
        return _shown(each, source, seeds, directory)
    finally:
        shutil.rmtree(source)


def _shown(each: Break, source: Path, seeds: str, directory: Path) -> int | None:
    """Returns the first of some seeds that violates the break's invariant, and maybe others."""
    first, last = map(int, seeds.split("-"))
    sources = _digest(source)
    while first <= last:
        report = directory / f"{sources}-{first}-{last}"
        found = violated(source, f"{first}-{last}", report)
        shown = [seed for seed, names in found.items() if each.invariant in names]
        if shown:
            return min(shown)
        if not found:
            return None
        first = max(found) + 1
    return None


def _digest(source: Path) -> str:
    """Returns a name for the sources: results of others say nothing of them."""
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def with_table(page: str, rows: Iterable[str]) -> str:
    """Returns the page with these rows in its table of breaks."""
    before, head, rest = page.partition(TABLE)
    if not head:
        raise ValueError(f"{PAGE}: it has no table of breaks")
    _, end, after = rest.partition("\n\n")
    return f"{before}{head}{chr(10).join(rows)}{end}{after}"


def main() -> int:
    """Measures each break's seed, and writes it down; returns 1 if one was not found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", default=f"1-{MOST_SEEDS}", metavar="A-B")
    parser.add_argument("--anew", action="store_true", help="look for the first seed of each")
    parser.add_argument("names", nargs="*", metavar="BREAK")
    options = parser.parse_args()
    missed = 0
    for each in breaks():
        if options.names and each.name not in options.names:
            continue
        seed = measured(each, options.seeds, anew=options.anew)
        missed += seed is None
        words = "NOT FOUND" if seed is None else f"seed {seed}"
        before = "" if seed in (each.seed, None) else f", before {each.seed}"
        print(f"{each.name}: {each.invariant}: {words}{before}", flush=True)
        if seed is not None:
            each.note(seed)
            PAGE.write_text(with_table(PAGE.read_text(), [one.row for one in breaks()]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
