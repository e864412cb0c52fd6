"""Keeps a channel for each instance whose socket was found."""

from __future__ import annotations

from collections.abc import Callable

import trio

from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.channel_setup import ChannelSetup
from hbtrio.nursery.host.discovery import ChannelFile
from hbtrio.nursery.host.reporting import ReportingSwitch
from hbtrio.nursery.supervisor import Supervisor


class ChannelKeeper:
    """Makes, runs and removes the channels of a host.

    Args:
        channels: the channels by uuid, which it fills.
        setup: what all channels share.
        nursery: runs them.
        supervisor: restarts one that fails.
        reporting: whose losses are reported.
        on_new: called with each new channel before it runs; must not block.
    """

    def __init__(
        self,
        channels: dict[str, Channel],
        setup: ChannelSetup,
        nursery: trio.Nursery,
        supervisor: Supervisor,
        reporting: ReportingSwitch,
        on_new: Callable[[Channel], None],
    ) -> None:
        self._channels = channels
        self._setup = setup
        self._nursery = nursery
        self._supervisor = supervisor
        self._reporting = reporting
        self._on_new = on_new

    async def read(self) -> None:
        """Reads from all channels until cancelled."""
        await self._setup.hub.run()

    def found(self, file: ChannelFile) -> None:
        """An instance's socket was found, the first one or a new one."""
        known = self._channels.get(file.uuid)
        # A channel that was just given up may not have ended yet.
        if known is not None and not known.gone:
            known.retarget(file)
            return
        channel = Channel(file, self._setup)
        channel.heartbeat.situation.reporting = self._reporting.is_on(file.uuid)
        self._channels[file.uuid] = channel
        self._on_new(channel)
        self._nursery.start_soon(self._keep, channel)

    def gone(self, file: ChannelFile) -> None:
        """An instance's socket was removed."""
        channel = self._channels.get(file.uuid)
        if channel is None:
            return
        channel.remove(f"{file.path} was removed")
        if channel.gone:
            # At once, not when the task has ended: a new socket is a new channel.
            del self._channels[file.uuid]
            self._setup.on_change(channel.uuid)

    def set_reporting(self, uuid: str, *, enabled: bool) -> None:
        """Enables or disables reporting of losses and ill health; ``uuid`` "" is the whole host.

        Losses of an instance are reported while both its own and the host's switch are on. With an
        agent both are off until the agent enables them; without an agent both are on. Enabling an
        instance again also means that it runs: a VIM enables it once its pause, suspend or live
        migration is over.
        """
        turned_on = self._reporting.set(uuid, enabled=enabled)
        # Only the named instance: an agent that connects sets each of thousands.
        for channel in (self._channels.get(uuid),) if uuid else self._channels.values():
            if channel is not None:
                channel.heartbeat.situation.reporting = self._reporting.is_on(channel.uuid)
        channel = self._channels.get(uuid)
        if channel is not None and turned_on:
            channel.outages.runs_again("the instance was enabled")

    def drop(self, uuid: str, reason: str) -> None:
        """An instance is not watched any more: its channel ends at once, whatever is expected."""
        channel = self._channels.pop(uuid, None)
        if channel is not None:
            channel.forget(reason)
        self._setup.on_change(uuid)

    async def _keep(self, channel: Channel) -> None:
        await self._supervisor.keep(f"channel {channel.uuid}", channel.run)
        channel.release()
        if self._channels.get(channel.uuid) is channel:
            del self._channels[channel.uuid]
            self._setup.on_change(channel.uuid)
