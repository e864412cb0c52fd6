"""Composes the agent: the fleet, the links of its hosts, and the delivery to the VIM.

    agent
      time           the on-time guard
      rounds         votes and notices, each until its end
      host events    the grace time of hosts without a link
      mass failures  held alarms, each until it is judged or released
      VIM delivery   sends the outbox to the VIM
      VIM audit      fetches the reporting states from the VIM
      history        removes old entries
      file watch     uses renewed certificates, and warns before they expire
      store watch    notices that the store's files were deleted or replaced
      links          one session for each linked host
      actions        one task for each action that an operator has started
      drains         one task for each drain, and one that stores them

Everything that must survive is stored before it is reported. The state of an instance comes from
its host's session and stays valid for a grace time after the session: a short loss of the link says
nothing about the instances.

Each part receives the :class:`~hbtrio.nursery.agent.fleet.Fleet` and the parts below it, and does
not know the parts above. The parts end from the top: an action that ends with the agent does not
report its host as gone, and a link that ends still finds the open votes and notices.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.config.agent import AgentConfig
from hbtrio.nursery.agent.action_history import ActionHistory
from hbtrio.nursery.agent.alerts import AgentAlerts
from hbtrio.nursery.agent.audit import Audit
from hbtrio.nursery.agent.counted_history import CountedHistory
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.fleet_actions import AgentActions
from hbtrio.nursery.agent.fleet_drains import FleetDrains
from hbtrio.nursery.agent.host_events import HostEvents
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.instance_holds import AgentHolds
from hbtrio.nursery.agent.instance_states import InstanceStates
from hbtrio.nursery.agent.inventory import AgentInventory
from hbtrio.nursery.agent.kept_members import KeptMembers
from hbtrio.nursery.agent.later_truths import LaterTruths
from hbtrio.nursery.agent.link_server import AgentLinks
from hbtrio.nursery.agent.mass_failure import MassFailureGuard
from hbtrio.nursery.agent.round_ends import RoundEnds
from hbtrio.nursery.agent.rounds import Rounds
from hbtrio.nursery.agent.unasked_rounds import UnaskedRounds
from hbtrio.nursery.agent.verdicts import Verdicts
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.agent.vim_delivery import VimDelivery, VimTransport
from hbtrio.nursery.agent.vim_steps import VimSteps
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.store_watch import StoreWatch
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.nursery.time_guard import GuardRunner, run_guard
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.policy.instance_hold import InstanceHolds
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.system.boot_clock import process_clock

_log = logging.getLogger("hbtrio.agent")

#: Seconds between two prunings of old history; and the pause while there is more to prune.
_PRUNE_S: Final = 3600.0
_PRUNE_ON_S: Final = 0.1


@attrs.frozen
class _GivenUp:
    """Handles entries that were not delivered to the VIM."""

    history: Broadcast[HistoryEntry]
    states: InstanceStates

    def undelivered(self, entry: HistoryEntry) -> None:
        """Publishes the history entry of an undelivered entry."""
        self.history.publish(entry)

    def state_given_up(self, uuid: str, *, for_good: bool) -> None:
        """Notes that the VIM did not take a state."""
        self.states.given_up(uuid, for_good=for_good)


@attrs.frozen(eq=False)
class Agent:
    """The agent's core, without HTTP: that is ``hbtrio.api``.

    Every method that changes the store raises ``StoreFault`` if the store fails; then nothing was
    changed.

    Args:
        config: its configuration.
        store: its persistent state.
        fleet: its hosts and instances.
        history: publishes the history entries, and counts some of them.
        inventory: changes hosts and instances.
        states: notifies the VIM of the instances' states.
        groups: how many instances of each may be unavailable.
        rounds: runs votes and notices.
        mass_failure_guard: holds back alarms.
        holds: the holds of operators on instances.
        links: serves the hosts' links.
        actions: runs the operators' actions on hosts.
        drains: runs drains of hosts.
        delivery: delivers to the VIM; None without a VIM.
        supervisor: counts programming errors.
        files: the certificates and tokens in use.
        store_watch: watches the store's files.
        notifier: tells whoever is on call; None: nobody is told.
        started_at: the time of its start.
        clock: by which operators' requests expire.
        guard: the process's on-time guard.
        wall_clock: the wall clock of the store.
    """

    config: AgentConfig
    store: Store
    fleet: Fleet
    history: CountedHistory
    inventory: AgentInventory
    states: InstanceStates
    groups: FleetGroups
    rounds: Rounds
    mass_failure_guard: MassFailureGuard
    holds: AgentHolds
    links: AgentLinks
    actions: AgentActions
    drains: FleetDrains
    delivery: VimDelivery | None
    supervisor: Supervisor
    files: FileWatch
    store_watch: StoreWatch
    notifier: Notifier | None
    started_at: datetime
    clock: ProcessClock
    guard: OnTimeGuard
    wall_clock: Callable[[], datetime]


@asynccontextmanager
async def open_agent(
    config: AgentConfig,
    store: Store,
    transport: VimTransport | None,
    *,
    auditor: VimClient | None = None,
    files: FileWatch | None = None,
    notifier: Notifier | None = None,
    new_command_id: Callable[[], str],
    wall_clock: Callable[[], datetime],
    clock: ProcessClock | None = None,
    run_guard: GuardRunner = run_guard,
) -> AsyncIterator[Agent]:
    """Runs an agent within the block; all calls to it have to end within the block, too.

    Args:
        config: its configuration.
        store: its persistent state.
        transport: sends to the VIM; None without a VIM.
        auditor: audits the VIM every ``config.vim.audit_s`` seconds; None for no audits.
        files: the certificates and tokens in use; None if there are none.
        notifier: tells whoever is on call; None: nobody is told.
        new_command_id: makes ids that are never reused.
        wall_clock: the wall clock of the store.
        clock: by which requests and commands expire; None for the system's.
        run_guard: ticks the on-time guard.

    Raises:
        StoreFault: the store can't be read at the start.
    """
    clock = clock or process_clock()
    files = FileWatch(wall_clock) if files is None else files
    store_watch = StoreWatch(store)
    fleet = Fleet(has_vim=transport is not None)
    history = CountedHistory()
    if notifier is not None:
        alerts = AgentAlerts(notifier, config.name)
        history.listen(alerts.entry)
        files.on_warning = alerts.certificate
    outbox = WakeUp()
    guard = OnTimeGuard(trio.current_time())
    supervisor = Supervisor()
    states = InstanceStates(fleet, store, outbox)
    groups = FleetGroups(config.groups, fleet, KeptMembers(store.members))
    await groups.load()
    unasked = UnaskedRounds(fleet, store, history, wall_clock)
    on_hold = InstanceHolds()
    mass_failure_guard = MassFailureGuard(
        config.brake, store.held, fleet, outbox, history, on_hold, guard, wall_clock
    )
    holds = AgentHolds(on_hold, store.holds, fleet, mass_failure_guard, history, guard, wall_clock)
    await holds.load()
    inventory = AgentInventory(
        fleet, store, states, groups, mass_failure_guard, history, wall_clock
    )
    await inventory.load()
    async with trio.open_nursery() as nursery:
        steps = VimSteps(nursery, fleet, states, guard)
        ends = RoundEnds(
            nursery,
            fleet,
            store,
            guard,
            outbox,
            history,
            Verdicts(fleet, steps, wall_clock),
            wall_clock,
        )
        rounds = Rounds(
            fleet,
            store,
            groups,
            unasked,
            ends,
            new_command_id=new_command_id,
            wall_clock=wall_clock,
        )
        events = HostEvents(
            nursery,
            fleet,
            inventory,
            store,
            states,
            groups,
            mass_failure_guard,
            ends,
            outbox,
            history,
            guard,
            grace_s=config.link.grace_s,
            wall_clock=wall_clock,
        )

        def resting() -> bool:
            waiting = mass_failure_guard.is_waiting or events.is_waiting or steps.is_waiting
            return not (len(rounds) or waiting)

        nursery.start_soon(run_guard, guard, resting)
        await ends.resume()
        rounds.resumed()
        await nursery.start(mass_failure_guard.run)
        nursery.start_soon(supervisor.keep, "holds", holds.run)
        await events.await_hosts()
        delivery = None
        if transport is not None:
            delivery = VimDelivery(store, transport, outbox, guard, config.vim.at_once)
            deliver = partial(delivery.run, _GivenUp(history, states))
            nursery.start_soon(supervisor.keep, "VIM delivery", deliver)
        if auditor is not None:
            audit = Audit(fleet, inventory, states, auditor, config.vim.audit_s)
            nursery.start_soon(supervisor.keep, "VIM audit", audit.run)

        async def prune() -> None:
            await _prune_history(store, timedelta(days=config.store.history_days), wall_clock)

        nursery.start_soon(supervisor.keep, "history pruning", prune)
        nursery.start_soon(supervisor.keep, "file watch", files.run)
        nursery.start_soon(supervisor.keep, "store watch", store_watch.run)
        if notifier is not None:
            nursery.start_soon(supervisor.keep, "notifier", notifier.run)
        async with trio.open_nursery() as link_nursery:
            later = LaterTruths(nursery, store, history, ends)
            links = AgentLinks(
                link_nursery,
                config.name,
                fleet,
                store,
                events,
                supervisor,
                guard,
                later,
                clock.now,
                files,
                holds,
                groups,
            )
            async with trio.open_nursery() as action_nursery:
                actions = AgentActions(
                    action_nursery,
                    fleet,
                    ActionHistory(store, history, wall_clock),
                    later,
                    groups,
                    holds,
                    new_command_id=new_command_id,
                )
                drains = FleetDrains(
                    action_nursery, supervisor, fleet, actions, rounds, groups, store, wall_clock
                )
                await drains.load()
                history.listen(drains.entry)
                action_nursery.start_soon(supervisor.keep, "drains", drains.kept.write_forever)
                yield Agent(
                    config=config,
                    store=store,
                    fleet=fleet,
                    history=history,
                    inventory=inventory,
                    states=states,
                    groups=groups,
                    rounds=rounds,
                    mass_failure_guard=mass_failure_guard,
                    holds=holds,
                    links=links,
                    actions=actions,
                    drains=drains,
                    delivery=delivery,
                    supervisor=supervisor,
                    files=files,
                    store_watch=store_watch,
                    notifier=notifier,
                    started_at=wall_clock(),
                    clock=clock,
                    guard=guard,
                    wall_clock=wall_clock,
                )
                action_nursery.cancel_scope.cancel()
            link_nursery.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _prune_history(store: Store, keep: timedelta, wall_clock: Callable[[], datetime]) -> None:
    while True:
        pause_s = _PRUNE_S
        try:
            if await store.prune(wall_clock() - keep):
                pause_s = _PRUNE_ON_S
        except StoreFault as fault:
            _log.error("store: %s", fault)
        await trio.sleep(pause_s)
