"""kill -9 of a real process at any moment: what it held is held, no verdict is sent twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.store.store import Store
from support import store_child
from support.store_lives import Said, check

LIVES = 30
#: Lines of one life before it is killed, at most; some hundred a second.
LINES = 150


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
