"""What a store asks of its database and its worker, and what it remembers of their faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from hbtrio.store.faults import StoreFault, StoreFenced, StoreLost
from hbtrio.store.lease import Lease
from hbtrio.store.recovery import Recovery
from hbtrio.store.sql import Connection

T = TypeVar("T")


class OpenedDatabase(Protocol):
    """A database that is open; the worker's thread uses and closes it."""

    @property
    def db(self) -> Connection:
        """The connection."""

    def sync(self) -> None:
        """Waits until all commits survive a crash of the machine; called in any thread.

        Raises:
            OSError: the disk failed.
            StoreLost: it is unknown whether they do.
        """

    def files_fault(self) -> str:
        """Returns what happened to its files; "" if nothing did. Called in any thread."""

    def close(self) -> None:
        """Closes it."""


class StoreWorker(Protocol):
    """Runs work on the database, each in a transaction."""

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` and returns its result after the commit.

        Work is done in the order of the calls. If task A wakes task B, calls that A makes before it
        next waits come before B's.

        Raises:
            StoreFault: nothing was changed.
        """

    async def sync(self) -> None:
        """Waits until everything committed before survives a crash of the machine.

        Raises:
            StoreFault: the disk failed to sync.
        """

    async def files_fault(self) -> str:
        """Returns what happened to the open files: deleted, replaced; "" if nothing did."""


class Watched:
    """A worker that records whether the database can be written.

    Args:
        worker: the worker that does the work.
        lease: bounds how long the agent may act on what it is told; None: for good.
    """

    def __init__(self, worker: StoreWorker, lease: Lease | None = None) -> None:
        #: Why the last work failed; "" after the next successful write.
        self.fault = ""
        #: What those wait for whose work has failed; a fault that this raises has it too.
        self.recovery = Recovery()
        #: Why it is unknown what is stored, for the rest of the process; else "".
        self.unsure = ""
        #: Set together with ``unsure``.
        self.is_unsure = trio.Event()
        #: Whether that is because the lease is lost.
        self.is_fenced = False
        self._worker = worker
        self._lease = lease

    async def run(self, work: Callable[[Connection], T]) -> T:
        """See :class:`StoreWorker`."""
        wrote = False

        def watched(db: Connection) -> T:
            nonlocal wrote
            before = db.total_changes
            result = work(db)
            # Work that only reads succeeds even on a full disk.
            wrote = db.total_changes > before
            return result

        try:
            result = await self._worker.run(watched)
        except StoreFault as fault:
            if isinstance(fault, StoreLost):
                self._doubt(fault)
            else:
                fault.recovery = self.recovery
                self.fault = str(fault)
            raise
        self.check_lease()
        if wrote and self.fault:
            self.fault = ""
            self.recovery.works()
        return result

    async def sync(self) -> None:
        """See :class:`StoreWorker`."""
        try:
            await self._worker.sync()
        except StoreFault as fault:
            self._doubt(fault)
            raise
        self.check_lease()

    def check_lease(self) -> None:
        """Checks whether the agent may still act.

        Raises:
            StoreLost: it may not; whether its last changes were committed is not known.
        """
        if self._lease is not None and (fault := self._lease.fault()) is not None:
            self._doubt(fault)
            raise fault

    def _doubt(self, fault: StoreFault) -> None:
        fault.recovery = self.recovery
        if not self.unsure:
            self.unsure = str(fault)
            self.is_fenced = isinstance(fault, StoreFenced)
        self.is_unsure.set()

    async def files_fault(self) -> str:
        """See :class:`StoreWorker`."""
        return await self._worker.files_fault()
