"""Makes TLS handshakes, and tells a peer that is refused why.

trio closes a connection whose handshake failed without sending OpenSSL's alert, so the peer would
learn only that it was closed. With TLS 1.3 a client considers its handshake done before the server
has seen its certificate, and learns of the refusal at its first read. By then it has mostly sent
something; a connection that is closed with unread data is reset, and the reset overtakes the alert.
So the refusing end reads on for a moment.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any, Final

import trio

from hbtrio.net.tls import connection_reason, is_not_tls

#: Seconds that a refused peer has to read the reason and to close.
LINGER_S: Final = 1.0

#: Bytes that are read from it meanwhile, at most.
_LINGER_BYTES: Final = 65536

#: The alert protocol_version of TLS 1.0 (RFC 2246, 7.2).
_USE_TLS: Final = b"\x15\x03\x01\x00\x02\x02\x46"

TlsStream = trio.SSLStream[trio.SocketStream]


class HandshakeFailed(Exception):
    """A handshake failed; the text is the reason."""


async def secure_client(
    stream: trio.SocketStream, context: ssl.SSLContext, host: str, *, is_https: bool = False
) -> TlsStream:
    """Makes a client's handshake and returns the secured stream; the caller bounds its time.

    Args:
        stream: the connection; closed if the handshake fails or is cancelled.
        context: verifies the server.
        host: the server's name, which its certificate must have.
        is_https: whether the end of the stream needs no farewell of TLS, as for HTTP.

    Raises:
        HandshakeFailed: see :func:`make_handshake`.
    """
    secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=is_https)
    try:
        await make_handshake(secured)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
        raise
    return secured


async def make_handshake(stream: TlsStream, *, alert_in_clear: bool = False) -> None:
    """Makes the handshake; the caller bounds its time, and closes the stream if it fails.

    Args:
        stream: the connection. Cancelled, it can't be used any more.
        alert_in_clear: whether to send a client that does not use TLS an alert, too: it makes sense
            only to one that knows how TLS begins.

    Raises:
        HandshakeFailed: the peer has received an alert, if there was one to send.
    """
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        in_clear = alert_in_clear and isinstance(cause, ssl.SSLError) and is_not_tls(cause)
        with trio.move_on_after(LINGER_S):
            await _send_alert(stream, _USE_TLS if in_clear else b"")
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLEOFError):
            raise HandshakeFailed(connection_reason(cause)) from error
        raise HandshakeFailed("closed by the other end") from error


async def _send_alert(stream: TlsStream, alert_in_clear: bytes) -> None:
    # OpenSSL has left the alert here. trio has no public access to it.
    outgoing: Any = stream._outgoing
    alert = outgoing.read() or alert_in_clear
    if not alert:
        return
    transport = stream.transport_stream
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await transport.send_all(alert)
        await transport.send_eof()
        received = 0
        while received < _LINGER_BYTES and (data := await transport.receive_some(4096)):
            received += len(data)
