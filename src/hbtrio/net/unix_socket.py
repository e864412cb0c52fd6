"""Listens at unix stream sockets with exclusive ownership of their paths.

A killed server leaves its socket's path behind, and ``bind`` fails on it. Simply unlinking the path
has three faults: it takes the path from a live server, the path is missing for a moment, and until
the ``chmod`` the socket has the mode of the umask. Instead:

1. Lock ``<path>.lock`` (:mod:`hbtrio.system.lock_file`) until the listener is closed. Two servers
   can't both hold the lock, and a killed server holds none.
2. Connect to the path, to find servers that don't use the lock.
3. Bind ``<path>~``, set group and mode, listen, rename to the path. Connections are refused before
   ``listen``, so only the final mode counts. Linux finds the socket by its inode, so the rename
   keeps it connectable. ``getsockname`` and ``ss`` show the first name.

A path that is deleted or replaced while the server runs would leave it unreachable: for example a
clean-up of /run, or a directory that was moved. A listener without connections looks at its path
every ``LOOK_S`` and, if it is gone, makes a new socket there by the same steps.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from typing import final

import msgspec
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.log import LogOnce
from hbtrio.system.lock_file import FileLock, LockHeld, lock_beside

_LOG = logging.getLogger("hbtrio.net")

#: sun_path has 108 bytes, the last one is NUL (unix(7)).
SUN_PATH_BYTES = 107

#: Seconds without a connection after which a listener looks at its path.
LOOK_S = 20.0

#: One byte only, because the temporary name has to fit into sun_path too.
_FRESH_SUFFIX = "~"


class _Settings(msgspec.Struct, frozen=True):
    """The mode, backlog and group (None: the process's) of a socket."""

    mode: int
    backlog: int
    gid: int | None


class _Bound(msgspec.Struct, frozen=True):
    """A socket that listens at a path, and its inode there."""

    inode: tuple[int, int]
    listener: trio.SocketListener


@final
class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening unix socket that owns its path; a trio listener.

    :func:`open_unix_listener` returns it.
    """

    def __init__(self, path: str, settings: _Settings, bound: _Bound, lock: FileLock) -> None:
        self.path = path
        self._settings = settings
        self._inode = bound.inode
        self._listener = bound.listener
        self._lock = lock
        self._fault_log = LogOnce()

    @property
    def current(self) -> trio.SocketListener:
        """The socket that serves the path now."""
        return self._listener

    async def accept(self) -> trio.SocketStream:
        """Wait for the next connection; errors and cancellation as in trio.SocketListener."""
        while True:
            listener = self._listener
            try:
                with trio.move_on_after(LOOK_S):
                    return await listener.accept()
            except trio.ClosedResourceError:
                if self._listener is listener:
                    raise
                continue  # another task has replaced it
            if self._lock.closed:
                raise trio.ClosedResourceError
            before = self._listener
            self._keep_path()
            if self._listener is not before:
                await before.aclose()

    def _keep_path(self) -> None:
        """Makes a new socket if the path no longer is this one's; logs a fault once."""
        try:
            if self._lock.fault():
                lock = lock_beside(self.path)
                self._lock.close()
                self._lock = lock
            if os.path.lexists(self.path) and _inode_of(self.path) == self._inode:
                self._fault_log.clear()
                return
            _refuse_if_served(self.path)
            bound = _bind(self.path, self._settings)
        except LockHeld:
            fault = f"{self.path}: another process has locked it"
        except UserError as error:
            fault = str(error)
        except OSError as error:
            fault = str(_user_error(self.path, error))
        else:
            _LOG.warning("%s: was deleted or replaced; a new socket serves it", self.path)
            self._fault_log.clear()
            self._listener, self._inode = bound.listener, bound.inode
            return
        if self._fault_log.is_new(fault):
            _LOG.error("%s: was deleted or replaced; can't serve it again: %s", self.path, fault)

    def permit(self, mode: int, group: str | int | None = None) -> None:
        """Changes the socket's mode and group; connections stay open.

        Args:
            mode: as for :func:`open_unix_listener`.
            group: as for :func:`open_unix_listener`; None leaves the group as it is.

        Raises:
            UserError: as for :func:`open_unix_listener`; FAILED if the path no longer exists or
                belongs to another socket.
        """
        gid = _group_id(self.path, group) if isinstance(group, str) else group
        try:
            if not os.path.lexists(self.path) or _inode_of(self.path) != self._inode:
                raise UserError(f"{self.path}: no longer exists", ExitStatus.FAILED)
            if gid is not None and os.lstat(self.path).st_gid != gid:
                # Deny access in between: neither group may get the mode of the other.
                os.chmod(self.path, 0)
                os.chown(self.path, -1, gid)
            os.chmod(self.path, mode)
        except OSError as exc:
            raise _user_error(self.path, exc) from exc
        own = self._settings.gid if gid is None else gid
        self._settings = msgspec.structs.replace(self._settings, mode=mode, gid=own)

    async def aclose(self) -> None:
        """Remove the path if it still belongs to this socket, stop listening, release the lock.

        Safe to call twice. A cancelled call does all of this before it raises.
        """
        if not self._lock.closed:
            # In this order: an open socket's inode number can't be reused by another file, and
            # while the lock is held no successor can rename its socket to the path.
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
            # A daemon without privileges may be unable to remove the path; the next start does.
            _LOG.warning("%s: left behind: %s", self.path, exc.strerror)


async def open_unix_listener(
    path: str | os.PathLike[str],
    mode: int = 0o660,
    backlog: int = 1024,
    group: str | int | None = None,
) -> UnixListener:
    """Listen at a unix stream socket; replaces a socket that no process serves.

    Args:
        path: at most 106 bytes, one less than connect(2) takes, because of the temporary name.
        mode: the permissions of the socket, regardless of the umask; connecting needs write access.
        backlog: the most connections that wait to be accepted; to one more, a connect that doesn't
            block fails with EAGAIN.
        group: the name or number of the socket's group; None is the process's group.

    Raises:
        UserError: IN_USE if another process serves the path or is starting to; DENIED if
            permissions deny access; USAGE if the path is too long, its directory is missing, the
            path is not a socket, or the group doesn't exist; FAILED for other errors.

    The function can be cancelled only at a checkpoint at its start. It then makes a few system
    calls on the file system.
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
        return _open(name, _Settings(mode, backlog, gid))
    except LockHeld:
        raise _in_use(name) from None
    except OSError as exc:
        raise _user_error(name, exc) from exc


def _open(path: str, settings: _Settings) -> UnixListener:
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(lock_beside(path))
        _refuse_if_served(path)
        bound = _bind(path, settings)
        undo.pop_all()
    return UnixListener(path, settings, bound, lock)


def _bind(path: str, settings: _Settings) -> _Bound:
    """Makes the socket and moves it to the path; the caller holds the lock."""
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        fresh = path + _FRESH_SUFFIX
        # Only the holder of the lock creates this name, so a socket here is left from a crash.
        if _is_socket(fresh):
            os.unlink(fresh)
        sock.bind(fresh)
        undo.callback(os.unlink, fresh)
        inode = _inode_of(fresh)
        if settings.gid is not None:
            os.chown(fresh, -1, settings.gid)
        os.chmod(fresh, settings.mode)
        sock.listen(settings.backlog)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        os.rename(fresh, path)
        undo.pop_all()
    return _Bound(inode, listener)


def _refuse_if_served(path: str) -> None:
    """Raise UserError (IN_USE) if a process accepts connections at the path."""
    if not _is_socket(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Non-blocking, because a server with a full backlog would block the connect.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as exc:
            # EAGAIN: the backlog is full. EPROTOTYPE: a datagram socket.
            if exc.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise _in_use(path)


def _in_use(path: str) -> UserError:
    return UserError(f"{path}: another process serves it", ExitStatus.IN_USE)


def _is_socket(path: str) -> bool:
    """Return whether the path is a socket; False if it doesn't exist, else UserError (USAGE)."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise UserError(f"{path}: exists and is not a socket", ExitStatus.USAGE)
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
