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
from collections.abc import Callable
from datetime import datetime

import attrs
import trio

from hbtrio.config.host import HostConfig
from hbtrio.fsm.heartbeat.machine import HeartbeatRules
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel, ChannelSetup
from hbtrio.nursery.host.connection import ReadLimits
from hbtrio.nursery.host.corrective import Corrective
from hbtrio.nursery.host.directory_watch import DirectoryWatch
from hbtrio.nursery.host.discovery import ChannelFile, NamePattern, discover
from hbtrio.nursery.host.events_file import EventsFile
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.host.round import Round
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import Dialer
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.nursery.time_guard import run_guard
from hbtrio.policy.mass_failure import MassFailureBrake
from hbtrio.policy.profile import ProfileLimits
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType

_log = logging.getLogger("hbtrio.host")

#: Instances whose reporting state is remembered.
_REPORTINGS = 100_000

#: Actions under way at once on one host.
_ACTIONS = 256


class UnknownInstance(Exception):
    """No channel with this uuid was found on this host."""


class ActionRefused(Exception):
    """An action can't be begun; nothing was said to the instance."""


@attrs.frozen
class HostEnvironment:
    """What lies outside the host's tasks: handed in, so that a simulation can hand in its own."""

    watch: DirectoryWatch
    dialer: Dialer
    processes: ProcessRunner
    new_id: Callable[[], int]
    wall_clock: Callable[[], datetime]


class Host:
    """The host daemon.

    Args:
        config: its configuration.
        world: what it works on.
        events: where its reports are written, for its status; None is nowhere.
    """

    def __init__(
        self, config: HostConfig, world: HostEnvironment, events: EventsFile | None = None
    ) -> None:
        self.config = config
        self.events = events
        self.channels: dict[str, Channel] = {}
        self.actions: dict[str, ActionRun] = {}
        self.reports = Reports(world.wall_clock)
        self.guard = OnTimeGuard(trio.current_time())
        self.pacer = Pacer()
        self.supervisor = Supervisor()
        self.brake = MassFailureBrake(config.brake.share, config.brake.minimum)
        self.corrective = Corrective(
            config.corrective_commands,
            self.brake,
            world.processes,
            lambda: self.beating,
            self.guard,
        )
        #: How many instances are heartbeating now.
        self.beating = 0
        #: Whether an agent says what is reported.
        self.has_agent = bool(config.agent.connect)
        self.started_at = world.wall_clock()
        self._world = world
        self._on_change: list[Callable[[str], None]] = []
        self._reporting = not self.has_agent
        self._instance_reporting: dict[str, bool] = {}
        self._nursery: trio.Nursery | None = None
        limits = config.limits
        self._setup = ChannelSetup(
            dialer=world.dialer,
            pacer=self.pacer,
            guard=self.guard,
            reports=self.reports,
            new_id=world.new_id,
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
            on_beating=self._count_beating,
            on_change=self._changed,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; rounds still open are then reported as aborted."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(run_guard, self.guard)
            nursery.start_soon(self.supervisor.keep, "pacer", self.pacer.run)
            nursery.start_soon(self.corrective.run)
            nursery.start_soon(self.supervisor.keep, "discovery", self._discover)
            # What was imported and built so far lives as long as the process: no reason for the
            # collector to look through it again and again between two beats.
            gc.freeze()
            task_status.started()

    async def _discover(self) -> None:
        await discover(
            self._world.watch,
            [NamePattern(text) for text in self.config.channel_patterns],
            directory=self.config.channel_dir,
            on_found=self._found,
            on_gone=self._gone,
            rescan_s=self.config.heartbeat.rescan_s,
            limit=self.config.limits.channels,
        )

    def _count_beating(self, change: int) -> None:
        self.beating += change

    def _found(self, file: ChannelFile) -> None:
        known = self.channels.get(file.uuid)
        # One that was given up this very moment may still be on its way out.
        if known is not None and not known.gone:
            known.retarget(file)
            return
        channel = Channel(file, self._setup)
        channel.heartbeat.reporting = self.reports_on(file.uuid)
        self.channels[file.uuid] = channel
        if self._nursery is not None:
            self._nursery.start_soon(self._keep_channel, channel)

    def _gone(self, file: ChannelFile) -> None:
        channel = self.channels.get(file.uuid)
        if channel is None:
            return
        channel.remove(f"{file.path} was removed")
        if channel.gone:
            # At once, not when its task has ended: a socket made anew is a new channel.
            del self.channels[file.uuid]
            self._changed(channel)

    async def _keep_channel(self, channel: Channel) -> None:
        await self.supervisor.keep(f"channel {channel.uuid}", channel.run)
        if self.channels.get(channel.uuid) is channel:
            del self.channels[channel.uuid]
            self._changed(channel)

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

    def set_reporting(self, uuid: str, enabled: bool) -> None:
        """Switches reporting of losses and ill health; ``uuid`` "" is the whole host.

        An instance's are reported while both its own and the host's reporting are on. With an agent
        both are off until it says otherwise; without one, on. An instance that is switched on again
        is running: a VIM does that once its pause, suspend or live migration is over.
        """
        was_enabled = self._instance_reporting.get(uuid, not self.has_agent)
        if not uuid:
            self._reporting = enabled
        elif enabled is not self.has_agent:  # as without a word
            self._instance_reporting.pop(uuid, None)
        elif uuid in self._instance_reporting or len(self._instance_reporting) < _REPORTINGS:
            self._instance_reporting[uuid] = enabled
        # An agent that connects tells of each of thousands of instances.
        for channel in (self.channels.get(uuid),) if uuid else self.channels.values():
            if channel is not None:
                channel.heartbeat.reporting = self.reports_on(channel.uuid)
        channel = self.channels.get(uuid)
        if channel is not None and enabled and not was_enabled:
            channel.runs_again("it was enabled")

    def reports_on(self, uuid: str) -> bool:
        """Whether losses and ill health of this instance are reported."""
        return self._reporting and self._instance_reporting.get(uuid, not self.has_agent)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Calls ``listener`` with the uuid of each instance that changes, comes or goes."""
        self._on_change.append(listener)

    def _changed(self, channel: Channel) -> None:
        for listener in self._on_change:
            listener(channel.uuid)

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
        uuid = self.channel(uuid).uuid
        command = command or getattr(self.config.actions, name.name.lower())
        if not command:
            raise ActionRefused(
                f"no command for {name}: give one after --, or set {name} in [actions]"
            )
        if uuid in self.actions:
            raise ActionRefused(f"{self.actions[uuid].name} is under way on {uuid}")
        if self._nursery is None or len(self.actions) >= _ACTIONS:
            raise ActionRefused(f"{len(self.actions)} actions are under way on this host")
        action = ActionRun(
            uuid,
            name,
            command,
            force=force,
            channel_of=self.channels.get,
            processes=self._world.processes,
            timeout_s=self.config.actions.timeout_s,
        )
        self.actions[uuid] = action
        self._nursery.start_soon(self._run_action, action)
        return action

    async def _run_action(self, action: ActionRun) -> None:
        try:
            await action.run()
        except Exception:  # noqa: BLE001 - one action's programming error is not the host's end
            self.supervisor.crashes += 1
            _log.exception("action %s on %s failed", action.name, action.uuid)
        finally:
            del self.actions[action.uuid]
            action.close()
