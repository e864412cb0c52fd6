"""The agent's inventory: the hosts and instances that are known, and who is bound where.

What the VIM says, and without a VIM what the hosts tell. A change is in the store before anybody
hears of it; then hosts are told what to report, and alarms that are held back are looked at again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.nursery.agent.instance_states import InstanceStates, warn_of_vote
from hbtrio.nursery.agent.keyed_lock import KeyedLock
from hbtrio.nursery.agent.mass_failure import MassFailureGuard, NotHeld
from hbtrio.store.records import HistoryEntry, HostRecord, InstanceRecord
from hbtrio.store.store import Store
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vim import Switch

_log = logging.getLogger("hbtrio.agent")

#: What a VIM may tell of: its requests are not to fill the memory.
_HOSTS: Final = 10_000
_INSTANCES: Final = 100_000


class Unknown(Exception):
    """No such host or instance."""


class TooMany(Exception):
    """So many hosts or instances are known that no other is taken in."""


class Linked(Exception):
    """A host that has a link can't be forgotten: it would be back with its next word."""


class AgentInventory:
    """The hosts and instances that are known.

    Whatever changes them raises ``StoreFault`` when it can't; nothing was changed then.

    Args:
        store: keeps them.
        news: what instances are doing.
        brake: holds back alarms.
        session_of: the session of a host by its name, or None.
        has_vim: whether there is a VIM, whose word it is; else the hosts' word is.
        publish: told of what is kept in the history.
        wall_clock: the store's.
    """

    def __init__(
        self,
        store: Store,
        news: InstanceStates,
        brake: MassFailureGuard,
        session_of: Callable[[str], HostSession | None],
        *,
        has_vim: bool,
        publish: Callable[[HistoryEntry], None],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.hosts: dict[str, HostRecord] = {}
        self.instances: dict[str, InstanceRecord] = {}
        #: Hosts without a link, and since when on trio's clock.
        self.down: dict[str, float] = {}
        #: Hosts that had a link before this agent was started, and have told nothing since. They
        #: are waited for as long as any other whose link is gone.
        self.awaited: set[str] = set()
        #: How often it was changed: what was asked before may be outdated after.
        self.edits = 0
        #: What is being changed: store and memory are to agree on who was the last. Whoever has an
        #: instance's or a uuid's turn may wait for a host's, and nobody the other way round.
        self._instance_turns = KeyedLock()
        self._uuid_turns = KeyedLock()
        self._host_turns = KeyedLock()
        self._store = store
        self._news = news
        self._brake = brake
        self._session_of = session_of
        self._has_vim = has_vim
        self._publish = publish
        self._wall_clock = wall_clock

    async def load(self) -> None:
        """Reads what is kept.

        Raises:
            StoreFault: it can't be read.
        """
        self.hosts = {host.uuid: host for host in await self._store.hosts()}
        self.instances = {instance.uuid: instance for instance in await self._store.instances()}

    def host(self, uuid: str) -> HostRecord:
        """A host.

        Raises:
            Unknown: nobody told of it.
        """
        try:
            return self.hosts[uuid]
        except KeyError:
            raise Unknown(f"unknown host {uuid}") from None

    def instance(self, uuid: str) -> InstanceRecord:
        """An instance.

        Raises:
            Unknown: nobody told of it.
        """
        try:
            return self.instances[uuid]
        except KeyError:
            raise Unknown(f"unknown instance {uuid}") from None

    def live(self, uuid: str) -> Instance | None:
        """What the host to which an instance is bound tells of it, or None."""
        bound = self.instances.get(uuid)
        return None if bound is None else self._news.live(bound.hostname, uuid)

    def host_reporting(self, hostname: str) -> bool:
        """Whether a host's losses are reported: without a VIM always, else as it says."""
        if not self._has_vim:
            return True
        return any(h.reporting for h in self.hosts.values() if h.hostname == hostname)

    async def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host, and has it told whether to report.

        A host has one record: one with its name and another uuid is of no use any more.

        Raises:
            TooMany: it is not taken in.
        """
        if host == self.hosts.get(host.uuid) and host.uuid not in self._uuid_turns:
            return
        is_new = host.uuid not in self.hosts
        if is_new and len(self.hosts) >= _HOSTS and not self.others_named(host):
            raise TooMany(f"{_HOSTS} hosts are known")
        self.edits += 1
        async with self._uuid_turns.of(host.uuid), self._host_turns.of(host.hostname):
            await self._put_host(host)

    async def _put_host(self, host: HostRecord) -> None:
        before = self.hosts.get(host.uuid)
        if host == before:
            return
        await self._store.put_host(host)
        self.hosts[host.uuid] = host
        for uuid in self.others_named(host):
            _log.info("%s: its uuid is %s and no longer %s", host.hostname, host.uuid, uuid)
            del self.hosts[uuid]
        self.tell_host(host.hostname)
        if before is not None and before.hostname != host.hostname:
            self.tell_host(before.hostname)

    async def delete_host(self, uuid: str) -> None:
        """Forgets a host.

        Raises:
            Unknown: nobody told of it.
        """
        if uuid not in self._uuid_turns:
            self.host(uuid)
        self.edits += 1
        async with self._uuid_turns.of(uuid):
            host = self.host(uuid)
            await self._store.delete_host(uuid)
            self.hosts.pop(uuid, None)
        if not self.bound_to(host.hostname):
            self.down.pop(host.hostname, None)
            self.awaited.discard(host.hostname)
        self.tell_host(host.hostname)
        await self._brake.deleted(host.hostname)

    async def forget(self, hostname: str, who: str) -> int:
        """Forgets all of a host that is no more but what happened to it, for an operator.

        Its records and the instances bound to it go, and its alarms that are held back.

        Args:
            hostname: the host.
            who: the operator.

        Returns:
            how many instances were bound to it.

        Raises:
            Unknown: there is nothing of it.
            Linked: it has a link.
        """
        async with self._host_turns.of(hostname):
            count = await self._forget(hostname, who)
        # Alarms that are held to see whether more follow are of no use any more when that is over.
        with suppress(NotHeld):
            await self._brake.release(hostname, who, send=False)
        return count

    async def _forget(self, hostname: str, who: str) -> int:
        if self._session_of(hostname) is not None:
            raise Linked(f"{hostname} has a link to this agent")
        bound = self.bound_to(hostname)
        uuids = [host.uuid for host in self.hosts.values() if host.hostname == hostname]
        held = self._brake.hold(hostname) is not None
        if not (uuids or bound or held or hostname in self.down):
            raise Unknown(f"unknown host {hostname}")
        self.edits += 1
        words = f"instances that were on it: {len(bound)}"
        entry = HistoryEntry(self._wall_clock(), "host-forgotten", "", hostname, words, who=who)
        await self._store.forget_host(hostname, entry)
        self._publish(entry)
        _log.warning("%s: forgotten for %s; %s", hostname, who, words)
        for uuid in uuids:
            self.hosts.pop(uuid, None)
        # One that was being bound to another host meanwhile is there now, in the store too.
        bound = [one for one in bound if self.host_of(one.uuid) == hostname]
        for instance in bound:
            self.instances.pop(instance.uuid, None)
            self._news.forget(instance)
        if self._session_of(hostname) is None:
            self._forget_link(hostname)
        # Else it has come meanwhile, and was told what is no longer so.
        self.tell_host(hostname)
        for instance in bound:
            self._silence(instance)
        return len(bound)

    def others_named(self, host: HostRecord) -> list[str]:
        """The uuids of other records of a host's name."""
        return [
            other.uuid
            for other in self.hosts.values()
            if other.hostname == host.hostname and other.uuid != host.uuid
        ]

    async def put_instance(self, instance: InstanceRecord) -> None:
        """Adds or changes an instance, or binds it to the host it has moved to.

        Raises:
            TooMany: it is not taken in.
        """
        known = self.instances.get(instance.uuid)
        if instance == known and instance.uuid not in self._instance_turns:
            return
        if known is None and len(self.instances) >= _INSTANCES:
            raise TooMany(f"{_INSTANCES} instances are known")
        self.edits += 1
        async with self._instance_turns.of(instance.uuid):
            await self._put_instance(instance)

    async def _put_instance(self, instance: InstanceRecord) -> None:
        before = self.instances.get(instance.uuid)
        if instance == before:
            return
        async with self._host_turns.of(instance.hostname):
            # Else one that is put on a host just being forgotten is in the store alone.
            await self._store.put_instance(instance)
            self.instances[instance.uuid] = instance
        self.tell_instance(instance)
        if before is not None and before.hostname != instance.hostname:
            _log.info("%s: moved from %s to %s", instance.uuid, before.hostname, instance.hostname)
            self._news.moved(before, instance.hostname)
            self._silence(before)
            why = f"it has moved to {instance.hostname}"
            await self._brake.left(before.hostname, instance.uuid, why)
        live = self.live(instance.uuid)
        is_new = before is None or before.hostname != instance.hostname
        if is_new and live is not None and self._has_vim:
            # Its host told of it before it was bound there: nobody was warned.
            warn_of_vote(live)
        now = self._news.service(instance)
        if before is None and now.status is Switch.DISABLED:
            # Whoever has just told of it knows of no heartbeat.
            self._news.told([now])
        await self._news.tell([instance])

    async def delete_instance(self, uuid: str, *, on: str | None = None) -> None:
        """Forgets an instance; its host goes on heartbeating it and reports nothing.

        Args:
            uuid: the instance.
            on: only if it is bound to that host, and not by now to another.

        Raises:
            Unknown: nobody told of it.
        """
        if uuid not in self._instance_turns:
            self.instance(uuid)
        self.edits += 1
        async with self._instance_turns.of(uuid):
            instance = self.instances.get(uuid)
            if instance is None or on not in (None, instance.hostname):
                return
            await self._store.delete_instance(uuid)
            self.instances.pop(uuid, None)
            self._news.forget(instance)
            self._silence(instance)
            await self._brake.left(instance.hostname, uuid, "the VIM has deleted it")

    def host_of(self, uuid: str) -> str | None:
        """The host to which an instance is bound, or None."""
        bound = self.instances.get(uuid)
        return None if bound is None else bound.hostname

    def bound_to(self, hostname: str) -> list[InstanceRecord]:
        """The instances that are bound to a host."""
        return [bound for bound in self.instances.values() if bound.hostname == hostname]

    async def take_in(self, told: HostRecord | InstanceRecord) -> None:
        """Adds or changes what a host told of; one too many is logged and left out."""
        try:
            if isinstance(told, HostRecord):
                await self.put_host(told)
            else:
                await self.put_instance(told)
        except TooMany as fault:
            _log.error("%s: %s is left out: %s", told.hostname, told.uuid, fault)

    def tell_host(self, hostname: str) -> None:
        """Has a host told whether its losses are to be reported."""
        self._tell(hostname, "", self.host_reporting(hostname))

    def tell_instance(self, instance: InstanceRecord) -> None:
        """Has an instance's host told whether its losses are to be reported."""
        self._tell(instance.hostname, instance.uuid, instance.reporting)

    def _silence(self, instance: InstanceRecord) -> None:
        self._tell(instance.hostname, instance.uuid, False)

    def _tell(self, hostname: str, uuid: str, reporting: bool) -> None:
        session = self._session_of(hostname)
        if session is not None:
            session.set_reporting(uuid, reporting)

    def _forget_link(self, hostname: str) -> None:
        """The host is not missed any more, and what it told counts for nothing."""
        self.down.pop(hostname, None)
        self.awaited.discard(hostname)
        self._news.forget_host(hostname)
        self._brake.forget(hostname)
