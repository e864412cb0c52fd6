"""Prints what ``virsh`` prints about simulated domains, in libvirt's formats and numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from hbtrio.wire.virsh import CHANNEL_NAME

#: States, as libvirt numbers them.
RUNNING: Final = 1
PAUSED: Final = 3
SHUT_OFF: Final = 5
CRASHED: Final = 6


@attrs.define
class ListedDomain:
    """A domain, as libvirt knows it; see :class:`~hbtrio.wire.virsh.DomainRow` for the numbers.

    Args:
        sockets: the paths of its heartbeat channels.
        metadata: the content of its element of that name, as XML.
        requests, packets: its disk requests and sent packets.
    """

    uuid: str
    name: str
    state: int = SHUT_OFF
    reason: int = 0
    domain_id: int = -1
    sockets: tuple[str, ...] = ()
    metadata: str = ""
    requests: int = 0
    packets: int = 0

    @property
    def xml(self) -> str:
        """The answer to ``dumpxml``."""
        channels = "".join(
            f"<channel type='unix'><source mode='bind' path='{path}'/>"
            f"<target type='virtio' name='{CHANNEL_NAME}'/></channel>"
            for path in self.sockets
        )
        metadata = f"<metadata>{self.metadata}</metadata>" if self.metadata else ""
        devices = f"<devices>{channels}</devices>"
        return f"<domain><uuid>{self.uuid}</uuid>{metadata}{devices}</domain>\n"

    @property
    def traffic(self) -> str:
        """The answer to ``domstats --raw --block --interface``."""
        return (
            f"Domain: '{self.name}'\n  block.count=1\n  block.0.name=vda\n"
            f"  block.0.rd.reqs={self.requests}\n  block.0.rd.bytes=4096\n"
            f"  net.count=1\n  net.0.rx.pkts=77\n  net.0.tx.pkts={self.packets}\n\n"
        )


def list_text(domains: Iterable[ListedDomain]) -> str:
    """The answer to :data:`~hbtrio.wire.virsh.DOMAINS_QUESTION`, its halves in different orders."""
    domains = list(domains)
    listed = "".join(
        f"{one.uuid} {one.domain_id if one.domain_id >= 0 else '-'} {one.name}\n" for one in domains
    )
    stats = "\n".join(
        f"Domain: '{one.name}'\n  state.state={one.state}\n  state.reason={one.reason}\n"
        for one in reversed(domains)
    )
    # With -q, virsh's echo ends no line.
    return f"{listed}STATS{stats}"


def answer_text(questions: str, domains: dict[str, ListedDomain]) -> str:
    """The answer to questions about single domains, which end with a uuid each."""
    text = ""
    for question in questions.split("; "):
        domain = domains.get(question.rpartition(" ")[2])
        if domain is not None:
            text += domain.traffic if question.startswith("domstats ") else f"{domain.xml}\n"
    return text


def lifecycle(name: str, text: str) -> str:
    """An event of ``virsh event``: ``Started Booted``."""
    return f"event 'lifecycle' for domain '{name}': {text}"


def reset_event(name: str) -> str:
    """The event of a reset, which changes no state."""
    return f"event 'reboot' for domain '{name}'"
