"""Endpoints in a configuration file: where to listen, and where to connect to."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from hbtrio.config.settings import LISTENED_PATH_BYTES, SOCKET_PATH_BYTES, checked_field, unfit
from hbtrio.config.source import shown

_WORDS: Final = "unix:/PATH or tcp:HOST:PORT"
_UNIX: Final = "unix:"
_TCP = re.compile(r"tcp:(?P<host>\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):(?P<port>0|[1-9][0-9]{0,8})")
#: Those that only this machine can reach.
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def listen_at(default: str) -> Any:
    """Declare where to listen; the path of a unix socket has at most 106 bytes."""
    return _endpoint(default, LISTENED_PATH_BYTES)


def connect_to(default: str = "") -> Any:
    """Declare where to connect to; empty is nowhere, and a unix path has at most 107 bytes."""
    return _endpoint(default, SOCKET_PATH_BYTES, optional=True)


def is_local(listen: str) -> bool:
    """Whether only this machine can reach an endpoint."""
    match = _TCP.fullmatch(listen)
    return listen.startswith(_UNIX) if match is None else match["host"] in _LOCAL_HOSTS


def clash(one: str, other: str) -> bool:
    """Whether no machine can listen at both of two sound endpoints.

    Of names only ``localhost`` is known here: what another is the name of, the machine finds out
    that listens.
    """
    first, second = _TCP.fullmatch(one), _TCP.fullmatch(other)
    if first is None or second is None:
        return first is second and _path(one) == _path(other)
    if first["port"] != second["port"]:
        return False
    hosts = [_host(match["host"]) for match in (first, second)]
    if hosts[0] == hosts[1]:
        return True
    # 0.0.0.0 is every address of version 4, [::] every one of version 6 and no other.
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
    # With a dot before it: POSIX has two slashes at the beginning mean something of their own.
    return os.path.normpath(f".{endpoint.removeprefix(_UNIX)}")


def _host(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    name = host.strip("[]").casefold()
    try:
        return ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return name
