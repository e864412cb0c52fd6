"""Runs the host daemon: discovery, a channel per instance, the pacer, reports and actions.

    host
      time            the on-time guard
      overload        sheds what can wait, while the host is late
      pacer           sends the challenges of all channels
      read hub        reads from all channels
      discovery       finds channel sockets that come and go
      holds           ends operators' holds on instances at their times
      libvirt         what libvirt knows of each instance
      notifier        tells whoever is on call
      file watch      uses renewed certificates, and warns before they expire
      channel <uuid>  one per instance, see channel.py
      corrective      commands for lost and ill instances
      action <uuid>   an action on an instance, from vote to post-notice

Everything that an operator or an agent can request of a host is a method of :class:`Host`. Sockets
and processes are passed in, so that the same host runs in a simulation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import trio

from hbtrio.config.host import HostConfig
from hbtrio.nursery.host.action_runs import ActionOrder, ActionRuns
from hbtrio.nursery.host.action_tools import ActionTools
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.alerts import HostAlerts
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.channel_keeper import ChannelKeeper
from hbtrio.nursery.host.channel_setup import ChannelSetup, heartbeat_rules, read_limits
from hbtrio.nursery.host.correction_tools import HeartbeatingCount
from hbtrio.nursery.host.corrective import Corrective
from hbtrio.nursery.host.counts import HostCounts
from hbtrio.nursery.host.domains import Domains
from hbtrio.nursery.host.drain_site import HostDrains
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.events_file import EventsSink
from hbtrio.nursery.host.instance_groups import HostGroups
from hbtrio.nursery.host.instance_holds import HostHolds
from hbtrio.nursery.host.link_status import LinkStatus
from hbtrio.nursery.host.outside_rounds import OutsideRounds
from hbtrio.nursery.host.overload_watch import OverloadWatch
from hbtrio.nursery.host.owners import Owners
from hbtrio.nursery.host.refusals import UnknownInstance, recorded
from hbtrio.nursery.host.remembering import Remembering
from hbtrio.nursery.host.reporting import ReportingSwitch
from hbtrio.nursery.host.round import Round
from hbtrio.nursery.host.stopping import Stopping
from hbtrio.nursery.host.watched import WatchedInstances
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.nursery.time_guard import never_resting
from hbtrio.policy.begin_by import ANY_TIME, BeginBy
from hbtrio.policy.mass_failure import MassFailures
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.host_records import Recollection
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType


class Host:
    """The host daemon; :func:`open_host` makes and runs it.

    Args:
        config: its configuration.
        environment: its sockets, processes, ids and reports.
        nursery: runs its tasks.
        events: the file that its reports are written to, for its status; None if there is none.
    """

    def __init__(
        self,
        config: HostConfig,
        environment: HostEnvironment,
        nursery: trio.Nursery,
        events: EventsSink | None,
    ) -> None:
        self.config = config
        self.events = events
        self.channels: dict[str, Channel] = {}
        self.reports = environment.reports
        #: By which requests and commands expire.
        self.clock = environment.clock
        self.guard = OnTimeGuard(trio.current_time())
        self.pacer = Pacer()
        self.heap = environment.heap
        self.counts = HostCounts(environment.processes)
        self.reports.listen(self.counts.report)
        self.log_lines_dropped = environment.log_lines_dropped
        self.files = environment.files
        self.notifier = environment.notifier
        if self.notifier is not None:
            HostAlerts(self.notifier, config.hostname).listen(self.reports, self.files)
        self.overload = OverloadWatch(self.guard, environment.shed_log, environment.reports.now)
        self.supervisor = Supervisor()
        self.mass_failures = MassFailures(config.brake.share, config.brake.minimum)
        self.started_at = environment.reports.now()
        #: The link to the agent, which :class:`~hbtrio.nursery.host.agent_link.HostLink` keeps up.
        self.link = LinkStatus(config.agent.connect, environment.reports.now)
        self._environment = environment
        self._nursery = nursery
        self._heartbeating = HeartbeatingCount()
        self.memory = environment.memory
        self.remembering = Remembering(
            self.memory,
            lambda uuid: self.domains.id_of(uuid),
            lambda uuid: self.domains.runs(uuid),
            self.channels,
            config,
            self.reports,
            lambda uuid: self.corrective.changed(uuid),
        )
        self.owners = Owners(nursery, self.guard, lambda uuid: self.groups.owner_changed(uuid))
        self.domains = Domains(
            config,
            environment.libvirt,
            self.channels,
            self.guard,
            on_change=self._changed,
            on_channels=lambda uuid, paths: self.watched.sockets.told(uuid, paths),
            on_gone=lambda file: self._keeper.gone(file),
            on_policy=lambda uuid: self.watched.changed(uuid),
            on_domain=lambda domain: self.groups.domain_changed(domain),
        )
        self.groups = HostGroups(
            config.groups, self.channels, self.domains, self.owners, self.memory
        )
        self.rounds = OutsideRounds(
            nursery,
            self.owners,
            self.groups,
            self.guard,
            self.channel,
            self.remembering.round_refused,
        )
        self.holds = HostHolds(self.memory, self.reports, self.channels.get, self._changed)
        self.corrective = Corrective(
            nursery,
            config.corrective_commands,
            config.corrective,
            self.channels,
            self.mass_failures,
            environment.processes,
            self._heartbeating,
            self.guard,
            config.heartbeat.failure_threshold,
            self.domains,
            self.owners,
            self.memory,
            self.supervisor,
            self.domains.policies,
            self.groups,
            self.holds,
            self.remembering.recall.awaits,
            has_agent=bool(config.agent.connect),
        )
        self.drains = HostDrains(nursery, self)
        self._action_runs = ActionRuns(
            nursery,
            config.actions,
            ActionTools.of(
                self.channels,
                self.domains,
                environment,
                config.actions.timeout_s,
                self.guard,
                self.drains,
            ),
            self.supervisor,
            self.remembering.action_begins,
            self.drains.action_ended,
            self.remembering.action_over,
            self.owners,
            self.groups,
            self.holds,
            self.corrective.take_over,
        )
        self.stopping = Stopping(self._action_runs, self.drains, self.corrective, self.channels)
        #: With an agent, off until the agent enables it; without an agent, on.
        self.reporting = ReportingSwitch(default=not config.agent.connect)
        first = self.groups.changed, self.remembering.changed, self.corrective.changed
        self._on_change: list[Callable[[str], None]] = [*first]
        setup = ChannelSetup(
            dialer=environment.dialer,
            pacer=self.pacer,
            guard=self.guard,
            reports=self.reports,
            new_id=environment.new_id,
            heartbeat=heartbeat_rules(config),
            vetoes=self.remembering.vetoes,
            counts=self.counts,
            limits=read_limits(config.limits),
            on_failure=self.corrective.failure,
            on_heartbeating=self._heartbeating.change,
            on_suspicion=self.domains.suspected,
            domain_runs=self.domains.runs,
            on_change=self._changed,
        )
        self._keeper = ChannelKeeper(
            self.channels, setup, nursery, self.supervisor, self.reporting, self._introduce
        )
        self.watched = WatchedInstances(
            nursery,
            config,
            environment.watch,
            self.channels,
            self._keeper,
            self.domains,
            self.remembering,
        )

    @property
    def heartbeating(self) -> int:
        """The number of heartbeating instances."""
        return self._heartbeating.count

    @property
    def actions(self) -> Mapping[str, ActionRun]:
        """The actions in progress, by their instance's uuid."""
        return self._action_runs.in_progress

    def start(self) -> None:
        """Starts the host's tasks; called once."""
        keep = self.supervisor.keep
        self._nursery.start_soon(self._environment.run_guard, self.guard, never_resting)
        self._nursery.start_soon(keep, "pacer", self.pacer.run)
        self._nursery.start_soon(keep, "read hub", self._keeper.read)
        self._nursery.start_soon(keep, "discovery", self.watched.discover)
        self._nursery.start_soon(keep, "holds", self.holds.run)
        self._nursery.start_soon(keep, "overload", self.overload.run)
        self._nursery.start_soon(keep, "file watch", self.files.run)
        self._nursery.start_soon(keep, "libvirt", self.domains.run)
        if self.notifier is not None:
            self._nursery.start_soon(keep, "notifier", self.notifier.run)
        self._nursery.start_soon(self.memory.recollect, self._recalled)
        self._nursery.start_soon(self.remembering.give_up)

    def _recalled(self, recollection: Recollection) -> None:
        if any(known.domain_id >= 0 for known in recollection.instances):
            self.domains.was_in_use()
        self.groups.recall(recollection)
        self.holds.recall(recollection.holds)
        pending = self.corrective.recall(recollection, self.memory.moment)
        self.remembering.recalled(recollection, pending)
        self._action_runs.resume(recollection.actions)
        self.drains.recalled(recollection)
        self.watched.recalled()

    def _introduce(self, channel: Channel) -> None:
        self.watched.introduce(channel)
        self.rounds.introduce(channel)
        self.remembering.recall.introduce(channel)

    # -- requests -----------------------------------------------------------------------------

    def channel(self, uuid: str) -> Channel:
        """Returns the channel of an instance.

        Raises:
            UnknownInstance: this host has no such instance, or does not watch it.
        """
        try:
            return self.channels[uuid.lower()]
        except KeyError:
            raise UnknownInstance(self.watched.why_unknown(uuid)) from None

    def open_round(
        self,
        uuid: str,
        event: Event,
        notification: NotificationType,
        *,
        begin_by: BeginBy = ANY_TIME,
        who: str = "",
    ) -> Round:
        """Opens a vote or notice, which runs to its outcome with or without a waiter.

        Args:
            uuid: the instance.
            event: what it is about.
            notification: a vote or a notice.
            begin_by: until when it may be opened.
            who: who requested it, for the history.

        Raises:
            UnknownInstance, NotHeartbeating, RoundOpen, InstanceOwned, Expired: nothing was sent.
        """
        with recorded(partial(self.remembering.round_refused, uuid, event, notification, who)):
            begin_by.check()
            return self.rounds.open(self.channel(uuid), event, notification, who=who)

    def set_reporting(self, uuid: str, *, enabled: bool) -> None:
        """Switches reporting, see :meth:`ChannelKeeper.set_reporting`."""
        self._keeper.set_reporting(uuid, enabled=enabled)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Calls ``listener`` with the uuid of each instance that changes, comes or goes."""
        self._on_change.append(listener)

    def _changed(self, uuid: str) -> None:
        for listener in self._on_change:
            listener(uuid)

    def begin_action(
        self,
        uuid: str,
        name: ActionName,
        command: tuple[str, ...],
        *,
        force: bool,
        take_over: bool = False,
        ignore_group: bool = False,
        ignore_hold: bool = False,
        begin_by: BeginBy = ANY_TIME,
        who: str = "",
        drain: str = "",
        overridden: str = "",
    ) -> ActionRun:
        """Starts an action; see :class:`ActionOrder` and :meth:`ActionRuns.begin`.

        Raises:
            UnknownInstance, ActionRefused: nothing was begun.
            Expired: it may not begin any more.
        """
        with recorded(partial(self.remembering.action_refused, uuid, name, who)):
            uuid = self.channel(uuid).uuid
            begin_by.check()
            order = ActionOrder(
                name, command, force, take_over, ignore_group, ignore_hold, overridden
            )
            return self._action_runs.begin(uuid, order, begin_by=begin_by, who=who, drain=drain)


@asynccontextmanager
async def open_host(
    config: HostConfig, environment: HostEnvironment, events: EventsSink | None = None
) -> AsyncIterator[Host]:
    """Runs a host, see :class:`Host`, within the block; its end aborts open rounds."""
    async with trio.open_nursery() as nursery:
        host = Host(config, environment, nursery, events)
        host.start()
        with host.heap:
            yield host
        nursery.cancel_scope.cancel()
