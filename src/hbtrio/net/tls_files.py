"""The TLS contexts and tokens of daemons, which are replaced when their files are renewed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from hbtrio.net.tls import client_tls, server_tls
from hbtrio.net.token_file import read_token
from hbtrio.policy.expiry import FileCertificate
from hbtrio.system.renewed_files import RenewedFiles
from hbtrio.wire.certificates import Certificate, certificates_in


@attrs.frozen
class LoadedTls:
    """A context, and those of the certificates it uses that expire first."""

    context: ssl.SSLContext
    certificates: tuple[FileCertificate, ...]


TlsFiles = RenewedFiles[LoadedTls]


def client_files(
    where: str, certificate: str = "", key: str = "", authority: str = "", *, keys: str = ""
) -> TlsFiles:
    """As :func:`~hbtrio.net.tls.client_tls`, replaced when a file is renewed.

    ``keys`` precedes the names of the certificates' keys of the configuration: ``agent.``.
    """
    files = (certificate, key, authority)
    return _renewed(lambda: client_tls(where, *files), keys, *files)


def server_files(
    where: str,
    certificate: str,
    key: str,
    authority: str = "",
    *,
    keys: str = "",
    optional: bool = False,
) -> TlsFiles:
    """As :func:`~hbtrio.net.tls.server_tls`, replaced when a file is renewed.

    ``keys`` is that of :func:`client_files`.
    """
    files = (certificate, key, authority)
    return _renewed(lambda: server_tls(where, *files, optional=optional), keys, *files)


def _renewed(
    make: Callable[[], ssl.SSLContext], keys: str, certificate: str, key: str, authority: str
) -> TlsFiles:
    def load() -> LoadedTls:
        context = make()
        found = (
            # Each certificate of a chain is needed; of several authorities only those in force.
            _first(f"{keys}certificate", certificate, all_needed=True),
            _first(f"{keys}authority", authority, all_needed=False),
        )
        return LoadedTls(context, tuple(one for one in found if one is not None))

    return RenewedFiles((certificate, key, authority), load)


def _first(where: str, path: str, *, all_needed: bool) -> FileCertificate | None:
    """Returns the certificate of a file that expires first; None if none can be decoded."""
    if not path:
        return None
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            found = certificates_in(file.read())
    except OSError:
        return None  # the context was just made of it; the next check finds what has changed
    now = datetime.now(UTC)
    in_force = [one for one in found if all_needed or one.expires > now] or found
    if not in_force:
        return None
    first: Certificate = min(in_force, key=lambda one: one.expires)
    return FileCertificate(where, path, first.owner, first.expires)


def token_files(path: str, where: str) -> RenewedFiles[str]:
    """As :func:`~hbtrio.net.token_file.read_token`; the token is replaced when its file is."""
    return RenewedFiles([path], lambda: read_token(path, where))
