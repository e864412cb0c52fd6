"""Mutual TLS of the link: contexts out of three files, for either end."""

from __future__ import annotations

import ssl

from hbtrio.errors import ExitStatus, UserError, os_reason


def client_tls(where: str, certificate: str, key: str, authority: str) -> ssl.SSLContext | None:
    """What a host wraps its connection in; without a certificate, None.

    Args:
        where: the place in the configuration, for faults.
        certificate: the host's, with what is between it and the authority.
        key: its key, not encrypted.
        authority: what has signed the agent's certificate, which bears the name that is dialled.

    Raises:
        UserError: a file can't be read, or is not what it should be.
    """
    if not certificate:
        return None
    context = _context(where, ssl.PROTOCOL_TLS_CLIENT, certificate, key, authority)
    context.check_hostname = True
    return context


def server_tls(where: str, certificate: str, key: str, authority: str) -> ssl.SSLContext | None:
    """What an agent wraps a host's connection in; without a certificate, None.

    Args and Raises: those of :func:`client_tls`, the other way round. That the host's certificate
    bears the name that the host gives itself is for agent_links to check.
    """
    if not certificate:
        return None
    return _context(where, ssl.PROTOCOL_TLS_SERVER, certificate, key, authority)


def _context(where: str, role: int, certificate: str, key: str, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(role)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (authority, certificate, key):
        try:
            # OpenSSL does not say which of its files it is that can't be read.
            with open(path, "rb"):
                pass
        except OSError as error:
            denied = isinstance(error, PermissionError)
            status = ExitStatus.DENIED if denied else ExitStatus.USAGE
            raise UserError(f"{where}: {path}: {os_reason(error)}", status) from error
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise UserError(f"{where}: {authority}: no certificates in PEM: {_why(error)}") from error
    try:
        # Without the password OpenSSL would ask for it at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        raise UserError(f"{where}: {certificate} and {key}: {_why(error)}") from error
    return context


def _why(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
