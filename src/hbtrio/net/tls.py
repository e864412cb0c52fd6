"""Creates the TLS contexts of all clients and servers.

Every client verifies its server, and TLS 1.2 is the minimum. A daemon's contexts are replaced when
their files are renewed, see :mod:`hbtrio.net.tls_files`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from hbtrio.errors import ExitStatus, UserError, os_reason

#: Alerts of a peer that refuses this end's certificate, and what they say (RFC 8446, 6.2).
_REFUSED: Final = {
    "certificate expired": "it has expired",
    "certificate required": "none was sent",
    "certificate revoked": "it was revoked",
    "unknown ca": "its authority is unknown there",
    "bad certificate": "bad certificate",
    "certificate unknown": "certificate unknown",
    "unsupported certificate": "unsupported certificate",
}

#: OpenSSL's words for bytes that are not TLS.
_NOT_TLS: Final = frozenset({"wrong version number", "http request", "https proxy request"})


def client_tls(
    where: str, certificate: str = "", key: str = "", authority: str = ""
) -> ssl.SSLContext:
    """Creates a client's context, which verifies the server's certificate and host name.

    Args:
        where: the place in the configuration or the command line, for faults.
        certificate: the file of the client's certificate chain; empty: none.
        key: the file of its key, not encrypted.
        authority: the file of the CA certificates for the server; empty: the system's trust store.

    Raises:
        UserError: a file can't be read or is invalid.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, where, certificate, key, authority)
    if not authority:
        context.load_default_certs()
    return context


def server_tls(
    where: str, certificate: str, key: str, authority: str = "", *, optional: bool = False
) -> ssl.SSLContext:
    """Creates a server's context.

    Args:
        where: the place in the configuration, for faults.
        certificate: the file of the server's certificate chain.
        key: the file of its key, not encrypted.
        authority: the file of the CA certificates for clients; empty: no client certificates.
        optional: whether a client may connect without a certificate; an invalid one is always
            refused. The caller decides what a certificate permits.

    Raises:
        UserError: a file can't be read or is invalid.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Matters for TLS 1.2: a client could request one handshake after another.
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load(context, where, certificate, key, authority)
    if authority:
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, where: str, certificate: str, key: str, authority: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in filter(None, (authority, certificate, key)):
        try:
            # OpenSSL's error doesn't name the file that can't be read.
            with open(path, "rb"):
                pass
        except OSError as error:
            denied = isinstance(error, PermissionError)
            status = ExitStatus.DENIED if denied else ExitStatus.USAGE
            raise UserError(f"{where}: {path}: {os_reason(error)}", status) from error
    if authority:
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError as error:
            text = f"{where}: {authority}: no certificates in PEM: {_why(error)}"
            raise UserError(text) from error
    if certificate:
        try:
            # Without a password OpenSSL would prompt at the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except ssl.SSLError as error:
            raise UserError(f"{where}: {certificate} and {key}: {_why(error)}") from error


def owner_of(certificate: Mapping[str, Any] | None) -> str | None:
    """Returns the owner of a peer's certificate: its common name, else another name or serial.

    Args:
        certificate: the result of ``getpeercert()``.

    Returns:
        None without a certificate; else any text of any length.
    """
    if not certificate:
        return None
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [f"CN={value}" for kind, value in subject if kind == "commonName"]
    names += [f"{kind}={value}" for kind, value in certificate.get("subjectAltName", ())]
    names += [f"{kind}={value}" for kind, value in subject]
    return (*names, f"serial {certificate.get('serialNumber')}")[0]


def expiry_of(certificate: Mapping[str, Any] | None) -> datetime | None:
    """Returns when a peer's certificate expires; None without one.

    Args:
        certificate: the result of ``getpeercert()``.
    """
    text = (certificate or {}).get("notAfter")
    if text is None:
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def host_names_of(certificate: Mapping[str, Any] | None) -> set[str]:
    """Returns the host names of a peer's certificate; as in RFC 6125, the common name last.

    Args:
        certificate: the result of ``getpeercert()``.
    """
    found = certificate or {}
    names = {value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"}
    return names or {
        value for part in found.get("subject", ()) for kind, value in part if kind == "commonName"
    }


def connection_reason(error: OSError) -> str:
    """Returns why a connection failed, for errors of the resolver, the system and TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return _tls_reason(_why(error))
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    return os_reason(error)


def is_not_tls(error: ssl.SSLError) -> bool:
    """Returns whether a handshake failed because the other end does not use TLS."""
    return _why(error) in _NOT_TLS


def _tls_reason(why: str) -> str:
    if why in _NOT_TLS:
        return "the other end does not use TLS"
    # As in "sslv3 alert certificate expired"; the version before it is of the alert's definition.
    _, is_alert, alert = why.partition(" alert ")
    if not is_alert:
        return f"TLS: {why}"
    if alert in _REFUSED:
        return f"the other end refuses this end's certificate: {_REFUSED[alert]}"
    return f"the other end refuses the connection: TLS alert {alert}"


def _why(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
