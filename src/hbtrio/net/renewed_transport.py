"""Makes HTTP requests with the TLS context of the present files."""

from __future__ import annotations

import httpx

from hbtrio.net.tls_files import TlsFiles


class RenewedTransport(httpx.AsyncBaseTransport):
    """An httpx transport that is replaced when the files of its context are renewed.

    Args:
        tls: the context; None for plain HTTP.
    """

    def __init__(self, tls: TlsFiles | None) -> None:
        self._tls = tls
        self._context = None if tls is None else tls.value.context
        self._transport = self._new()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Makes a request with the present files."""
        return await self.present().handle_async_request(request)

    def present(self) -> httpx.AsyncHTTPTransport:
        """Returns the transport for the next request."""
        context = None if self._tls is None else self._tls.value.context
        if context is not self._context:
            # Without idle connections the previous transport has nothing to close; a request in
            # progress still uses it.
            self._context = context
            self._transport = self._new()
        return self._transport

    async def aclose(self) -> None:
        """Closes the transport."""
        await self._transport.aclose()

    def _new(self) -> httpx.AsyncHTTPTransport:
        # The transport, not a client: no proxies from the environment, no redirects or cookies, and
        # no pool that would keep a connection which the VIM is about to close.
        return httpx.AsyncHTTPTransport(
            # Without TLS there is nothing to verify, and loading a trust store takes time.
            verify=self._context or False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
