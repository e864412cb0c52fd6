"""No module is longer than a reader can take in: one noun, and seldom more than 300 lines."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

#: Lines of a module at most, by the directory that it is in.
MOST: Final = {"src": 350, "tests": 800}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("directory", MOST)
def test_no_module_is_too_long(directory: str) -> None:
    sizes = {str(path.relative_to(ROOT)): lines(path) for path in (ROOT / directory).rglob("*.py")}
    assert len(sizes) > 100
    assert {name: size for name, size in sizes.items() if size > MOST[directory]} == {}
