"""Schedules that once found a fault of the product: each a file, with a line that says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbtrio.simulate.run import run_schedule
from hbtrio.simulate.schedule_file import read

FILES = sorted((Path(__file__).parent / "regressions").glob("*.faults"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_what_was_once_violated_holds(file: Path) -> None:
    assert file.read_text().startswith("# ")
    result = run_schedule(read(str(file)))
    assert result.faults
    assert result.violations == ()
