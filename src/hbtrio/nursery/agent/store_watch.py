"""Notices that the store's files were deleted, replaced or made read-only while the agent runs.

SQLite does not notice: it goes on in the open files. So does the agent, and nothing that it answers
or sends becomes wrong. But what it stores is no longer under the file's name, and the next start
won't find it: the open votes, what is queued for the VIM, and the inventory. Only the operator can
know which of the two files is wanted, so the agent repeats until its restart what has happened.
"""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import trio

from hbtrio.store.store import Store

_log = logging.getLogger("hbtrio.store")

#: Seconds between two looks at the files.
LOOK_S: Final = 20.0

#: Seconds between two lines in the log while the fault lasts.
REPEAT_S: Final = 60.0


class StoreWatch:
    """Watches the store's files.

    Args:
        store: the store.
    """

    def __init__(self, store: Store) -> None:
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
