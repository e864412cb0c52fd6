"""Remembers what a host knows across its restarts, and keeps its history.

Nothing here makes a beat wait. What is to be stored is collected and written by a task of its own;
a later state of an instance replaces the one that waits, and all else that waits is bounded. A disk
that is full, hangs or has lost its file is logged and shown in status, and the host goes on: only
its next start remembers less.

    memory
      writes          opens the store, reads what it has, then writes what has been collected
      store watch     notices that the store's files were deleted or replaced
      pruning         removes old history
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, NoReturn

import trio

from hbtrio.errors import UserError
from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain
from hbtrio.nursery.host.history_pruning import prune_history
from hbtrio.nursery.host.memory_settings import NOWHERE, MemorySettings
from hbtrio.nursery.host.unwritten import Awaited, Unwritten
from hbtrio.nursery.store_watch import StoreWatch
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.backoff import Backoff
from hbtrio.store.faults import StoreFault
from hbtrio.store.host_records import (
    ActionRecord,
    CorrectiveRun,
    HoldRecord,
    KnownInstance,
    MemberRecord,
    Moment,
    Recollection,
)
from hbtrio.store.host_store import HostStore
from hbtrio.store.records import HistoryEntry, HistoryRecord
from hbtrio.store.recovery import TRY_S

_log = logging.getLogger("hbtrio.memory")

#: Seconds between two writes, for what can be written together.
PAUSE_S: Final = 0.1

#: How long a step of an action may wait for the disk, in seconds.
STEP_S: Final = 1.0

#: After this many seconds a write or the opening of the store counts as hung.
HUNG_S: Final = 10.0

#: The most seconds between two attempts to open a store that can't be opened.
OPEN_S: Final = 5.0

#: How long the end of the host may wait for what has not been written, in seconds.
_LAST_S: Final = 1.0

#: Why a host without a state directory remembers nothing.
NO_DIRECTORY: Final = "no state directory is configured: nothing is remembered across restarts"


class NotKept(Exception):
    """There is no history, or it can't be read now."""


class HostMemory:
    """The memory of a host; :func:`open_memory` makes and runs it.

    Args:
        settings: its store and clock; without a state directory, nothing is remembered.
    """

    def __init__(self, settings: MemorySettings = NOWHERE) -> None:
        self.path = settings.path
        self._settings = settings
        self._fault = "" if settings.open_store is not None else NO_DIRECTORY
        self._store: HostStore | None = None
        self._watch: StoreWatch | None = None
        #: Since when the disk is being waited for; infinity if it is not.
        self._busy_since = math.inf
        self._wake = WakeUp()
        #: Set when somebody waits for the next write.
        self._hurry = WakeUp()
        self._unwritten = Unwritten()
        self._recollection = Recollection()
        self._recalled = trio.Event()
        self._taken = trio.Event()

    @property
    def is_kept(self) -> bool:
        """Whether there is a state directory."""
        return self._settings.open_store is not None

    @property
    def fault(self) -> str:
        """Why nothing is remembered now; "" while all is well."""
        return self._fault or ("" if self._watch is None else self._watch.fault)

    @property
    def is_written(self) -> bool:
        """Whether the disk has all that was to be remembered."""
        return not (self.fault or self._unwritten) and self._busy_since == math.inf

    @property
    def moment(self) -> Moment:
        """The present moment, as records carry it."""
        return self._settings.moment()

    @property
    def lost(self) -> int:
        """Entries of the history that were dropped because the disk did not take them."""
        return self._unwritten.lost

    def socket_of(self, path: str) -> str:
        """Identifies the socket at a path as a file, for records."""
        return self._settings.socket_of(path)

    # -- what is to be stored; never waits ----------------------------------------------------

    def know(self, known: KnownInstance) -> None:
        """Remembers what is known of an instance, in place of what was known before."""
        if self.is_kept and self._unwritten.know(known):
            self._wake.set()

    def forget(self, uuid: str) -> None:
        """Forgets an instance that no longer exists."""
        if self.is_kept:
            self._unwritten.forget(uuid)
            self._wake.set()

    def ran(self, uuid: str) -> None:
        """Remembers that a corrective command, which counts against the limit, was run now."""
        if self.is_kept:
            self._unwritten.ran(CorrectiveRun(uuid, self.moment))
            self._wake.set()

    def ran_in_vain(self, uuid: str) -> None:
        """Forgets the last corrective command of an instance: it does not count."""
        if self.is_kept:
            self._unwritten.ran_in_vain(uuid)
            self._wake.set()

    def hold(self, hold: HoldRecord) -> trio.Event:
        """Remembers a hold, in place of one of its kind; returns what is set once it is stored."""
        if not self.is_kept:
            return trio.Event()
        self._wake.set()
        return self._unwritten.hold(hold.kind, hold.uuid, hold)

    def release(self, kind: str, uuid: str) -> None:
        """Forgets a hold."""
        if self.is_kept:
            self._unwritten.hold(kind, uuid, None)
            self._wake.set()

    def member(self, uuid: str, member: MemberRecord | None) -> None:
        """Remembers a member of groups; with None forgets it."""
        if self.is_kept:
            self._unwritten.member(uuid, member)
            self._wake.set()

    def drain(self, record: DrainRecord | None, places: Iterable[DrainPlace]) -> None:
        """Remembers a drain, if given, and instances of it, in place of what was known."""
        if self.is_kept:
            self._unwritten.drain(record, places)
            self._wake.set()

    def record(self, entry: HistoryEntry) -> None:
        """Adds an entry to the history."""
        if self.is_kept:
            self._unwritten.record(entry)
            self._wake.set()

    # -- what is waited for -------------------------------------------------------------------

    async def put_action(self, action: ActionRecord) -> bool:
        """Stores an action and its step before the step is taken, with all that was given before.

        Waits ``STEP_S`` at most, and returns whether it is stored. If not, it is later: a restart
        before that does not resume the action, which goes on.
        """
        return self.is_kept and await self._tried(self._unwritten.step(action))

    async def put_drain(self, drain: StoredDrain) -> bool:
        """Stores a drain that begins, as :meth:`put_action` does an action."""
        return self.is_kept and await self._tried(self._unwritten.begin_drain(drain))

    async def _tried(self, awaited: Awaited) -> bool:
        self._wake.set()
        self._hurry.set()
        if self._store is not None:
            with trio.move_on_after(STEP_S):
                await awaited.tried.wait()
        return awaited.is_written

    async def end_action(self, id_: str, outcome: HistoryEntry) -> bool:
        """Removes an action that has ended, and adds its outcome to the history.

        Waits at most ``STEP_S``, and returns whether that is stored. If not, it is stored later; a
        restart before that resumes the action at its last step. Either way it has one outcome.
        """
        if not self.is_kept:
            return False
        # Written with what was reported before it, and so after it in the history.
        written = self._unwritten.end(id_, outcome)
        self._wake.set()
        with trio.move_on_after(STEP_S):
            await written.wait()
        return written.is_set()

    async def history(
        self,
        limit: int,
        *,
        before: int | None = None,
        uuid: str | None = None,
        kept_since: float | None = None,
    ) -> tuple[HistoryRecord, ...]:
        """Returns entries of the history, the newest first; see :meth:`HostStore.history`.

        Raises:
            NotKept: there is no state directory, or it can't be read.
        """
        if self._store is None:
            raise NotKept(self.fault or "the state directory is being opened")
        try:
            return await self._store.history(limit, before=before, uuid=uuid, kept_since=kept_since)
        except StoreFault as fault:
            raise NotKept(str(fault)) from fault

    # -- the tasks ----------------------------------------------------------------------------

    async def recollect(self, take: Callable[[Recollection], None]) -> None:
        """Waits until the store was read, and calls ``take`` with what an earlier run has left.

        Nothing is written before that: what is known at a start would replace what was known.
        Without a state directory it returns at once.
        """
        if self.is_kept:
            await self._recalled.wait()
            take(self._recollection)
            self._taken.set()

    async def run(self) -> None:
        """Reads the store, then writes until cancelled, and what is left for at most a second.

        Without a state directory it returns at once.
        """
        if self._settings.open_store is None:
            _log.warning("%s", NO_DIRECTORY)
            return
        backoff = Backoff(limit_s=OPEN_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_hang)
            while True:
                self._busy_since = trio.current_time()
                try:
                    async with self._settings.open_store() as store:
                        await self._serve(store)
                except UserError as error:
                    self._busy_since = math.inf
                    self._note_fault(str(error))
                    await trio.sleep(backoff.next_delay_s())

    async def _serve(self, store: HostStore) -> NoReturn:
        while not self._recalled.is_set():
            try:
                self._recollection = await store.recall()
            except StoreFault as fault:
                self._note_fault(str(fault))
                await fault.recovery.wait()
            else:
                self._recalled.set()
        self._busy_since = math.inf
        self._fault = ""
        self._store = store
        self._watch = StoreWatch(store)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch.run)
                nursery.start_soon(prune_history, store, self._settings, self._note_fault)
                await self._write_forever(store)
        finally:
            self._store = None
            with trio.CancelScope(deadline=trio.current_time() + _LAST_S, shield=True):
                while self._taken.is_set() and self._unwritten and await self._write(store):
                    pass
        raise AssertionError("the tasks run until they are cancelled")

    async def _write_forever(self, store: HostStore) -> NoReturn:
        await self._taken.wait()
        while True:
            await self._wake.wait()
            if await self._write(store):
                pause_s = 0.0 if self._unwritten.is_awaited else PAUSE_S
            else:
                pause_s = TRY_S  # nothing else writes, so nothing else finds out
            with trio.move_on_after(pause_s):
                await self._hurry.wait()
            if self._unwritten:
                self._wake.set()

    async def _write(self, store: HostStore) -> bool:
        """Writes one batch of what is waiting; what can't be written waits on."""
        # From here on nothing is cancelled before its work is queued, and that is done in any case.
        await trio.lowlevel.checkpoint_if_cancelled()
        batch = self._unwritten.take()
        self._busy_since = trio.current_time()
        try:
            await store.keep(batch.changes)
        except StoreFault as fault:
            self._note_fault(str(fault))
            self._unwritten.put_back(batch)
            batch.failed()
            return False
        finally:
            self._busy_since = math.inf
        batch.written()
        if self._fault:
            _log.warning("%s: can be written again", self.path)
            self._fault = ""
        return True

    def _note_fault(self, fault: str) -> None:
        if fault != self._fault:
            text = "%s: %s; the host goes on, and remembers nothing of this time after a restart"
            _log.error(text, self.path, fault)
        self._fault = fault

    async def _watch_for_hang(self) -> NoReturn:
        while True:
            await trio.sleep(HUNG_S)
            if trio.current_time() - self._busy_since >= HUNG_S:
                self._note_fault(f"the disk has not answered for {HUNG_S:g} s or more")


@asynccontextmanager
async def open_memory(memory: HostMemory) -> AsyncIterator[None]:
    """Runs a memory within the block; what the end of the block reports is still written."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.run)
        yield
        nursery.cancel_scope.cancel()
