"""Changes the agent's inventory: the known hosts and instances, and their bindings.

The changes come from the VIM, and without a VIM from the hosts' reports. A change is stored before
it is applied to the fleet; then it is sent to hosts, and held alarms are checked again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from hbtrio.nursery.agent.fleet import Fleet, Unknown
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.instance_states import InstanceStates, warn_of_vote
from hbtrio.nursery.agent.keyed_lock import KeyedLock
from hbtrio.nursery.agent.mass_failure import MassFailureGuard, NotHeld
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.policy.begin_by import ANY_TIME, BeginBy
from hbtrio.store.records import HistoryEntry, HostRecord, InstanceRecord
from hbtrio.store.store import Store
from hbtrio.wire.vim import Switch

_log = logging.getLogger("hbtrio.agent")

#: Bounds on the hosts and instances of a VIM, so that its requests can't fill the memory.
_HOSTS: Final = 10_000
_INSTANCES: Final = 100_000

#: Changes that are remembered: more than are made while the VIM answers.
_EDITED: Final = 2 * (_HOSTS + _INSTANCES)


class TooMany(Exception):
    """The bound on known hosts or instances is reached."""


class Linked(Exception):
    """A linked host can't be forgotten: its next message would add it again."""


class AgentInventory:
    """Changes the hosts and instances of a fleet, one change of each at a time.

    Every method that changes the store raises ``StoreFault`` if the store fails; then nothing was
    changed.

    Args:
        fleet: the hosts and instances.
        store: keeps their records.
        states: notifies the VIM of the instances' states.
        groups: remembers their members.
        guard: holds back alarms.
        history: publishes the history entries.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        states: InstanceStates,
        groups: FleetGroups,
        guard: MassFailureGuard,
        history: Broadcast[HistoryEntry],
        wall_clock: Callable[[], datetime],
    ) -> None:
        #: Counts changes: an answer to a request made before a change may be outdated.
        self.edits = 0
        #: The number of the last change of each host and instance by uuid, the oldest first.
        self._edited: dict[str, int] = {}
        #: Instances that were enabled again while their host had no link.
        self._enabled_unheard: set[str] = set()
        #: Serialize changes, so that store and fleet agree on the last one. The holder of an
        #: instance's or a uuid's lock may wait for a host's lock, never the other way round.
        self._instance_locks = KeyedLock()
        self._uuid_locks = KeyedLock()
        self._host_locks = KeyedLock()
        self._fleet = fleet
        self._store = store
        self._states = states
        self._groups = groups
        self._guard = guard
        self._history = history
        self._wall_clock = wall_clock

    async def load(self) -> None:
        """Loads the records from the store.

        Raises:
            StoreFault: the store can't be read.
        """
        hosts, instances = (
            await self._store.inventory.hosts(),
            await self._store.inventory.instances(),
        )
        for host in hosts:
            self._fleet.put_host(host)
        for instance in instances:
            self._fleet.put_instance(instance)

    def was_edited(self, uuid: str, *, since: int) -> bool:
        """Returns whether a host or instance was changed after so many edits."""
        return self._edited.get(uuid, 0) > since

    def _edit(self, *uuids: str) -> None:
        self.edits += 1
        for uuid in uuids:
            self._edited.pop(uuid, None)
            self._edited[uuid] = self.edits
        while len(self._edited) > _EDITED:
            del self._edited[next(iter(self._edited))]

    async def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host, and sends it its reporting state.

        A host has one record: a record with the same name and another uuid is removed.

        Raises:
            TooMany: the bound is reached; the host was not added.
        """
        if host == self._fleet.hosts.get(host.uuid) and host.uuid not in self._uuid_locks:
            return
        is_new = host.uuid not in self._fleet.hosts
        if is_new and len(self._fleet.hosts) >= _HOSTS and not self._fleet.others_named(host):
            raise TooMany(f"{_HOSTS} hosts are known")
        self._edit(host.uuid)
        async with self._uuid_locks.of(host.uuid), self._host_locks.of(host.hostname):
            await self._put_host(host)

    async def _put_host(self, host: HostRecord) -> None:
        before = self._fleet.hosts.get(host.uuid)
        if host == before:
            return
        await self._store.inventory.put_host(host)
        self._fleet.put_host(host)
        for uuid in self._fleet.others_named(host):
            _log.info("%s: uuid changed from %s to %s", host.hostname, uuid, host.uuid)
            self._fleet.drop_host(uuid)
        self.send_host_reporting(host.hostname)
        if before is not None and before.hostname != host.hostname:
            self.send_host_reporting(before.hostname)

    async def delete_host(self, uuid: str) -> None:
        """Removes a host.

        Raises:
            Unknown: there is no such host.
        """
        if uuid not in self._uuid_locks:
            self._fleet.host(uuid)
        self._edit(uuid)
        async with self._uuid_locks.of(uuid):
            host = self._fleet.host(uuid)
            await self._store.inventory.delete_host(uuid)
            self._fleet.drop_host(uuid)
        if not self._fleet.bound_to(host.hostname):
            self._fleet.forget_link(host.hostname)
        self.send_host_reporting(host.hostname)
        await self._guard.deleted(host.hostname)

    async def forget(self, hostname: str, who: str, begin_by: BeginBy = ANY_TIME) -> int:
        """Removes a host that no longer exists, for an operator; its history stays.

        Removes its records, the instances bound to it, and its held alarms.

        Args:
            hostname: the host.
            who: the operator.
            begin_by: until when it may begin.

        Returns:
            How many instances were bound to it.

        Raises:
            Expired: it may not begin any more.
            Unknown: nothing is known of the host.
            Linked: the host has a link.
        """
        async with self._host_locks.of(hostname):
            begin_by.check()
            count = await self._forget(hostname, who)
        # Alarms without a hold, still being judged, are dropped as unwanted at the end of that.
        with suppress(NotHeld):
            await self._guard.release(hostname, who, send=False)
        return count

    async def _forget(self, hostname: str, who: str) -> int:
        if hostname in self._fleet.sessions:
            raise Linked(f"{hostname} has a link to this agent")
        bound = self._fleet.bound_to(hostname)
        uuids = [host.uuid for host in self._fleet.named(hostname)]
        held = self._guard.hold(hostname) is not None
        if not (uuids or bound or held or hostname in self._fleet.down):
            raise Unknown(f"unknown host {hostname}")
        self._edit(*uuids, *(one.uuid for one in bound))
        text = f"instances that were on it: {len(bound)}"
        entry = HistoryEntry(self._wall_clock(), "host-forgotten", "", hostname, text, who=who)
        async with self._groups.forgetting_host(hostname) as members:
            await self._store.inventory.forget_host(hostname, members, entry)
            self._history.publish(entry)
            _log.warning("%s: removed by %s; %s", hostname, who, text)
            for uuid in uuids:
                self._fleet.drop_host(uuid)
            # Without instances that were bound to another host meanwhile, also in the store.
            bound = [one for one in bound if self._fleet.host_of(one.uuid) == hostname]
            for instance in bound:
                self._fleet.drop_instance(instance)
                self._states.forget(instance)
        if hostname not in self._fleet.sessions:
            self._forget_link(hostname)
        # A host that connected meanwhile has received outdated states.
        self.send_host_reporting(hostname)
        for instance in bound:
            self._disable_reporting(instance)
        return len(bound)

    async def put_instance(self, instance: InstanceRecord) -> None:
        """Adds or changes an instance, or binds it to another host.

        Raises:
            TooMany: the bound is reached; the instance was not added.
        """
        known = self._fleet.instances.get(instance.uuid)
        if instance == known and instance.uuid not in self._instance_locks:
            return
        if known is None and len(self._fleet.instances) >= _INSTANCES:
            raise TooMany(f"{_INSTANCES} instances are known")
        self._edit(instance.uuid)
        async with self._instance_locks.of(instance.uuid):
            await self._put_instance(instance)

    async def _put_instance(self, instance: InstanceRecord) -> None:
        before = self._fleet.instances.get(instance.uuid)
        if instance == before:
            return
        async with self._host_locks.of(instance.hostname):
            # Under the host's lock, or an instance on a host being removed would be in the store
            # alone.
            await self._store.inventory.put_instance(instance)
            self._fleet.put_instance(instance)
            await self._groups.changed(instance.uuid)
        if before is not None and instance.reporting and not before.reporting:
            self._enabled_unheard.add(instance.uuid)
        self.send_reporting(instance)
        if before is not None and before.hostname != instance.hostname:
            self._fleet.note_move(before, instance.hostname)
            _log.info("%s: moved from %s to %s", instance.uuid, before.hostname, instance.hostname)
            self._states.moved(instance)
            self._disable_reporting(before)
            reason = f"it has moved to {instance.hostname}"
            await self._guard.left(before.hostname, instance.uuid, reason)
        live = self._fleet.live(instance.uuid)
        is_new = before is None or before.hostname != instance.hostname
        if is_new and live is not None and self._fleet.has_vim:
            # Its host reported it before it was bound there, without a warning.
            warn_of_vote(live)
        now = self._states.service(instance)
        if before is None and now.status is Switch.DISABLED:
            # The VIM has just added it and assumes no heartbeat.
            self._states.notified([now])
        # Disabled, or moved by a VIM that had not disabled it: its step is done.
        self._states.withheld.discard(instance.uuid)
        await self._states.notify([instance])

    async def delete_instance(self, uuid: str, *, on: str | None = None) -> None:
        """Removes an instance; its host keeps heartbeating it and reports nothing.

        Args:
            uuid: the instance.
            on: remove it only if it is bound to this host.

        Raises:
            Unknown: there is no such instance.
        """
        if uuid not in self._instance_locks:
            self._fleet.instance(uuid)
        self._edit(uuid)
        async with self._instance_locks.of(uuid):
            instance = self._fleet.instances.get(uuid)
            if instance is None or on not in (None, instance.hostname):
                return
            await self._store.inventory.delete_instance(uuid)
            self._fleet.drop_instance(instance)
            self._states.forget(instance)
            await self._groups.changed(uuid)
            self._enabled_unheard.discard(uuid)
            self._disable_reporting(instance)
            await self._guard.left(instance.hostname, uuid, "the VIM has deleted it")

    async def take_in(self, record: HostRecord | InstanceRecord) -> None:
        """Adds or changes a reported host or instance; beyond the bound it only logs an error."""
        try:
            if isinstance(record, HostRecord):
                await self.put_host(record)
            else:
                await self.put_instance(record)
        except TooMany as fault:
            _log.error("%s: %s ignored: %s", record.hostname, record.uuid, fault)

    def send_host_reporting(self, hostname: str) -> None:
        """Sends a linked host its reporting state."""
        self._send(hostname, "", reporting=self._fleet.host_reporting(hostname))

    def send_reporting(self, instance: InstanceRecord) -> None:
        """Sends an instance's host, if linked, the instance's reporting state.

        A change to enabled means that the VM runs again, so the host gets it as a change.
        """
        if instance.uuid in self._enabled_unheard and instance.hostname in self._fleet.sessions:
            self._enabled_unheard.discard(instance.uuid)
            self._send(instance.hostname, instance.uuid, reporting=False)
        self._send(instance.hostname, instance.uuid, reporting=instance.reporting)

    def _disable_reporting(self, instance: InstanceRecord) -> None:
        self._send(instance.hostname, instance.uuid, reporting=False)

    def _send(self, hostname: str, uuid: str, *, reporting: bool) -> None:
        session = self._fleet.sessions.get(hostname)
        if session is not None:
            session.set_reporting(uuid, enabled=reporting)

    def _forget_link(self, hostname: str) -> None:
        """Forgets a host's link and its reports."""
        self._fleet.forget_link(hostname)
        self._fleet.forget_reports(hostname)
        self._guard.forget(hostname)
