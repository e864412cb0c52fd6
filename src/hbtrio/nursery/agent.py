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
from datetime import datetime, timedelta
from typing import Final

import trio

from hbtrio.config.agent import AgentConfig
from hbtrio.nursery.agent_asked import Asked, no_part
from hbtrio.nursery.agent_brake import AgentBrake, is_well
from hbtrio.nursery.agent_hearing import Hearing
from hbtrio.nursery.agent_links import AgentLinks
from hbtrio.nursery.agent_news import News
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
        self.rounds = Rounds(
            store,
            sender,
            self.host_of,
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

        Raises:
            TooMany: it is not taken in.
        """
        before = self.hosts.get(host.uuid)
        if host == before:
            return
        if before is None and len(self.hosts) >= _HOSTS:
            raise TooMany(f"{_HOSTS} hosts are known")
        self.edits += 1
        await self.store.put_host(host)
        self.hosts[host.uuid] = host
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

        An instance that does not take part, or whose host can't be reached, has nothing to say:
        the window is then 0 s.

        Raises:
            Unknown: nobody told of the instance.
            StoreFault: nobody can be asked, as nothing can be kept; or nothing was.
        """
        bound = self.instance(uuid)
        live = self.live(uuid)
        session = self.links.sessions.get(bound.hostname)
        if session is None:
            if self.store.fault:
                # It ends links. That it can't ask must not be taken for nobody's objecting.
                raise StoreFault(self.store.fault)
            return no_part(f"{bound.hostname} has no link to this agent")
        if live is None:
            return no_part(f"{bound.hostname} does not know {uuid}")
        return await self.rounds.ask(session, live, event, vote=vote, who=who)

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
