"""Unix stream sockets that this process serves: opening, sole ownership, removal, and who calls.

The path of a unix socket says nothing about whether anybody serves it: a killed server leaves it
behind, and ``bind`` fails on it. Unlinking it and binding anew has three faults: it takes the path
away from a live server without a word, it leaves a moment in which the path is absent, and until
the ``chmod`` the socket has the mode the umask happened to give it. So:

1. The lock on ``<path>.lock`` (:mod:`hbtrio.system.lock_file`), held until the listener is closed:
   two starters cannot both pass, and a killed server holds none.
2. A connect to the path finds servers that know nothing of that lock.
3. Bind ``<path>~``, set group and mode, listen, rename over the path. Before ``listen`` every
   connect is refused, so no mode but the wanted one ever counts; Linux finds the socket through
   its inode, so a rename keeps it connectable. ``getsockname`` and ``ss`` keep the first name.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import socket
import stat
import struct
from typing import final

import attrs
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.system.lock_file import FileLock, LockHeld, lock_beside

_LOG = logging.getLogger("hbtrio.net")

#: sun_path has 108 bytes, the last one is NUL (unix(7)).
SUN_PATH_BYTES = 107

#: One byte only: the name that is bound first has to fit into sun_path as well.
_FRESH_SUFFIX = "~"

_UCRED = struct.Struct("=iII")


@attrs.frozen
class PeerCredentials:
    """Who connected to a unix socket, as the kernel noted it at the connect (SO_PEERCRED).

    ``pid`` is 0 when the peer lives in a pid namespace that ours cannot see.
    """

    pid: int
    uid: int
    gid: int


def peer_credentials(stream: trio.SocketStream) -> PeerCredentials:
    """Return who is at the other end of a unix stream; OSError if the socket is closed."""
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(raw))


@final
class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening unix socket together with the ownership of its path.

    Made by :func:`open_unix_listener`. Usable wherever trio takes a listener.
    """

    def __init__(
        self, path: str, inode: tuple[int, int], listener: trio.SocketListener, lock: FileLock
    ) -> None:
        self.path = path
        self._inode = inode
        self._listener = listener
        self._lock = lock

    async def accept(self) -> trio.SocketStream:
        """Wait for the next connection; errors and cancellation as in trio.SocketListener."""
        return await self._listener.accept()

    def permit(self, mode: int, group: str | int | None = None) -> None:
        """Gives the socket another mode and group; what is connected stays connected.

        Args:
            mode: as for :func:`open_unix_listener`.
            group: likewise; None leaves it with the group that it has.

        Raises:
            UserError: as :func:`open_unix_listener`; FAILED when it is not at its path any more.
        """
        gid = _group_id(self.path, group) if isinstance(group, str) else group
        try:
            if not os.path.lexists(self.path) or _inode_of(self.path) != self._inode:
                raise UserError(f"{self.path}: not there any more", ExitStatus.FAILED)
            if gid is not None and os.lstat(self.path).st_gid != gid:
                # Closed in between: neither group may have what only the other's mode gives it.
                os.chmod(self.path, 0)
                os.chown(self.path, -1, gid)
            os.chmod(self.path, mode)
        except OSError as exc:
            raise _user_error(self.path, exc) from exc

    async def aclose(self) -> None:
        """Remove the path if it is still ours, stop listening, give the lock back.

        Safe to call twice. When cancelled it has done all of it before it raises.
        """
        if not self._lock.closed:
            # In this order: while the socket is open its inode number cannot be used again by
            # somebody else's file, and while the lock is held no successor can be between its
            # own rename and us.
            self._remove_path()
        try:
            await self._listener.aclose()
        finally:
            self._lock.close()

    def _remove_path(self) -> None:
        try:
            if _inode_of(self.path) == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            # A daemon that has given up its privileges may not remove it; the next start will.
            _LOG.warning("%s: left behind: %s", self.path, exc.strerror)


async def open_unix_listener(
    path: str | os.PathLike[str],
    mode: int = 0o660,
    backlog: int = 64,
    group: str | int | None = None,
) -> UnixListener:
    """Serve a unix stream socket at ``path``, replacing one that nobody serves any more.

    Args:
        path: at most 106 bytes: one less than connect(2) takes, for the temporary name.
        mode: permission bits of the socket, whatever the umask; connecting needs the write bit.
        backlog: connections the kernel keeps until they are accepted.
        group: name or number of the group to own the socket; None leaves it alone.

    Raises:
        UserError: IN_USE when another process serves the path or is starting to; DENIED when
            permissions forbid it; USAGE when the path is too long, its directory is missing,
            something else is at the path, or the group does not exist; FAILED for every other
            fault of the system.

    Apart from one checkpoint at the start, where it can be cancelled, it does not wait: it makes
    a few system calls on a local file system.
    """
    await trio.lowlevel.checkpoint()
    name = os.fspath(path)
    if not name or "\0" in name:
        raise UserError(f"{name!r}: not a path for a unix socket", ExitStatus.USAGE)
    longest = SUN_PATH_BYTES - len(_FRESH_SUFFIX)
    if len(os.fsencode(name)) > longest:
        raise UserError(f"{name}: longer than {longest} bytes", ExitStatus.USAGE)
    gid = _group_id(name, group) if isinstance(group, str) else group
    try:
        return _open(name, mode, backlog, gid)
    except LockHeld:
        raise _in_use(name) from None
    except OSError as exc:
        raise _user_error(name, exc) from exc


def _open(path: str, mode: int, backlog: int, gid: int | None) -> UnixListener:
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(lock_beside(path))
        _refuse_if_served(path)
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        fresh = path + _FRESH_SUFFIX
        # Under the lock only we make this name, so a socket here was left by a crash.
        if _is_socket(fresh):
            os.unlink(fresh)
        sock.bind(fresh)
        undo.callback(os.unlink, fresh)
        inode = _inode_of(fresh)
        if gid is not None:
            os.chown(fresh, -1, gid)
        os.chmod(fresh, mode)
        sock.listen(backlog)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        os.rename(fresh, path)
        undo.pop_all()
    return UnixListener(path, inode, listener, lock)


def _refuse_if_served(path: str) -> None:
    """Raise UserError IN_USE when somebody accepts, or is going to accept, connections there."""
    if not _is_socket(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Non-blocking: a server whose backlog is full would hold us up for ever.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as exc:
            # EAGAIN: its backlog is full. EPROTOTYPE: a server of datagrams.
            if exc.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise _in_use(path)


def _in_use(path: str) -> UserError:
    return UserError(f"{path}: another process serves it", ExitStatus.IN_USE)


def _is_socket(path: str) -> bool:
    """Return whether a socket is there; UserError USAGE when it is anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise UserError(f"{path}: exists and is no socket", ExitStatus.USAGE)
    return True


def _inode_of(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _group_id(path: str, group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UserError(f"{path}: no group named {group}", ExitStatus.USAGE) from None


def _user_error(path: str, exc: OSError) -> UserError:
    match exc.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            status = ExitStatus.DENIED
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
            status = ExitStatus.USAGE
        case _:
            status = ExitStatus.FAILED
    if exc.errno == errno.ENOENT:
        return UserError(f"{path}: its directory does not exist", status)
    return UserError(f"{path}: {exc.strerror}", status)
