"""Describes accepted connections: their two ends, and those that are no sockets.

A server accepts what a listener yields. Usually these are sockets; a simulation passes in listeners
of its own, whose streams are :class:`InProcessStream`.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from typing import cast

import msgspec
import trio

from hbtrio.net.peer_credentials import PeerCredentials, peer_credentials
from hbtrio.net.unix_socket import UnixListener


class ConnectionEnds(msgspec.Struct, frozen=True):
    """The two ends of a connection.

    Args:
        client: the TCP client's address and port; None for a unix socket.
        server: the server's address and port; path and None for a unix socket.
        credentials: the client's credentials for a unix socket; None for TCP.
        tls: whether the connection uses TLS.
        certificate: the owner's name in the client's certificate; None without one.
    """

    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    credentials: PeerCredentials | None = None
    tls: bool = False
    certificate: str | None = None


class InProcessStream(trio.abc.HalfCloseableStream):
    """A connection within this process, in place of a socket; it takes no descriptor."""

    @property
    @abstractmethod
    def ends(self) -> ConnectionEnds:
        """Its two ends, as the server sees them."""

    @abstractmethod
    def has_unread(self) -> bool:
        """Whether bytes or an end have arrived that nobody has read yet."""


AcceptedStream = trio.SocketStream | InProcessStream
Listener = trio.abc.Listener[AcceptedStream]


def ends_of(listener: Listener, stream: AcceptedStream) -> ConnectionEnds:
    """Returns the two ends of a connection that a listener has accepted.

    Raises:
        OSError: the connection was reset.
    """
    if isinstance(stream, InProcessStream):
        return stream.ends
    if stream.socket.family != socket.AF_UNIX:
        client, server = stream.socket.getpeername(), stream.socket.getsockname()
        return ConnectionEnds(client=client[:2], server=server[:2])
    # getsockname() of a UnixListener returns the name before the rename.
    path = listener.path if isinstance(listener, UnixListener) else stream.socket.getsockname()
    return ConnectionEnds(server=(cast(str, path), None), credentials=peer_credentials(stream))
