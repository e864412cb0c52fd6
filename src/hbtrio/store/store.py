"""Stores the agent's inventory, open rounds, outbox to the VIM, links and history.

Each method is one transaction, which is done as a whole or not at all; see
:mod:`hbtrio.store.worker` for what a commit survives. A cancelled method may have taken effect.

To take a report of a host: wake the delivery, :meth:`Store.take_report`, :meth:`Store.sync`,
acknowledge. Work is done in the order of the calls, so the delivery is woken first: its
:meth:`Store.ready` follows directly and mostly shares the transaction. The sync comes last because
it is slow; the verdict is sent to the VIM meanwhile. If a power cut loses the report, the host
sends it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import trio

from hbtrio.fsm.delivery import OutboxState
from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain
from hbtrio.store import delivery_order, drain_rows, history, links, outbox, rounds
from hbtrio.store.daemon_store import PAGE, DaemonStore
from hbtrio.store.group_members import StoredMembers
from hbtrio.store.held_alarms import HeldAlarms
from hbtrio.store.instance_holds import StoredHolds
from hbtrio.store.inventory import Inventory
from hbtrio.store.lease import Lease
from hbtrio.store.links import Links
from hbtrio.store.records import (
    Entry,
    HistoryEntry,
    NewEntry,
    Ready,
    RoundRecord,
    RoundResult,
    TakenReport,
)
from hbtrio.store.retry import retry_forever
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.sql import Connection
from hbtrio.store.worker import StoreWorker


class Store(DaemonStore):
    """The agent's store; open it with :func:`~hbtrio.store.places.open_store`.

    Any method raises :class:`~hbtrio.store.faults.StoreFault` if the disk is full or fails, or if
    the file is damaged. Nothing was changed then, except that a method which also syncs may have
    committed.

    Args:
        worker: runs the transactions.
        wall_clock: returns the current time; timezone-aware.
        restart_s: the least time after which what was not synced may be lost and the database
            be used again, in seconds.
        lease: bounds how long the agent may act; None: for good.
    """

    schema = AGENT_SCHEMA

    def __init__(
        self,
        worker: StoreWorker,
        wall_clock: Callable[[], datetime],
        *,
        restart_s: float = outbox.REBOOT_S,
        lease: Lease | None = None,
    ) -> None:
        super().__init__(worker, wall_clock, lease=lease)
        self._restart_s = restart_s
        #: The hosts and instances that the VIM has named.
        self.inventory = Inventory(self._worker, wall_clock)
        #: The links of hosts.
        self.links = Links(self._worker)
        #: The alarms that are held back.
        self.held = HeldAlarms(self._worker, wall_clock)
        #: The holds of operators on instances.
        self.holds = StoredHolds(self._worker, wall_clock)
        #: The members of groups.
        self.members = StoredMembers(self._worker, wall_clock)

    @property
    def fault(self) -> str:
        """Why the store can't write or sync now; "" if it can."""
        return self._worker.unsure or self._worker.fault

    # -- drains ------------------------------------------------------------------------------------

    async def drains(self) -> tuple[StoredDrain, ...]:
        """Returns the drains that are kept, the oldest first."""
        return await self._worker.run(drain_rows.drains)

    async def keep_drains(
        self,
        drains: Sequence[DrainRecord],
        places: Sequence[DrainPlace],
        entries: Sequence[HistoryEntry] = (),
    ) -> None:
        """Stores drains and instances of drains, each in place of what was stored of it.

        Args:
            drains: the drains.
            places: the instances of drains.
            entries: what the history says of them.
        """
        now = self._now()

        def work(db: Connection) -> None:
            drain_rows.put_drains(db, drains)
            drain_rows.put_places(db, places)
            for entry in entries:
                history.record(db, entry, now)

        await self._worker.run(work)

    # -- rounds ------------------------------------------------------------------------------------

    async def open_round(self, opened: RoundRecord) -> None:
        """Stores a vote or notice, before its host receives the command.

        Raises:
            CommandIdUsed: the command id was used before.
        """
        await self._worker.run(lambda db: rounds.open_round(db, opened))

    async def replied(self, command_id: str) -> bool:
        """Marks the reply to the requester as written, so that the verdict may be sent.

        The VIM assigns a verdict that overtakes the reply to its next step. Returns False if the
        round is unknown.
        """
        return await self._worker.run(lambda db: rounds.replied(db, command_id))

    async def withdraw(self, command_id: str, reason: str) -> None:
        """Ends the verdict of a round as undelivered if it is still queued."""
        now = self._now()
        await self._worker.run(lambda db: outbox.withdraw(db, command_id, reason, now))

    async def close_round(
        self,
        result: RoundResult,
        history_entry: HistoryEntry | None = None,
        entries: Sequence[NewEntry] = (),
    ) -> bool:
        """Closes a round for a reason of the agent's own, such as a link that is down.

        Returns False and does nothing if the round is closed or unknown: each round has one
        verdict.
        """
        now = self._now()

        def work(db: Connection) -> bool:
            if not rounds.close_round(db, result, now):
                return False
            if history_entry is not None:
                history.record(db, history_entry, now)
            outbox.queue(db, entries, now)
            return True

        return await self._worker.run(work)

    async def find_round(self, command_id: str) -> RoundRecord | None:
        """Returns a round, open or closed, or None."""
        return await self._worker.run(lambda db: rounds.find(db, command_id))

    async def open_rounds(self) -> tuple[RoundRecord, ...]:
        """Returns the open rounds, the oldest first; after a restart, those left over."""
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
    ) -> TakenReport | None:
        """Stores one report of a host and everything that follows from it.

        Args:
            hostname: the host.
            boot_id: the host process; report numbers start again with each.
            number: the report's number.
            history_entry: the report's entry in the history; a note, if its command has one.
            outbox_entries: the entries to deliver to the VIM.
            round_result: the round that the report ends. If the round was closed before, its
                verdict in ``outbox_entries`` is left out, because the VIM has a verdict.

        Returns None and does nothing if the number was taken before, so that a replayed report has
        no effect.
        """
        now = self._now()

        def work(db: Connection) -> TakenReport | None:
            if not links.acknowledge(db, hostname, boot_id, number):
                return None
            kept = None
            if history_entry is not None:
                kept = history.record(db, history_entry, now)
            entries = outbox_entries
            if round_result is not None:
                entries = rounds.still_wanted(db, round_result, entries, now)
            outbox.queue(db, entries, now)
            return TakenReport(kept)

        return await self._worker.run(work)

    async def sync(self) -> None:
        """Waits until everything committed before survives a crash of the machine.

        After one failure every later call fails: only a restart finds out what is on the disk.
        """
        await self._worker.sync()

    # -- outbox ------------------------------------------------------------------------------------

    async def queue(self, entries: Sequence[NewEntry]) -> None:
        """Queues entries that don't belong to a report."""
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
        """Expires entries, then returns those that can be sent now and those undelivered.

        Args:
            limit: the most entries to return.
            busy: instances whose entries are left out.
            resting: instances of which only verdicts are returned, which wait for no state or
                alarm.
            after: ``newest`` of the last call; None is now. ``undelivered`` of the result has all
                entries that became undelivered since.
            others: the most entries that are not verdicts; None is ``limit``.
        """
        now, clock = self._now(), trio.current_time()
        most, busy, resting = limit if others is None else others, tuple(busy), tuple(resting)

        return await self._worker.run(
            lambda db: delivery_order.ready(db, limit, most, busy, resting, after, now, clock)
        )

    async def mark_sending(self, entry_id: int) -> bool:
        """Marks an entry as being sent; False if the entry was replaced or has expired.

        Call this before the entry's first byte is written. If the machine could restart within a
        verdict's window, the mark is synced to the disk, so that the verdict is not sent twice.
        """
        now, clock = self._now(), trio.current_time()
        left_s = await self._worker.run(lambda db: outbox.mark_sending(db, entry_id, now, clock))
        if left_s is None:
            return False
        if left_s > 0 and left_s >= self._restart_s:
            await self._worker.sync()
        if 0 < left_s <= trio.current_time() - clock:
            # The verdict expired during the sync. Still "sending", it would block its instance.
            late = OutboxState.UNDELIVERED, outbox.TOO_LATE
            await retry_forever(lambda: self.mark_done(entry_id, *late))
            return False
        return True

    async def mark_done(self, entry_id: int, state: OutboxState, fault: str = "") -> None:
        """Ends the delivery of an entry: delivered, unconfirmed or undelivered."""
        now = self._now()
        await self._worker.run(lambda db: outbox.mark_done(db, entry_id, state, fault, now))

    async def back_to_queue(
        self, entry_id: int, fault: str, *, reached: bool = False, refused: bool = False
    ) -> None:
        """Queues an entry again after a failed attempt.

        Args:
            entry_id: the entry.
            fault: why the attempt failed.
            reached: whether the VIM could be reached.
            refused: whether the VIM refused or reset the request.
        """
        now, clock = self._now(), trio.current_time()
        await self._worker.run(
            lambda db: outbox.back_to_queue(
                db, entry_id, fault, now, clock, reached=reached, refused=refused
            )
        )

    async def settle_interrupted(self) -> None:
        """Settles the entries that were being sent when the last delivery ended.

        Call this before sending starts. A verdict becomes unconfirmed and is never sent again;
        states and alarms are queued again. Verdicts that are queued expire by trio's clock from now
        on, whatever becomes of the wall clock.
        """
        now, clock = self._now(), trio.current_time()
        await self._worker.run(lambda db: outbox.settle_interrupted(db, now, clock))

    async def outbox(self, limit: int = PAGE) -> tuple[Entry, ...]:
        """Returns the newest entries in any state, newest first, at most ``PAGE``."""
        limit = min(limit, PAGE)
        return await self._worker.run(lambda db: outbox.entries(db, limit))

    # -- history -----------------------------------------------------------------------------------

    async def record(self, entry: HistoryEntry) -> None:
        """Adds a history entry that doesn't belong to a report."""
        now = self._now()
        await self._worker.run(lambda db: history.record(db, entry, now))

    async def note(self, hostname: str, command_id: str, text: str) -> HistoryEntry | None:
        """Notes on a command's entry what its host revealed later, see :func:`.history.note`."""
        return await self._worker.run(lambda db: history.note(db, hostname, command_id, text))

    async def prune(self, older_than: datetime, limit: int = PAGE) -> int:
        """Removes old history, ended deliveries and closed rounds, up to ``limit`` of each.

        Returns how many rows were removed; if not 0, there may be more.
        """
        edge = older_than.timestamp()

        def work(db: Connection) -> int:
            parts = (history.prune, rounds.prune, outbox.prune)
            return sum(part(db, edge, limit) for part in parts)

        return await self._worker.run(work)
