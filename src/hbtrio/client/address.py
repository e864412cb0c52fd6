"""The address of a host's or agent's operator API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs
import httpx

from hbtrio.config.settings import SOCKET_PATH_BYTES
from hbtrio.errors import UserError
from hbtrio.text import printable

#: Where a host and an agent listen by default: ``control_socket`` of host.toml, and
#: ``operator.listen`` of agent.toml.
HOST_URL: Final = "unix:/run/hbtrio/host.sock"
AGENT_URL: Final = "unix:/run/hbtrio/agent.sock"

#: Names of this machine on its loopback interface.
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@attrs.frozen
class Address:
    """Where an API is: the path of a unix socket, or the base of an ``http`` or ``https`` URL."""

    text: str
    socket: str | None
    base: str

    @classmethod
    def chosen(cls, url: str | None, environment: Mapping[str, str]) -> Address:
        """The address to use: the one given, else HBTRIO_URL, else the daemon on this machine.

        Args:
            url: the address given on the command line, if any.
            environment: the environment of the process.

        Raises:
            UserError: USAGE, it is not an address.
        """
        if url is not None:
            return cls.parse(url)
        if given := environment.get("HBTRIO_URL"):
            try:
                return cls.parse(given)
            except UserError as fault:
                raise UserError(f"HBTRIO_URL: {fault}", fault.status) from fault
        present = [
            one for one in (HOST_URL, AGENT_URL) if os.path.exists(one.removeprefix("unix:"))
        ]
        # If neither exists, the host's: the error then names the daemon that most machines run.
        return cls.parse(present[0] if present else HOST_URL)

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
                raise UserError(f"{shown}: names no socket, such as {HOST_URL}")
            if (length := len(os.fsencode(path))) > SOCKET_PATH_BYTES:
                limit = f"a socket's path has at most {SOCKET_PATH_BYTES} bytes"
                raise UserError(f"{shown}: {limit}, this one has {length}")
            return cls(shown, path, "http://host")
        try:
            url = httpx.URL(text)
            host = url.host
        except (httpx.InvalidURL, ValueError):  # the latter for a host that is no IDNA name
            url, host = httpx.URL(), ""
        known = url.scheme in ("http", "https")
        if not known or not host or url.userinfo or url.raw_path != b"/":
            raise UserError(f"{shown}: neither unix:PATH nor http[s]://HOST[:PORT]")
        if url.port is not None and not 1 <= url.port <= 65535:
            raise UserError(f"{shown}: the port must be 1 to 65535, not {url.port}")
        return cls(shown, None, str(url))

    @property
    def is_tls(self) -> bool:
        """Whether the connection uses TLS."""
        return self.base.startswith("https:")

    @property
    def is_private(self) -> bool:
        """Whether what is sent there can't be read on the way."""
        return self.socket is not None or self.is_tls or httpx.URL(self.base).host in _LOOPBACK
