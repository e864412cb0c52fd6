"""Delivers alerts by posting each to a URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx
import trio

from hbtrio.net.faults import os_text
from hbtrio.net.renewed_transport import RenewedTransport
from hbtrio.net.tls_files import TlsFiles
from hbtrio.wire.alert import Told, Undelivered, signature_headers

#: Statuses below 500 after which a further attempt may succeed: the server's own timeout, too
#: early, and too many requests.
_TRY_AGAIN: Final = frozenset({408, 425, 429})


class Webhook:
    """Posts each alert to a URL, signed.

    Args:
        url: where to.
        secret: returns the secret; None: requests are not signed.
        tls: the TLS context of an https URL.
        timeout_s: how long a request may take.
        wall_seconds: the wall clock, in seconds since 1970.
    """

    name = "webhook"

    def __init__(
        self,
        url: str,
        secret: Callable[[], str] | None,
        tls: TlsFiles | None,
        timeout_s: float,
        wall_seconds: Callable[[], float],
    ) -> None:
        self._url = url
        self._secret = secret
        self._timeout_s = timeout_s
        self._wall_seconds = wall_seconds
        self._transport = RenewedTransport(tls)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._transport.aclose()

    async def send(self, told: Told) -> None:
        """Posts an alert; see :class:`~hbtrio.nursery.notifier.AlertChannel`."""
        secret = "" if self._secret is None else self._secret()
        headers = signature_headers(secret, told.id, int(self._wall_seconds()), told.body)
        headers |= {"content-type": "application/json", "user-agent": "hbtrio"}
        request = httpx.Request("POST", self._url, headers=headers, content=told.body)
        try:
            with trio.fail_after(self._timeout_s):
                response = await self._transport.handle_async_request(request)
                # The status is the answer; a body without end would be read for ever.
                await response.aclose()
        except trio.TooSlowError:
            raise Undelivered(f"no answer within {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise Undelivered(os_text(error) or "no valid answer") from None
        status = response.status_code
        if not 200 <= status < 300:
            is_final = status < 500 and status not in _TRY_AGAIN
            raise Undelivered(f"status {status}", is_final=is_final)
