"""Where the operator API of a host or an agent is, as `hbtrio ctl` is told it."""

from __future__ import annotations

from typing import Final

import attrs
import httpx

from hbtrio.config.source import printable
from hbtrio.errors import UserError

#: What this machine is called by itself.
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@attrs.frozen
class Address:
    """Where an API is: the path of a unix socket, or the base of an ``http`` or ``https`` URL."""

    text: str
    socket: str | None
    base: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``unix:PATH``, ``http://HOST[:PORT]`` or ``https://HOST[:PORT]``.

        Raises:
            UserError: USAGE, it is none of them.
        """
        shown = printable(text[:200])
        scheme, _, rest = text.partition(":")
        if scheme == "unix":
            path = "/" + rest.lstrip("/") if rest.startswith("//") else rest
            if not path.strip("/") or "\0" in path:
                raise UserError(f"{shown}: names no socket, such as unix:/run/hbtrio/host.sock")
            return cls(shown, path, "http://host")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            url = httpx.URL()
        known = url.scheme in ("http", "https")
        if not known or not url.host or url.userinfo or url.raw_path != b"/":
            raise UserError(f"{shown}: neither unix:PATH nor http[s]://HOST[:PORT]")
        return cls(shown, None, str(url))

    @property
    def is_tls(self) -> bool:
        """Whether it is reached through TLS."""
        return self.base.startswith("https:")

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read what is sent there."""
        return self.socket is not None or self.is_tls or httpx.URL(self.base).host in _LOOPBACK
