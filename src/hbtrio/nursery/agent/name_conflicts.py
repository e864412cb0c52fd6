"""Detects hosts with the same name, whose connections replace each other forever.

A single replacement is normal: a process replaces its own dead connection, and a restarted daemon
replaces the connection of the old one. Only several replacements in a row are a conflict.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import attrs

_log = logging.getLogger("hbtrio.links")

#: This many replacements within this many seconds are a conflict, which ends after as long without
#: a replacement. Hosts dial again within 2 s.
REPLACEMENTS: Final = 3
WITHIN_S: Final = 60.0


@attrs.define
class _Name:
    """The times of the last replacements, and the peers of the last one."""

    times: deque[float] = attrs.field(factory=lambda: deque(maxlen=REPLACEMENTS))
    peers: tuple[str, str] = ("", "")
    logged: bool = False

    def lasts(self, now: float) -> bool:
        return self.logged and now - self.times[-1] <= WITHIN_S


class NameConflicts:
    """Keeps recent replacements by host name; each is forgotten after ``WITHIN_S``."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def replaced(self, hostname: str, old: str, new: str, now: float) -> None:
        """Notes and logs that another process has replaced a connection; logs a conflict once.

        Args:
            hostname: the name of both hosts.
            old: the peer of the replaced connection, as from ``peer_text``.
            new: the peer of the new connection.
            now: the time on trio's clock.
        """
        for name in [name for name, one in self._names.items() if now - one.times[-1] > WITHIN_S]:
            del self._names[name]
        known = self._names.setdefault(hostname, _Name())
        known.times.append(now)
        known.peers = (old, new)
        if known.logged:
            return
        if len(known.times) == REPLACEMENTS and now - known.times[0] <= WITHIN_S:
            known.logged = True
            _log.error(
                "%s: %s; their links keep replacing each other", hostname, self.of(hostname, now)
            )
        else:
            text = "%s: a newer connection, from %s, replaces the old one, from %s"
            _log.warning(text, hostname, new, old)

    def of(self, hostname: str, now: float) -> str:
        """Describes the conflict about a name while it lasts; else ""."""
        known = self._names.get(hostname)
        if known is None or not known.lasts(now):
            return ""
        first, second = sorted(known.peers)
        return f"two hosts use this name, from {first} and from {second}"
