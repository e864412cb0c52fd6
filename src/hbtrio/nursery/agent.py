"""The agent: what it knows of the fleet, what it asks of hosts, what it tells the VIM.

    agent
      links         one session for each host that has dialled in
      hearing       what they tell is taken in
        grace <host>  a host without a link: for how long its VMs still count as they were
      rounds        votes and notices, each until its end
      sender        empties the outbox to the VIM
      audit         asks the VIM what is to be reported
      brake         alarms that are held back, each until it is judged or let go
      housekeeping  old history

Everything that must survive goes through the store before anything is said about it. What an
instance is doing comes from its host's session and is kept a grace time beyond it: a link that is
down for a moment says nothing about VMs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import trio

from hbtrio.config.agent import AgentConfig
from hbtrio.nursery.agent_asked import Asked
from hbtrio.nursery.agent_brake import AgentBrake, NotHeld, is_well
from hbtrio.nursery.agent_hearing import Hearing, warn_of_vote
from hbtrio.nursery.agent_links import AgentLinks
from hbtrio.nursery.agent_news import News
from hbtrio.nursery.agent_refusals import Refusals
from hbtrio.nursery.agent_rounds import Rounds
from hbtrio.nursery.followed import Followed
from hbtrio.nursery.store import Store
from hbtrio.nursery.store_records import HistoryEntry, HostRecord, InstanceRecord
from hbtrio.nursery.store_worker import StoreFault
from hbtrio.nursery.supervision import Supervisor
from hbtrio.nursery.vim_sender import VimSender
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vim import Switch
from hbtrio.wire.vocabulary import Event

_log = logging.getLogger("hbtrio.agent")

#: What a VIM may tell of: its requests are not to fill the memory.
_HOSTS: Final = 10_000
_INSTANCES: Final = 100_000

#: How often old history is looked for, in seconds; and how soon again where there was much.
_PRUNE_S: Final = 3600.0
_PRUNE_ON_S: Final = 0.1


class Unknown(Exception):
    """No such host or instance."""


class TooMany(Exception):
    """So many hosts or instances are known that no other is taken in."""


class Linked(Exception):
    """A host that has a link can't be forgotten: it would be back with its next word."""


class Agent:
    """The agent's core, without HTTP: that is ``vim_api`` and ``agent_api``.

    Whatever changes the store raises ``StoreFault`` when it can't; nothing was changed then.

    Args:
        config: its configuration.
        store: its memory.
        sender: delivers to the VIM; without a VIM, None.
        new_command_id: makes ids that are unique for ever.
        wall_clock: the store's.
    """

    def __init__(
        self,
        config: AgentConfig,
        store: Store,
        sender: VimSender | None,
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.config = config
        self.store = store
        self.sender = sender
        self.hosts: dict[str, HostRecord] = {}
        self.instances: dict[str, InstanceRecord] = {}
        self.news = News(store, sender)
        #: What is kept in the history, as it happens.
        self.history: Followed[HistoryEntry] = Followed()
        self._refusals = Refusals(store, self._may_beat, self.history.publish, wall_clock)
        self.rounds = Rounds(
            store,
            sender,
            self.host_of,
            self._refusals,
            self.history.publish,
            new_command_id=new_command_id,
            wall_clock=wall_clock,
        )
        if sender is not None:
            sender.on_undelivered = self.history.publish
        self.brake = AgentBrake(
            config.brake,
            store.held,
            bound=lambda hostname: len(self.bound_to(hostname)),
            wanted=self._alarm_wanted,
            wake=self._wake,
            publish=self.history.publish,
            wall_clock=wall_clock,
        )
        hearing = self._hearing = Hearing(
            self,
            store,
            sender,
            self.news,
            self.brake,
            self.rounds,
            grace_s=config.link.grace_s,
            publish=self.history.publish,
            wall_clock=wall_clock,
        )
        self.links = AgentLinks(config.name, store, hearing)
        #: Hosts without a link, and since when on trio's clock.
        self.down = hearing.down
        self.supervisor = Supervisor()
        self.started_at = wall_clock()
        #: How often the inventory was changed: what was asked before may be outdated after.
        self.edits = 0
        self._wall_clock = wall_clock

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled.

        Raises:
            StoreFault: the store can't be read at the start.
        """
        self.hosts = {host.uuid: host for host in await self.store.hosts()}
        self.instances = {instance.uuid: instance for instance in await self.store.instances()}
        async with trio.open_nursery() as nursery:
            await nursery.start(self.rounds.run)
            await nursery.start(self.brake.run)
            if self.sender is not None:
                nursery.start_soon(self.supervisor.keep, "sender", self.sender.run)
            nursery.start_soon(self.supervisor.keep, "housekeeping", self._keep_house)
            await nursery.start(self._hearing.run)
            task_status.started()

    # -- inventory: what the VIM says -------------------------------------------------------

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
        return None if bound is None else self.news.live(bound.hostname, uuid)

    def host_reporting(self, hostname: str) -> bool:
        """Whether a host's losses are reported: without a VIM always, else as it says."""
        if self.sender is None:
            return True
        return any(h.reporting for h in self.hosts.values() if h.hostname == hostname)

    async def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host, and has it told whether to report.

        A host has one record: one with its name and another uuid is of no use any more.

        Raises:
            TooMany: it is not taken in.
        """
        before = self.hosts.get(host.uuid)
        if host == before:
            return
        if before is None and len(self.hosts) >= _HOSTS and not self.others_named(host):
            raise TooMany(f"{_HOSTS} hosts are known")
        self.edits += 1
        await self.store.put_host(host)
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
        host = self.host(uuid)
        self.edits += 1
        await self.store.delete_host(uuid)
        self.hosts.pop(uuid, None)
        if not self.bound_to(host.hostname):
            self.down.pop(host.hostname, None)
        self.tell_host(host.hostname)
        await self.brake.deleted(host.hostname)

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
        if hostname in self.links.sessions:
            raise Linked(f"{hostname} has a link to this agent")
        bound = self.bound_to(hostname)
        uuids = [host.uuid for host in self.hosts.values() if host.hostname == hostname]
        held = self.brake.hold(hostname) is not None
        if not (uuids or bound or held or hostname in self.down):
            raise Unknown(f"unknown host {hostname}")
        self.edits += 1
        words = f"instances that were on it: {len(bound)}"
        entry = HistoryEntry(self._wall_clock(), "host-forgotten", "", hostname, words, who=who)
        await self.store.forget_host(hostname, entry)
        self.history.publish(entry)
        _log.warning("%s: forgotten for %s; %s", hostname, who, words)
        for uuid in uuids:
            self.hosts.pop(uuid, None)
        for instance in bound:
            self.instances.pop(instance.uuid, None)
            self.news.forget(instance.uuid)
        if hostname not in self.links.sessions:
            self._hearing.forget(hostname)
        # Else it has come meanwhile, and was told what is no longer so.
        self.tell_host(hostname)
        for instance in bound:
            self._silence(instance)
        # Alarms that are held to see whether more follow are of no use any more when that is over.
        with suppress(NotHeld):
            await self.brake.release(hostname, who, send=False)
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
        before = self.instances.get(instance.uuid)
        if instance == before:
            return
        if before is None and len(self.instances) >= _INSTANCES:
            raise TooMany(f"{_INSTANCES} instances are known")
        self.edits += 1
        await self.store.put_instance(instance)
        self.instances[instance.uuid] = instance
        self.tell_instance(instance)
        if before is not None and before.hostname != instance.hostname:
            _log.info("%s: moved from %s to %s", instance.uuid, before.hostname, instance.hostname)
            self._silence(before)
            why = f"it has moved to {instance.hostname}"
            await self.brake.left(before.hostname, instance.uuid, why)
        live = self.live(instance.uuid)
        is_new = before is None or before.hostname != instance.hostname
        if is_new and live is not None and self.sender is not None:
            # Its host told of it before it was bound there: nobody was warned.
            warn_of_vote(live)
        now = self.news.service(instance)
        if before is None and now.status is Switch.DISABLED:
            # Whoever has just told of it knows of no heartbeat.
            self.news.told([now])
        await self.news.tell([instance])

    async def delete_instance(self, uuid: str) -> None:
        """Forgets an instance; its host goes on heartbeating it and reports nothing.

        Raises:
            Unknown: nobody told of it.
        """
        instance = self.instance(uuid)
        self.edits += 1
        await self.store.delete_instance(uuid)
        self.instances.pop(uuid, None)
        self.news.forget(uuid)
        self._silence(instance)
        await self.brake.left(instance.hostname, uuid, "the VIM has deleted it")

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
        session = self.links.sessions.get(hostname)
        if session is not None:
            session.set_reporting("", self.host_reporting(hostname))

    def tell_instance(self, instance: InstanceRecord) -> None:
        """Has an instance's host told whether its losses are to be reported."""
        session = self.links.sessions.get(instance.hostname)
        if session is not None:
            session.set_reporting(instance.uuid, instance.reporting)

    def _silence(self, instance: InstanceRecord) -> None:
        session = self.links.sessions.get(instance.hostname)
        if session is not None:
            session.set_reporting(instance.uuid, False)

    # -- votes and notices ------------------------------------------------------------------

    async def ask(self, uuid: str, event: Event, *, vote: bool, who: str) -> Asked:
        """Opens a vote or notice on an instance, if it takes part; see :meth:`Rounds.ask`.

        One that counts as not heartbeating has nothing to say: the window is then 0 s.

        Raises:
            Unknown: nobody told of the instance.
            CantAsk: it may be heartbeating, and nobody knows what it would say.
            StoreFault: nobody can be asked, as nothing can be kept; or nothing was.
        """
        bound = self.instance(uuid)
        live = self.live(uuid)
        session = self.links.sessions.get(bound.hostname)
        if session is not None and live is not None:
            return await self.rounds.ask(session, live, event, vote=vote, who=who)
        if session is None and self.store.fault:
            # It ends links. That it can't ask must not be taken for nobody's objecting, even once
            # its hosts' grace time is over.
            raise StoreFault(self.store.fault)
        why = f"{bound.hostname} does not know {uuid}"
        if session is None:
            why = f"{bound.hostname} has no link to this agent"
        return await self._refusals.refuse(uuid, bound.hostname, event, vote=vote, who=who, why=why)

    def _may_beat(self, uuid: str) -> bool:
        """Whether an instance counts as heartbeating, or its host may yet say so."""
        bound = self.instances.get(uuid)
        if bound is None:
            return False
        live = self.news.live(bound.hostname, uuid)
        return bound.hostname in self._hearing.awaited if live is None else live.heartbeating

    def _wake(self) -> None:
        if self.sender is not None:
            self.sender.wake()

    def _alarm_wanted(self, hostname: str, uuid: str) -> bool:
        """Whether an alarm that was held back is still of use."""
        bound = self.instances.get(uuid)
        if bound is None or bound.hostname != hostname or not bound.reporting:
            return False
        live = self.news.live(hostname, uuid)
        return self.host_reporting(hostname) and (live is None or not is_well(live))

    # -- housekeeping -----------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            edge = self._wall_clock() - timedelta(days=self.config.store.history_days)
            pause_s = _PRUNE_S
            try:
                if await self.store.prune(edge):
                    pause_s = _PRUNE_ON_S
            except StoreFault as fault:
                _log.error("store: %s", fault)
            await trio.sleep(pause_s)
