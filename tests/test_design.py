"""docs/design.md is true to the source: its paths exist, and so do its methods."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "src" / "hbtrio"
PAGE: Final = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")

#: Modules of the agent that a vote may pass.
MOST_MODULES: Final = 9

PATHS: Final = sorted(set(re.findall(r"`((?:[\w*]+/)+(?:\w+\.py)?)`", PAGE)))
METHODS: Final = sorted(set(re.findall(r"`([A-Z]\w+\.\w+)`", PAGE)))


def members() -> set[str]:
    """All methods, properties and attributes of the source's classes, as ``Class.member``."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add(f"{node.name}.{member.name}")
    return found


@pytest.mark.parametrize("path", PATHS)
def test_a_path_exists(path: str) -> None:
    places = (SOURCE / path, SOURCE / "fsm" / path, SOURCE / "nursery" / path, ROOT / path)
    assert any(place.exists() for place in places)


def test_each_method_is_defined() -> None:
    assert set(METHODS) - members() == set()


def test_a_vote_passes_few_modules_of_the_agent() -> None:
    way = PAGE.split("## The way of a vote")[1].split("###")[0]
    modules = re.findall(r"^\d+\. `([\w/]+\.py)`", way, flags=re.MULTILINE)
    assert len(modules) == len(set(modules)) <= MOST_MODULES
    assert modules[0] == "api/vim.py"
    assert modules[-1] == "nursery/agent/vim_client.py"


def test_there_is_something_to_check() -> None:
    assert len(PATHS) > 50
    assert len(METHODS) > 10
