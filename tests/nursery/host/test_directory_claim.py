"""The claim on the channels' directory: it follows the path, and never two hosts serve one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.host.directory_claim import ClaimedWatch
from hbtrio.nursery.host.directory_watch import InotifyWatch
from hbtrio.system.lock_file import LockHeld, lock_directory
from support.fake_directory import FakeDirectory

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "ch").mkdir()
    (tmp_path / "ch" / "a.sock").touch()
    return tmp_path / "ch"


@pytest.fixture
def names() -> FakeDirectory:
    names = FakeDirectory()
    names.add("a.sock")
    return names


@pytest.fixture
def claimed(directory: Path, names: FakeDirectory) -> Iterator[ClaimedWatch]:
    with ClaimedWatch(names, str(directory)) as watch:
        yield watch


def is_claimed(directory: Path) -> bool:
    try:
        lock_directory(str(directory)).close()
    except LockHeld:
        return True
    return False


def rename(directory: Path, name: str) -> None:
    directory.rename(directory.with_name(name))


def replace(directory: Path) -> None:
    """Another directory takes its place."""
    rename(directory, "old")
    directory.mkdir()


def test_a_second_host_does_not_start(claimed: ClaimedWatch, directory: Path) -> None:
    with pytest.raises(UserError, match="another hbtrio host serves these channels") as caught:
        ClaimedWatch(FakeDirectory(), str(directory))
    assert caught.value.status is ExitStatus.IN_USE


def test_a_path_that_cannot_be_locked(directory: Path) -> None:
    (directory / "file").touch()
    with pytest.raises(UserError, match="file: not a directory") as caught:
        ClaimedWatch(FakeDirectory(), str(directory / "file"))
    assert caught.value.status is ExitStatus.FAILED


def test_it_is_given_up_at_the_end(names: FakeDirectory, directory: Path) -> None:
    with ClaimedWatch(names, str(directory)) as watch:
        assert watch.scan().keys() == {"a.sock"}
        assert is_claimed(directory)
    assert not is_claimed(directory)


def test_a_directory_that_appears_after_the_start(names: FakeDirectory, directory: Path) -> None:
    rename(directory, "aside")
    with ClaimedWatch(names, str(directory)) as watch:
        watch.scan()
        rename(directory.with_name("aside"), "ch")
        assert watch.scan().keys() == {"a.sock"}
        assert is_claimed(directory)


def test_a_directory_that_is_replaced(claimed: ClaimedWatch, directory: Path) -> None:
    replace(directory)
    assert claimed.scan().keys() == {"a.sock"}
    assert is_claimed(directory)
    assert not is_claimed(directory.with_name("old"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        claimed.scan()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_new_directory_of_another_host(
    claimed: ClaimedWatch, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.discovery")
    replace(directory)
    with lock_directory(str(directory)):
        began = trio.current_time()
        for _ in range(3):
            assert claimed.scan() == {}
            await claimed.changed()
        assert trio.current_time() - began == 3 * 2.0
        # It keeps what it has.
        assert is_claimed(directory.with_name("old"))
    assert claimed.scan().keys() == {"a.sock"}
    assert is_claimed(directory)
    assert caplog.messages == [
        f"{directory}: another hbtrio host serves the channels of this new directory; they are "
        "left to it",
        f"{directory}: no other host serves these channels any more",
    ]


def test_want_of_descriptors_hides_no_channel(
    claimed: ClaimedWatch, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise OSError(24, "Too many open files", path)

    replace(directory)
    with monkeypatch.context() as patch:
        patch.setattr("hbtrio.nursery.host.directory_claim.lock_directory", fail)
        assert claimed.scan().keys() == {"a.sock"}
        assert not is_claimed(directory)
    claimed.scan()
    assert is_claimed(directory)


async def test_a_real_watch_claims_a_directory_when_it_has_come(directory: Path) -> None:
    path = str(directory)
    rename(directory, "aside")
    with InotifyWatch(path) as watch, ClaimedWatch(watch, path) as claimed:
        assert claimed.scan() == {}
        rename(directory.with_name("aside"), "ch")
        await claimed.changed()
        assert claimed.scan().keys() == {"a.sock"}
        assert is_claimed(directory)
