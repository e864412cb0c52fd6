"""Asks libvirt for the XML of running domains: where their channels are, and their metadata."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from hbtrio.nursery.host.virsh import LibvirtSilent, Virsh
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.wire.virsh import LiveXml

_log = logging.getLogger("hbtrio.libvirt")

#: Domains whose XML is asked for by one command.
_XML_AT_ONCE: Final = 20

#: Seconds until one that failed is tried again: twice the first for each failure, up to the second.
_RETRY_S: Final = 1.0
_RETRY_MAX_S: Final = 60.0


class ChannelFinder:
    """Asks for the live XML of domains, for each until it was had.

    Args:
        virsh: asks.
        on_xml: called with a domain's uuid and what its XML says.
        run_of: returns which run of a domain this is, by its uuid: libvirt's id, or -1.
    """

    def __init__(
        self,
        virsh: Virsh,
        on_xml: Callable[[str, LiveXml], None],
        run_of: Callable[[str], int],
    ) -> None:
        self._virsh = virsh
        self._on_xml = on_xml
        self._run_of = run_of
        #: How often each was tried in vain.
        self._due: dict[str, int] = {}
        self._wake = WakeUp()

    def want(self, uuid: str) -> None:
        """Asks for the XML of a domain that has started, or whose XML may have changed."""
        self._due[uuid] = 0
        self._wake.set()

    def forget(self, uuid: str) -> None:
        """Asks no more for that of a domain that has ended."""
        self._due.pop(uuid, None)

    async def run(self) -> NoReturn:
        """Asks for all that are wanted, until cancelled."""
        while True:
            wanted = self._next()
            if not wanted:
                await self._wake.wait()
                continue
            tries = self._due[wanted[0]]
            if tries:
                with trio.move_on_after(min(_RETRY_S * 2.0**tries, _RETRY_MAX_S)):
                    await self._wake.wait()
                    continue  # a new one comes first
            await self._ask_for(wanted)

    def _next(self) -> list[str]:
        """Returns new domains, together; else one that failed, alone: it may hang."""
        new = [uuid for uuid, tries in self._due.items() if not tries]
        order = sorted(self._due, key=self._due.__getitem__)
        return new[:_XML_AT_ONCE] or order[:1]

    async def _ask_for(self, uuids: list[str]) -> None:
        # One that was waited for may have ended meanwhile.
        uuids = [uuid for uuid in uuids if uuid in self._due]
        if not uuids:
            return
        asked = {uuid: (self._due.pop(uuid), self._run_of(uuid)) for uuid in uuids}
        try:
            found = await self._virsh.live_xml(uuids)
        except LibvirtSilent as error:
            _log.debug("no XML of %d domains: %s", len(uuids), error)
            found = {}
        for uuid, (tries, run) in asked.items():
            if self._run_of(uuid) != run:
                continue  # it ended meanwhile, and may run again
            if uuid in found:
                self._on_xml(uuid, found[uuid])
            else:
                self._due.setdefault(uuid, tries + 1)
