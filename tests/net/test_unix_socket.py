"""Unix listeners: sole ownership, modes, stale sockets, removal, credentials; real sockets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.peer_credentials import PeerCredentials, peer_credentials
from hbtrio.net.unix_socket import SUN_PATH_BYTES, UnixListener, open_unix_listener

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's tmp_path carries the test's name and leaves too little of the 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hbt-") as name:
        yield Path(name)


@contextlib.contextmanager
def not_as_root() -> Iterator[None]:
    """Root passes every permission check, so become somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


async def refusal(path: Path | str, **settings: object) -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        await open_unix_listener(path, **settings)  # type: ignore[arg-type]
    return str(caught.value), caught.value.status


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


async def test_connects_and_says_who_called(folder: Path) -> None:
    path = folder / "api"
    async with await open_unix_listener(path) as listener:
        with trio.fail_after(5):
            async with await trio.open_unix_socket(str(path)), await listener.accept() as stream:
                assert peer_credentials(stream) == PeerCredentials(
                    pid=os.getpid(), uid=os.geteuid(), gid=os.getegid()
                )
    assert names(folder) == ["api.lock"]


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_mode_is_exact_whatever_the_umask(folder: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = await open_unix_listener(folder / "api", mode)
    finally:
        os.umask(before)
    async with listener:
        assert stat.S_IMODE((folder / "api").stat().st_mode) == mode
        assert stat.S_IMODE((folder / "api.lock").stat().st_mode) & 0o077 == 0
        assert names(folder) == ["api", "api.lock"]


async def test_group_is_set_by_name_or_number(folder: Path) -> None:
    own = os.getegid()
    async with await open_unix_listener(folder / "api", group=own):
        assert (folder / "api").stat().st_gid == own
    if os.geteuid() == 0:
        async with await open_unix_listener(folder / "api", group="daemon"):
            assert (folder / "api").group() == "daemon"
    text, status = await refusal(folder / "api", group="no-such-group-here")
    assert text.endswith("api: no group named no-such-group-here")
    assert status is ExitStatus.USAGE


async def test_replaces_a_stale_socket_and_the_litter_of_a_crash(folder: Path) -> None:
    stale_socket(folder / "api")
    stale_socket(folder / "api~")
    dead = (folder / "api").stat().st_ino
    async with await open_unix_listener(folder / "api") as listener:
        assert (folder / "api").stat().st_ino != dead
        assert names(folder) == ["api", "api.lock"]
        async with await trio.open_unix_socket(str(folder / "api")), await listener.accept():
            pass


async def test_the_path_is_never_absent_while_a_stale_socket_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale_socket(folder / "api")
    seen: list[tuple[str, bool]] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(*args: object, **kwargs: object) -> object:
            seen.append((name, (folder / "api").exists()))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, watched)

    for name in ("chmod", "rename", "unlink"):
        watch(name)
    listener = await open_unix_listener(folder / "api")
    assert seen == [("chmod", True), ("rename", True)]
    await listener.aclose()


async def test_a_second_starter_of_ours_is_refused(folder: Path) -> None:
    path = folder / "api"
    async with await open_unix_listener(path):
        inode = path.stat().st_ino
        assert await refusal(path) == (f"{path}: another process serves it", ExitStatus.IN_USE)
        assert path.stat().st_ino == inode
    async with await open_unix_listener(path):
        pass


@pytest.mark.parametrize("backlog_full", [False, True])
async def test_a_server_without_our_lock_is_respected(folder: Path, backlog_full: bool) -> None:
    path = folder / "api"
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
        other.listen(0)
        if backlog_full:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
        assert await refusal(path) == (f"{path}: another process serves it", ExitStatus.IN_USE)
        assert path.exists()


async def test_a_datagram_server_is_respected(folder: Path) -> None:
    path = folder / "api"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert (await refusal(path))[1] is ExitStatus.IN_USE


@pytest.mark.parametrize("name", ["api", "api~"])
@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
async def test_what_is_no_socket_is_never_replaced(folder: Path, name: str, kind: str) -> None:
    obstacle = folder / name
    match kind:
        case "file":
            obstacle.write_text("precious")
        case "directory":
            obstacle.mkdir()
        case "symlink":
            obstacle.symlink_to("elsewhere")
    text, status = await refusal(folder / "api")
    assert (text, status) == (f"{obstacle}: exists and is not a socket", ExitStatus.USAGE)
    assert names(folder) == sorted([name, "api.lock"])
    if kind == "file":
        assert obstacle.read_text() == "precious"


async def test_lengths_of_paths(folder: Path) -> None:
    room = SUN_PATH_BYTES - 1 - len(str(folder)) - 1
    longest = folder / ("x" * room)
    async with await open_unix_listener(longest), await trio.open_unix_socket(str(longest)):
        pass
    long = folder / ("x" * (room + 1))
    assert await refusal(long) == (f"{long}: longer than 106 bytes", ExitStatus.USAGE)
    assert (await refusal(""))[1] is ExitStatus.USAGE
    assert (await refusal("a\0b"))[1] is ExitStatus.USAGE


async def test_missing_directory(folder: Path) -> None:
    path = folder / "absent" / "api"
    assert await refusal(path) == (f"{path}: its directory does not exist", ExitStatus.USAGE)
    (folder / "plain").write_text("")
    assert (await refusal(folder / "plain" / "api"))[1] is ExitStatus.USAGE


async def test_a_lock_file_is_not_followed_elsewhere(folder: Path) -> None:
    (folder / "api.lock").symlink_to("victim")
    assert (await refusal(folder / "api"))[1] is ExitStatus.USAGE
    assert names(folder) == ["api.lock"]


async def test_denied_in_a_directory_of_others(folder: Path) -> None:
    os.chmod(folder, 0o555)
    path = folder / "api"
    with not_as_root():
        assert await refusal(path) == (f"{path}: Permission denied", ExitStatus.DENIED)


async def test_denied_by_a_socket_of_others_leaves_everything(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a socket of another user")
    os.chmod(folder, 0o777)
    path = folder / "api"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        path.chmod(0o600)
        with not_as_root():
            assert (await refusal(path))[1] is ExitStatus.DENIED
        assert names(folder) == ["api", "api.lock"]


async def test_denied_group_leaves_nothing_behind(folder: Path) -> None:
    os.chmod(folder, 0o777)
    foreign = next(gid for gid in range(1, 100) if gid not in os.getgroups())
    with not_as_root():
        assert (await refusal(folder / "api", group=foreign))[1] is ExitStatus.DENIED
    assert names(folder) == ["api.lock"]


async def test_close_leaves_the_socket_of_a_successor(folder: Path) -> None:
    path = folder / "api"
    listener = await open_unix_listener(path)
    path.unlink()
    stale_socket(path)
    await listener.aclose()
    assert names(folder) == ["api", "api.lock"]


async def test_close_twice_and_after_the_path_has_gone(folder: Path) -> None:
    listener = await open_unix_listener(folder / "api")
    (folder / "api").unlink()
    await listener.aclose()
    successor = await open_unix_listener(folder / "api")
    await listener.aclose()
    assert names(folder) == ["api", "api.lock"]
    await successor.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_close_under_cancellation_is_complete(folder: Path) -> None:
    listener = await open_unix_listener(folder / "api")
    await trio.aclose_forcefully(listener)
    assert names(folder) == ["api.lock"]
    with (folder / "api.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_close_without_permission_to_remove_warns(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await open_unix_listener(folder / "api")
    os.chmod(folder, 0o555)
    with not_as_root():
        await listener.aclose()
    assert caplog.messages == [f"{folder / 'api'}: left behind: Permission denied"]
    os.chmod(folder, 0o700)
    async with await open_unix_listener(folder / "api"):
        pass


async def test_cancelled_before_it_begins_leaves_nothing(folder: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await open_unix_listener(folder / "api")
    assert scope.cancelled_caught
    assert names(folder) == []


RACER = """
import sys, trio
from hbtrio.errors import UserError
from hbtrio.net.unix_socket import open_unix_listener

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        listener = await open_unix_listener(sys.argv[1])
    except UserError as exc:
        print(exc.status.name, flush=True)
    else:
        print("WON", flush=True)
        sys.stdin.readline()
        await listener.aclose()

trio.run(main)
"""


@pytest.mark.processes
def test_of_racing_processes_one_wins_and_a_killed_one_is_succeeded(folder: Path) -> None:
    path = folder / "api"
    stale_socket(path)
    with contextlib.ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", RACER, str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for racer in racers:
            stack.callback(racer.kill)
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
        assert sorted(said) == ["IN_USE", "IN_USE", "IN_USE", "WON"]
        winner = racers[said.index("WON")]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        winner.kill()
        winner.wait(5)
        assert names(folder) == ["api", "api.lock"]

    async def succeed() -> None:
        async with await open_unix_listener(path):
            pass

    trio.run(succeed)
    assert names(folder) == ["api.lock"]


# -- a path that is lost while it is served --------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: int = 0o600
) -> AsyncIterator[UnixListener]:
    """A listener that looks at its path all the time, and answers each connection with a byte."""
    monkeypatch.setattr("hbtrio.net.unix_socket.LOOK_S", 0.01)

    async def answer(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"x")

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listener = await open_unix_listener(path, mode)
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            yield listener
            nursery.cancel_scope.cancel()


async def answered_at(path: Path) -> None:
    """Returns once a server answers at the path."""
    while True:
        with contextlib.suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_unix_socket(str(path)) as stream:
                if await stream.receive_some(1) == b"x":
                    return
        await trio.sleep(0.01)


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    while text not in caplog.text:  # noqa: ASYNC110 - a log sets no event
        await trio.sleep(0.01)


@pytest.mark.parametrize("lost", ["api", "api.lock", "both"])
async def test_a_lost_path_is_served_again(
    folder: Path, lost: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "api"
    async with serving(path, monkeypatch, mode=0o640):
        await answered_at(path)
        if lost != "api":
            (folder / "api.lock").unlink()
        if lost != "api.lock":
            path.unlink()
            await until_logged(caplog, f"{path}: was deleted or replaced; a new socket serves it")
        await answered_at(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        while not (folder / "api.lock").exists():  # noqa: ASYNC110 - a file sets no event
            await trio.sleep(0.01)
        _, status = await refusal(path)
        assert status is ExitStatus.IN_USE
    assert names(folder) == ["api.lock"]


async def test_a_path_that_something_else_has_taken_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "api"
    async with serving(path, monkeypatch):
        path.unlink()
        path.write_text("somebody's file")
        await until_logged(caplog, "can't serve it again")
        await trio.sleep(0.1)
        assert caplog.text.count("can't serve it again") == 1
        assert path.read_text() == "somebody's file"
        path.unlink()
        await answered_at(path)


async def test_a_path_that_another_server_has_taken_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "api"
    async with serving(path, monkeypatch):
        path.unlink()
        (folder / "api.lock").unlink()
        async with await open_unix_listener(path):
            await until_logged(caplog, "can't serve it again")
            assert "another process has locked it" in caplog.text
        await answered_at(path)


async def test_a_directory_that_is_gone_and_comes_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inner = folder / "run"
    inner.mkdir()
    async with serving(inner / "api", monkeypatch):
        inner.rename(folder / "moved")
        await until_logged(caplog, "its directory does not exist")
        inner.mkdir()
        await answered_at(inner / "api")
        assert names(inner) == ["api", "api.lock"]


async def test_a_closed_listener_stays_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(folder / "api", monkeypatch) as listener:
        pass
    await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    assert names(folder) == ["api.lock"]
