"""What the agent knows of its fleet: hosts, their sessions, instances, and what these are doing.

Whoever needs it is handed it. It only answers and notes: nothing here waits, calls anybody back or
writes to the store. What is kept is changed by :mod:`hbtrio.nursery.agent.inventory`, sessions by
:mod:`hbtrio.nursery.agent.link_server`, and what instances are doing by
:mod:`hbtrio.nursery.agent.host_events`.
"""

from __future__ import annotations

from collections.abc import Iterable

from hbtrio.fsm.host_alarms import is_well
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.link_messages import Instance


class Unknown(Exception):
    """No such host or instance."""


class Fleet:
    """Hosts and instances, as far as they are known.

    Args:
        has_vim: whether there is a VIM, whose word on hosts and instances counts; else the hosts'
            word does.
    """

    def __init__(self, *, has_vim: bool) -> None:
        self.has_vim = has_vim
        #: By uuid.
        self.hosts: dict[str, HostRecord] = {}
        self.instances: dict[str, InstanceRecord] = {}
        #: Hosts that have a link, by name.
        self.sessions: dict[str, HostSession] = {}
        #: Hosts without a link, by name, and since when on trio's clock.
        self.down: dict[str, float] = {}
        #: Hosts that had a link before this agent was started, and have sent no snapshot since.
        #: They are waited for as long as any other whose link is gone.
        self.awaited: set[str] = set()
        #: By host and instance: while it moves, an instance is on two hosts.
        self._live: dict[tuple[str, str], Instance] = {}
        #: The names of instances of hosts that have reported nothing for long, by host and uuid.
        self._names: dict[str, dict[str, str]] = {}

    # -- who is bound where -----------------------------------------------------------------

    def host(self, uuid: str) -> HostRecord:
        """A host.

        Raises:
            Unknown: there is none with this uuid.
        """
        try:
            return self.hosts[uuid]
        except KeyError:
            raise Unknown(f"unknown host {uuid}") from None

    def instance(self, uuid: str) -> InstanceRecord:
        """An instance.

        Raises:
            Unknown: there is none with this uuid.
        """
        try:
            return self.instances[uuid]
        except KeyError:
            raise Unknown(f"unknown instance {uuid}") from None

    def host_of(self, uuid: str) -> str | None:
        """The name of the host to which an instance is bound, or None."""
        bound = self.instances.get(uuid)
        return None if bound is None else bound.hostname

    def bound_to(self, hostname: str) -> list[InstanceRecord]:
        """The instances that are bound to a host."""
        return [bound for bound in self.instances.values() if bound.hostname == hostname]

    def others_named(self, host: HostRecord) -> list[str]:
        """The uuids of other records of a host's name."""
        return [
            other.uuid
            for other in self.hosts.values()
            if other.hostname == host.hostname and other.uuid != host.uuid
        ]

    def host_reporting(self, hostname: str) -> bool:
        """Whether a host's losses are reported: without a VIM always, else as the VIM says."""
        if not self.has_vim:
            return True
        return any(h.reporting for h in self.hosts.values() if h.hostname == hostname)

    # -- what instances are doing -----------------------------------------------------------

    def live(self, uuid: str) -> Instance | None:
        """What the host to which an instance is bound last reported of it, or None."""
        bound = self.instances.get(uuid)
        return None if bound is None else self.live_on(bound.hostname, uuid)

    def live_on(self, hostname: str, uuid: str) -> Instance | None:
        """What that host last reported of the instance, or None."""
        return self._live.get((hostname, uuid))

    def may_be_heartbeating(self, uuid: str) -> bool:
        """Whether an instance counts as heartbeating, or its host may yet say so."""
        bound = self.instances.get(uuid)
        if bound is None:
            return False
        live = self.live_on(bound.hostname, uuid)
        return bound.hostname in self.awaited if live is None else live.heartbeating

    def alarm_wanted(self, hostname: str, uuid: str) -> bool:
        """Whether an alarm of this host about this instance is still of use."""
        bound = self.instances.get(uuid)
        if bound is None or bound.hostname != hostname or not bound.reporting:
            return False
        live = self.live_on(hostname, uuid)
        return self.host_reporting(hostname) and (live is None or not is_well(live))

    def last_name(self, bound: InstanceRecord) -> str:
        """The last known name of an instance of which its host reports nothing; or ""."""
        return self._names.get(bound.hostname, {}).get(bound.uuid, "")

    def note(self, hostname: str, uuid: str, instance: Instance | None) -> None:
        """Notes what a host reported of an instance; None: it has that instance no longer."""
        if instance is None:
            self._live.pop((hostname, uuid), None)
        else:
            self._live[hostname, uuid] = instance
            self._names.get(hostname, {}).pop(uuid, None)

    def note_move(self, before: InstanceRecord, hostname: str) -> None:
        """The instance is bound to another host; its last name is kept until that one reports."""
        name = self._names.get(before.hostname, {}).pop(before.uuid, "")
        if name:
            self._names.setdefault(hostname, {})[before.uuid] = name

    def drop_instance(self, bound: InstanceRecord) -> None:
        """The instance is known no longer."""
        self.instances.pop(bound.uuid, None)
        self._names.get(bound.hostname, {}).pop(bound.uuid, None)

    def lose_host(self, hostname: str) -> None:
        """Forgets what a host reported, but for the names of the instances bound to it.

        They are kept until its next snapshot: people know an instance by its name.
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

    def forget_reports(self, hostname: str, but: Iterable[str] = ()) -> None:
        """Forgets what a host reported, except of the instances in ``but``."""
        self._names.pop(hostname, None)
        kept = set(but)
        for key in [key for key in self._live if key[0] == hostname and key[1] not in kept]:
            del self._live[key]

    def forget_link(self, hostname: str) -> None:
        """The host is not waited for any more."""
        self.down.pop(hostname, None)
        self.awaited.discard(hostname)
