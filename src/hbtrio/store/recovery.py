"""Wakes whatever waits for a store that has failed, once the store can be written again.

Whether a full disk has room again shows only when something is written. So those who wait try in
turn, one each second however many they are, and the first write that succeeds wakes all at once.
With backoffs of their own some would wait a minute longer, and a verdict is not wanted as long.
"""

from __future__ import annotations

from typing import Final

import trio

#: Seconds between two attempts while the store fails.
TRY_S: Final = 1.0


class Recovery:
    """Knows who waits for a store that has failed."""

    def __init__(self) -> None:
        self._turn = trio.StrictFIFOLock()
        #: A dict, because a set has no order.
        self._waiting: dict[trio.CancelScope, None] = {}

    def works(self) -> None:
        """Wakes all who wait: something could be written again."""
        for scope in self._waiting:
            scope.cancel()

    async def wait(self) -> None:
        """Waits after a failed attempt until the next one is worth it.

        That is when the store can be written again, or when it is the caller's turn to find out:
        ``TRY_S`` after the attempt of the caller who has waited longest before. Whoever fails again
        waits behind the others, so that one whose row is damaged keeps nobody from trying.
        Cancellation changes nothing for the others.
        """
        with trio.CancelScope() as scope:
            self._waiting[scope] = None
            try:
                async with self._turn:
                    await trio.sleep(TRY_S)
            finally:
                del self._waiting[scope]
