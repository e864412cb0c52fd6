"""Knows what holds for each instance: host.toml, and the metadata of its domain.

Only libvirt knows names and metadata. Until it has told them, no corrective command runs for an
instance for which they could matter.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
import msgspec
import trio

from hbtrio.config.instances import InstancePolicy, InstanceRules, InstanceSettings
from hbtrio.config.metadata import MetadataFault, read_metadata
from hbtrio.fsm.corrective import Policy
from hbtrio.fsm.heartbeat.rules import HeartbeatRules
from hbtrio.fsm.known_domains import Domain
from hbtrio.wire.virsh import LiveXml

_log = logging.getLogger("hbtrio.libvirt")

#: Domains whose metadata is remembered; beyond it the one that was read first is forgotten.
_REMEMBERED: Final = 100_000

#: The longest fault of a metadata element that is shown, in characters.
_FAULT_CHARS: Final = 200


@attrs.define
class _Metadata:
    """What was read of one domain: the last that could be used, and why that is not the newest."""

    settings: InstanceSettings | None = None
    fault: str = ""


class InstancePolicies:
    """What holds for each instance, as far as it is known.

    Args:
        rules: ``[instances]`` of host.toml, and what the host has for all.
        domain_of: returns what libvirt knows of an instance.
        has_libvirt: returns whether libvirt is in use and has answered.
        on_change: called with the uuid of each instance for which something else may hold now.
    """

    def __init__(
        self,
        rules: InstanceRules,
        domain_of: Callable[[str], Domain | None],
        has_libvirt: Callable[[], bool],
        on_change: Callable[[str], None],
    ) -> None:
        self._rules = rules
        self._domain_of = domain_of
        self._has_libvirt = has_libvirt
        self._on_change = on_change
        #: Those whose XML was read, in that order.
        self._metadata: OrderedDict[str, _Metadata] = OrderedDict()
        #: What was found for each instance since something of it has changed.
        self._resolved: dict[str, InstancePolicy] = {}
        #: libvirt's names, as far as they may matter.
        self._names: dict[str, str] = {}
        self._changed: dict[str, trio.Event] = {}

    def of(self, uuid: str) -> InstancePolicy:
        """Returns what holds for an instance by what is known now."""
        if (policy := self._resolved.get(uuid)) is None:
            domain, metadata = self._domain_of(uuid), self._metadata.get(uuid)
            name = "" if domain is None else domain.name
            settings = None if metadata is None else metadata.settings
            policy = self._rules.of(uuid, name, settings)
            if len(self._resolved) >= _REMEMBERED:
                self._resolved.clear()
            self._resolved[uuid] = policy
        return policy

    def corrective(self, uuid: str) -> Policy:
        """Returns which corrective commands may run for an instance."""
        if not self.is_told(uuid):
            return Policy.UNKNOWN
        return Policy(self.of(uuid).corrective)

    def fault(self, uuid: str) -> str:
        """Returns why an instance's newest metadata can't be used; empty if it can."""
        metadata = self._metadata.get(uuid)
        return "" if metadata is None else metadata.fault

    def is_settled(self, uuid: str) -> bool:
        """Whether libvirt has told all of an instance that may matter."""
        if not self._rules.needs_libvirt:
            return True
        return self._domain_of(uuid) is not None and self.is_told(uuid)

    def is_told(self, uuid: str) -> bool:
        """Whether decisions about an instance need not wait for libvirt's word."""
        if not self._rules.needs_libvirt:
            return True
        if self._domain_of(uuid) is None:
            return self._has_libvirt()  # it is none of libvirt's
        return not self._rules.reads_metadata or uuid in self._metadata

    def read(self, uuid: str, xml: LiveXml) -> None:
        """Takes the XML of an instance's domain; a faulty element leaves what was read before."""
        if not self._rules.reads_metadata:
            return
        known = self._metadata.pop(uuid, None)
        before = known or _Metadata()
        now = self._metadata[uuid] = _read(xml, before.settings)
        if len(self._metadata) > _REMEMBERED:
            self._metadata.popitem(last=False)
        if now.fault and now.fault != before.fault:
            text = "%s: metadata of its domain: %s; what was read before stays in use"
            _log.warning(text, uuid, now.fault)
        elif before.fault and not now.fault:
            _log.info("%s: metadata of its domain: no fault any more", uuid)
        if known is None or now != before:
            self._note(uuid)

    def named(self, domain: Domain) -> None:
        """Takes the name of a domain that is new or has changed."""
        if not self._rules.needs_libvirt:
            return
        if self._names.get(domain.uuid) != domain.name:
            self._names[domain.uuid] = domain.name
            self._note(domain.uuid)
        if not domain.listed:
            del self._names[domain.uuid]

    def _note(self, uuid: str) -> None:
        self._resolved.pop(uuid, None)
        if (changed := self._changed.pop(uuid, None)) is not None:
            changed.set()
        self._on_change(uuid)

    async def until_changed(self, uuid: str) -> None:
        """Waits until something else may hold for an instance. A checkpoint."""
        await self._changed.setdefault(uuid, trio.Event()).wait()


def _read(xml: LiveXml, before: InstanceSettings | None) -> _Metadata:
    if xml.fault:
        return _Metadata(before, xml.fault)
    if xml.metadata is None:
        return _Metadata()
    try:
        return _Metadata(read_metadata(xml.metadata))
    except MetadataFault as fault:
        return _Metadata(before, str(fault)[:_FAULT_CHARS])


def rules_for(rules: HeartbeatRules, policy: InstancePolicy) -> HeartbeatRules:
    """Returns a host's rules as they hold for an instance."""
    limits = msgspec.structs.replace(
        rules.limits,
        vote_max_s=policy.vote_max_s,
        notice_max_s=policy.notice_max_s,
        restart_max_s=policy.restart_max_s,
    )
    return attrs.evolve(
        rules, grace_s=policy.grace_s, absent_after_s=policy.absent_after_s, limits=limits
    )
