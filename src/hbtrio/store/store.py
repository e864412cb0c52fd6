"""The agent's durable memory: inventory, open rounds, the outbox to the VIM, links and history.

Each method is one transaction: it happens whole or not at all, whatever becomes of its caller or of
this process (see :mod:`hbtrio.store.worker` for what a commit survives). A method that is cancelled
may have happened.

A report of a host is taken like this: wake the delivery, :meth:`Store.take_report`,
:meth:`Store.sync`, acknowledge. The delivery is woken first because work is done in the order in
which it is asked for: its :meth:`Store.ready` comes right behind and mostly shares the transaction.
The sync comes last because it takes as long as the disk does; the verdict is on its way to the VIM
meanwhile, and what a power cut takes in between the host still holds and sends again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Self

import attrs
import trio

from hbtrio.fsm.delivery import OutboxState
from hbtrio.store import history, outbox, rounds
from hbtrio.store.held_alarms import HeldAlarms
from hbtrio.store.inventory import Inventory
from hbtrio.store.records import (
    Entry,
    HistoryEntry,
    HistoryRecord,
    NewEntry,
    Ready,
    RoundRecord,
    RoundResult,
)
from hbtrio.store.retry import retry_forever
from hbtrio.store.schema import open_database
from hbtrio.store.worker import StoreWorker, Watched, open_store_thread

#: The most that one call returns of a list that has no bound of its own.
PAGE: Final = 1000


class Store:
    """The store; opened by :meth:`open`.

    Any method raises :class:`~hbtrio.store.worker.StoreFault` when the disk is full or
    fails. Then nothing was changed; only of those that survive the machine that is not known.

    Args:
        worker: runs its transactions.
        wall_clock: the time with its zone.
    """

    def __init__(self, worker: StoreWorker, wall_clock: Callable[[], datetime]) -> None:
        self._worker = Watched(worker)
        self._wall_clock = wall_clock
        #: The hosts and instances that the VIM has told of.
        self.inventory = Inventory(self._worker, wall_clock)
        #: Alarms that are held back.
        self.held = HeldAlarms(self._worker, wall_clock)

    @property
    def fault(self) -> str:
        """Why nothing can be written now, or be sure to last; "" if all is well."""
        return self._worker.unsure or self._worker.fault

    @property
    def is_unsure(self) -> bool:
        """Whether nobody can say any more what survives the machine, see :meth:`unsure`."""
        return self._worker.is_unsure.is_set()

    async def unsure(self) -> None:
        """Returns once nobody can say any more what survives the machine.

        Only a new start finds out: the kernel tells of a write that was lost only once.
        """
        await self._worker.is_unsure.wait()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str, wall_clock: Callable[[], datetime]) -> AsyncIterator[Self]:
        """The store in a file, which is made if it is not there, for as long as the block runs.

        Raises:
            UserError: DENIED when permissions forbid it or let others write to it; IN_USE when
                another process has it; USAGE when it is no store, damaged or from a newer version.
        """
        async with open_store_thread(lambda: open_database(path)) as thread:
            yield cls(thread, wall_clock)

    # -- rounds ------------------------------------------------------------------------------------

    async def open_round(self, opened: RoundRecord) -> None:
        """Notes a vote or notice before its host is told of it.

        Raises:
            sqlite3.IntegrityError: its command id was used before.
        """
        await self._worker.run(lambda db: rounds.open_round(db, opened))

    async def replied(self, command_id: str) -> bool:
        """The reply to whoever asked is written, so its verdict may be sent; False if unknown.

        The VIM takes a verdict that overtakes its reply for the next step's.
        """
        return await self._worker.run(lambda db: rounds.replied(db, command_id))

    async def withdraw(self, command_id: str, reason: str) -> None:
        """Gives up the verdict of a round if it is still queued."""
        now = self._now()
        await self._worker.run(lambda db: outbox.withdraw(db, command_id, reason, now))

    async def close_round(
        self,
        result: RoundResult,
        history_entry: HistoryEntry | None = None,
        entries: Sequence[NewEntry] = (),
    ) -> bool:
        """Ends a round for a reason of the agent's own, such as a link that is down.

        Returns False, having done nothing, if it was closed before or is unknown: there is one
        verdict for each round.
        """
        now = self._now()

        def work(db: sqlite3.Connection) -> bool:
            if not rounds.close_round(db, result, now):
                return False
            if history_entry is not None:
                history.record(db, history_entry, now)
            outbox.queue(db, entries, now)
            return True

        return await self._worker.run(work)

    async def find_round(self, command_id: str) -> RoundRecord | None:
        """A round, open or closed, or None."""
        return await self._worker.run(lambda db: rounds.find(db, command_id))

    async def open_rounds(self) -> tuple[RoundRecord, ...]:
        """Rounds that have no result yet, the oldest first; after a restart, those left over."""
        return await self._worker.run(rounds.still_open)

    # -- reports of hosts --------------------------------------------------------------------------

    async def take_report(
        self,
        hostname: str,
        boot_id: str,
        number: int,
        history_entry: HistoryEntry | None = None,
        outbox_entries: Sequence[NewEntry] = (),
        round_result: RoundResult | None = None,
    ) -> bool:
        """Takes one report of a host with all that follows from it.

        Args:
            hostname: the host.
            boot_id: its process; numbers start anew with each.
            number: the report's.
            history_entry: what is kept of it.
            outbox_entries: what the VIM is to hear.
            round_result: the round that it ends. If that was closed before, the actions among
                ``outbox_entries`` are left out: the VIM has its verdict.

        Returns False, having done nothing, if that number was taken already: a report that is
        replayed changes nothing.
        """
        now = self._now()

        def work(db: sqlite3.Connection) -> bool:
            if not rounds.acknowledge(db, hostname, boot_id, number):
                return False
            if history_entry is not None:
                history.record(db, history_entry, now)
            entries = outbox_entries
            if round_result is not None:
                entries = rounds.still_wanted(db, round_result, entries, now)
            outbox.queue(db, entries, now)
            return True

        return await self._worker.run(work)

    async def welcome(self, hostname: str, boot_id: str) -> int:
        """Notes that this process of the host has a link.

        Returns the number of the last report that was taken from it; 0 for none.
        """
        return await self._worker.run(lambda db: rounds.welcome(db, hostname, boot_id))

    async def acknowledged(self, hostname: str, boot_id: str) -> int:
        """The number of the last report that was taken from that process; 0 for none."""
        return await self._worker.run(lambda db: rounds.acknowledged(db, hostname, boot_id))

    async def linked(self) -> frozenset[str]:
        """The hosts that have had a link, in this run of the agent or an earlier one."""
        return await self._worker.run(rounds.linked)

    async def sync(self) -> None:
        """Returns when all that was done before survives the machine; takes as long as the disk.

        Once it has failed it fails for ever: only a new start finds out what is on the disk.
        """
        await self._worker.sync()

    # -- outbox ------------------------------------------------------------------------------------

    async def queue(self, entries: Sequence[NewEntry]) -> None:
        """Queues entries that no report brought."""
        now = self._now()
        await self._worker.run(lambda db: outbox.queue(db, entries, now))

    async def ready(
        self,
        limit: int,
        busy: Iterable[str] = (),
        resting: Iterable[str] = (),
        after: int | None = None,
        *,
        others: int | None = None,
    ) -> Ready:
        """What can be sent now, see outbox.ready; and what has been given up.

        Args:
            limit: how many at most.
            busy: instances of which nothing is wanted.
            resting: instances of which only verdicts are wanted, which wait for no state or alarm.
            after: the ``newest`` that was returned before; None is now. What was given up since,
                by whomever and for whatever reason, is in ``undelivered``.
            others: how many may be no verdicts; None is ``limit``.
        """
        now, clock = self._now(), trio.current_time()
        most, busy, resting = limit if others is None else others, tuple(busy), tuple(resting)

        def work(db: sqlite3.Connection) -> Ready:
            since = history.newest(db) if after is None else after
            ready = outbox.ready(db, limit, most, busy, resting, now, clock)
            newest, undelivered = _undelivered(db, since)
            return attrs.evolve(ready, undelivered=undelivered, newest=newest)

        return await self._worker.run(work)

    async def mark_sending(self, entry_id: int) -> bool:
        """Its first byte is about to be written; False if it was replaced or is too late.

        Of a verdict whose window the machine's next start may fall into it survives the machine:
        it must not be sent again then.
        """
        now, clock = self._now(), trio.current_time()
        left_s = await self._worker.run(lambda db: outbox.mark_sending(db, entry_id, now, clock))
        if left_s is None:
            return False
        if left_s >= outbox.REBOOT_S:
            await self._worker.sync()
        if 0 < left_s <= trio.current_time() - clock:
            # The disk took its time. Left as being sent it would hold up its instance for ever.
            late = OutboxState.UNDELIVERED, outbox.TOO_LATE
            await retry_forever(lambda: self.mark_done(entry_id, *late))
            return False
        return True

    async def mark_done(self, entry_id: int, state: OutboxState, fault: str = "") -> None:
        """Its delivery has ended: delivered, unconfirmed or undelivered."""
        now = self._now()
        await self._worker.run(lambda db: outbox.mark_done(db, entry_id, state, fault, now))

    async def back_to_queue(
        self, entry_id: int, fault: str, *, reached: bool = False, refused: bool = False
    ) -> None:
        """An attempt failed and may be repeated.

        Args:
            entry_id: which.
            fault: why.
            reached: whether that was on a VIM that could be reached.
            refused: whether the VIM refused or reset it.
        """
        clock = trio.current_time()
        await self._worker.run(
            lambda db: outbox.back_to_queue(
                db, entry_id, fault, clock, reached=reached, refused=refused
            )
        )

    async def settle_interrupted(self) -> None:
        """Before sending begins: what was being sent when it last ended.

        An action becomes unconfirmed and is never sent again; states and alarms are queued again.
        """
        now = self._now()
        await self._worker.run(lambda db: outbox.settle_interrupted(db, now))

    async def outbox(self, limit: int = PAGE) -> tuple[Entry, ...]:
        """The newest entries, whatever became of them; newest first, at most ``PAGE``."""
        limit = min(limit, PAGE)
        return await self._worker.run(lambda db: outbox.entries(db, limit))

    # -- history -----------------------------------------------------------------------------------

    async def record(self, entry: HistoryEntry) -> None:
        """Keeps something that no report brought."""
        now = self._now()
        await self._worker.run(lambda db: history.record(db, entry, now))

    async def history(
        self, limit: int = PAGE, *, before: int | None = None, uuid: str | None = None
    ) -> tuple[HistoryRecord, ...]:
        """History, the newest first.

        Args:
            limit: how much, at most ``PAGE``.
            before: only older than the record with this id.
            uuid: only of this instance.
        """
        limit = min(limit, PAGE)
        return await self._worker.run(lambda db: history.read(db, limit, before, uuid))

    async def prune(self, older_than: datetime, limit: int = PAGE) -> int:
        """Removes a batch of old history, ended deliveries and closed rounds: ``limit`` of each.

        Returns how much was removed: when not 0 there may be more.
        """
        edge = older_than.timestamp()

        def work(db: sqlite3.Connection) -> int:
            parts = (history.prune, rounds.prune, outbox.prune)
            return sum(part(db, edge, limit) for part in parts)

        return await self._worker.run(work)

    # ----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._wall_clock().timestamp()


def _undelivered(db: sqlite3.Connection, after: int) -> tuple[int, tuple[HistoryEntry, ...]]:
    newest = history.newest(db)
    if after >= newest:
        return newest, ()
    found = history.newer(db, after, OutboxState.UNDELIVERED, PAGE)
    return (
        found[-1].id if len(found) == PAGE else newest,
        tuple(record.entry for record in found),
    )
