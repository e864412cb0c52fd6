"""Says whom a line of the host's log is about: an instance by its uuid and its name."""

from __future__ import annotations

from collections.abc import Mapping

from hbtrio.log import Subject
from hbtrio.log.subject import NOBODY, is_uuid
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.domains import Domains


class HostSubjects:
    """Knows the names of the host's instances, for its log.

    Args:
        hostname: the host's name.
        channels: its instances, which report their names.
        domains: libvirt's names, for those that have not yet, or are gone.
    """

    def __init__(self, hostname: str, channels: Mapping[str, Channel], domains: Domains) -> None:
        self._hostname = hostname
        self._channels = channels
        self._domains = domains

    def find(self, text: str) -> Subject:
        """Returns the instance with this uuid, known or not; ``NOBODY`` if it is no uuid."""
        if not is_uuid(text):
            return NOBODY
        channel, domain = self._channels.get(text), self._domains.of(text)
        name = "" if channel is None else channel.heartbeat.profile.name
        return Subject(text, name or ("" if domain is None else domain.name), self._hostname)
