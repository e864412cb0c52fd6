"""An agent's life with its store, to be killed at any moment: ``store_child.py PLACE NAME``.

A third argument is the lease, in seconds.

It takes reports and delivers what they bring, and says on its standard output what it holds safe
and what it has sent, each before it goes on. A line that was read was true when it was written.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

import trio

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store import lease, postgres_agents
from hbtrio.store.places import open_store
from hbtrio.store.records import HistoryEntry, NewEntry, RoundRecord, RoundResult
from hbtrio.store.store import Store
from hbtrio.system.boot_clock import boot_clock
from hbtrio.wire.vocabulary import Event, VoteResult

INSTANCES = 5
WINDOW_S = 60.0

#: The kind of the history entries of reports; the store adds others.
REPORTED = "test"


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def now() -> datetime:
    return datetime.now(UTC)


async def report(store: Store, boot: str) -> None:
    """One report after another, in turn a verdict, an alarm and a state.

    The window of every other verdict is over at once: it is never sent.
    """
    number = 0
    while True:
        number += 1
        name = f"{boot}/{number}"
        uuid = f"u{number % INSTANCES}"
        kind = list(OutboxKind)[number % 3]
        result = None
        entry = NewEntry(kind, uuid, name)
        if kind is OutboxKind.ACTION:
            await store.open_round(
                RoundRecord(name, uuid, "h", Event.STOP, True, "vim", now(), WINDOW_S)
            )
            say("opened", name)
            result = RoundResult(name, VoteResult.ACCEPT, "")
            window_s = 0.0 if number % 2 else WINDOW_S
            entry = NewEntry(kind, uuid, name, name, now() + timedelta(seconds=window_s))
        history = HistoryEntry(now(), REPORTED, uuid, "h", name)
        assert await store.take_report("h", boot, number, history, [entry], result)
        if number % 7 == 0:
            await store.sync()
        say("taken", kind, name)
        if result is not None:
            await store.replied(name)


async def deliver(store: Store) -> None:
    """Sends what is there; every third time that fails and is repeated."""
    await store.settle_interrupted()
    turn = 0
    while True:
        ready = await store.ready(3)
        for entry in ready.entries:
            turn += 1
            if not await store.mark_sending(entry.id):
                continue
            if turn % 3 == 0:
                await store.back_to_queue(entry.id, "refused")
                continue
            say("sent", entry.kind, entry.body)
            await store.mark_done(entry.id, OutboxState.DELIVERED)
            say("done", entry.kind, entry.body)
        await trio.lowlevel.checkpoint()


async def main(place: str, boot: str, lease_s: str = "3") -> None:
    # Leases in proportion: the test waits for the end of each.
    lease.LEASE_S = postgres_agents.LEASE_S = float(lease_s)
    lease.RENEW_S, lease.MARGIN_S = float(lease_s) / 3, float(lease_s) / 6
    opened = open_store(place, now, agent=boot, clock=boot_clock)
    async with opened as store, trio.open_nursery() as nursery:
        say("ready")
        nursery.start_soon(report, store, boot)
        nursery.start_soon(deliver, store)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
