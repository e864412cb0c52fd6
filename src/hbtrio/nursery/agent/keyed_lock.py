"""Whose turn it is to change something of which there are many."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio


class KeyedLock:
    """A turn for each key for which anybody asks; it is forgotten when nobody does any more."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, trio.StrictFIFOLock] = {}

    def __contains__(self, key: object) -> bool:
        """Whether somebody has this key's turn, or waits for it."""
        return key in self._turns

    def __len__(self) -> int:
        return len(self._turns)

    @asynccontextmanager
    async def of(self, key: Hashable) -> AsyncIterator[None]:
        """The block runs when all who came before for the same key are done.

        Nobody may ask again for a key whose turn he has. Cancelled while it waits, the place is
        given up.
        """
        turn = self._turns.setdefault(key, trio.StrictFIFOLock())
        try:
            async with turn:
                yield
        finally:
            # Whoever is cancelled before he has it may find that a later one's is there by now.
            if not turn.locked() and self._turns.get(key) is turn:
                del self._turns[key]
