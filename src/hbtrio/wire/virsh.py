"""Reads what the ``virsh`` program prints: domains with their states, events, live XML.

Formats are those of virsh in the C locale, measured with libvirt 9.0. Names are printed as they
are, without escapes, so an event's line may say anything: take it as a hint that something changed,
and ask for the states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from xml.etree import ElementTree

import attrs

#: The name of the virtio port that carries the heartbeat, in a domain's XML.
CHANNEL_NAME: Final = "cgcs.heartbeat"

#: One process asks for both halves. With ``-q``, echo ends no line.
DOMAINS_QUESTION: Final = "list --all --uuid --name --id; echo STATS; domstats --raw --state"

#: The element for hbtrio in a domain's metadata, and its namespace.
METADATA_NAMESPACE: Final = "urn:hbtrio:instance"
METADATA_ELEMENT: Final = "instance"
_ATTRIBUTES: Final = 32

_UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LISTED: Final = re.compile(rf"({_UUID}) (-|\d+) (.*)")
_STATS: Final = "STATSDomain: "
_STATE: Final = re.compile(r"^\s+state\.(state|reason)=(\d{1,9})$", re.MULTILINE)

#: Requests to disks, and packets sent: what only a living kernel makes.
_TRAFFIC: Final = re.compile(
    r"^\s+(?:block\.\d+\.(?:rd|wr|fl)\.reqs|net\.\d+\.tx\.pkts)=(\d{1,20})$", re.MULTILINE
)

#: The name ends at the end of a reset's line, which says no more, and else at the first ``': ``,
#: although a name may contain that: such a hint is about nothing, or about another domain.
_EVENT: Final = re.compile(
    r"event '(?:(reboot)' for domain '(.*)'|([a-z0-9-]+)' for domain '(.*?)'(?:: (.*))?)$"
)

#: Events after which a state, a reason, a channel or the metadata may be another.
_RELEVANT: Final = re.compile(
    r"lifecycle|reboot|watchdog|io-error|pm-[a-z-]+|device-[a-z-]+|metadata-change"
)


@attrs.frozen
class DomainRow:
    """What libvirt says of one domain.

    Args:
        uuid: in lower case.
        name: libvirt's name, any text on one line.
        domain_id: of the running domain, another one at each start; -1 if it is shut off.
        state: the number of the state.
        reason: the number of the reason.
    """

    uuid: str
    name: str
    domain_id: int
    state: int
    reason: int


#: What lifecycle events say first of a domain that runs on, or again.
_RUNS: Final = ("Resumed", "Started", "Defined")


@attrs.frozen
class DomainHint:
    """An event: something about the domain of this name may have changed."""

    kind: str
    name: str
    text: str = ""

    @property
    def is_reset(self) -> bool:
        """Whether the domain was reset or rebooted, which changes no state."""
        return self.kind == "reboot"

    @property
    def is_stop(self) -> bool:
        """Whether the domain may no longer run."""
        return self.kind == "lifecycle" and not self.text.startswith(_RUNS)

    @property
    def changes_xml(self) -> bool:
        """Whether a device was plugged in or out, perhaps a channel, or the metadata is another."""
        return self.kind.startswith("device-") or self.kind == "metadata-change"


def read_domains(text: str) -> dict[str, DomainRow] | None:
    """Reads the answer to :data:`DOMAINS_QUESTION`.

    Returns:
        The domains by uuid, without those that were renamed, defined or undefined between the two
        halves; None if this is no such answer.
    """
    if text.startswith("STATS") and not text.strip().removeprefix("STATS"):
        return {}
    listed, found, stats = text.partition(_STATS)
    if not found:
        return None
    rows = {}
    states = dict(_states("Domain: " + stats))
    for line in listed.splitlines():
        match = _LISTED.fullmatch(line)
        if match is not None and match[3] in states:
            uuid, domain_id, name = match.groups()
            number = -1 if domain_id == "-" else int(domain_id)
            rows[uuid] = DomainRow(uuid, name, number, *states[name])
    return rows


def _states(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for block in re.split("^Domain: '", text, flags=re.MULTILINE)[1:]:
        name, _, values = block.partition("'\n")
        numbers = {key: int(value) for key, value in _STATE.findall(values)}
        if "state" in numbers:
            yield name, (numbers["state"], numbers.get("reason", 0))


def read_traffic(text: str) -> int | None:
    """Reads ``domstats --raw --block --interface`` of one domain.

    Returns:
        The disk requests and sent packets of its life; None if this is no such answer.
    """
    if not text.lstrip().startswith("Domain: "):
        return None
    return sum(int(number) for number in _TRAFFIC.findall(text))


def read_event(line: str) -> DomainHint | None:
    """Reads a line of ``virsh event --all --loop``; None if it concerns nothing here."""
    match = _EVENT.search(line)
    if match is None:
        return None
    kind, name, text = match.group(1, 2, 2) if match[1] else match.group(3, 4, 5)
    if not _RELEVANT.fullmatch(kind):
        return None
    return DomainHint(kind, name, "" if match[1] else text or "")


@attrs.frozen
class LiveXml:
    """What the live XML of a running domain says that matters here.

    Args:
        sockets: of its heartbeat channels; channels that QEMU does not listen on are left out.
        metadata: the attributes of the element in its metadata, see ``METADATA_ELEMENT``; None: it
            has none that can be used.
        fault: why there is none that can be used; empty if that is no fault.
    """

    sockets: tuple[str, ...]
    metadata: Mapping[str, str] | None = None
    fault: str = ""


def read_live_xml(text: str) -> dict[str, LiveXml]:
    """Reads the live XML of some domains (``virsh dumpxml``), one after the other.

    Returns:
        What was found for each domain that could be read, by its uuid.
    """
    found = {}
    for part in text.split("</domain>")[:-1]:
        try:
            domain = ElementTree.fromstring(part + "</domain>")
        except ElementTree.ParseError:
            continue
        uuid = domain.findtext("uuid", "")
        if domain.tag == "domain" and re.fullmatch(_UUID, uuid):
            metadata, fault = _metadata(domain)
            found[uuid] = LiveXml(tuple(_sockets(domain)), metadata, fault)
    return found


def _metadata(domain: ElementTree.Element) -> tuple[Mapping[str, str] | None, str]:
    """Returns the attributes of the element for hbtrio, and why they can't be used.

    Only a child of ``<metadata>`` itself counts: other namespaces there hold tenants' texts.
    """
    start = f"{{{METADATA_NAMESPACE}}}"
    ours = [one for one in domain.iterfind("metadata/*") if one.tag.startswith(start)]
    if not ours:
        return None, ""
    element, *others = ours
    if others:
        return None, "more than one element"
    if element.tag != start + METADATA_ELEMENT:
        return None, f"the element must be {METADATA_ELEMENT}"
    if len(element) or (element.text or "").strip():
        return None, "the element must be empty, with attributes only"
    if len(element.attrib) > _ATTRIBUTES:
        return None, f"more than {_ATTRIBUTES} attributes"
    return dict(element.attrib), ""


def _sockets(domain: ElementTree.Element) -> Iterator[str]:
    for channel in domain.iterfind("devices/channel[@type='unix']"):
        target, source = channel.find("target"), channel.find("source")
        if target is None or source is None or target.get("name") != CHANNEL_NAME:
            continue
        path = source.get("path", "")
        if source.get("mode") == "bind" and path.startswith("/"):
            yield path
