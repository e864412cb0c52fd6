"""The watch on real directories; a scripted inotify only for what cannot be provoked on them."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from inotify_simple import flags

from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.host.directory_watch import InotifyWatch

WITHIN_S = 10.0


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: the address of a unix socket has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hbtrio-") as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def _all_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.discovery")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def event_queue_size() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_ino for path in directory.iterdir()}


async def settled(watch: InotifyWatch, expected: dict[str, int]) -> int:
    """Follow the watch until it shows what is expected; returns the number of scans."""
    scans = 0
    with trio.fail_after(WITHIN_S):
        while True:
            await watch.changed()
            scans += 1
            if watch.scan() == expected:
                return scans


async def is_quiet(watch: InotifyWatch) -> bool:
    """Whether the watch knows of no change: what happened before is in its queue already."""
    heard = False

    async def listen() -> None:
        nonlocal heard
        await watch.changed()
        heard = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return not heard


class ScriptedInotify:
    """An inotify whose events are written by the test; on a pipe, so that it can be waited for.

    ``answers`` are the results of the next calls of ``add_watch``, the last of them for ever.
    """

    def __init__(self, *answers: int | OSError) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._write_fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.answers = list(answers)
        self.removed: list[int] = []
        self.closed = False

    def event(self, mask: int, *, wd: int, name: str = "") -> None:
        padded = name.encode() + bytes(-len(name) % 16) if name else b""
        os.write(self._write_fd, struct.pack("iIII", wd, mask, 0, len(padded)) + padded)

    def queued(self) -> int:
        """Bytes not read yet."""
        return int.from_bytes(fcntl.ioctl(self._read_fd, termios.FIONREAD, bytes(4)), sys.byteorder)

    def fileno(self) -> int:
        return self._read_fd

    def add_watch(self, path: str, mask: int) -> int:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def rm_watch(self, wd: int) -> None:
        self.removed.append(wd)

    def close(self) -> None:
        if not self.closed:
            os.close(self._read_fd)
            os.close(self._write_fd)
        self.closed = True


async def test_names_that_come_go_and_move_are_seen(directory: Path) -> None:
    make_socket(directory / "early")
    with InotifyWatch(str(directory)) as watch:
        await watch.changed()  # before the first scan everything is news
        assert watch.scan() == inodes(directory)
        assert await is_quiet(watch)

        make_socket(directory / "late")
        assert await settled(watch, inodes(directory)) == 1

        (directory / "early").rename(directory / "renamed")
        assert await settled(watch, inodes(directory)) == 1

        (directory / "late").unlink()
        assert await settled(watch, inodes(directory)) == 1
        assert list(inodes(directory)) == ["renamed"]


async def test_file_renamed_into_place_is_seen(directory: Path, tmp_path: Path) -> None:
    make_socket(directory / "name")
    with InotifyWatch(str(directory)) as watch:
        first = watch.scan()
        make_socket(directory / "name.new")
        (directory / "name.new").rename(directory / "name")
        assert inodes(directory) != first
        await settled(watch, inodes(directory))


async def test_change_between_the_watch_and_the_scan_is_not_lost(directory: Path) -> None:
    with InotifyWatch(str(directory)) as watch:
        make_socket(directory / "name")
        assert watch.scan() == inodes(directory)
        # The scan took the event with it: one change, one scan.
        assert await is_quiet(watch)


async def test_many_changes_are_one(directory: Path) -> None:
    with InotifyWatch(str(directory)) as watch:
        watch.scan()
        for number in range(1000):
            (directory / f"name{number:04}").touch()
        assert await settled(watch, inodes(directory)) == 1
        assert await is_quiet(watch)


async def test_waiting_is_woken_and_a_cancelled_wait_loses_nothing(directory: Path) -> None:
    woken = trio.Event()

    async def wait(watch: InotifyWatch) -> None:
        await watch.changed()
        woken.set()

    with InotifyWatch(str(directory)) as watch:
        watch.scan()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, watch)
            await trio.testing.wait_all_tasks_blocked()
            assert not woken.is_set()
            make_socket(directory / "name")
            with trio.fail_after(WITHIN_S):
                await woken.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await watch.changed()
        with trio.fail_after(WITHIN_S):
            await watch.changed()
        assert watch.scan() == inodes(directory)


async def test_recreated_file_goes_and_comes_even_with_its_old_inode_number(
    directory: Path,
) -> None:
    # A scripted event on an untouched file: the case in which the number is given out again at
    # once, whatever the file system of this machine does.
    make_socket(directory / "again")
    make_socket(directory / "other")
    both = inodes(directory)
    inotify = ScriptedInotify(1)
    with InotifyWatch(str(directory), inotify=inotify) as watch:
        assert watch.scan() == both
        inotify.event(flags.DELETE, wd=1, name="again")
        inotify.event(flags.CREATE, wd=1, name="again")
        with trio.fail_after(WITHIN_S):
            await watch.changed()
            assert watch.scan() == {"other": both["other"]}
            await watch.changed()
        assert watch.scan() == both
        assert await is_quiet(watch)


async def test_real_socket_recreated_at_once_goes_and_comes(directory: Path) -> None:
    make_socket(directory / "name")
    with InotifyWatch(str(directory)) as watch:
        before = watch.scan()
        (directory / "name").unlink()
        make_socket(directory / "name")
        after = inodes(directory)
        # With another inode number one scan shows it, with the same one it takes two.
        assert await settled(watch, after) == (2 if after == before else 1)
        assert await is_quiet(watch)


async def test_directory_removed_and_recreated_is_followed(
    directory: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "qemu"
    path.mkdir()
    make_socket(path / "old")
    with InotifyWatch(str(path)) as watch:
        watch.scan()
        (path / "old").unlink()
        path.rmdir()
        assert await settled(watch, {}) == 1

        with trio.move_on_after(30.5) as waiting:
            await watch.changed()
        assert waiting.cancelled_caught
        assert caplog.messages == [f"{path}: No such file or directory, waiting for the directory"]

        path.mkdir()
        make_socket(path / "new")
        missing_since = trio.current_time()
        assert await settled(watch, inodes(path)) == 1
        assert trio.current_time() - missing_since == 1.0
        make_socket(path / "newer")
        assert await settled(watch, inodes(path)) == 1
    assert caplog.messages[1:] == [f"{path}: watching the directory"]


async def test_directory_that_does_not_exist_yet_is_waited_for(
    directory: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "libvirt" / "qemu"
    with InotifyWatch(str(path), poll_s=0.5) as watch:
        assert watch.scan() == {}
        with trio.move_on_after(100.25) as waiting:
            await watch.changed()
        assert waiting.cancelled_caught
        path.parent.write_text("a file where a directory should be is no directory either")
        assert watch.scan() == {}
        path.parent.unlink()
        path.mkdir(parents=True)
        make_socket(path / "name")
        assert await settled(watch, inodes(path)) == 1
    assert trio.current_time() == 100.75
    assert caplog.messages == [
        f"{path}: No such file or directory, waiting for the directory",
        f"{path}: Not a directory, waiting for the directory",
        f"{path}: watching the directory",
    ]


async def test_directory_moved_away_is_not_followed_to_its_new_place(directory: Path) -> None:
    path = directory / "qemu"
    path.mkdir()
    make_socket(path / "old")
    with InotifyWatch(str(path)) as watch:
        watch.scan()
        path.rename(directory / "elsewhere")
        path.mkdir()
        make_socket(path / "new")
        assert await settled(watch, inodes(path)) == 1
        make_socket(directory / "elsewhere" / "late")
        assert await is_quiet(watch)
        make_socket(path / "newer")
        assert await settled(watch, inodes(path)) == 1


async def test_directory_moved_away_leaves_nothing(
    directory: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = directory / "qemu"
    path.mkdir()
    make_socket(path / "name")
    with InotifyWatch(str(path)) as watch:
        before = watch.scan()
        path.rename(directory / "elsewhere")
        assert await settled(watch, {}) == 1
        (directory / "elsewhere").rename(path)
        assert await settled(watch, before) == 1


async def test_what_inotify_does_not_see_the_next_scan_finds(directory: Path) -> None:
    path = directory / "libvirt" / "qemu"
    path.mkdir(parents=True)
    make_socket(path / "old")
    with InotifyWatch(str(path)) as watch:
        watch.scan()
        path.parent.rename(directory / "saved")
        path.mkdir(parents=True)
        make_socket(path / "new")
        assert await is_quiet(watch)
        assert watch.scan() == inodes(path)
        make_socket(path / "newer")
        assert await settled(watch, inodes(path)) == 1

        held = os.open(path, os.O_RDONLY)
        try:
            for name in ("new", "newer"):
                (path / name).unlink()
            path.rmdir()
            assert await settled(watch, {}) == 1
        finally:
            os.close(held)


async def test_overflow_of_the_real_queue_is_survived(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = event_queue_size()
    if size > 100_000:
        pytest.skip("the event queue of this machine is too large to fill")
    with InotifyWatch(str(directory)) as watch:
        (directory / "name").touch()
        watch.scan()
        for _ in range(size // 4 + 1):
            (directory / "name").rename(directory / "other")
            (directory / "other").rename(directory / "name")
        (directory / "unheard").touch()
        await settled(watch, inodes(directory))
        with trio.fail_after(WITHIN_S):
            while not await is_quiet(watch):
                watch.scan()
        (directory / "last").touch()
        await settled(watch, inodes(directory))
    assert caplog.messages == [
        f"{directory}: inotify lost events (queue overflow), scanning",
    ]


async def test_overflow_can_hide_that_the_watch_itself_is_gone(directory: Path) -> None:
    inotify = ScriptedInotify(1, 1, 2)
    with InotifyWatch(str(directory), inotify=inotify) as watch:
        assert watch.scan() == {}
        make_socket(directory / "name")
        assert await is_quiet(watch)
        inotify.event(flags.Q_OVERFLOW, wd=-1)
        assert await settled(watch, inodes(directory)) == 1
        assert inotify.removed == [1]
        inotify.event(flags.CREATE, wd=1, name="of the old watch")
        assert await is_quiet(watch)
        inotify.event(flags.CREATE, wd=2, name="of the new watch")
        with trio.fail_after(WITHIN_S):
            await watch.changed()
    assert inotify.closed


async def test_one_call_reads_a_bounded_number_of_events(directory: Path) -> None:
    inotify = ScriptedInotify(1)
    with InotifyWatch(str(directory), inotify=inotify) as watch:
        watch.scan()
        for _ in range(32768):
            inotify.event(flags.CREATE, wd=1)
        queued = inotify.queued()
        watch.scan()
        assert queued - inotify.queued() == 4 * 65536
        # What is left is news for the next call.
        assert not await is_quiet(watch)
        watch.scan()
        assert inotify.queued() == 0
        assert await is_quiet(watch)


def refused(code: int) -> OSError:
    return OSError(code, os.strerror(code))


async def test_directory_that_may_not_be_read_is_a_user_error() -> None:
    inotify = ScriptedInotify(refused(errno.EACCES))
    with pytest.raises(UserError, match=r"^/var/lib/x: Permission denied$") as caught:
        InotifyWatch("/var/lib/x", inotify=inotify)
    assert caught.value.status is ExitStatus.DENIED
    assert inotify.closed


async def test_path_that_is_no_directory_is_a_user_error(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    with pytest.raises(UserError, match=r"/file: Not a directory$") as caught:
        InotifyWatch(str(path))
    assert caught.value.status is ExitStatus.USAGE


async def test_without_an_inotify_instance_the_directory_is_scanned_until_there_is_one(
    directory: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = [refused(errno.EMFILE)] * 3 + [ScriptedInotify(1)]

    def make(*, nonblocking: bool) -> ScriptedInotify:
        if isinstance(one := made.pop(0), OSError):
            raise one
        return one

    monkeypatch.setattr("hbtrio.nursery.host.directory_watch.INotify", make)
    with InotifyWatch(str(directory)) as watch:
        assert watch.scan() == {}
        (directory / "found").touch()
        began = trio.current_time()
        await watch.changed()
        assert list(watch.scan()) == ["found"]
        await watch.changed()
        assert list(watch.scan()) == ["found"]
        assert trio.current_time() - began == 4.0
    assert [record.getMessage() for record in caplog.records] == [
        f"{directory}: no inotify instance: Too many open files (see "
        "fs.inotify.max_user_instances), scanning every 2 s",
        f"{directory}: watching the directory",
    ]


async def test_directory_that_cannot_be_watched_is_polled(
    directory: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    no_room = refused(errno.ENOSPC)
    with InotifyWatch(
        str(directory), inotify=ScriptedInotify(no_room, no_room, no_room, no_room, 1)
    ) as watch:
        for number in range(3):
            make_socket(directory / f"name{number}")
            await watch.changed()
            assert watch.scan() == inodes(directory)
        assert trio.current_time() == 4.0
        await watch.changed()
        watch.scan()
        assert await is_quiet(watch)
    assert caplog.messages == [
        f"{directory}: no inotify watch is left (see fs.inotify.max_user_watches), scanning "
        "every 2 s",
        f"{directory}: watching the directory",
    ]


async def test_unreadable_is_not_empty(
    directory: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_socket(directory / "name")
    with InotifyWatch(str(directory)) as watch:
        names = watch.scan()
        with monkeypatch.context() as patched:

            def no_descriptor(path: str) -> None:
                raise refused(errno.EMFILE)

            patched.setattr(os, "scandir", no_descriptor)
            make_socket(directory / "new")
            with trio.fail_after(WITHIN_S):
                await watch.changed()
            assert watch.scan() == names
            before = trio.current_time()
            await watch.changed()
            assert trio.current_time() - before == 2.0
            assert watch.scan() == names
        assert await settled(watch, inodes(directory)) == 1
        assert await is_quiet(watch)
    assert caplog.messages == [
        f"{directory}: Too many open files, scanning every 2 s",
        f"{directory}: watching the directory",
    ]


async def test_directory_that_vanishes_under_the_scan_is_empty(
    directory: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "qemu"
    path.mkdir()
    make_socket(path / "name")
    with InotifyWatch(str(path)) as watch:
        watch.scan()
        with monkeypatch.context() as patched:
            really_scan = os.scandir

            def too_late(at: str) -> Iterator[os.DirEntry[str]]:
                path.rename(directory / "elsewhere")
                return really_scan(at)

            patched.setattr(os, "scandir", too_late)
            assert watch.scan() == {}
        path.mkdir()
        make_socket(path / "new")
        assert await settled(watch, inodes(path)) == 1


async def test_flood_of_names_does_not_displace_those_in_use(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        make_socket(directory / f"used{number}")
    with InotifyWatch(str(directory), max_entries=10) as watch:
        used = watch.scan()
        for number in range(100):
            (directory / f"flood{number}").touch()
        for _ in range(2):
            names = watch.scan()
            assert len(names) == 10
            assert names.items() >= used.items()
        (directory / "used0").unlink()
        names = watch.scan()
        assert len(names) == 10
        assert names.items() >= {name: used[name] for name in used if name != "used0"}.items()
        assert "used0" not in names
        for number in range(100):
            (directory / f"flood{number}").unlink()
        assert watch.scan() == inodes(directory)
    assert caplog.messages == [
        f"{directory}: more than 10 entries, the rest is ignored",
        f"{directory}: no more than 10 entries again",
    ]


async def test_leaving_the_watch_closes_its_descriptor(directory: Path) -> None:
    def open_inotifies() -> int:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(os.path.lexists(at) and "inotify" in os.readlink(at) for at in links)

    before = open_inotifies()
    with InotifyWatch(str(directory)) as watch:
        watch.scan()
        assert open_inotifies() == before + 1
    assert open_inotifies() == before
