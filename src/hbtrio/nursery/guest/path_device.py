"""Opens a channel in the file system: a virtio-serial port, a tty or a unix socket."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import termios

import trio

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.net.unix_connect import open_unix_stream
from hbtrio.nursery.guest.device import READ_BYTES, ChannelStream, DeviceFault, DeviceMissing
from hbtrio.nursery.guest.virtio_port import VirtioPort

#: Errors that mean: the device does not exist (any more). Checking is cheap, so retries may be
#: frequent.
_MISSING = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV})


class PathDevice:
    """A device or socket in the file system.

    Args:
        path: the character device or unix socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def find(self) -> str:
        """Returns the present path of the device; called at each opening.

        Raises:
            FileNotFoundError: there is no such device; ``filename`` is the expected path.
        """
        return self._path

    def check(self, *, wait: bool = False) -> None:
        """Checks that the path can work.

        Args:
            wait: accept a missing device, which may appear later.

        Raises:
            UserError: the device is missing or has no hardware (NOT_CONFIGURED), permission is
                denied (DENIED), another process holds it (IN_USE), or the path is neither a
                character device nor a socket (USAGE).
        """
        try:
            self._check()
        except UserError as fault:
            if not wait or fault.status is not ExitStatus.NOT_CONFIGURED:
                raise

    def _check(self) -> None:
        try:
            path = self.find()
            mode = os.stat(path).st_mode
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename}: no such device; this VM has no heartbeat channel",
                ExitStatus.NOT_CONFIGURED,
            ) from None
        except OSError as error:
            raise _refusal(error.filename, error) from error
        if stat.S_ISCHR(mode):
            try:
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError as error:
                raise _refusal(path, error) from error
            try:
                if not _is_pollable(fd):  # such as /dev/null
                    raise UserError(f"{path}: neither a virtio-serial port nor a terminal")
                if _is_tty(fd):
                    # The same lock as in _open_tty; the second opening of a port fails above.
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = f"{path}: another process holds it"
                raise UserError(text, ExitStatus.IN_USE) from None
            except OSError as error:
                raise _refusal(path, error) from error
            finally:
                os.close(fd)
        elif not stat.S_ISSOCK(mode):
            raise UserError(f"{path}: neither a character device nor a unix socket")
        elif not os.access(path, os.W_OK):
            raise UserError(f"{path}: permission denied", ExitStatus.DENIED)

    async def open(self) -> ChannelStream:
        """See :class:`Device`."""
        try:
            path = self.find()
            if not stat.S_ISCHR(os.stat(path).st_mode):
                return SocketChannel(await open_unix_stream(path))
            if _has_tty(path):
                return await _open_tty(path)
            return VirtioPort(path)
        except OSError as error:
            fault = DeviceMissing if error.errno in _MISSING else DeviceFault
            raise fault(os_reason(error)) from error


class SocketChannel:
    """A channel on a unix stream socket, for the lab and tests without a virtio port."""

    persistent = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def wait_connected(self) -> None:
        """Returns after a checkpoint: the socket is connected."""
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        """See :class:`ChannelStream`."""
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except trio.BrokenResourceError as error:
            raise DeviceFault("connection reset") from error

    async def send(self, data: bytes) -> None:
        """See :class:`ChannelStream`."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise DeviceFault("connection closed") from error

    async def aclose(self) -> None:
        """See :class:`ChannelStream`."""
        await trio.aclose_forcefully(self._stream)


class TtyChannel(SocketChannel):
    """A channel on a tty (isa-serial, virtconsole, USB), which can't detect the host's absence.

    Its stream ends only when the tty is hung up; then it has to be reopened.
    """

    # trio-serial raises plain OSError, which SocketChannel does not expect.

    async def receive(self) -> bytes:
        """See :class:`ChannelStream`."""
        try:
            return await super().receive()
        except OSError as error:
            raise DeviceFault(os_reason(error)) from error

    async def send(self, data: bytes) -> None:
        """See :class:`ChannelStream`."""
        try:
            await super().send(data)
        except OSError as error:
            raise DeviceFault(os_reason(error)) from error


async def _open_tty(path: str) -> TtyChannel:
    # Imported here to save memory: most guests have a virtio port.
    from trio_serial import SerialStream

    stream = SerialStream(path, exclusive=True)
    try:
        await stream.aopen()
    except termios.error as error:  # not an OSError
        raise OSError(*error.args) from error
    return TtyChannel(stream)


def _has_tty(path: str) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return _is_tty(fd)
    finally:
        os.close(fd)


def _is_tty(fd: int) -> bool:
    # Not os.isatty(), which returns False on any error: a serial port without hardware (EIO) would
    # be taken for a virtio port, and each read would fail.
    try:
        termios.tcgetattr(fd)
    except termios.error as error:  # not an OSError
        number, text = error.args
        if number == errno.ENOTTY:
            return False
        raise OSError(number, text) from error
    return True


def _is_pollable(fd: int) -> bool:
    with select.epoll() as edges:
        try:
            edges.register(fd)
        except PermissionError:
            return False
    return True


def _refusal(path: str, error: OSError) -> UserError:
    match error.errno:
        case errno.EBUSY:
            return UserError(f"{path}: another process holds it", ExitStatus.IN_USE)
        case errno.EACCES | errno.EPERM:
            return UserError(f"{path}: permission denied", ExitStatus.DENIED)
        case errno.EIO | errno.ENXIO | errno.ENODEV:
            return UserError(f"{path}: no device behind it", ExitStatus.NOT_CONFIGURED)
        case _:
            return UserError(f"{path}: {os_reason(error)}")
