"""The certificates of the tests; ``tests/certificates/make.sh`` has made them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from hbtrio.net.tls import client_tls
from hbtrio.net.tls_files import TlsFiles, server_files

HERE: Final = Path(__file__).parents[1] / "certificates"

#: Has signed those of the agent, the operator and most hosts.
AUTHORITY: Final = str(HERE / "authority.pem")


def pair(name: str) -> tuple[str, str]:
    """A certificate and its key."""
    return str(HERE / f"{name}.pem"), str(HERE / f"{name}.key")


def files(name: str, authority: str = "authority") -> tuple[str, str, str]:
    """A certificate, its key and the authority of the other end."""
    return *pair(name), str(HERE / f"{authority}.pem")


def trusting(name: str = "") -> ssl.SSLContext:
    """A client that trusts the agent, and may have a certificate to show."""
    return client_tls("test", *(pair(name) if name else ("", "")), authority=AUTHORITY)


def of_agent(*, clients: bool = False) -> TlsFiles:
    """An agent's API, where clients may have certificates or are not asked for them."""
    return server_files("test", *pair("agent"), AUTHORITY if clients else "", optional=True)
