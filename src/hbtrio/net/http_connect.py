"""Connects to the server of an http or https URL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import httpx
import trio

from hbtrio.errors import is_thread_shortage
from hbtrio.net.endpoints import Unreachable
from hbtrio.net.faults import os_text
from hbtrio.net.handshake import HandshakeFailed, secure_client
from hbtrio.net.tls import expiry_of
from hbtrio.net.tls_files import TlsFiles

_PORTS: Final = {"http": 80, "https": 443}


async def connect_http(
    url: httpx.URL, tls: TlsFiles | None, on_certificate: Callable[[datetime | None], None]
) -> trio.abc.Stream:
    """Connects, without a time limit; the environment's proxies are not used.

    Args:
        url: its host and port.
        tls: the context that verifies the server's certificate; None: no TLS.
        on_certificate: called with the time when the server's certificate expires.

    Returns:
        A stream whose end needs no TLS farewell, as HTTP has it.

    Raises:
        Unreachable: nothing listens, there is no route, or the handshake failed; the text is the
            reason alone.
    """
    try:
        stream = await trio.open_tcp_stream(url.host, url.port or _PORTS[url.scheme])
    except OSError as error:
        raise Unreachable(os_text(error) or str(error)) from error
    except RuntimeError as error:
        if not is_thread_shortage(error):
            raise
        # The host's name is looked up in a thread.
        raise Unreachable(str(error)) from error
    if tls is None:
        return stream
    try:
        secured = await secure_client(stream, tls.value.context, url.host, is_https=True)
    except HandshakeFailed as error:
        raise Unreachable(str(error)) from error
    on_certificate(expiry_of(secured.getpeercert()))
    return secured
