"""Tells the channels of a host what libvirt knows of their instances.

:class:`~hbtrio.nursery.host.libvirt_watch.LibvirtWatch` knows domains; this module knows whose
channels they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Final

import trio

from hbtrio.config.groups import names_needed
from hbtrio.config.host import HostConfig
from hbtrio.fsm.domain import DomainChange, Standing, changes
from hbtrio.fsm.known_domains import Domain
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.discovery import ChannelFile
from hbtrio.nursery.host.instance_policies import InstancePolicies
from hbtrio.nursery.host.libvirt_watch import (
    NOT_IN_USE,
    DomainListener,
    LibvirtWatch,
    Look,
)
from hbtrio.nursery.host.loss_looks import LossLooks
from hbtrio.nursery.host.virsh import LibvirtSilent, Virsh
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessRunner

#: Changes after which another guest boots.
_RESTARTS: Final = frozenset({DomainChange.STARTED, DomainChange.RESTARTED})


class Domains:
    """The domains of a host, beside its channels.

    Args:
        config: whether libvirt is asked, and what holds for each instance.
        processes: runs ``virsh``; None: there is no libvirt.
        channels: the channels of all instances, by uuid; a live view.
        guard: the process's on-time guard.
        on_change: called with the uuid of an instance whose domain has changed; must not block.
        on_channels: called with a domain's uuid and the sockets of its heartbeat channels.
        on_gone: called with a socket that was removed, once it is known how its VM ended.
        on_policy: called with the uuid of each instance for which something else may hold now.
        on_domain: called with each domain that has changed, whether it has a channel or not.
    """

    def __init__(
        self,
        config: HostConfig,
        processes: ProcessRunner | None,
        channels: Mapping[str, Channel],
        guard: OnTimeGuard,
        *,
        on_change: Callable[[str], None],
        on_channels: Callable[[str, tuple[str, ...]], None],
        on_gone: Callable[[ChannelFile], None],
        on_policy: Callable[[str], None],
        on_domain: Callable[[Domain], None],
    ) -> None:
        settings, rules = config.libvirt, config.instance_rules()
        self._channels = channels
        self._on_domain = on_domain
        self._on_change = on_change
        #: What holds for each instance.
        self.policies = InstancePolicies(rules, self.of, lambda: self.are_known, on_policy)
        #: None: libvirt is never asked.
        self.watch: LibvirtWatch | None = None
        self._virsh: Virsh | None = None
        self._looks: LossLooks | None = None
        self._on_gone = on_gone
        self._restarts: Counter[str] = Counter()
        if processes is not None and settings.enabled != "off":
            listener = DomainListener(self._changed, self._reset, on_channels, self.policies.read)
            self._virsh = Virsh(processes, settings.uri, guard)
            needed = rules.needs_libvirt or any(names_needed(config.groups))
            required = settings.enabled == "on" or needed
            self.watch = LibvirtWatch(self._virsh, listener, guard, required=required)
            self._looks = LossLooks(self.watch, channels, on_gone)

    async def run(self) -> None:
        """Watches libvirt until cancelled; returns at once if it is never asked."""
        if self.watch is None or self._looks is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self._looks.run)

    def of(self, uuid: str) -> Domain | None:
        """Returns what libvirt knew last of an instance; None: it never heard of it."""
        return None if self.watch is None else self.watch.domain(uuid)

    @property
    def are_known(self) -> bool:
        """Whether libvirt has told of all domains, or there is no libvirt."""
        return self.watch is None or self.watch.has_answered

    async def look(self, uuids: Collection[str], within_s: float) -> Mapping[str, Look]:
        """Asks for the present state of some instances, see :meth:`LibvirtWatch.look`."""
        if self.watch is None:
            await trio.lowlevel.checkpoint()
            return dict.fromkeys(uuids, NOT_IN_USE)
        return await self.watch.look(uuids, within_s)

    @property
    def is_silent(self) -> bool:
        """Whether libvirt is in use and gives no answer: nothing is known of a VM then."""
        return self.watch is not None and self.watch.in_use and not self.watch.answers

    def runs(self, uuid: str) -> bool:
        """Returns whether libvirt says, as far as it was heard, that an instance's VM runs."""
        domain = self.of(uuid)
        return domain is not None and domain.state.standing is Standing.RUNNING

    def was_in_use(self) -> None:
        """Takes that libvirt had answered an earlier run of the host: decisions wait for it."""
        if self.watch is not None:
            self.watch.was_in_use()

    def id_of(self, uuid: str) -> int:
        """Returns libvirt's id of an instance's domain; -1 if it is unknown or shut off."""
        domain = self.of(uuid)
        return -1 if domain is None else domain.state.domain_id

    def changed_after(self, uuid: str) -> float | None:
        """Returns when an instance was not in its present state yet, on trio's clock.

        It is when libvirt was last asked before: it may have been away when the state changed.
        None: no idea.
        """
        domain = self.of(uuid)
        return None if domain is None else domain.changed_after

    @property
    def event_restarts(self) -> int:
        """How often ``virsh event`` has ended, and so was begun again."""
        return 0 if self._virsh is None else self._virsh.gaps

    def restarts(self, uuid: str) -> int | None:
        """Returns how often an instance was reset, rebooted or started so far; None: no idea.

        One reset may count several times, and so does a time in which events may have been missed.
        """
        if self._virsh is None or not self._virsh.is_following or self.of(uuid) is None:
            return None
        return self._restarts.get(uuid, 0) + self._virsh.gaps

    async def traffic(self, uuid: str) -> int | None:
        """Returns how many disk requests and sent packets an instance has made; None: no answer."""
        if self._virsh is None or self.of(uuid) is None:
            await trio.lowlevel.checkpoint()
            return None
        try:
            return await self._virsh.traffic(uuid)
        except LibvirtSilent:
            return None

    def introduce(self, channel: Channel) -> None:
        """Tells a new channel in which state its domain is."""
        channel.heartbeat.losses.are_confirmed = self.watch is not None
        domain = self.of(channel.uuid)
        if domain is not None and domain.listed:
            self._tell(channel, domain, changes(None, domain.state))

    def suspected(self, uuid: str) -> None:
        """An instance seems to be lost: asks libvirt, and tells its channel."""
        if self._looks is not None:
            self._looks.suspected(uuid)

    def departed(self, file: ChannelFile) -> None:
        """A socket was removed: passes that on, once libvirt has said how its VM ended."""
        if self._looks is None:
            self._on_gone(file)
        else:
            self._looks.departed(file)

    def returned(self, uuid: str) -> None:
        """An instance has a socket again: a removal that was not passed on is not any more."""
        if self._looks is not None:
            self._looks.returned(uuid)

    def _changed(self, domain: Domain, happened: tuple[DomainChange, ...]) -> None:
        self.policies.named(domain)
        if not _RESTARTS.isdisjoint(happened):
            self._restarts[domain.uuid] += 1
        channel = self._channels.get(domain.uuid)
        if channel is not None:
            self._tell(channel, domain, happened)
            self._on_change(domain.uuid)
        self._on_domain(domain)
        if not domain.listed:
            self._restarts.pop(domain.uuid, None)
            if self._looks is not None:
                self._looks.forgotten(domain.uuid)

    @staticmethod
    def _tell(channel: Channel, domain: Domain, happened: tuple[DomainChange, ...]) -> None:
        state = domain.state
        for change in happened:
            channel.outages.domain_changed(change, state.words, is_alarming=state.is_alarming)
        if state.standing is Standing.RUNNING:
            channel.outages.domain_runs()

    def _reset(self, domain: Domain) -> None:
        self._restarts[domain.uuid] += 1
        channel = self._channels.get(domain.uuid)
        if channel is not None:
            channel.outages.domain_reset()
