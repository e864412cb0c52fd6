"""No module is longer than a reader can take in: one noun, and seldom more than 300 lines."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

#: Lines of a module at most, by the directory that it is in.
MOST: Final = {"src": 350, "tests": 800}

#: Those that are longer still, and their bound. Split them by their nouns, and take them off.
LONGER: Final = {
    "src/hbtrio/nursery/host/daemon.py": 450,
}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("directory", MOST)
def test_no_module_is_too_long(directory: str) -> None:
    sizes = {str(path.relative_to(ROOT)): lines(path) for path in (ROOT / directory).rglob("*.py")}
    assert len(sizes) > 100
    too_long = {name: size for name, size in sizes.items() if size > MOST[directory]}
    assert {name: size for name, size in too_long.items() if size > LONGER.get(name, 0)} == {}


def test_the_list_of_longer_ones_has_no_other() -> None:
    for name in LONGER:
        assert lines(ROOT / name) > MOST[name.partition("/")[0]], f"{name} can be taken off"
