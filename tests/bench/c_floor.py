"""Builds the floor in C, ``c_floor.c``, where there is a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import trio

from bench.faults import BenchFailed

SOURCE: Final = Path(__file__).with_suffix(".c")


def compiler() -> str | None:
    """The C compiler; None where there is none."""
    return shutil.which("gcc")


async def build_c_floor(directory: Path, gcc: str) -> Path:
    """Builds it into a directory and returns the program's path.

    Raises:
        BenchFailed: it does not compile.
    """
    program = directory / "c_floor"
    done = await trio.run_process(
        [gcc, "-O2", "-o", program, SOURCE, "-lm"], capture_stderr=True, check=False
    )
    if done.returncode:
        raise BenchFailed(f"{SOURCE.name} does not compile: {done.stderr.decode().strip()}")
    return program
