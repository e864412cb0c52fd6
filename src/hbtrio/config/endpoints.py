"""Declares endpoints in a configuration file: where to listen and where to connect."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from typing import Any, Final, Protocol

from hbtrio.config.settings import LISTENED_PATH_BYTES, SOCKET_PATH_BYTES, checked_field, unfit
from hbtrio.config.source import Fault, shown

_WORDS: Final = "unix:/PATH or tcp:HOST:PORT"
_UNIX: Final = "unix:"
_TCP = re.compile(r"tcp:(?P<host>\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):(?P<port>0|[1-9][0-9]{0,8})")
#: Hosts that only this machine can reach.
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def listen_at(default: str) -> Any:
    """Declare an endpoint to listen at; a unix socket's path has at most 106 bytes."""
    return _endpoint(default, LISTENED_PATH_BYTES)


def may_listen_at() -> Any:
    """Declare an endpoint to listen at, or empty; a unix socket's path has at most 106 bytes."""
    return _endpoint("", LISTENED_PATH_BYTES, optional=True)


def connect_to(default: str = "") -> Any:
    """Declare an endpoint to connect to, or empty; a unix path has at most 107 bytes."""
    return _endpoint(default, SOCKET_PATH_BYTES, optional=True)


def is_local(listen: str) -> bool:
    """Return whether only this machine can reach an endpoint."""
    match = _TCP.fullmatch(listen)
    return listen.startswith(_UNIX) if match is None else match["host"] in _LOCAL_HOSTS


class ServedApi(Protocol):
    """The keys of a table for an HTTP API."""

    @property
    def listen(self) -> str:
        """Where it is served."""

    @property
    def certificate(self) -> str:
        """The file of its certificate, or empty."""

    @property
    def key(self) -> str:
        """The file of the certificate's key, or empty."""

    @property
    def authority(self) -> str:
        """The file of the authority of its clients' certificates, or empty."""


def tls_of_an_api(api: ServedApi) -> Iterator[str]:
    """The rule that an API has all of TLS or none, and needs it beyond this machine."""
    if bool(api.certificate) != bool(api.key):
        yield Fault("certificate and key go together", "certificate", "key")
    elif api.authority and not api.certificate:
        yield Fault("authority needs certificate and key", "authority")
    elif api.certificate and api.listen.startswith("unix:"):
        yield Fault("certificate and key are for tcp, not for a unix socket", "certificate")
    elif not api.certificate and not is_local(api.listen):
        yield Fault("listen: certificate and key are needed for this address", "listen")


def clash(one: str, other: str) -> bool:
    """Return whether a machine can't listen at both of two valid endpoints.

    Host names other than ``localhost`` are not resolved: a clash of those fails when the daemon
    listens.
    """
    first, second = _TCP.fullmatch(one), _TCP.fullmatch(other)
    if first is None or second is None:
        return first is second and _path(one) == _path(other)
    if first["port"] != second["port"]:
        return False
    hosts = [_host(match["host"]) for match in (first, second)]
    if hosts[0] == hosts[1]:
        return True
    # 0.0.0.0 covers every IPv4 address, [::] every IPv6 address and no IPv4 address.
    return any(
        not isinstance(any_host, str)
        and any_host.is_unspecified
        and not isinstance(host, str)
        and host.version == any_host.version
        for any_host, host in (hosts, reversed(hosts))
    )


def _endpoint(default: str, limit: int, *, optional: bool = False) -> Any:
    span = f"{_WORDS}, or empty" if optional else _WORDS

    def check(value: str) -> Iterator[str]:
        if optional and not value:
            return
        path = value.removeprefix(_UNIX)
        if path != value and path.startswith("/") and path != "/":
            yield from unfit(path)
            if (size := len(path.encode(errors="replace"))) > limit:
                yield f"the path must be at most {limit} bytes long, got {size}"
        elif (match := _TCP.fullmatch(value)) is None:
            yield f"must be {span}, got {shown(value)}"
        elif not 0 < int(match["port"]) < 65536:
            yield f"the port must be 1 to 65535, got {match['port']}"

    return checked_field(default, check, span)


def _path(endpoint: str) -> str:
    # With a leading dot, because normpath() keeps two leading slashes, as POSIX allows.
    return os.path.normpath(f".{endpoint.removeprefix(_UNIX)}")


def _host(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    name = host.strip("[]").casefold()
    try:
        return ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return name
