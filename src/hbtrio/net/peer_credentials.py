"""Reads who is at the other end of a unix socket."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

import msgspec
import trio

_UCRED: Final = struct.Struct("=iII")

#: SO_PEERGROUPS of socket(7), which Python does not name; Linux 4.13 and later.
_SO_PEERGROUPS: Final = 59

#: The longest option that Python reads.
_GROUPS_BYTES: Final = 1024


class PeerCredentials(msgspec.Struct, frozen=True):
    """The credentials of a unix socket's peer at the time of the connect (SO_PEERCRED).

    ``pid`` is 0 if the peer is in a pid namespace that this process can't see. ``groups`` are its
    supplementary groups; empty if the kernel doesn't say.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def peer_credentials(stream: trio.SocketStream) -> PeerCredentials:
    """Return the credentials of a unix stream's peer.

    Raises:
        OSError: the socket is closed.
    """
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return PeerCredentials(pid, uid, gid, _peer_groups(stream))


def _peer_groups(stream: trio.SocketStream) -> tuple[int, ...]:
    # Python allows 1024 bytes, 256 groups: few users have as many. The kernel fails with ERANGE if
    # they don't fit, and an older one does not know the option.
    try:
        raw = stream.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as exc:
        if exc.errno not in (errno.ERANGE, errno.ENOPROTOOPT):
            raise
        return ()
    return struct.unpack(f"={len(raw) // 4}I", raw)
