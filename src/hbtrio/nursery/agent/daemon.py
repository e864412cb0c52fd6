"""The agent: what it knows of the fleet, what it asks of hosts, what it tells the VIM.

    agent
      links         one session for each host that has dialled in
      hearing       what they tell is taken in
        grace <host>  a host without a link: for how long its VMs still count as they were
      rounds        votes and notices, each until its end
      delivery      empties the outbox to the VIM
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
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.config.agent import AgentConfig
from hbtrio.fsm.host_alarms import is_well
from hbtrio.nursery.agent.host_events import HostEvents
from hbtrio.nursery.agent.instance_states import InstanceStates
from hbtrio.nursery.agent.inventory import AgentInventory
from hbtrio.nursery.agent.link_server import AgentLinks
from hbtrio.nursery.agent.mass_failure import MassFailureGuard
from hbtrio.nursery.agent.open_rounds import OpenedRound
from hbtrio.nursery.agent.rounds import Rounds
from hbtrio.nursery.agent.unasked_rounds import UnaskedRounds
from hbtrio.nursery.agent.vim_delivery import VimDelivery
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vocabulary import Event

_log = logging.getLogger("hbtrio.agent")

#: How often old history is looked for, in seconds; and how soon again where there was much.
_PRUNE_S: Final = 3600.0
_PRUNE_ON_S: Final = 0.1


@attrs.frozen
class _GivenUp:
    """Hears of what the VIM did not get."""

    history: Broadcast[HistoryEntry]
    states: InstanceStates

    def undelivered(self, entry: HistoryEntry) -> None:
        """An entry was given up."""
        self.history.publish(entry)

    def state_given_up(self, uuid: str, *, for_good: bool) -> None:
        """The VIM did not take a state."""
        self.states.given_up(uuid, for_good=for_good)


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
        sender: VimDelivery | None,
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.config = config
        self.store = store
        self.sender = sender
        self.news = InstanceStates(store, sender)
        #: What is kept in the history, as it happens.
        self.history: Broadcast[HistoryEntry] = Broadcast()
        self._refusals = UnaskedRounds(store, self._may_beat, self.history.publish, wall_clock)
        self.rounds = Rounds(
            store,
            sender,
            lambda uuid: self.inventory.host_of(uuid),
            self._refusals,
            self.history.publish,
            new_command_id=new_command_id,
            wall_clock=wall_clock,
        )
        self.brake = MassFailureGuard(
            config.brake,
            store.held,
            bound=lambda hostname: len(self.inventory.bound_to(hostname)),
            wanted=self._alarm_wanted,
            wake=self._wake,
            publish=self.history.publish,
            wall_clock=wall_clock,
        )
        self.inventory = AgentInventory(
            store,
            self.news,
            self.brake,
            lambda hostname: self.links.sessions.get(hostname),
            has_vim=sender is not None,
            publish=self.history.publish,
            wall_clock=wall_clock,
        )
        self._hearing = HostEvents(
            self.inventory,
            store,
            sender,
            self.news,
            self.brake,
            self.rounds,
            grace_s=config.link.grace_s,
            publish=self.history.publish,
            wall_clock=wall_clock,
        )
        self.links = AgentLinks(config.name, store, self._hearing)
        self.supervisor = Supervisor()
        self.started_at = wall_clock()
        self._wall_clock = wall_clock

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled.

        Raises:
            StoreFault: the store can't be read at the start.
        """
        await self.inventory.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.rounds.run)
            await nursery.start(self.brake.run)
            if self.sender is not None:
                deliver = partial(self.sender.run, _GivenUp(self.history, self.news))
                nursery.start_soon(self.supervisor.keep, "delivery", deliver)
            nursery.start_soon(self.supervisor.keep, "housekeeping", self._keep_house)
            await nursery.start(self._hearing.run)
            task_status.started()

    # -- votes and notices ------------------------------------------------------------------

    async def ask(self, uuid: str, event: Event, *, vote: bool, who: str) -> OpenedRound:
        """Opens a vote or notice on an instance, if it takes part; see :meth:`Rounds.ask`.

        One that counts as not heartbeating has nothing to say: the window is then 0 s.

        Raises:
            Unknown: nobody told of the instance.
            CantAsk: it may be heartbeating, and nobody knows what it would say.
            StoreFault: nobody can be asked, as nothing can be kept; or nothing was.
        """
        bound = self.inventory.instance(uuid)
        live = self.inventory.live(uuid)
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
        bound = self.inventory.instances.get(uuid)
        if bound is None:
            return False
        live = self.news.live(bound.hostname, uuid)
        return bound.hostname in self.inventory.awaited if live is None else live.heartbeating

    def _wake(self) -> None:
        if self.sender is not None:
            self.sender.wake()

    def _alarm_wanted(self, hostname: str, uuid: str) -> bool:
        """Whether an alarm that was held back is still of use."""
        bound = self.inventory.instances.get(uuid)
        if bound is None or bound.hostname != hostname or not bound.reporting:
            return False
        live = self.news.live(hostname, uuid)
        return self.inventory.host_reporting(hostname) and (live is None or not is_well(live))

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
