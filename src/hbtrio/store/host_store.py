"""Stores what a host knows across its restarts: its memory and its history.

A host decides without it, so no method is called where a beat could wait for it:
:mod:`hbtrio.nursery.host.memory` collects what is to be stored. Each method is one transaction. A
commit survives the death of the process, which is what this is for; only a crash of the machine may
lose the last seconds, and after that all instances start anew.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import attrs

from hbtrio.fsm.drain_records import DrainPlace, DrainRecord
from hbtrio.store import drain_rows, history, host_rows
from hbtrio.store.daemon_store import PAGE, DaemonStore
from hbtrio.store.host_records import (
    ActionRecord,
    CorrectiveRun,
    HoldRecord,
    KnownInstance,
    MemberRecord,
    Recollection,
)
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.records import HistoryEntry
from hbtrio.store.sql import Connection

#: The most entries of the history; beyond it the oldest are removed, whatever their age.
HISTORY: Final = 100_000


@attrs.frozen
class Changes:
    """What one transaction stores.

    Args:
        known: instances, each in place of what was known of it before.
        forgotten: instances that no longer exist.
        runs: corrective commands that were run.
        in_vain: instances whose last command, stored before, does not count.
        held: holds that have begun or changed.
        released: kind and uuid of holds that are over.
        members: members of groups.
        departed: instances that are members no longer.
        history: entries of the history, in order.
        drains: drains that have changed.
        drain_places: instances of drains that have changed.
        actions: actions that begin or take their next step, each in place of its last step.
        ended: ids of actions that have ended, and their outcomes, which come last in the history.
    """

    known: tuple[KnownInstance, ...] = ()
    forgotten: tuple[str, ...] = ()
    runs: tuple[CorrectiveRun, ...] = ()
    in_vain: tuple[str, ...] = ()
    held: tuple[HoldRecord, ...] = ()
    released: tuple[tuple[str, str], ...] = ()
    members: tuple[MemberRecord, ...] = ()
    departed: tuple[str, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    ended: tuple[tuple[str, HistoryEntry], ...] = ()
    drains: tuple[DrainRecord, ...] = ()
    drain_places: tuple[DrainPlace, ...] = ()
    actions: tuple[ActionRecord, ...] = ()


class HostStore(DaemonStore):
    """A host's store; open it with :meth:`open`.

    Any method raises :class:`~hbtrio.store.faults.StoreFault` if the disk is full or fails, or if
    the file is damaged; nothing was changed then. A method that is cancelled may have taken effect.
    """

    schema = HOST_SCHEMA

    @property
    def fault(self) -> str:
        """Why the store can't write now; "" if it can."""
        return self._worker.fault

    async def recall(self) -> Recollection:
        """Returns what earlier runs of the host have left."""

        def work(db: Connection) -> Recollection:
            return Recollection(
                host_rows.instances(db),
                host_rows.actions(db),
                host_rows.corrective_runs(db),
                host_rows.holds(db),
                drain_rows.drains(db),
                host_rows.members(db),
            )

        return await self._worker.run(work)

    async def keep(self, changes: Changes) -> None:
        """Stores changes, all or none."""
        now = self._now()

        def work(db: Connection) -> None:
            host_rows.forget_instances(db, changes.forgotten)
            host_rows.put_instances(db, changes.known)
            host_rows.remove_corrective_runs(db, changes.in_vain)
            if changes.runs:
                host_rows.add_corrective_runs(db, changes.runs, now)
            for kind, uuid in changes.released:
                host_rows.release_hold(db, kind, uuid)
            for hold in changes.held:
                host_rows.put_hold(db, hold)
            drain_rows.put_drains(db, changes.drains)
            drain_rows.put_places(db, changes.drain_places)
            host_rows.forget_members(db, changes.departed)
            host_rows.put_members(db, changes.members)
            for entry in changes.history:
                history.record(db, entry, now)
            for action in changes.actions:
                host_rows.put_action(db, action)
            for id_, outcome in changes.ended:
                host_rows.end_action(db, id_)
                history.record(db, outcome, now)

        await self._worker.run(work)

    async def prune(self, older_than: datetime, limit: int = PAGE) -> int:
        """Removes history that is too old or beyond ``HISTORY`` entries, up to twice ``limit``.

        Returns how many entries were removed; if not 0, there may be more.
        """
        edge = older_than.timestamp()

        def work(db: Connection) -> int:
            return history.prune(db, edge, limit) + history.prune_beyond(db, HISTORY, limit)

        return await self._worker.run(work)
