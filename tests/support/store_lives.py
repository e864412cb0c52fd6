"""What the lives of ``store_child.py`` have said, and what their store must have of it."""

from __future__ import annotations

from collections import Counter

import attrs

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store import history, outbox
from hbtrio.store.sql import NO_LIMIT
from hbtrio.store.store import Store
from support import store_child
from support.store_child import REPORTED


@attrs.define
class Said:
    """What all lives together have said."""

    opened: list[str] = attrs.field(factory=list)
    taken: dict[str, OutboxKind] = attrs.field(factory=dict)
    sent: Counter[str] = attrs.field(factory=Counter)
    done: set[str] = attrs.field(factory=set)

    def receive(self, line: str) -> None:
        match line.split():
            case ["opened", name]:
                self.opened.append(name)
            case ["taken", kind, name]:
                self.taken[name] = OutboxKind(kind)
            case ["sent", _, name]:
                self.sent[name] += 1
            case ["done", _, name]:
                self.done.add(name)


def place(name: str) -> tuple[int, int]:
    """Which life, and which of its reports."""
    life, number = name.removeprefix("boot-").split("/")
    return int(life), int(number)


async def check(store: Store, said: Said) -> None:
    await store.settle_interrupted()
    # Not through the store's pages: how far a child gets before it is killed has no bound.
    everything = await store._worker.run(lambda db: outbox.entries(db, NO_LIMIT))
    entries = {entry.body: entry for entry in everything}
    newest = {
        entry.uuid: entry
        for entry in reversed(entries.values())
        if entry.kind is OutboxKind.SERVICE
    }
    records = await store._worker.run(lambda db: history.read(db, NO_LIMIT, None, None))
    # Besides, the history has what was not delivered, and many of those have the same reason.
    reported = [record.entry.reason for record in records if record.entry.kind == REPORTED]
    reasons = set(reported)
    assert len(reasons) == len(reported)
    for name, kind in said.taken.items():
        # A report that was said to be taken is there, with all that it brought.
        assert name in reasons
        if kind is OutboxKind.SERVICE:
            # Unless a newer state of its instance took its place.
            uuid = f"u{place(name)[1] % store_child.INSTANCES}"
            assert place(newest[uuid].body) >= place(name)
        else:
            assert name in entries
        if kind is OutboxKind.ACTION:
            closed = await store.find_round(name)
            assert closed is not None
            assert closed.result is not None
    # And one that is there is there whole.
    assert set(entries) <= reasons
    for name in said.opened:
        assert await store.find_round(name) is not None
    for name in said.done:
        assert name not in entries or entries[name].state is OutboxState.DELIVERED
    for name, times in said.sent.items():
        if name in entries and entries[name].kind is OutboxKind.ACTION:
            assert times == 1
            assert entries[name].state in (OutboxState.DELIVERED, OutboxState.UNCONFIRMED)
