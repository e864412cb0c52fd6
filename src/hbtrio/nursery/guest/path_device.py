"""A channel in the file system: what the path is decides how it is opened."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import termios

import trio

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.nursery.guest.device import READ_BYTES, ChannelStream, DeviceFault, DeviceMissing
from hbtrio.nursery.guest.virtio_port import VirtioPort

#: Nothing is there, or not any more. A stat or an open tells, so it may be asked often.
_MISSING = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV})


class PathDevice:
    """A device or socket in the file system.

    Args:
        path: the character device or unix socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def find(self) -> str:
        """Where it is at this moment; asked anew at each opening.

        Raises:
            FileNotFoundError: nowhere; its ``filename`` says where it was expected.
        """
        return self._path

    def check(self, *, wait: bool = False) -> None:
        """Refuses a path that can't work however long one waits.

        Args:
            wait: a device that is missing will come.

        Raises:
            UserError: missing or with nothing behind it (NOT_CONFIGURED), no permission (DENIED),
                held by another process (IN_USE), or neither a character device nor a socket
                (USAGE).
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
                if not _can_be_waited_for(fd):  # such as /dev/null
                    raise UserError(f"{path}: neither a virtio-serial port nor a terminal")
                if _is_tty(fd):
                    # What _open_tty locks; a port's second opening has failed above.
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
                return SocketChannel(await trio.open_unix_socket(path))
            if _has_tty(path):
                return await _open_tty(path)
            return VirtioPort(path)
        except OSError as error:
            fault = DeviceMissing if error.errno in _MISSING else DeviceFault
            raise fault(os_reason(error)) from error


class SocketChannel:
    """A unix stream socket as a channel: where no virtio port is, as in the lab and in tests."""

    persistent = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def wait_connected(self) -> None:
        """A connected socket is connected."""
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
    """A tty (isa-serial, virtconsole, USB): the host's absence is invisible on it.

    Its stream ends only when the tty is hung up, and then it has to be opened anew.
    """

    # trio-serial passes the system's errors on as they are, which SocketChannel does not expect.

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
    # Imported here: most guests have a virtio port and no need of it in their memory.
    from trio_serial import SerialStream

    stream = SerialStream(path, exclusive=True)
    try:
        await stream.aopen()
    except termios.error as error:  # which is no OSError
        raise OSError(*error.args) from error
    return TtyChannel(stream)


def _has_tty(path: str) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return _is_tty(fd)
    finally:
        os.close(fd)


def _is_tty(fd: int) -> bool:
    # os.isatty says no for whatever reason: a serial port without hardware (EIO) would be taken for
    # a virtio port, one that fails at each read.
    try:
        termios.tcgetattr(fd)
    except termios.error as error:  # which is no OSError
        number, text = error.args
        if number == errno.ENOTTY:
            return False
        raise OSError(number, text) from error
    return True


def _can_be_waited_for(fd: int) -> bool:
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
