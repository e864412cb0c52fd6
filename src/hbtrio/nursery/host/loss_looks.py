"""Asks libvirt before an instance is reported as lost, and before its channel is given up.

Libvirt may know why it is silent: it is paused, or was shut down. And a socket goes before libvirt
says how its VM has ended. All losses of a moment share one question, which delays no beat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import trio

from hbtrio.fsm.domain import Standing
from hbtrio.fsm.heartbeat.domain_changes import ENDS_S
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.discovery import ChannelFile
from hbtrio.nursery.host.libvirt_watch import LibvirtWatch, Look, Source
from hbtrio.nursery.wakeup import WakeUp

_log = logging.getLogger("hbtrio.libvirt")

#: Seconds that libvirt has for its answer. Without it a loss is reported as it was suspected.
LOSS_LOOK_S: Final = 0.5

#: Seconds until libvirt is asked again about a VM that it calls running although its socket has
#: gone: it learns of QEMU's end when the process has been reaped, up to 1.7 s later as measured.
REAPED_S: Final = 3.0

#: For how long a VM whose socket has gone is asked about again, by what libvirt calls it.
_LINGERS_S: Final = {Standing.RUNNING: REAPED_S, Standing.ENDING: ENDS_S}


class LossLooks:
    """The instances about which libvirt is asked.

    Args:
        watch: asks it.
        channels: the channels of all instances, by uuid; a live view.
        on_gone: called with a socket that was removed, once libvirt has said how its VM ended.
    """

    def __init__(
        self,
        watch: LibvirtWatch,
        channels: Mapping[str, Channel],
        on_gone: Callable[[ChannelFile], None],
    ) -> None:
        self._watch = watch
        self._channels = channels
        self._on_gone = on_gone
        self._wanted: set[str] = set()
        #: For whom libvirt's next answer is waited for.
        self._held: set[str] = set()
        #: Sockets that were removed, and those of VMs that have failed.
        self._departing: dict[str, ChannelFile] = {}
        self._failed: dict[str, ChannelFile] = {}
        #: Of those that were removed, the ones about which libvirt is asked again, and since when.
        self._lingering: dict[str, float] = {}
        self._wake = WakeUp()

    def suspected(self, uuid: str) -> None:
        """An instance seems to be lost."""
        if uuid not in self._held:
            self._wanted.add(uuid)
            self._wake.set()

    def departed(self, file: ChannelFile) -> None:
        """A socket was removed."""
        if not self._watch.in_use or self._watch.domain(file.uuid) is None:
            self._on_gone(file)
            return
        self._departing[file.uuid] = file
        self.suspected(file.uuid)

    def returned(self, uuid: str) -> None:
        """An instance has a socket again: its channel goes on."""
        self._departing.pop(uuid, None)
        self._lingering.pop(uuid, None)
        self._failed.pop(uuid, None)

    def forgotten(self, uuid: str) -> None:
        """Libvirt no longer lists a domain: one that has failed is not waited for."""
        if (file := self._failed.pop(uuid, None)) is not None:
            self._on_gone(file)

    async def run(self) -> NoReturn:
        """Asks until cancelled."""
        self._held.clear()
        self._lingering.clear()
        # What a run that failed has left.
        self._wanted.update(self._departing)
        self._wanted.update(
            uuid for uuid, channel in self._channels.items() if channel.heartbeat.suspected
        )
        async with trio.open_nursery() as nursery:
            while True:
                wanted, self._wanted = self._wanted, set()
                if wanted:
                    nursery.start_soon(self._look, wanted, nursery)
                await self._wake.wait()
        raise AssertionError("it asks until it is cancelled")

    async def _look(self, uuids: set[str], nursery: trio.Nursery) -> None:
        while uuids:
            looks = await self._watch.look(uuids, LOSS_LOOK_S)
            held = {uuid for uuid in uuids if self._waits(uuid, looks[uuid])}
            self._held = (self._held - uuids) | held
            for uuid in sorted(uuids - held):
                self._decide(uuid, looks[uuid], nursery)
            uuids = held
            if held:
                _log.warning("libvirt does not answer: nothing is said of %d VMs", len(held))
                await self._watch.next_answer()

    def _waits(self, uuid: str, look: Look) -> bool:
        if look.source is not Source.SILENCE:
            return False
        channel = self._channels.get(uuid)
        waits = channel is not None and channel.heartbeat.situation.waits_for_libvirt
        return look.doubtful or waits or uuid in self._departing

    async def _look_again(self, uuid: str) -> None:
        await trio.sleep(REAPED_S)
        if uuid in self._lingering:
            self.suspected(uuid)

    def _decide(self, uuid: str, look: Look, nursery: trio.Nursery) -> None:
        channel = self._channels.get(uuid)
        if channel is not None:
            channel.take_in()  # an answer of the guest counts, if it has come
            channel.outages.confirm(look.standing, look.words)
        if uuid not in self._departing:
            return
        now = trio.current_time()
        since = self._lingering.setdefault(uuid, now)
        if look.standing is not None and now < since + _LINGERS_S.get(look.standing, 0.0):
            nursery.start_soon(self._look_again, uuid)
            return
        file = self._departing.pop(uuid)
        del self._lingering[uuid]
        lost = channel is not None and channel.heartbeat.state is HeartbeatState.LOST
        if lost and look.standing is Standing.FAILED:
            # Somebody may start it again, and until then it is lost for this reason.
            self._failed[uuid] = file
        else:
            self._on_gone(file)
