"""What daemons may hold follows from what they held when they were warm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from chaos.footprints import (
    LEAST_DESCRIPTORS,
    LEAST_MIB,
    MORE_DESCRIPTORS,
    MORE_MIB,
    Footprint,
    below,
)


def test_more_than_when_it_was_warm() -> None:
    assert Footprint(30, 50.0).bound == Footprint(30 + MORE_DESCRIPTORS, 50.0 + MORE_MIB)


def test_one_that_had_hardly_started() -> None:
    least = Footprint(LEAST_DESCRIPTORS + MORE_DESCRIPTORS, LEAST_MIB + MORE_MIB)
    assert Footprint(3, 7.1).bound == least


def test_this_process() -> None:
    held = Footprint.of(os.getpid())
    assert held.descriptors >= 3
    assert held.mib > 10


def test_processes_below_a_directory(tmp_path: Path) -> None:
    assert below(tmp_path) == []
    with subprocess.Popen(["cat"], cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert below(tmp_path) == [process.pid]
    assert below(tmp_path) == []
