"""Holds what the agent knows of its fleet: hosts, their sessions, and instances.

The fleet only answers and notes: nothing here waits, calls back or writes to the store.
:mod:`hbtrio.nursery.agent.inventory` changes the stored records,
:mod:`hbtrio.nursery.agent.link_server` the sessions, and :mod:`hbtrio.nursery.agent.host_events`
the states of instances.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TypeVar

import attrs
import trio

from hbtrio.fsm.host_alarms import is_well
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.link_messages import Instance

_T = TypeVar("_T")


class Unknown(Exception):
    """No such host or instance."""


@attrs.frozen
class _Report:
    """The last report about an instance: when it came, and since when its state is the same."""

    instance: Instance
    since: float
    heard_at: float


class Fleet:
    """The known hosts and instances.

    What belongs to a host is found by the host: a fleet has a thousand times as many instances, and
    each snapshot would look at all of them.

    Args:
        has_vim: whether a VIM decides which hosts and instances exist; else the hosts' reports do.
    """

    def __init__(self, *, has_vim: bool) -> None:
        self.has_vim = has_vim
        self._hosts: dict[str, HostRecord] = {}
        self._instances: dict[str, InstanceRecord] = {}
        #: The records of hosts by uuid and those of instances by uuid.
        self.hosts: Mapping[str, HostRecord] = MappingProxyType(self._hosts)
        self.instances: Mapping[str, InstanceRecord] = MappingProxyType(self._instances)
        #: The same by hostname and uuid.
        self._named: dict[str, dict[str, HostRecord]] = {}
        self._bound: dict[str, dict[str, InstanceRecord]] = {}
        #: The sessions of linked hosts, by hostname.
        self.sessions: dict[str, HostSession] = {}
        #: Connections that have not sent hello, the oldest first; cancelled, they are closed.
        self.strangers: dict[trio.CancelScope, None] = {}
        #: Since when hosts have no link, by hostname, on trio's clock.
        self.down: dict[str, float] = {}
        #: Hosts that had a link before this agent was started and have sent no snapshot since.
        #: Their grace time is that of any other host without a link.
        self.awaited: set[str] = set()
        #: The last reports, by hostname and uuid: a moving instance is on two hosts.
        self._reports: dict[str, dict[str, _Report]] = {}
        #: Last names of instances that their hosts don't report, by hostname and uuid.
        self._names: dict[str, dict[str, str]] = {}

    def take_in(self, hostname: str) -> bool:
        """Returns whether something that a host has sent is still on its way here.

        A source of every deadline that decides about the host or its instances. A host without a
        link may be the one that has just dialled.
        """
        session = self.sessions.get(hostname)
        return bool(self.strangers) if session is None else session.take_in()

    # -- records ----------------------------------------------------------------------------

    def host(self, uuid: str) -> HostRecord:
        """Returns a host.

        Raises:
            Unknown: no record has this uuid.
        """
        try:
            return self.hosts[uuid]
        except KeyError:
            raise Unknown(f"unknown host {uuid}") from None

    def instance(self, uuid: str) -> InstanceRecord:
        """Returns an instance.

        Raises:
            Unknown: no record has this uuid.
        """
        try:
            return self.instances[uuid]
        except KeyError:
            raise Unknown(f"unknown instance {uuid}") from None

    def host_of(self, uuid: str) -> str | None:
        """Returns the name of the host that an instance is bound to, or None."""
        bound = self.instances.get(uuid)
        return None if bound is None else bound.hostname

    def bound_to(self, hostname: str) -> list[InstanceRecord]:
        """Returns the instances that are bound to a host."""
        return list(self._bound.get(hostname, {}).values())

    def named(self, hostname: str) -> list[HostRecord]:
        """Returns the records of hosts with this name."""
        return list(self._named.get(hostname, {}).values())

    def others_named(self, host: HostRecord) -> list[str]:
        """Returns the uuids of other records with the host's name."""
        return [uuid for uuid in self._named.get(host.hostname, {}) if uuid != host.uuid]

    def host_reporting(self, hostname: str) -> bool:
        """Returns whether a host's losses are reported: as the VIM has set, else always."""
        if not self.has_vim:
            return True
        return any(host.reporting for host in self._named.get(hostname, {}).values())

    def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host."""
        before = self._hosts.get(host.uuid)
        if before is not None and before.hostname != host.hostname:
            _remove(self._named, before.hostname, host.uuid)
        self._hosts[host.uuid] = host
        self._named.setdefault(host.hostname, {})[host.uuid] = host

    def drop_host(self, uuid: str) -> None:
        """Removes a host, if it is known."""
        if (host := self._hosts.pop(uuid, None)) is not None:
            _remove(self._named, host.hostname, uuid)

    def put_instance(self, bound: InstanceRecord) -> None:
        """Adds or changes an instance, or binds it to another host."""
        before = self._instances.get(bound.uuid)
        if before is not None and before.hostname != bound.hostname:
            _remove(self._bound, before.hostname, bound.uuid)
        self._instances[bound.uuid] = bound
        self._bound.setdefault(bound.hostname, {})[bound.uuid] = bound

    # -- states of instances ----------------------------------------------------------------

    def live(self, uuid: str) -> Instance | None:
        """Returns the last report about an instance from the host it is bound to, or None."""
        bound = self.instances.get(uuid)
        return None if bound is None else self.live_on(bound.hostname, uuid)

    def live_on(self, hostname: str, uuid: str) -> Instance | None:
        """Returns that host's last report about the instance, or None."""
        report = self._report(hostname, uuid)
        return None if report is None else report.instance

    def since(self, uuid: str) -> float | None:
        """Returns since when an instance is in its state, as far as this process was told.

        None if its host has not reported it.
        """
        bound = self.instances.get(uuid)
        report = None if bound is None else self._report(bound.hostname, uuid)
        return None if report is None else report.since

    def heard_at(self, hostname: str, uuid: str) -> float:
        """Returns when a host reported an instance last, on trio's clock.

        Raises:
            KeyError: it has not reported it.
        """
        return self._reports[hostname][uuid].heard_at

    def _report(self, hostname: str, uuid: str) -> _Report | None:
        reports = self._reports.get(hostname)
        return None if reports is None else reports.get(uuid)

    def may_be_heartbeating(self, uuid: str) -> bool:
        """Returns whether an instance counts as heartbeating, or its host may still report so."""
        bound = self.instances.get(uuid)
        if bound is None:
            return False
        live = self.live_on(bound.hostname, uuid)
        return bound.hostname in self.awaited if live is None else live.heartbeating

    def alarm_wanted(self, hostname: str, uuid: str) -> bool:
        """Returns whether an alarm of this host about this instance is still wanted."""
        bound = self.instances.get(uuid)
        if bound is None or bound.hostname != hostname or not bound.reporting:
            return False
        live = self.live_on(hostname, uuid)
        return self.host_reporting(hostname) and (live is None or not is_well(live))

    def last_name(self, bound: InstanceRecord) -> str:
        """Returns the last known name of an instance that its host no longer reports, or ""."""
        return self._names.get(bound.hostname, {}).get(bound.uuid, "")

    def note(self, hostname: str, uuid: str, instance: Instance | None) -> None:
        """Notes a host's report about an instance; None: the host no longer has the instance."""
        now, before = trio.current_time(), self._report(hostname, uuid)
        if instance is None:
            if before is not None:
                _remove(self._reports, hostname, uuid)
                self._keep_name(hostname, uuid, before.instance)
            return
        same = before is not None and before.instance.state == instance.state
        report = _Report(instance, before.since if before is not None and same else now, now)
        self._reports.setdefault(hostname, {})[uuid] = report
        if instance.name:
            self._names.get(hostname, {}).pop(uuid, None)

    def note_move(self, before: InstanceRecord, hostname: str) -> None:
        """Notes a move to another host; the last name is kept until that host reports."""
        name = self._names.get(before.hostname, {}).pop(before.uuid, "")
        if not name and (live := self.live_on(before.hostname, before.uuid)) is not None:
            name = live.name
        if name:
            self._names.setdefault(hostname, {})[before.uuid] = name

    def _keep_name(self, hostname: str, uuid: str, live: Instance) -> None:
        # One that moves is gone from its old host before the new one reports it.
        if live.name and self.host_of(uuid) == hostname:
            self._names.setdefault(hostname, {})[uuid] = live.name

    def drop_instance(self, bound: InstanceRecord) -> None:
        """Removes an instance."""
        known = self._instances.pop(bound.uuid, None)
        if known is not None:
            _remove(self._bound, known.hostname, bound.uuid)
        self._names.get(bound.hostname, {}).pop(bound.uuid, None)

    def lose_host(self, hostname: str) -> None:
        """Forgets a host's reports, except the names of the instances bound to it.

        The names are kept until its next snapshot: operators know an instance by its name.
        """
        names = self._names.get(hostname, {})
        for bound in self.bound_to(hostname):
            live = self.live_on(hostname, bound.uuid)
            if live is not None:
                names[bound.uuid] = live.name
        self.awaited.discard(hostname)
        self.forget_reports(hostname)
        if names:
            self._names[hostname] = names

    def forget_reports(self, hostname: str, but: Collection[str] = ()) -> None:
        """Forgets a host's reports, except those about the instances in ``but``."""
        self._names.pop(hostname, None)
        for uuid in [uuid for uuid in self._reports.get(hostname, {}) if uuid not in but]:
            _remove(self._reports, hostname, uuid)

    def forget_link(self, hostname: str) -> None:
        """Ends the wait for a host's link."""
        self.down.pop(hostname, None)
        self.awaited.discard(hostname)


def _remove(of_hosts: dict[str, dict[str, _T]], hostname: str, uuid: str) -> None:
    of_hosts[hostname].pop(uuid)
    if not of_hosts[hostname]:
        del of_hosts[hostname]
