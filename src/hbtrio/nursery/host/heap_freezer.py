"""Keeps full garbage collections short, however many channels there are.

A full collection scans every object: 40 us for each channel, 0.7 s for 15,000, and no beat is sent
meanwhile. A channel lives for days, so scanning it finds nothing. ``gc.freeze`` exempts all objects
that exist. It is called when a full collection has become too long, right after it: what is left is
no garbage then, so that nothing has to be collected for the freeze alone.

A frozen object is still freed when its last reference goes, but not as part of a cycle. So a
channel that ends breaks its cycles (:meth:`~hbtrio.nursery.host.channel.Channel.release`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final, Self

#: CPU time of a full collection from which on what it left is exempted, in seconds. It is that of a
#: few hundred channels.
LONG_S: Final = 0.015

_FULL: Final = 2


class HeapFreezer:
    """Freezes all objects at the start, and after each long full collection within the block.

    Args:
        cpu_time: this thread's CPU time, in seconds: on a busy machine it says more than the wall
            clock.
        freeze: exempts all objects that exist.
    """

    def __init__(
        self,
        cpu_time: Callable[[], float] = time.thread_time,
        freeze: Callable[[], object] = gc.freeze,
    ) -> None:
        #: How often the objects were frozen after the start.
        self.freezes = 0
        self._cpu_time = cpu_time
        self._freeze = freeze
        self._began = 0.0

    def __enter__(self) -> Self:
        # What was imported and built so far lives as long as the process.
        self._freeze()
        gc.callbacks.append(self._collecting)
        return self

    def __exit__(self, *exc_info: object) -> None:
        gc.callbacks.remove(self._collecting)

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != _FULL:
            return
        if phase == "start":
            self._began = self._cpu_time()
        elif self._cpu_time() - self._began >= LONG_S:
            self._freeze()
            self.freezes += 1
