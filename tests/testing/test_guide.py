"""The examples of docs/testing-applications.md, as a user would have them in files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

GUIDE: Final = Path(__file__).parents[2] / "docs" / "testing-applications.md"


def files_of_the_guide() -> dict[str, str]:
    """The blocks of code, by the name in the comment on their first line."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(?:# (\S+)\n)?(.*?)^```$", text, re.M | re.S)
    return dict(blocks)


def run(directory: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.processes
def test_the_examples_run(tmp_path: Path) -> None:
    files = files_of_the_guide()
    assert list(files) == [
        "shop.py", "conftest.py", "test_shop.py", "test_shop_async.py", "without_pytest.py",
        "dump.py", "test_dump.py",
    ]  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    plugins = ("-p", "no:schemathesis", "-p", "no:cacheprovider", "-p", "no:xdist")
    passed = run(tmp_path, "-m", "pytest", "-q", *plugins)
    assert "9 passed" in passed
    assert "Answer(kind='notice'" in run(tmp_path, "without_pytest.py")


def test_the_guide_lists_what_there_is() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    from hbtrio.testing import GuestApplication, ScriptedGuest

    for owner in (ScriptedGuest, GuestApplication):
        for name in set(vars(owner)) - {"run"}:
            if not name.startswith("_"):
                assert re.search(rf"`[^`]*\b{name}\b[^`]*`", text), name
