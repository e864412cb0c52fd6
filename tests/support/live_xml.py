"""The live XML of domains, as far as a test asks."""

from __future__ import annotations

from hbtrio.wire.virsh import read_live_xml


def sockets_in(text: str) -> dict[str, tuple[str, ...]]:
    """The sockets of the heartbeat channels of each domain."""
    return {uuid: xml.sockets for uuid, xml in read_live_xml(text).items()}
