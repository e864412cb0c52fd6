"""Locks on files: one holder, freed by its end, and nothing is followed or left open."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hbtrio.system.lock_file import FileLock, LockHeld, lock_beside, lock_directory

HOLDER = """
import sys
from hbtrio.system.lock_file import lock_beside
lock = lock_beside(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("lock", [lock_beside, lock_directory])
def test_one_holder_at_a_time(tmp_path: Path, lock: Callable[[str], FileLock]) -> None:
    before = open_files()
    with lock(str(tmp_path)) as held:
        for _ in range(2):
            with pytest.raises(LockHeld):
                lock(str(tmp_path))
        assert not held.closed
        assert open_files() == before + 1
    assert held.closed
    held.close()
    with lock(str(tmp_path)):
        pass
    assert open_files() == before


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    argv = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(LockHeld):
                lock_beside(path)
        finally:
            holder.kill()
    with lock_beside(path):
        pass


def test_the_file_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "api.lock"
    with lock_beside(str(tmp_path / "api")):
        inode = file.stat().st_ino
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with lock_beside(str(tmp_path / "api")):
        assert file.stat().st_ino == inode


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "api.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        lock_beside(str(tmp_path / "api"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_missing_or_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_directory(str(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        lock_directory(str(tmp_path / "file"))
