"""Keeps the instances that are not to be watched out of the host, and knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from hbtrio.config.host import HostConfig
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.channel_keeper import ChannelKeeper
from hbtrio.nursery.host.channel_setup import heartbeat_rules
from hbtrio.nursery.host.directory_watch import DirectoryWatch
from hbtrio.nursery.host.discovery import ChannelFile, NamePattern, discover
from hbtrio.nursery.host.domains import Domains
from hbtrio.nursery.host.found_channels import FoundChannels
from hbtrio.nursery.host.instance_policies import rules_for
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.remembering import Remembering

#: Seconds for which a socket waits for libvirt's word on whether its instance is watched, as long
#: as a question may take.
HOLD_S: Final = 3.0


class WatchedInstances:
    """Has a channel for each instance that is watched, as sockets come, go and settings change.

    Args:
        nursery: runs a task for each socket that waits for libvirt.
        config: the host's.
        watch: sees the sockets in their directory.
        channels: the channels of all instances, by uuid; a live view.
        keeper: makes and removes them.
        domains: what libvirt knows, and what holds for each instance.
        remembering: forgets those that are not watched.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        config: HostConfig,
        watch: DirectoryWatch,
        channels: Mapping[str, Channel],
        keeper: ChannelKeeper,
        domains: Domains,
        remembering: Remembering,
    ) -> None:
        self._nursery = nursery
        self._config = config
        self._watch = watch
        #: All sockets, of the directory and of libvirt.
        self.sockets = FoundChannels(self._found, self._gone, config.limits.channels)
        self._rules = heartbeat_rules(config)
        self._channels = channels
        self._keeper = keeper
        self._domains = domains
        self._policies = domains.policies
        self._remembering = remembering
        #: Those that are not watched, by uuid.
        self.left_out: dict[str, ChannelFile] = {}
        self._passed: dict[str, ChannelFile] = {}
        #: Those that wait for libvirt.
        self._held: dict[str, ChannelFile] = {}

    async def discover(self) -> None:
        """Finds the sockets in the directory that come and go, until cancelled."""
        await discover(
            self._watch,
            [NamePattern(text) for text in self._config.channel_patterns],
            directory=self._config.channel_dir,
            on_found=self.sockets.appeared,
            on_gone=self.sockets.vanished,
            rescan_s=self._config.heartbeat.rescan_s,
            limit=self._config.limits.channels,
        )

    def why(self, uuid: str, hostname: str = "") -> str:
        """Returns why an instance is not watched, for one who asks at this host or elsewhere."""
        place = self._policies.of(uuid).places.get("watch", "host.toml")
        where = f" on {hostname}" if hostname else ""
        return f"not watched{where}: watch = false in {place}"

    def known(self, uuid: str) -> str:
        """Returns the uuid of an instance in lower case, watched or not.

        Raises:
            UnknownInstance: this host has no such instance.
        """
        if (known := uuid.lower()) in self._channels or known in self.left_out:
            return known
        raise UnknownInstance(self.why_unknown(uuid))

    def why_unknown(self, uuid: str) -> str:
        """Returns why an instance has no channel."""
        known = uuid.lower()
        if known in self.left_out:
            return f"{known} is {self.why(known)}"
        return f"no instance {uuid} on this host"

    def introduce(self, channel: Channel) -> None:
        """Tells a new channel what holds for its instance, and in which state its domain is."""
        self._apply(channel)
        self._domains.introduce(channel)

    def recalled(self) -> None:
        """Handles that it is known now who was heartbeating before the host's restart."""
        for uuid in self.left_out:
            self._remembering.dismiss(uuid)

    def _found(self, file: ChannelFile) -> None:
        """A socket was found; what it had before is gone."""
        if self._policies.is_settled(file.uuid):
            self._place(file)
        else:
            self._held[file.uuid] = file
            self._nursery.start_soon(self._hold, file)

    def _gone(self, file: ChannelFile) -> None:
        """A socket that was found is gone."""
        self._held.pop(file.uuid, None)
        if self.left_out.pop(file.uuid, None) is not None:
            self._keeper.drop(file.uuid, f"{file.path} was removed")
        if self._passed.pop(file.uuid, None) is not None:
            self._domains.departed(file)

    def changed(self, uuid: str) -> None:
        """Something else may hold for an instance."""
        if (held := self._held.get(uuid)) is not None:
            if self._policies.is_settled(uuid):
                del self._held[uuid]
                self._place(held)
        elif (file := self.left_out.get(uuid)) is not None:
            if self._policies.of(uuid).watch:
                del self.left_out[uuid]
                self._place(file)
        elif not self._policies.of(uuid).watch:
            # It may have no socket at present, and be expected back.
            if (file := self._passed.pop(uuid, None)) is not None:
                self.left_out[uuid] = file
            self._dismiss(uuid)
        if (channel := self._channels.get(uuid)) is not None:
            self._apply(channel)

    async def _hold(self, file: ChannelFile) -> None:
        await trio.sleep(HOLD_S)
        if self._held.get(file.uuid) is file:
            del self._held[file.uuid]
            self._place(file)

    def _place(self, file: ChannelFile) -> None:
        if self._policies.of(file.uuid).watch:
            self._passed[file.uuid] = file
            self._domains.returned(file.uuid)
            self._keeper.found(file)
        else:
            self.left_out[file.uuid] = file
            self._dismiss(file.uuid)

    def _dismiss(self, uuid: str) -> None:
        self._domains.returned(uuid)  # how its VM ended does not matter
        self._keeper.drop(uuid, self.why(uuid))
        self._remembering.dismiss(uuid)

    def _apply(self, channel: Channel) -> None:
        channel.heartbeat.use(rules_for(self._rules, self._policies.of(channel.uuid)))
