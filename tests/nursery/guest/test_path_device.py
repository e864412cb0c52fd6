"""The guest's devices, with real sockets and terminals: what is refused, opened, heard, lost.

No virtio port is to be had outside a VM. A terminal in raw mode stands in for one where it behaves
alike: data, a full buffer, its other end going away. What only a port does (a host that comes back)
is tested over memory streams and in a real VM.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import attrs
import msgspec
import pytest
import trio

from hbtrio.errors import BACKLOG_FULL, ExitStatus, UserError
from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.fsm.guest_session_table import SessionState
from hbtrio.nursery.guest import path_device as devices
from hbtrio.nursery.guest.device import DeviceFault, DeviceMissing
from hbtrio.nursery.guest.path_device import PathDevice, SocketChannel, TtyChannel
from hbtrio.nursery.guest.virtio_port import VirtioPort
from hbtrio.wire.channel_codec import decode, encode
from hbtrio.wire.channel_messages import Challenge, ChallengeResponse, Init, InitAck
from support.guest_world import GuestWorld

#: How long anything real may take, in seconds.
BOUND_S = 10.0

needs_modes = pytest.mark.skipif(os.geteuid() == 0, reason="modes do not stop root")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A listening unix socket at ``tmp_path/channel``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind(str(tmp_path / "channel"))
        one.listen(4)
        one.setblocking(False)
        yield one


@attrs.define
class Terminal:
    """A pty: the guest opens ``path``; ``host`` is the other end, until it is closed."""

    path: str
    host: int
    _guest: int

    def hang_up(self) -> None:
        if self.host >= 0:
            os.close(self.host)
        self.host = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self._guest)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    host, guest = os.openpty()
    tty.setraw(guest)
    os.set_blocking(host, False)
    one = Terminal(os.ttyname(guest), host, guest)
    yield one
    one.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def read_host(terminal: Terminal, until: bytes) -> bytes:
    """What the host gets, up to and with ``until``."""
    data = b""
    with trio.fail_after(BOUND_S):
        while until not in data:
            await trio.lowlevel.wait_readable(terminal.host)
            data += os.read(terminal.host, 4096)
    return data


# -- refused before the daemon starts -------------------------------------------------------------


def refusal(path: Path | str) -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        PathDevice(str(path)).check()
    return str(caught.value), caught.value.status


def test_a_missing_device_is_not_configured(tmp_path: Path) -> None:
    path = tmp_path / "vport1p1"
    text = f"{path}: no such device; this VM has no heartbeat channel"
    assert refusal(path) == (text, ExitStatus.NOT_CONFIGURED)
    assert int(ExitStatus.NOT_CONFIGURED) == 6


def test_a_link_to_nothing_is_not_configured(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert refusal(tmp_path / "link")[1] is ExitStatus.NOT_CONFIGURED


def test_a_device_that_will_come_may_be_missing_but_nothing_else(tmp_path: Path) -> None:
    PathDevice(str(tmp_path / "vport1p1")).check(wait=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="neither a character device nor a unix socket"):
        PathDevice(str(tmp_path / "file")).check(wait=True)


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "file", tmp_path / "fifo", tmp_path):
        text = f"{path}: neither a character device nor a unix socket"
        assert refusal(path) == (text, ExitStatus.USAGE)


def test_a_device_that_cannot_be_waited_for_is_refused() -> None:
    before = open_files()
    text = "/dev/null: neither a virtio-serial port nor a terminal"
    assert refusal("/dev/null") == (text, ExitStatus.USAGE)
    assert open_files() == before


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "device"
    assert refusal(path) == (f"{path}: not a directory", ExitStatus.USAGE)


def test_a_device_without_hardware_is_not_configured(tmp_path: Path) -> None:
    path = tmp_path / "device"
    try:
        # No driver has this number.
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0xFFE, 7))
    except PermissionError:
        pytest.skip("devices can't be made here")
    assert refusal(path) == (f"{path}: no device behind it", ExitStatus.NOT_CONFIGURED)


@needs_modes
def test_a_device_without_permission_is_denied(terminal: Terminal) -> None:
    os.chmod(terminal.path, 0)
    text = f"{terminal.path}: permission denied"
    assert refusal(terminal.path) == (text, ExitStatus.DENIED)


@needs_modes
@pytest.mark.usefixtures("listener")
def test_a_socket_without_permission_is_denied(tmp_path: Path) -> None:
    path = tmp_path / "channel"
    path.chmod(0o400)
    assert refusal(path) == (f"{path}: permission denied", ExitStatus.DENIED)


@needs_modes
def test_a_directory_without_permission_is_denied(tmp_path: Path) -> None:
    directory = tmp_path / "closed"
    directory.mkdir(mode=0)
    path = directory / "device"
    assert refusal(path) == (f"{path}: permission denied", ExitStatus.DENIED)


@pytest.mark.parametrize(
    ("number", "text", "status"),
    [
        ("EBUSY", "another process holds it", ExitStatus.IN_USE),
        ("EACCES", "permission denied", ExitStatus.DENIED),
        ("EPERM", "permission denied", ExitStatus.DENIED),
        ("ENODEV", "no device behind it", ExitStatus.NOT_CONFIGURED),
        ("EIO", "no device behind it", ExitStatus.NOT_CONFIGURED),
        ("EINVAL", "invalid argument", ExitStatus.USAGE),
    ],
)
def test_each_refusal_of_the_system_has_its_status(
    number: str,
    text: str,
    status: ExitStatus,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str, flags: int) -> int:
        assert flags & os.O_NOCTTY
        raise OSError(getattr(errno, number), "no")

    monkeypatch.setattr(os, "open", refuse)
    assert refusal(terminal.path) == (f"{terminal.path}: {text}", status)


@pytest.mark.usefixtures("listener")
def test_usable_paths_pass_and_nothing_stays_open(tmp_path: Path, terminal: Terminal) -> None:
    before = open_files()
    PathDevice(str(tmp_path / "channel")).check()
    PathDevice(terminal.path).check()
    assert open_files() == before


# -- opened again and again -----------------------------------------------------------------------


async def fault(path: Path | str) -> str:
    with pytest.raises(DeviceFault) as caught:
        await PathDevice(str(path)).open()
    return str(caught.value)


async def test_faults_of_opening_are_translated_and_leave_nothing_open(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / "channel"
    listener.close()
    (tmp_path / "file").touch()
    assert await fault(dead) == "connection refused"  # trio's own files are open from here on
    before = open_files()
    assert await fault(tmp_path / "nowhere") == "no such file or directory"
    assert await fault(dead) == "connection refused"
    assert await fault(tmp_path / "file") == "connection refused"
    # Character devices that are neither a tty nor a port.
    assert await fault("/dev/null") == "operation not permitted"
    assert open_files() == before


async def test_a_full_backlog_is_a_fault_and_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "full"
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as first:
        one.bind(str(path))
        one.listen(0)
        first.connect(str(path))
        assert await fault(path) == BACKLOG_FULL  # trio's own files are open from here on
        before = open_files()
        assert await fault(path) == BACKLOG_FULL
        assert open_files() == before


async def test_a_tty_that_cannot_be_set_up_is_a_fault(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is hung up between its opening and its settings; termios has its own error."""

    def refuse(fd: int, when: int, attributes: list[object]) -> None:
        raise termios.error(5, "Input/output error")

    before = open_files()
    monkeypatch.setattr(termios, "tcsetattr", refuse)
    assert await fault(terminal.path) == "input/output error"
    assert open_files() == before


@pytest.mark.parametrize(
    ("number", "missing"), [(errno.EIO, False), (errno.ENXIO, True), (errno.ENODEV, True)]
)
async def test_a_tty_without_hardware_is_no_virtio_port(
    number: int, missing: bool, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as /dev/ttyS3 of a machine with one serial port: it can be opened, and nothing else."""

    def refuse(fd: int) -> None:
        raise termios.error(number, os.strerror(number))

    before = open_files()
    monkeypatch.setattr(termios, "tcgetattr", refuse)
    text = f"{terminal.path}: no device behind it"
    assert refusal(terminal.path) == (text, ExitStatus.NOT_CONFIGURED)
    PathDevice(terminal.path).check(wait=True)
    with pytest.raises(DeviceFault, match=os.strerror(number).lower()) as caught:
        await PathDevice(terminal.path).open()
    assert isinstance(caught.value, DeviceMissing) == missing
    assert open_files() == before


async def test_only_what_says_that_it_is_no_tty_is_a_virtio_port(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise termios.error(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(termios, "tcgetattr", refuse)
    PathDevice(terminal.path).check()
    stream = await PathDevice(terminal.path).open()
    assert isinstance(stream, VirtioPort)
    await stream.aclose()


async def test_what_is_missing_is_told_from_what_fails(
    tmp_path: Path, listener: socket.socket
) -> None:
    with pytest.raises(DeviceMissing, match="no such file or directory"):
        await PathDevice(str(tmp_path / "nowhere")).open()
    listener.close()
    with pytest.raises(DeviceFault, match="connection refused") as caught:
        await PathDevice(str(tmp_path / "channel")).open()
    assert not isinstance(caught.value, DeviceMissing)


async def test_a_tty_has_one_guest(terminal: Terminal) -> None:
    stream = await PathDevice(terminal.path).open()
    assert "Could not exclusively lock" in await fault(terminal.path)
    await stream.aclose()
    await (await PathDevice(terminal.path).open()).aclose()


# -- unix sockets ---------------------------------------------------------------------------------


async def accepted(listener: socket.socket) -> trio.SocketStream:
    with trio.fail_after(BOUND_S):
        await trio.lowlevel.wait_readable(listener)
        return trio.SocketStream(trio.socket.from_stdlib_socket(listener.accept()[0]))


async def test_a_socket_carries_bytes_both_ways_and_ends(
    tmp_path: Path, listener: socket.socket
) -> None:
    with trio.fail_after(BOUND_S):
        stream = await PathDevice(str(tmp_path / "channel")).open()
        assert isinstance(stream, SocketChannel)
        assert not stream.persistent
        await stream.wait_connected()
        host = await accepted(listener)
        await stream.send(b"to the host")
        assert await host.receive_some() == b"to the host"
        await host.send_all(b"x" * 10_000)
        assert await stream.receive() == b"x" * devices.READ_BYTES
        await host.aclose()
        rest = b""
        while data := await stream.receive():
            rest += data
        assert len(rest) == 10_000 - devices.READ_BYTES
        with pytest.raises(DeviceFault, match="connection closed"):
            await stream.send(b"to nobody")
        await stream.aclose()


async def test_a_socket_that_is_reset_is_a_fault(tmp_path: Path, listener: socket.socket) -> None:
    with trio.fail_after(BOUND_S):
        stream = await PathDevice(str(tmp_path / "channel")).open()
        host = await accepted(listener)
        await stream.send(b"never read")
        await host.aclose()  # with data unread: a reset
        with pytest.raises(DeviceFault, match="connection reset"):
            await stream.receive()
        await stream.aclose()


async def test_closing_a_socket_works_in_a_cancelled_scope(
    tmp_path: Path, listener: socket.socket
) -> None:
    with trio.fail_after(BOUND_S):
        stream = await PathDevice(str(tmp_path / "channel")).open()
        host = await accepted(listener)
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.aclose()
        assert await host.receive_some() == b""
        await host.aclose()


# -- terminals ------------------------------------------------------------------------------------


async def test_a_tty_carries_every_byte_both_ways(terminal: Terminal) -> None:
    attributes = termios.tcgetattr(terminal._guest)
    attributes[3] |= termios.ECHO | termios.ICANON  # as getty or the kernel left it
    attributes[1] |= termios.OPOST | termios.ONLCR
    attributes[0] |= termios.ICRNL | termios.IXON
    termios.tcsetattr(terminal._guest, termios.TCSANOW, attributes)
    every = bytes(range(256))
    stream = await PathDevice(terminal.path).open()
    assert isinstance(stream, TtyChannel)
    assert not stream.persistent
    with trio.fail_after(BOUND_S):
        await stream.wait_connected()
        await stream.send(every + b"END")
        assert await read_host(terminal, b"END") == every + b"END"
        os.write(terminal.host, every)
        received = b""
        while len(received) < len(every):
            received += await stream.receive()
        assert received == every
    await stream.aclose()


async def test_a_tty_that_is_hung_up_ends(terminal: Terminal) -> None:
    stream = await PathDevice(terminal.path).open()
    received: list[bytes] = []
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                received.append(await stream.receive())

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            terminal.hang_up()
        assert received == [b""]
        with pytest.raises(DeviceFault, match="input/output error"):
            await stream.send(b"to nobody")
    await stream.aclose()
    # Gone, or dead until everybody has closed it: both are tried again.
    assert await fault(terminal.path) in ("no such file or directory", "input/output error")


async def test_a_tty_whose_driver_fails_is_a_fault(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a USB adapter that was pulled out does."""
    stream = await PathDevice(terminal.path).open()

    def fail(fd: int, limit: int) -> bytes:
        raise OSError(errno.EIO, "no")

    os.write(terminal.host, b"x")
    with trio.fail_after(BOUND_S), monkeypatch.context() as patch:
        patch.setattr(os, "read", fail)
        with pytest.raises(DeviceFault, match="input/output error"):
            await stream.receive()
    await stream.aclose()


async def test_a_whole_guest_over_a_tty(terminal: Terminal) -> None:
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            bench = GuestWorld(SessionSettings(name="vm1"))
            bench.setup = msgspec.structs.replace(bench.setup, device=PathDevice(terminal.path))
            guest = bench.guest.__class__(bench.setup, bench.guard)
            nursery.start_soon(guest.run)
            init = decode((await read_host(terminal, b"}\n")).strip())
            assert isinstance(init, Init)
            os.write(terminal.host, encode(InitAck(init.invocation_id), 1))
            os.write(terminal.host, encode(Challenge(7), 2))
            answer = decode((await read_host(terminal, b"}\n")).strip())
            assert isinstance(answer, ChallengeResponse)
            assert answer.heartbeat_response == 7
            assert guest.session.state is SessionState.ENABLED
            guest.stop()
            assert b'"exit"' in await read_host(terminal, b"}\n")


# -- the virtio port's stream, over a terminal ----------------------------------------------------


async def test_a_port_carries_bytes_both_ways(terminal: Terminal) -> None:
    port = VirtioPort(terminal.path)
    with trio.fail_after(BOUND_S):
        assert port.connected
        await port.wait_connected()
        await port.send(b"to the host")
        assert await read_host(terminal, b"host") == b"to the host"
        os.write(terminal.host, b"first")
        assert await port.receive() == b"first"
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                received.append(await port.receive())

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            assert received == []
            os.write(terminal.host, b"second")
        assert received == [b"second"]
    await port.aclose()


async def test_a_port_waits_for_a_host_that_does_not_read(terminal: Terminal) -> None:
    port = VirtioPort(terminal.path)
    sent = b"x" * 200_000
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.send, sent + b"END")
            await trio.testing.wait_all_tasks_blocked()
            assert await read_host(terminal, b"END") == sent + b"END"
    await port.aclose()


async def test_a_port_without_a_host_shows_it_and_does_not_spin(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal whose other end is closed is as such a port: readable for ever, and empty."""
    port = VirtioPort(terminal.path)
    woken = 0
    wait_readable = trio.lowlevel.wait_readable

    async def counted(fd: int) -> None:
        nonlocal woken
        await wait_readable(fd)
        woken += 1

    monkeypatch.setattr(trio.lowlevel, "wait_readable", counted)
    with trio.fail_after(BOUND_S):
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                received.append(await port.receive())

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            terminal.hang_up()
        assert received == [b""]
        assert await port.receive() == b""
        assert not port.connected
        with trio.move_on_after(0.2):
            await port.wait_connected()
            pytest.fail("nobody connected")
    assert woken <= 4
    await port.aclose()


async def test_a_port_that_is_unplugged_is_no_port_without_a_host(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polled they look alike; a port refuses to be read, also where nothing is to be taken."""
    port = VirtioPort(terminal.path)
    terminal.hang_up()
    reads: list[OSError] = [BlockingIOError(errno.EAGAIN, "no"), OSError(errno.ENODEV, "no")]

    def refuse(fd: int, limit: int) -> bytes:
        assert limit == 0
        raise reads.pop(0)

    with trio.fail_after(BOUND_S), monkeypatch.context() as patch:
        patch.setattr(os, "read", refuse)
        with pytest.raises(DeviceFault, match="no such device"):
            await port.wait_connected()
    assert reads == []
    await port.aclose()


async def test_a_port_that_loses_its_host_in_a_send_is_a_fault(terminal: Terminal) -> None:
    port = VirtioPort(terminal.path)
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(DeviceFault):
                    await port.send(b"x" * 200_000)

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            terminal.hang_up()
        with pytest.raises(DeviceFault):
            await port.send(b"to nobody")
    await port.aclose()


async def test_a_port_does_not_wait_for_room_when_no_host_is_there(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port refuses a write with EAGAIN whether its ring is full or its host away."""
    port = VirtioPort(terminal.path)
    terminal.hang_up()

    def full(fd: int, data: bytes) -> int:
        raise BlockingIOError

    with trio.fail_after(BOUND_S), monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DeviceFault, match="the host is not connected"):
            await port.send(b"to nobody")
    await port.aclose()


async def test_a_port_is_closed_in_a_cancelled_scope_and_leaves_nothing_open(
    terminal: Terminal,
) -> None:
    before = open_files()
    for _ in range(3):
        port = VirtioPort(terminal.path)
        with trio.CancelScope() as scope:
            scope.cancel()
            await port.aclose()
    assert open_files() == before


@pytest.mark.parametrize("made", [0, 1])
def test_a_port_that_can_t_be_watched_leaves_nothing_open(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    """The process runs out of descriptors, and the guest tries again each second."""
    before = open_files()
    for _ in range(3):
        sets = [select.epoll() for _ in range(made)]

        def epoll(sets: list[select.epoll] = sets) -> select.epoll:
            if not sets:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return sets.pop()

        with monkeypatch.context() as patch:
            patch.setattr(select, "epoll", epoll)
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                VirtioPort(terminal.path)
    assert open_files() == before
