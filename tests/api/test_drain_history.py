"""What the history says of an agent's drains and plans, whenever the agent is killed.

A kill leaves what some transaction has left. So these look at the store after each one: an outcome
that stands in the history without what follows from it would be asked for and recorded again.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.errors import ExitStatus
from hbtrio.fsm.drain_records import StoredDrain
from hbtrio.fsm.drain_table import IN_PROGRESS, DrainState
from hbtrio.nursery.agent.kept_drains import WAITING, KeptDrains
from hbtrio.store import drain_rows, history
from hbtrio.store.records import HistoryEntry
from support.control_socket import call
from support.drain_cases import COMMANDS, over, plan, rejects, states
from support.fake_processes import FakeRun
from support.fleet_world import FleetWorld, fleet_world
from support.inline_store import inline_store, wall_clock

pytestmark = pytest.mark.usefixtures("autojump_clock")


def words_of(db: sqlite3.Connection, drain: StoredDrain, uuid: str) -> list[str]:
    """What the history says of an instance in a drain, the oldest first."""
    found = reversed(history.read(db, 1000, None, uuid))
    actor, prefix = drain.record.actor, f"{drain.record.action}: "
    return [
        one.entry.reason.removeprefix(prefix)
        for one in found
        if (one.entry.kind, one.entry.who) == ("action", actor)
    ]


class Killed:
    """Looks at what each transaction would leave to the next run of the agent."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        #: How many of them had an instance in each state.
        self.seen: Counter[DrainState] = Counter()

    def look(self, db: sqlite3.Connection) -> None:
        for drain in drain_rows.drains(db):
            for place in drain.places:
                state = place.item.state
                self.seen[state] += 1
                words = words_of(db, drain, place.item.uuid)
                is_planned = drain.record.rules.planned is not None
                if is_planned and sum(one.startswith("planned:") for one in words) != 1:
                    self.faults.append(f"a plan without its entry: {words}")
                has_ended = drain.record.ended_at is not None
                if sum(one.startswith("planned, ") for one in words) != (
                    has_ended and is_planned and state is DrainState.SKIPPED
                ):
                    self.faults.append(f"{state} {has_ended}, and {words}")
                words = [one for one in words if not one.startswith("planned")]
                begun = [one.startswith("asked") for one in words]
                open_ = begun.count(True) - begun.count(False)
                if open_ not in ((0, 1) if state in IN_PROGRESS else (0,)):
                    self.faults.append(f"{state}, and {words}")
                if (words[-1:] == ["done"]) != (state is DrainState.DONE):
                    self.faults.append(f"{state}, and {words}")


async def fleet_of_three(world: FleetWorld) -> None:
    for number in (1, 2, 3):
        guest = world.host.guest(name=f"vm-{number}").appear()
        if number == 2:
            guest.reply = rejects(until_s=60.0)
    await world.host.sleep(3)


async def test_an_outcome_is_stored_with_what_follows_from_it(tmp_path: Path) -> None:
    runs = {"migrate": FakeRun(delay_s=2.0)}
    async with fleet_world(tmp_path, actions=COMMANDS, runs=runs) as world:
        await fleet_of_three(world)
        killed = Killed()
        world.api.worker.on_commit = killed.look
        run = world.agent.drains.start(plan(hosts=("compute-0",)), "uid 0")
        assert await over(run) == "drained"
        await world.host.sleep(1)
        assert killed.faults == []
        assert {*killed.seen} >= {
            DrainState.WAITING,
            DrainState.ASKED,
            DrainState.REJECTED,
            DrainState.ACTING,
            DrainState.DONE,
        }
        # With the last transaction nothing is left to be stored.
        (stored,) = await world.agent.store.drains()
        assert [one.item.state.value for one in stored.places] == states(run) == ["done"] * 3


@pytest.mark.parametrize("options", [("--retry-for", "50s", "--then", "give-up"), ()])
async def test_a_plan_is_stored_with_what_the_history_says_of_it(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    runs = {"migrate": FakeRun(delay_s=2.0)}
    async with fleet_world(tmp_path, actions=COMMANDS, runs=runs) as world:
        await fleet_of_three(world)
        killed = Killed()
        world.api.worker.on_commit = killed.look
        ends = options or ("--retry-for", "90s", "--then", "give-up")
        called = await call(world.api.path, "act", "vm-2", "live-migrate", *ends)
        assert called.status == (ExitStatus.REJECTED if options else ExitStatus.DONE), called.text
        await world.host.sleep(1)
        assert killed.faults == []
        last = DrainState.SKIPPED if options else DrainState.DONE
        assert {*killed.seen} >= {DrainState.WAITING, DrainState.REJECTED, last}


async def test_entries_wait_for_a_store_that_fails_within_a_bound(tmp_path: Path) -> None:
    told: list[HistoryEntry] = []
    with inline_store(tmp_path) as (store, worker):
        kept = KeptDrains(store, told.append)
        worker.fault = "disk full"
        entry = HistoryEntry(wall_clock(), "action", "vm", "compute-0", "stop: done 0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.write_forever)
            for number in range(WAITING + 1):
                kept.entry(attrs.evolve(entry, reason=f"stop: done {number}"))
            await trio.sleep(5)
            # Told once, although it is not stored: an operator may need it most now.
            assert len(told) == WAITING + 1
            kept.entry(attrs.evolve(entry, reason="stop: done later"))
            worker.fault = ""
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert len(told) == WAITING + 2
        found = [one.entry.reason for one in reversed(await store.history())]
        assert (found[-1], len(await store.history(limit=1))) == ("stop: done later", 1)
        with_all = sqlite3.connect(tmp_path / "agent.db")
        ((stored, first),) = with_all.execute(
            "SELECT count(*), (SELECT reason FROM history ORDER BY id LIMIT 1) FROM history"
        )
        with_all.close()
        assert (stored, first) == (WAITING + 1, "stop: done 1")
