"""hbtrio files: what comes with the program, listed and copied."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import hbtrio
from hbtrio.cli import files, main
from support.wheel import CHECKOUT


def listed(capsys: pytest.CaptureFixture[str], *names: str) -> list[str]:
    assert main(["files", "--list", *names]) == 0
    return capsys.readouterr().out.splitlines()


def tracked() -> list[str]:
    """What git has of the parts."""
    done = subprocess.run(
        ["git", "ls-files", "--", *files.PARTS], cwd=CHECKOUT, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_a_checkout_lists_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    names = listed(capsys)
    assert {"README.md", "config/host.toml", "deploy/install.sh", "docs/ctl.md"} <= {*names}
    assert "examples/event_script.py" in names
    assert not [name for name in names if "__pycache__" in name]
    if (CHECKOUT / ".git").exists():
        assert {*tracked()} <= {*names}


def test_some_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, "config/host.toml", "LICENSE") == ["LICENSE", "config/host.toml"]
    assert {name.partition("/")[0] for name in listed(capsys, "deploy/")} == {"deploy"}


def test_a_copy_is_the_same_and_can_be_run(tmp_path: Path) -> None:
    there = tmp_path / "new" / "directory"
    assert main(["files", "--copy", str(there), "deploy", "config"]) == 0
    for name in ("config/host.toml", "deploy/install.sh"):
        assert (there / name).read_bytes() == (CHECKOUT / name).read_bytes()
        assert (there / name).stat().st_mode == (CHECKOUT / name).stat().st_mode
    assert sorted(path.name for path in there.iterdir()) == ["config", "deploy"]


def test_nothing_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config").mkdir()
    mine = tmp_path / "config" / "host.toml"
    mine.write_text("mine\n")
    assert main(["files", "--copy", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"hbtrio files: {mine}: exists already; nothing was copied\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    (tmp_path / "README.md").symlink_to("nowhere")
    assert main(["files", "--copy", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"hbtrio files: {tmp_path}/README.md: exists already (and 1 more); nothing was copied\n"
    )


@pytest.mark.parametrize("name", ["config/host", "src", "..", "/etc/passwd", "config/../src"])
def test_a_name_that_is_none(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["files", "--list", "docs", name]) == 1
    assert capsys.readouterr().err == f"hbtrio files: no file '{name}', see hbtrio files --list\n"


def test_a_place_that_takes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["files", "--copy", str(tmp_path / "file" / "x"), "LICENSE"]) == 1
    said = capsys.readouterr().err
    assert said == f"hbtrio files: {tmp_path}/file/x/LICENSE: not a directory\n"


def test_a_package_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hbtrio, "__file__", str(tmp_path / "lib" / "hbtrio" / "__init__.py"))
    assert main(["files", "--list"]) == 1
    assert capsys.readouterr().err == (
        f"hbtrio files: {tmp_path}/lib/hbtrio: installed without its files; "
        "install a wheel of hbtrio\n"
    )
