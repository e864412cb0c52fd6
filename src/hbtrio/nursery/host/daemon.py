"""The host daemon's nursery: discovery, a channel for each VM, the pacer, reports and actions.

    host
      time            the on-time guard
      pacer           beats of all channels
      discovery       channel sockets that come and go
      channel <uuid>  one for each VM, see channel.py
      corrective      commands about lost and ill VMs
      action <uuid>   an action on a VM, from vote to post-notice

Everything an operator or, later, an agent can ask of a host is a method of :class:`Host`; sockets
and processes are handed in, so that the same host runs in a simulation.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from hbtrio.config.host import HostConfig
from hbtrio.fsm.heartbeat.rules import HeartbeatRules
from hbtrio.nursery.host.action_runs import ActionRuns
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.channel_setup import ChannelSetup
from hbtrio.nursery.host.connection import ReadLimits
from hbtrio.nursery.host.corrective import Corrective, HeartbeatingCount
from hbtrio.nursery.host.directory_watch import DirectoryWatch
from hbtrio.nursery.host.discovery import ChannelFile, NamePattern, discover
from hbtrio.nursery.host.events_file import EventsFile
from hbtrio.nursery.host.reporting import ReportingSwitch
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.host.round import Round
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import Dialer
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.nursery.time_guard import run_guard
from hbtrio.policy.mass_failure import MassFailures
from hbtrio.policy.profile import ProfileLimits
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType

_log = logging.getLogger("hbtrio.host")


class UnknownInstance(Exception):
    """No channel with this uuid was found on this host."""


@attrs.frozen
class HostEnvironment:
    """What lies outside the host's tasks: handed in, so that a simulation can hand in its own."""

    watch: DirectoryWatch
    dialer: Dialer
    processes: ProcessRunner
    new_id: Callable[[], int]
    reports: Reports


class Host:
    """The host daemon; made and run by :func:`open_host`.

    Args:
        config: its configuration.
        environment: what it works on.
        nursery: runs its tasks.
        events: where its reports are written, for its status; None is nowhere.
    """

    def __init__(
        self,
        config: HostConfig,
        environment: HostEnvironment,
        nursery: trio.Nursery,
        events: EventsFile | None,
    ) -> None:
        self.config = config
        self.events = events
        self.channels: dict[str, Channel] = {}
        self.reports = environment.reports
        self.guard = OnTimeGuard(trio.current_time())
        self.pacer = Pacer()
        self.supervisor = Supervisor()
        self.brake = MassFailures(config.brake.share, config.brake.minimum)
        self.started_at = environment.reports.now()
        self._environment = environment
        self._nursery = nursery
        self._heartbeating = HeartbeatingCount()
        self._action_runs = ActionRuns(
            nursery, config.actions, self.channels, environment.processes, self.supervisor
        )
        self.corrective = Corrective(
            nursery,
            config.corrective_commands,
            self.channels,
            self.brake,
            environment.processes,
            self._heartbeating,
            self.guard,
        )
        #: With an agent all is off until it says otherwise; without one, on.
        self.reporting = ReportingSwitch(default=not config.agent.connect)
        self._on_change: list[Callable[[str], None]] = []
        limits = config.limits
        self._setup = ChannelSetup(
            dialer=environment.dialer,
            pacer=self.pacer,
            guard=self.guard,
            reports=self.reports,
            new_id=environment.new_id,
            heartbeat=HeartbeatRules(
                failure_threshold=config.heartbeat.failure_threshold,
                reconnect_silent_s=config.heartbeat.reconnect_silent_s,
                limits=ProfileLimits(
                    interval_min_ms=config.heartbeat.interval_min_ms,
                    interval_max_ms=config.heartbeat.interval_max_ms,
                    vote_max_s=limits.vote_max_s,
                    notice_max_s=limits.notice_max_s,
                    restart_max_s=limits.restart_max_s,
                ),
            ),
            limits=ReadLimits(limits.line_bytes, limits.bytes_per_s, limits.burst_bytes),
            on_failure=self.corrective.failure,
            on_heartbeating=self._heartbeating.change,
            on_change=self._changed,
        )

    @property
    def heartbeating(self) -> int:
        """How many instances are heartbeating now."""
        return self._heartbeating.count

    @property
    def actions(self) -> Mapping[str, ActionRun]:
        """The actions under way, by their instance's uuid."""
        return self._action_runs.under_way

    def start(self) -> None:
        """Starts its tasks; called once."""
        keep = self.supervisor.keep
        self._nursery.start_soon(run_guard, self.guard)
        self._nursery.start_soon(keep, "pacer", self.pacer.run)
        self._nursery.start_soon(keep, "discovery", self._discover)

    async def _discover(self) -> None:
        await discover(
            self._environment.watch,
            [NamePattern(text) for text in self.config.channel_patterns],
            directory=self.config.channel_dir,
            on_found=self._found,
            on_gone=self._gone,
            rescan_s=self.config.heartbeat.rescan_s,
            limit=self.config.limits.channels,
        )

    def _found(self, file: ChannelFile) -> None:
        known = self.channels.get(file.uuid)
        # One that was given up this very moment may still be on its way out.
        if known is not None and not known.gone:
            known.retarget(file)
            return
        channel = Channel(file, self._setup)
        channel.heartbeat.reporting = self.reporting.is_on(file.uuid)
        self.channels[file.uuid] = channel
        self._nursery.start_soon(self._keep_channel, channel)

    def _gone(self, file: ChannelFile) -> None:
        channel = self.channels.get(file.uuid)
        if channel is None:
            return
        channel.remove(f"{file.path} was removed")
        if channel.gone:
            # At once, not when its task has ended: a socket made anew is a new channel.
            del self.channels[file.uuid]
            self._changed(channel.uuid)

    async def _keep_channel(self, channel: Channel) -> None:
        await self.supervisor.keep(f"channel {channel.uuid}", channel.run)
        if self.channels.get(channel.uuid) is channel:
            del self.channels[channel.uuid]
            self._changed(channel.uuid)

    # -- what can be asked of a host ----------------------------------------------------------

    def channel(self, uuid: str) -> Channel:
        """The channel of an instance.

        Raises:
            UnknownInstance: there is none on this host.
        """
        try:
            return self.channels[uuid.lower()]
        except KeyError:
            raise UnknownInstance(f"no instance {uuid} on this host") from None

    def open_round(self, uuid: str, event: Event, notification: NotificationType) -> Round:
        """Opens a vote or notice; it goes on whether or not anybody waits for it.

        Raises:
            UnknownInstance, NotHeartbeating, RoundOpen: nothing was sent.
        """
        return self.channel(uuid).open_round(event, notification)

    async def open_round_soon(
        self,
        uuid: str,
        event: Event,
        notification: NotificationType,
        *,
        command_id: str,
        patience_s: float,
    ) -> Round:
        """Opens a vote or notice as soon as the one before it is over.

        An orchestrator's timer ends at the same moment as the window of its vote; its notice must
        not fail for a few milliseconds.

        Args:
            uuid: the instance.
            event: what it is about.
            notification: a vote or a notice.
            command_id: stands in the report of its outcome.
            patience_s: how long to wait for a round that is open.

        Raises:
            UnknownInstance, NotHeartbeating, RoundOpen: nothing was sent.
        """
        with trio.move_on_after(patience_s):
            while (current := self.channel(uuid).round) is not None:
                await current.done.wait()
        return self.channel(uuid).open_round(event, notification, command_id)

    def set_reporting(self, uuid: str, *, enabled: bool) -> None:
        """Switches reporting of losses and ill health; ``uuid`` "" is the whole host.

        An instance's are reported while both its own and the host's reporting are on. With an agent
        both are off until it says otherwise; without one, on. An instance that is switched on again
        is running: a VIM does that once its pause, suspend or live migration is over.
        """
        turned_on = self.reporting.set(uuid, enabled=enabled)
        # An agent that connects tells of each of thousands of instances.
        for channel in (self.channels.get(uuid),) if uuid else self.channels.values():
            if channel is not None:
                channel.heartbeat.reporting = self.reporting.is_on(channel.uuid)
        channel = self.channels.get(uuid)
        if channel is not None and turned_on:
            channel.runs_again("it was enabled")

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Calls ``listener`` with the uuid of each instance that changes, comes or goes."""
        self._on_change.append(listener)

    def _changed(self, uuid: str) -> None:
        for listener in self._on_change:
            listener(uuid)

    def begin_action(
        self, uuid: str, name: ActionName, command: tuple[str, ...], *, force: bool
    ) -> ActionRun:
        """Begins an action; it goes on whether or not anybody watches it.

        Args:
            uuid: the instance.
            name: the row of the event table.
            command: what performs it; if empty, the configured command.
            force: skip the vote.

        Raises:
            UnknownInstance: there is no such instance on this host.
            ActionRefused: one is under way, there are too many, or there is no command.
        """
        return self._action_runs.begin(self.channel(uuid).uuid, name, command, force=force)


@asynccontextmanager
async def open_host(
    config: HostConfig, environment: HostEnvironment, events: EventsFile | None = None
) -> AsyncIterator[Host]:
    """A running host; at the end of the block rounds still open are reported as aborted.

    Args:
        config: its configuration.
        environment: what it works on.
        events: where its reports are written, for its status; None is nowhere.
    """
    async with trio.open_nursery() as nursery:
        host = Host(config, environment, nursery, events)
        host.start()
        # What was imported and built so far lives as long as the process: no reason for the
        # collector to look through it again and again between two beats.
        gc.freeze()
        yield host
        nursery.cancel_scope.cancel()
