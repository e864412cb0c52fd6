"""kill -9 of a real process at any moment: what it held is held, no verdict is sent twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store import history, outbox
from hbtrio.store.store import Store
from support import store_child

LIVES = 30
#: Lines of one life before it is killed, at most; some hundred a second.
LINES = 150


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


def live_and_die(path: Path, boot: str, lines: int, said: Said) -> None:
    command = [sys.executable, store_child.__file__, str(path), boot]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            for _ in range(lines):
                said.receive(child.stdout.readline())
        finally:
            child.kill()
        # What it had still said before it died counts too; the last line may be cut.
        *rest, _ = child.stdout.read().split("\n")
        for line in rest:
            said.receive(line)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.processes
async def test_killed_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    dice = random.Random(20250301)
    said = Said()
    for life in range(LIVES):
        await trio.to_thread.run_sync(
            live_and_die, path, f"boot-{life}", dice.randrange(LINES), said
        )
        async with Store.open(str(path), lambda: datetime.now(UTC)) as store:
            await check(store, said)
    by_kind = Counter(said.taken.values())
    assert min(by_kind[kind] for kind in OutboxKind) > LIVES


def place(name: str) -> tuple[int, int]:
    """Which life, and which of its reports."""
    life, number = name.removeprefix("boot-").split("/")
    return int(life), int(number)


async def check(store: Store, said: Said) -> None:
    await store.settle_interrupted()
    # Not through the store's pages: how far a child gets before it is killed has no bound.
    everything = await store._worker.run(lambda db: outbox.entries(db, -1))
    entries = {entry.body: entry for entry in everything}
    newest = {
        entry.uuid: entry
        for entry in reversed(entries.values())
        if entry.kind is OutboxKind.SERVICE
    }
    records = await store._worker.run(lambda db: history.read(db, -1, None, None))
    reasons = {record.entry.reason for record in records}
    assert len(reasons) == len(records)
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
