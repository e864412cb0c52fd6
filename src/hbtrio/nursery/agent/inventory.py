"""Changes the agent's inventory: the hosts and instances that are known, and who is bound where.

What the VIM says, and without a VIM what the hosts report. A change is in the store before it is in
the fleet; then it is sent to hosts, and alarms that are held back are looked at again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from hbtrio.nursery.agent.fleet import Fleet, Unknown
from hbtrio.nursery.agent.instance_states import InstanceStates, warn_of_vote
from hbtrio.nursery.agent.keyed_lock import KeyedLock
from hbtrio.nursery.agent.mass_failure import MassFailureGuard, NotHeld
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.store.records import HistoryEntry, HostRecord, InstanceRecord
from hbtrio.store.store import Store
from hbtrio.wire.vim import Switch

_log = logging.getLogger("hbtrio.agent")

#: What a VIM may tell of: its requests are not to fill the memory.
_HOSTS: Final = 10_000
_INSTANCES: Final = 100_000


class TooMany(Exception):
    """So many hosts or instances are known that no other is taken in."""


class Linked(Exception):
    """A host that has a link can't be forgotten: it would be back with its next word."""


class AgentInventory:
    """Changes the hosts and instances of a fleet, one change of each at a time.

    Whatever changes them raises ``StoreFault`` when it can't; nothing was changed then.

    Args:
        fleet: what is known.
        store: keeps it.
        states: notifies the VIM of what instances are doing.
        guard: holds back alarms.
        history: what is kept in the history is published there.
        wall_clock: the store's.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        states: InstanceStates,
        guard: MassFailureGuard,
        history: Broadcast[HistoryEntry],
        wall_clock: Callable[[], datetime],
    ) -> None:
        #: How often it was changed: what was asked before may be outdated after.
        self.edits = 0
        #: What is being changed: store and memory are to agree on who was the last. Whoever has an
        #: instance's or a uuid's lock may wait for a host's, and nobody the other way round.
        self._instance_locks = KeyedLock()
        self._uuid_locks = KeyedLock()
        self._host_locks = KeyedLock()
        self._fleet = fleet
        self._store = store
        self._states = states
        self._guard = guard
        self._history = history
        self._wall_clock = wall_clock

    async def load(self) -> None:
        """Reads what is kept.

        Raises:
            StoreFault: it can't be read.
        """
        hosts, instances = (
            await self._store.inventory.hosts(),
            await self._store.inventory.instances(),
        )
        self._fleet.hosts = {host.uuid: host for host in hosts}
        self._fleet.instances = {instance.uuid: instance for instance in instances}

    async def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host, and has it told whether to report.

        A host has one record: one with its name and another uuid is of no use any more.

        Raises:
            TooMany: it is not taken in.
        """
        if host == self._fleet.hosts.get(host.uuid) and host.uuid not in self._uuid_locks:
            return
        is_new = host.uuid not in self._fleet.hosts
        if is_new and len(self._fleet.hosts) >= _HOSTS and not self._fleet.others_named(host):
            raise TooMany(f"{_HOSTS} hosts are known")
        self.edits += 1
        async with self._uuid_locks.of(host.uuid), self._host_locks.of(host.hostname):
            await self._put_host(host)

    async def _put_host(self, host: HostRecord) -> None:
        before = self._fleet.hosts.get(host.uuid)
        if host == before:
            return
        await self._store.inventory.put_host(host)
        self._fleet.hosts[host.uuid] = host
        for uuid in self._fleet.others_named(host):
            _log.info("%s: its uuid is %s and no longer %s", host.hostname, host.uuid, uuid)
            del self._fleet.hosts[uuid]
        self.send_host_reporting(host.hostname)
        if before is not None and before.hostname != host.hostname:
            self.send_host_reporting(before.hostname)

    async def delete_host(self, uuid: str) -> None:
        """Forgets a host.

        Raises:
            Unknown: it is not known.
        """
        if uuid not in self._uuid_locks:
            self._fleet.host(uuid)
        self.edits += 1
        async with self._uuid_locks.of(uuid):
            host = self._fleet.host(uuid)
            await self._store.inventory.delete_host(uuid)
            self._fleet.hosts.pop(uuid, None)
        if not self._fleet.bound_to(host.hostname):
            self._fleet.forget_link(host.hostname)
        self.send_host_reporting(host.hostname)
        await self._guard.deleted(host.hostname)

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
        async with self._host_locks.of(hostname):
            count = await self._forget(hostname, who)
        # Alarms that are held to see whether more follow are of no use any more when that is over.
        with suppress(NotHeld):
            await self._guard.release(hostname, who, send=False)
        return count

    async def _forget(self, hostname: str, who: str) -> int:
        if hostname in self._fleet.sessions:
            raise Linked(f"{hostname} has a link to this agent")
        bound = self._fleet.bound_to(hostname)
        uuids = [host.uuid for host in self._fleet.hosts.values() if host.hostname == hostname]
        held = self._guard.hold(hostname) is not None
        if not (uuids or bound or held or hostname in self._fleet.down):
            raise Unknown(f"unknown host {hostname}")
        self.edits += 1
        words = f"instances that were on it: {len(bound)}"
        entry = HistoryEntry(self._wall_clock(), "host-forgotten", "", hostname, words, who=who)
        await self._store.inventory.forget_host(hostname, entry)
        self._history.publish(entry)
        _log.warning("%s: forgotten for %s; %s", hostname, who, words)
        for uuid in uuids:
            self._fleet.hosts.pop(uuid, None)
        # One that was being bound to another host meanwhile is there now, in the store too.
        bound = [one for one in bound if self._fleet.host_of(one.uuid) == hostname]
        for instance in bound:
            self._fleet.drop_instance(instance)
            self._states.forget(instance)
        if hostname not in self._fleet.sessions:
            self._forget_link(hostname)
        # Else it has come meanwhile, and was told what is no longer so.
        self.send_host_reporting(hostname)
        for instance in bound:
            self._silence(instance)
        return len(bound)

    async def put_instance(self, instance: InstanceRecord) -> None:
        """Adds or changes an instance, or binds it to the host it has moved to.

        Raises:
            TooMany: it is not taken in.
        """
        known = self._fleet.instances.get(instance.uuid)
        if instance == known and instance.uuid not in self._instance_locks:
            return
        if known is None and len(self._fleet.instances) >= _INSTANCES:
            raise TooMany(f"{_INSTANCES} instances are known")
        self.edits += 1
        async with self._instance_locks.of(instance.uuid):
            await self._put_instance(instance)

    async def _put_instance(self, instance: InstanceRecord) -> None:
        before = self._fleet.instances.get(instance.uuid)
        if instance == before:
            return
        async with self._host_locks.of(instance.hostname):
            # Else one that is put on a host just being forgotten is in the store alone.
            await self._store.inventory.put_instance(instance)
            self._fleet.instances[instance.uuid] = instance
        self.send_reporting(instance)
        if before is not None and before.hostname != instance.hostname:
            _log.info("%s: moved from %s to %s", instance.uuid, before.hostname, instance.hostname)
            self._fleet.note_move(before, instance.hostname)
            self._silence(before)
            why = f"it has moved to {instance.hostname}"
            await self._guard.left(before.hostname, instance.uuid, why)
        live = self._fleet.live(instance.uuid)
        is_new = before is None or before.hostname != instance.hostname
        if is_new and live is not None and self._fleet.has_vim:
            # Its host told of it before it was bound there: nobody was warned.
            warn_of_vote(live)
        now = self._states.service(instance)
        if before is None and now.status is Switch.DISABLED:
            # The VIM, which has just added it, knows of no heartbeat.
            self._states.notified([now])
        await self._states.notify([instance])

    async def delete_instance(self, uuid: str, *, on: str | None = None) -> None:
        """Forgets an instance; its host goes on heartbeating it and reports nothing.

        Args:
            uuid: the instance.
            on: only if it is bound to that host, and not by now to another.

        Raises:
            Unknown: it is not known.
        """
        if uuid not in self._instance_locks:
            self._fleet.instance(uuid)
        self.edits += 1
        async with self._instance_locks.of(uuid):
            instance = self._fleet.instances.get(uuid)
            if instance is None or on not in (None, instance.hostname):
                return
            await self._store.inventory.delete_instance(uuid)
            self._fleet.drop_instance(instance)
            self._states.forget(instance)
            self._silence(instance)
            await self._guard.left(instance.hostname, uuid, "the VIM has deleted it")

    async def take_in(self, record: HostRecord | InstanceRecord) -> None:
        """Adds or changes what a host reported; one too many is logged and left out."""
        try:
            if isinstance(record, HostRecord):
                await self.put_host(record)
            else:
                await self.put_instance(record)
        except TooMany as fault:
            _log.error("%s: %s is left out: %s", record.hostname, record.uuid, fault)

    def send_host_reporting(self, hostname: str) -> None:
        """Sends a host whether its losses are to be reported, if it has a link."""
        self._send(hostname, "", reporting=self._fleet.host_reporting(hostname))

    def send_reporting(self, instance: InstanceRecord) -> None:
        """Sends an instance's host whether its losses are to be reported, if it has a link."""
        self._send(instance.hostname, instance.uuid, reporting=instance.reporting)

    def _silence(self, instance: InstanceRecord) -> None:
        self._send(instance.hostname, instance.uuid, reporting=False)

    def _send(self, hostname: str, uuid: str, *, reporting: bool) -> None:
        session = self._fleet.sessions.get(hostname)
        if session is not None:
            session.set_reporting(uuid, enabled=reporting)

    def _forget_link(self, hostname: str) -> None:
        """The host is not missed any more, and what it reported counts for nothing."""
        self._fleet.forget_link(hostname)
        self._fleet.forget_reports(hostname)
        self._guard.forget(hostname)
