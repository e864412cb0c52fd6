"""Notices that a store's files were deleted, replaced or made read-only while its daemon runs.

SQLite does not notice: it goes on in the open files. So does the daemon, and nothing that it
answers or sends becomes wrong. But what it stores is no longer under the file's name, and the next
start won't find it: of an agent, the open votes, what is queued for the VIM, and the inventory.
Only the operator can know which of the two files is wanted, so the daemon repeats until its restart
what has happened.
"""

from __future__ import annotations

import logging
from typing import Final, NoReturn, Protocol

import trio

_log = logging.getLogger("hbtrio.store")

#: Seconds between two looks at the files.
LOOK_S: Final = 20.0

#: Seconds between two lines in the log while the fault lasts.
REPEAT_S: Final = 60.0


class Watchable(Protocol):
    """A store that knows its files."""

    async def files_fault(self) -> str:
        """Returns what happened to the files while they are open; "" if nothing did."""


class StoreWatch:
    """Watches the store's files.

    Args:
        store: the store.
    """

    def __init__(self, store: Watchable) -> None:
        self._store = store
        #: What happened to the files; "" while all is well.
        self.fault = ""

    async def run(self) -> NoReturn:
        """Watches until cancelled; a hung disk makes a look wait, but nothing else."""
        logged_at, logged = 0.0, ""
        while True:
            self.fault = await self._store.files_fault()
            now = trio.current_time()
            if self.fault and (self.fault != logged or now - logged_at >= REPEAT_S):
                _log.error("store: %s", self.fault)
                logged_at, logged = now, self.fault
            elif logged and not self.fault:
                _log.warning("store: its files are again those that were opened")
                logged = ""
            await trio.sleep(LOOK_S)
