"""Decides whether the first message of a connection makes it a host's link."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from hbtrio.net.tls import host_names_of
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.text import printable
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_messages import PROTOCOL, FromHost, Hello

#: Hosts with a link, at most.
_HOSTS: Final = 10_000

#: Names of a refused certificate in the log, and their characters, at most.
_NAMES: Final = 3
_NAME_CHARS: Final = 200

#: A valid hostname, as in host.toml: it is logged, and sent to the VIM.
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)

#: A valid host_uuid, or "" if none is configured. The inventory keeps a record of each.
_HOST_UUID: Final = re.compile(r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?", re.ASCII)


def accepted_hello(
    message: FromHost, stream: trio.abc.Stream, sessions: Mapping[str, HostSession]
) -> Hello:
    """Checks the first message of a connection; returns it with ``host_uuid`` in lower case.

    Raises:
        LinkError: the message is not an acceptable hello.
    """
    if not isinstance(message, Hello):
        raise LinkError("the first message is not hello")
    if message.protocol != PROTOCOL:
        raise LinkError(f"protocol {message.protocol}, this agent speaks {PROTOCOL}")
    if not _HOSTNAME.fullmatch(message.hostname):
        raise LinkError(f"{message.hostname[:40]!r} is not a host name")
    # Normalized, because the VIM's requests may use any case.
    host_uuid = message.host_uuid.lower()
    if not _HOST_UUID.fullmatch(host_uuid):
        raise LinkError(f"host_uuid {message.host_uuid[:40]!r} is not a uuid")
    if isinstance(stream, trio.SSLStream):
        names = host_names_of(stream.getpeercert())
        if message.hostname not in names:
            raise LinkError(_wrong_name(message.hostname, names))
    if len(sessions) >= _HOSTS and message.hostname not in sessions:
        raise LinkError(f"{_HOSTS} hosts are connected, the maximum")
    return attrs.evolve(message, host_uuid=host_uuid)


def _wrong_name(hostname: str, names: set[str]) -> str:
    found = ", ".join(sorted(names)[:_NAMES]) or "no host name"
    shown = printable(found)[:_NAME_CHARS]
    return f"the certificate is not valid for the name {hostname}, but for {shown}"
