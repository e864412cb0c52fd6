"""Hosts that call themselves the same: each of their connections replaces the other's, for ever.

A connection of the same process replaces one that only this end believes in, and one of a daemon
that was started again replaces that of the former: neither goes on. So it is a conflict only once
it has happened some times in a row.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import attrs

_log = logging.getLogger("hbtrio.links")

#: So many replacements within this time, in seconds, are two hosts; without one for as long it is
#: over. Hosts dial again within 2 s.
REPLACEMENTS: Final = 3
WITHIN_S: Final = 60.0


@attrs.define
class _Name:
    """When the last replacements were, and between whom the last one was."""

    times: deque[float] = attrs.field(factory=lambda: deque(maxlen=REPLACEMENTS))
    peers: tuple[str, str] = ("", "")
    said: bool = False

    def lasts(self, now: float) -> bool:
        return self.said and now - self.times[-1] <= WITHIN_S


class NameConflicts:
    """What is known of replacements, by host name; each is forgotten after ``WITHIN_S``."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def replaced(self, hostname: str, old: str, new: str, now: float) -> None:
        """Another process's connection took a host's place; logs it, a conflict once.

        Args:
            hostname: the name of both.
            old: whose connection was replaced, as ``peer_text`` has it.
            new: whose it is now.
            now: trio's time.
        """
        for name in [name for name, one in self._names.items() if now - one.times[-1] > WITHIN_S]:
            del self._names[name]
        known = self._names.setdefault(hostname, _Name())
        known.times.append(now)
        known.peers = (old, new)
        if known.said:
            return
        if len(known.times) == REPLACEMENTS and now - known.times[0] <= WITHIN_S:
            known.said = True
            _log.error("%s: %s; each throws the other out", hostname, self.of(hostname, now))
        else:
            text = "%s: a newer connection, from %s, replaces the old one, from %s"
            _log.warning(text, hostname, new, old)

    def of(self, hostname: str, now: float) -> str:
        """The conflict about a name for people, while it lasts; else ""."""
        known = self._names.get(hostname)
        if known is None or not known.lasts(now):
            return ""
        first, second = sorted(known.peers)
        return f"two hosts call themselves so, from {first} and from {second}"
