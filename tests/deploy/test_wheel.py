"""What a wheel holds beside the program, and what an index shows of it."""

from __future__ import annotations

import email
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt  # comes with rich

from hbtrio.cli import files
from support.wheel import CHECKOUT, CleanVenv, built_wheel


def test_the_parts_are_those_that_a_wheel_includes() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {part: f"hbtrio/files/{part}" for part in files.PARTS}


@pytest.mark.processes
def test_a_wheel(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    wheel = built_wheel(tmp_path_factory)
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
        (metadata,) = (name for name in held if name.endswith(".dist-info/METADATA"))
        shown = email.message_from_bytes(archive.read(metadata))
    assert not [name for name in held if "__pycache__" in name or name.endswith(".pyc")]
    an_index_shows_working_links(shown.get_payload(), shown.get_all("Project-URL") or [])

    venv = CleanVenv(tmp_path / "venv")
    venv.install("--no-deps", str(wheel), "msgspec", "attrs", "trio")
    status, out, said = venv.run("hbtrio", "files", "--list")
    assert (status, said) == (0, "")
    names = out.splitlines()
    assert {name for name in held if name.startswith("hbtrio/files/")} == (
        {f"hbtrio/files/{name}" for name in names}
    )
    copied = tmp_path / "copied"
    assert venv.run("hbtrio", "files", "--copy", copied) == (0, "", "")
    for name in names:
        there, here = copied / name, CHECKOUT / name
        assert there.read_bytes() == here.read_bytes()
        assert there.stat().st_mode & 0o111 == here.stat().st_mode & 0o111, name


def an_index_shows_working_links(readme: object, urls: list[str]) -> None:
    """Each link is to the project's address, to a place of the page or to somebody else's."""
    assert isinstance(readme, str)
    links = re.findall(
        r'<a href="([^"]*)"', MarkdownIt("commonmark").enable("table").render(readme)
    )
    (home,) = (url.split(", ")[1] for url in urls if url.startswith("Homepage, "))
    ours = [link for link in links if link.startswith(f"{home}/")]
    assert len(ours) > 20
    for link in ours:
        path = link.removeprefix(f"{home}/blob/main/").partition("#")[0]
        assert (CHECKOUT / path).exists(), link
    others = [link for link in links if link not in ours]
    assert [link for link in others if not link.startswith(("https://", "#"))] == []
    for url in urls:
        assert url.partition(", ")[2].startswith(home)
