"""Fuzzes targets with atheris: ``make fuzz``, or ``python -m fuzz --seconds 60 NAME...``.

Each target runs in a process of its own, and its finds are the files ``crash-…``, ``timeout-…`` and
``oom-…`` in its folder of the corpus. Correct what one shows and keep it there: test_corpus.py
tries it from then on. New inputs that reach new code stay too, the smallest set of them
(``--keep``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Final

#: What ends a run as a find: an input that takes longer, in seconds, or needs more memory.
_TIMEOUT_S: Final = 60
_RSS_MB: Final = 1024

#: The last lines of a find's output, which have the traceback and the input.
_SHOWN: Final = 60

#: The variable that names the target to the process that fuzzes it.
_TARGET: Final = "HBTRIO_FUZZ_TARGET"

#: One input in so many is also tried in its full length.
_GROWN: Final = 256


def _fuzz(name: str, arguments: list[str]) -> None:
    """Fuzzes one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["hbtrio"]):
        from fuzz.targets import TARGETS
    target = TARGETS[name]

    def one(data: bytes) -> None:
        target.run(data)
        if zlib.crc32(data) % _GROWN == 0:
            target.run(target.grown(data))

    # For a merge libFuzzer has a shell run the first of these words, with others behind it.
    atheris.Setup([f"{sys.executable} {__file__}", *arguments], one)
    atheris.Fuzz()


def _command(name: str, *arguments: str) -> int:
    # libFuzzer starts processes of its own for a merge, with the script and its own arguments.
    command = [sys.executable, __file__, *arguments]
    environment = os.environ | {_TARGET: name}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        print(done.stdout, *done.stderr.splitlines()[-_SHOWN:], sep="\n")
    return done.returncode


def _run(name: str, folder: Path, seconds: int, keep: bool) -> bool:
    """Fuzzes one target in a process; returns whether nothing was found."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        limits = [f"-timeout={_TIMEOUT_S}", f"-rss_limit_mb={_RSS_MB}", "-max_len=4096"]
        limits.append(f"-artifact_prefix={folder}/")
        status = _command(name, f"-max_total_time={seconds}", *limits, scratch, str(folder))
        if status == 0 and keep:
            # By the lines reached, not by how often: the set stays small.
            status = _command(name, "-merge=1", "-use_counters=0", *limits, str(folder), scratch)
    print(f"{name}: {'nothing found' if status == 0 else 'FOUND something'}", flush=True)
    return status == 0


def main() -> int:
    """Fuzzes the targets named on the command line, or all; status 1 if anything was found."""
    if name := os.environ.get(_TARGET):
        _fuzz(name, sys.argv[1:])
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add what reaches new code")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    from fuzz.targets import TARGETS

    names = options.names or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    sound = [_run(name, TARGETS[name].folder, options.seconds, options.keep) for name in names]
    return 0 if all(sound) else 1


if __name__ == "__main__":
    sys.exit(main())
