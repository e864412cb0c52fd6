"""TLS: the one place where contexts are made, for every client and every server of hbtrio.

No client goes without checking whom it talks to, and nothing older than TLS 1.2 is spoken.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

from hbtrio.errors import ExitStatus, UserError, os_reason


def client_tls(
    where: str, certificate: str = "", key: str = "", authority: str = ""
) -> ssl.SSLContext:
    """What a client wraps its connections in; it checks the server's certificate and its name.

    Args:
        where: the place in the configuration or the command line, for faults.
        certificate: the client's, with what is between it and the server's authority; empty: it
            has none to show.
        key: its key, not encrypted.
        authority: what has signed the server's certificate, which bears the name that is dialled;
            empty: those that the system trusts.

    Raises:
        UserError: a file can't be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, where, certificate, key, authority)
    if not authority:
        context.load_default_certs()
    return context


def server_tls(
    where: str, certificate: str, key: str, authority: str = "", *, optional: bool = False
) -> ssl.SSLContext:
    """What a server wraps its connections in.

    Args:
        where: the place in the configuration, for faults.
        certificate: the server's, with what is between it and the authority of its clients.
        key: its key, not encrypted.
        authority: what has signed the clients' certificates; empty: no client is asked for one.
        optional: a client may come without a certificate, though not with one that is no good.
            Else it has to have one. What the certificate entitles it to is for others to say.

    Raises:
        UserError: a file can't be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Only with TLS 1.2, where a client could have us make one handshake after the other.
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load(context, where, certificate, key, authority)
    if authority:
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, where: str, certificate: str, key: str, authority: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in filter(None, (authority, certificate, key)):
        try:
            # OpenSSL does not say which of its files it is that can't be read.
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
            # Without the password OpenSSL would ask for it at the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except ssl.SSLError as error:
            raise UserError(f"{where}: {certificate} and {key}: {_why(error)}") from error


def owner_of(certificate: Mapping[str, Any] | None) -> str | None:
    """Who a peer's certificate says it is, for people: its common name, else what else it has.

    Args:
        certificate: as ``getpeercert()`` returns it.

    Returns:
        None without a certificate; not bounded, and what is in it may be anything.
    """
    if not certificate:
        return None
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [f"CN={value}" for kind, value in subject if kind == "commonName"]
    names += [f"{kind}={value}" for kind, value in certificate.get("subjectAltName", ())]
    names += [f"{kind}={value}" for kind, value in subject]
    return (*names, f"serial {certificate.get('serialNumber')}")[0]


def connection_reason(error: OSError) -> str:
    """Why a connection failed, whoever noticed it: the resolver, the system, or TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {_why(error)}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    return os_reason(error)


def _why(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
