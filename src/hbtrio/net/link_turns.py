"""Shares a process's time between links whose peers have sent much at once.

After an agent's restart a thousand hosts send their snapshots. If each link handled a part of its
own in each pass of the loop, the pass would take a second, and everybody else would wait: pings,
votes and the verdicts of other hosts.
"""

from __future__ import annotations

import trio


class Turns:
    """Lets links through one after the other, one in each pass of the loop."""

    def __init__(self) -> None:
        self._line = trio.StrictFIFOLock()

    async def wait(self) -> None:
        """Waits for the caller's turn, behind those that have waited for longer. A checkpoint."""
        # Whoever is let through ends its turn in the pass in which it runs, which wakes the next.
        async with self._line:
            pass
