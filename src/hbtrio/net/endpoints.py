"""Parses endpoints, ``unix:/PATH`` and ``tcp:HOST:PORT``, and listens at or connects to them."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

import attrs
import trio

from hbtrio.errors import ExitStatus, UserError, is_thread_shortage
from hbtrio.net.connections import Listener
from hbtrio.net.handshake import HandshakeFailed, secure_client
from hbtrio.net.peer_credentials import peer_credentials
from hbtrio.net.tls import connection_reason
from hbtrio.net.unix_connect import open_unix_stream
from hbtrio.net.unix_socket import open_unix_listener

#: How long a connection and its TLS handshake may take, in seconds.
CONNECT_S: Final = 5.0

#: Connections that may wait to be accepted, as at unix sockets: a thousand votes come at once. Of
#: more, which only a flood makes, the last would wait for longer than their clients do.
_BACKLOG: Final = 1024


class Unreachable(Exception):
    """A connection to an endpoint failed; the text names the endpoint and the reason."""


@attrs.frozen
class Endpoint:
    """An address to listen at or connect to: a unix ``path``, or a TCP ``host`` and ``port``."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Parses an endpoint.

        Raises:
            UserError: ``text`` is not an endpoint.
        """
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest.startswith("/"):
            return cls(path=rest)
        host, _, port = rest.rpartition(":")
        if kind == "tcp" and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return cls(host=host.strip("[]"), port=int(port))
        raise UserError(f"{text}: neither unix:/PATH nor tcp:HOST:PORT")

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"

    async def listen(self, mode: int = 0o660) -> list[Listener]:
        """Opens listeners at the endpoint.

        Args:
            mode: the permissions of a unix socket.

        Raises:
            UserError: IN_USE; DENIED; USAGE if the host name doesn't exist; FAILED for other
                errors, such as an address that this machine doesn't have.
        """
        if self.path:
            return [await open_unix_listener(self.path, mode)]
        try:
            return list(await trio.open_tcp_listeners(self.port, host=self.host, backlog=_BACKLOG))
        except OSError as error:
            raise UserError(f"{self}: {_words(error)}", _status(error)) from error

    async def connect(self, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
        """Connects to the endpoint, within ``CONNECT_S``.

        Args:
            tls: the context for TCP connections. With TLS 1.3 a refusal of the client certificate
                is noticed only at the first read.

        Raises:
            Unreachable: nothing listens, there is no route, or the handshake failed or timed out.
        """
        try:
            with trio.fail_after(CONNECT_S):
                if self.path:
                    return await open_unix_stream(self.path)
                stream = await trio.open_tcp_stream(self.host, self.port)
                if tls is None:
                    return stream
                return await secure_client(stream, tls, self.host)
        except HandshakeFailed as error:
            raise Unreachable(f"{self}: {error}") from error
        except OSError as error:
            raise Unreachable(f"{self}: {_words(error)}") from error
        except RuntimeError as error:
            if not is_thread_shortage(error):
                raise
            # A host name is looked up in a thread.
            raise Unreachable(f"{self}: {error}") from error
        except trio.TooSlowError as error:
            raise Unreachable(f"{self}: no answer within {CONNECT_S:g} s") from error


def peer_text(stream: trio.abc.Stream) -> str:
    """Describes the peer for the log: an address and port, or a process and its user."""
    if isinstance(stream, trio.SSLStream):
        return peer_text(stream.transport_stream)
    if not isinstance(stream, trio.SocketStream):
        return "a peer"
    try:
        if stream.socket.family == socket.AF_UNIX:
            peer = peer_credentials(stream)
            return f"pid {peer.pid}, uid {peer.uid}, gid {peer.gid}"
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return "a disconnected peer"
    return str(Endpoint(host=host, port=port))


def _status(error: OSError) -> ExitStatus:
    """Returns the exit status of a daemon that can't listen."""
    if isinstance(error, PermissionError):
        return ExitStatus.DENIED
    # A missing address and a resolver without an answer may be temporary while the machine boots,
    # so they must not keep systemd from restarting the daemon.
    if isinstance(error, socket.gaierror):
        temporary = error.errno == socket.EAI_AGAIN
        return ExitStatus.FAILED if temporary else ExitStatus.USAGE
    return ExitStatus.IN_USE if error.errno == errno.EADDRINUSE else ExitStatus.FAILED


def _words(error: BaseException) -> str:
    """Returns the text of the original error."""
    # trio tries several addresses and wraps the errors of OpenSSL.
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    first = error if cause is None else cause
    if isinstance(first, OSError):
        return connection_reason(first)
    return str(first)
