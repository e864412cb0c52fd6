"""Keeps full garbage collections short, however many channels there are.

A full collection scans every object: 40 us for each channel, 0.7 s for 15,000, and no beat is sent
meanwhile. A channel lives for days, so scanning it finds nothing. ``gc.freeze`` exempts all objects
that exist; channels that come later are exempted once they are many.

A frozen object is still freed when its last reference goes, but not as part of a cycle. So a
channel that ends breaks its cycles (:meth:`~hbtrio.nursery.host.channel.Channel.release`).
"""

from __future__ import annotations

import gc
from typing import Final, NoReturn

import trio

from hbtrio.nursery.pacer import SLOT_S, Pacer
from hbtrio.nursery.wakeup import WakeUp

#: Unfrozen channels that are worth a freeze. The collection before it, and each one until then,
#: takes some 20 ms.
MANY: Final = 500

#: Seconds from the first of these channels' being many to the freeze, and so between two freezes at
#: least: channels come in bursts, and a channel that connects makes more objects.
SETTLE_S: Final = 1.0

#: A pause of the pacer that a collection fits into, in seconds.
_QUIET_S: Final = 3 * SLOT_S

#: Slots that are waited for such a pause; with thousands of channels there is none.
_SLOTS: Final = 100


class HeapFreezer:
    """Freezes all objects whenever ``MANY`` channels exist that are not frozen.

    Args:
        pacer: the collection is put into one of its pauses.
    """

    def __init__(self, pacer: Pacer) -> None:
        #: How often the objects were frozen.
        self.freezes = 0
        self._pacer = pacer
        #: Channels that came after the last freeze and still exist.
        self._unfrozen: set[object] = set()
        self._many = WakeUp()

    def came(self, channel: object) -> None:
        """Notes a new channel."""
        self._unfrozen.add(channel)
        if len(self._unfrozen) >= MANY:
            self._many.set()

    def ended(self, channel: object) -> None:
        """Notes the end of a channel."""
        self._unfrozen.discard(channel)

    def freeze(self) -> None:
        """Collects the garbage and exempts all other objects from further collections."""
        # First: garbage that is frozen stays for good.
        gc.collect()
        gc.freeze()
        self.freezes += 1
        self._unfrozen.clear()

    async def run(self) -> NoReturn:
        """Freezes when there are many unfrozen channels, until cancelled."""
        while True:
            await self._many.wait()
            await trio.sleep(SETTLE_S)
            await self._pause()
            if len(self._unfrozen) >= MANY:
                self.freeze()

    async def _pause(self) -> None:
        """Waits for a pause of the pacer, for at most ``_SLOTS`` of its slots."""
        for _ in range(_SLOTS):
            next_at = self._pacer.next_at
            if next_at - trio.current_time() >= _QUIET_S:
                return
            await trio.sleep_until(next_at + SLOT_S / 2)
