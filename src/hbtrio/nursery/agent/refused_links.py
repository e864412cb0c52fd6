"""Logs connections to the link's address that were refused, one line a minute for each address.

A host that is refused dials again every 2 s. A host whose certificate is refused has not said its
name yet: then the log names the host that was linked from that address before.
"""

from __future__ import annotations

import logging
from typing import Final

import attrs

_log = logging.getLogger("hbtrio.links")

#: Seconds between two lines about one address.
EVERY_S: Final = 60.0

#: Addresses with lines of their own; further ones share a line. Known names of addresses.
MOST: Final = 100
_KNOWN: Final = 10_000

_OTHERS: Final = "further addresses"


@attrs.define
class _Address:
    """When an address was last logged, and how many refusals were not logged since."""

    at: float
    unlogged: int = 0


class RefusedLinks:
    """Counts and logs refused connections."""

    def __init__(self) -> None:
        #: All refused connections, for status and metrics.
        self.count = 0
        self._addresses: dict[str, _Address] = {}
        #: The host that was linked from an address, the oldest first; "" if there were several, as
        #: behind a proxy.
        self._hosts: dict[str, str] = {}

    def accepted(self, peer: str, hostname: str) -> None:
        """Notes that a host was linked from a peer, as from ``peer_text``."""
        address = _without_port(peer)
        before = self._hosts.pop(address, hostname)
        self._hosts[address] = hostname if hostname == before else ""
        if len(self._hosts) > _KNOWN:
            del self._hosts[next(iter(self._hosts))]

    def log(self, peer: str, reason: str, now: float) -> None:
        """Counts a refused connection, and logs it unless the address was logged shortly before.

        Args:
            peer: the connection's peer, as from ``peer_text``.
            reason: why it was refused.
            now: the time on trio's clock.
        """
        self.count += 1
        for name in [name for name, one in self._addresses.items() if now - one.at >= 2 * EVERY_S]:
            del self._addresses[name]
        address = _without_port(peer)
        name = address
        if name not in self._addresses and len(self._addresses) >= MOST:
            name = _OTHERS
        known = self._addresses.get(name)
        if known is not None and now - known.at < EVERY_S:
            known.unlogged += 1
            return
        more = known.unlogged if known is not None else 0
        self._addresses[name] = _Address(now)
        host = self._hosts.get(address)
        _log.warning(
            "%s%s: connection refused: %s%s",
            peer,
            f" ({host} was linked from there)" if host else "",
            reason,
            f" ({more} more since the last line about {name})" if more else "",
        )


def _without_port(peer: str) -> str:
    address, _, port = peer.rpartition(":")
    return address if port.isdigit() else peer
