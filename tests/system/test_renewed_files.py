"""Files that are read again when they have changed: half-written, missing, and under new names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hbtrio.errors import UserError
from hbtrio.system.renewed_files import RenewedFiles


def pair_in(folder: Path) -> RenewedFiles[str]:
    """A value that two files make, whose contents must be the same."""
    one, two = folder / "one", folder / "two"

    def load() -> str:
        try:
            first, second = one.read_text(), two.read_text()
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}") from error
        if first != second:
            raise UserError(f"{first} is not {second}")
        return first

    return RenewedFiles([str(one), "", str(two)], load)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "old", "old")
    return tmp_path


def write(folder: Path, one: str, two: str) -> None:
    (folder / "one").write_text(one)
    (folder / "two").write_text(two)


def test_files_that_do_not_change(folder: Path) -> None:
    files = pair_in(folder)
    assert not files.check()
    assert (files.value, files.fault) == ("old", "")


def test_renewed_files_are_read_once_they_rest(folder: Path) -> None:
    files = pair_in(folder)
    write(folder, "newer", "newer")
    assert not files.check()
    assert files.value == "old"
    assert files.check()
    assert files.value == "newer"
    assert not files.check()


def test_a_writer_at_work_is_waited_for(folder: Path) -> None:
    files = pair_in(folder)
    for text in ("n", "ne", "new"):
        write(folder, text, text)
        assert not files.check()
        assert files.value == "old"
    assert files.check()
    assert files.value == "new"


def test_half_a_renewal_keeps_what_is_in_use(folder: Path) -> None:
    files = pair_in(folder)
    write(folder, "newer", "old")
    for _ in range(4):
        assert not files.check()
        assert files.value == "old"
    assert files.fault == "newer is not old"
    write(folder, "newer", "newer")
    assert not files.check()
    assert files.check()
    assert (files.value, files.fault) == ("newer", "")


def test_a_missing_file_keeps_what_is_in_use(folder: Path) -> None:
    files = pair_in(folder)
    (folder / "one").unlink()
    for _ in range(2):
        assert not files.check()
    assert files.value == "old"
    assert files.fault == f"{folder}/one: No such file or directory"
    write(folder, "newer", "newer")
    files.check()
    assert files.check()
    assert (files.value, files.fault) == ("newer", "")


def test_a_renewal_that_is_taken_back(folder: Path) -> None:
    files = pair_in(folder)
    (folder / "one").rename(folder / "aside")
    files.check()
    files.check()
    assert files.fault
    (folder / "aside").rename(folder / "one")
    os.utime(folder / "two")
    files.check()
    assert files.check()
    assert (files.value, files.fault) == ("old", "")


def test_a_lack_that_changes_no_file_is_tried_again(folder: Path) -> None:
    """As a process at its limit of descriptors has it."""
    faults = [OSError(24, "Too many open files"), OSError(24, "Too many open files")]

    def load() -> str:
        text = (folder / "one").read_text()
        if text == "newer" and faults:
            raise faults.pop()
        return text

    files = RenewedFiles([str(folder / "one")], load)
    (folder / "one").write_text("newer")
    files.check()
    for _ in range(2):
        assert not files.check()
        assert "Too many open files" in files.fault
    assert files.check()
    assert (files.value, files.fault) == ("newer", "")


def test_a_link_that_points_elsewhere(tmp_path: Path) -> None:
    """As Kubernetes and certbot renew: the name stays, what it points to does not."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, name, name)
    (tmp_path / "live").symlink_to("a")
    files = pair_in(tmp_path / "live")
    (tmp_path / "next").symlink_to("b")
    (tmp_path / "next").rename(tmp_path / "live")
    files.check()
    assert files.check()
    assert files.value == "b"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions don't bind root")
def test_permissions_that_were_corrected(folder: Path) -> None:
    files = pair_in(folder)
    write(folder, "newer", "newer")
    (folder / "two").chmod(0)
    files.check()
    files.check()
    assert files.fault
    (folder / "two").chmod(0o600)
    files.check()
    assert files.check()


def test_files_that_can_t_be_used_at_first(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        pair_in(tmp_path)
