"""The bounds of a host's drains and plans, just below and at each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from hbtrio.fsm.drain_records import KEPT
from hbtrio.fsm.drain_rules import DrainRules
from hbtrio.nursery.drain_run import ASKED_AT_ONCE
from hbtrio.nursery.drains import LONGEST_PLAN_S, DrainRefused
from hbtrio.wire.vocabulary import VoteResult
from support.drain_cases import drained_host, heard, over, plan, rejects, states
from support.host_world import Reply
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

ASKED = ["vote live_migrate_begin"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def test_at_most_32_are_asked_at_once_before_it_begins(store: MemoryStore) -> None:
    count = ASKED_AT_ONCE + 3
    async with drained_host(store, count) as (world, guests):
        for guest in guests:
            guest.reply = lambda _: Reply(VoteResult.ACCEPT, after_s=5.0)
        run = world.host.drains.start(plan(is_dry=True), "uid 0")
        await world.sleep(4.5)
        assert sum(heard(guest) == ASKED for guest in guests) == ASKED_AT_ONCE
        await world.sleep(1)
        assert [heard(guest) for guest in guests] == [ASKED] * count
        assert await over(run) == "dry-run"


async def test_the_last_ten_are_kept_and_one_in_progress_with_them(store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, _):
        runs = []
        for _ in range(KEPT + 2):
            runs.append(world.host.drains.start(plan(), "uid 0"))
            assert await over(runs[-1]) == "drained"
        assert list(world.host.drains.runs.last) == runs[2:]


@pytest.mark.parametrize("retry_for_s", [29.5, 30.0, 30.5])
async def test_its_time_ends_around_the_second_question(
    retry_for_s: float, store: MemoryStore
) -> None:
    async with drained_host(store, 1) as (world, guests):
        guests[0].reply = rejects()
        began = trio.current_time()
        rules = DrainRules(retry_for_s=retry_for_s)
        run = world.host.drains.start(plan(rules=rules), "uid 0")
        assert await over(run) == "incomplete"
        assert states(run) == ["skipped"]
        took_s = trio.current_time() - began
        # Its last question is at the end, and the time counts from its first turn.
        assert retry_for_s <= took_s < retry_for_s + 2
        # The survey, its turn, and once or twice again.
        assert heard(guests[0]) == ASKED * (4 if retry_for_s > 30.0 else 3)


async def test_whoever_watches_gets_an_empty_line_after_15_s_without_news(
    store: MemoryStore,
) -> None:
    async with drained_host(store, 1) as (world, guests):
        guests[0].reply = rejects()
        run = world.host.drains.start(plan(), "uid 0")
        await world.sleep(5)
        began = trio.current_time()
        async with aclosing(run.watch()) as lines:
            async for line in lines:
                if line is None:
                    break
        assert trio.current_time() - began == pytest.approx(15.0)


@pytest.mark.parametrize(("over_s", "is_taken"), [(-1.0, True), (0.0, True), (1.0, False)])
async def test_a_plan_is_within_30_days(over_s: float, is_taken: bool, store: MemoryStore) -> None:
    async with drained_host(store, 1) as (world, guests):
        now_s = world.host.memory.moment.epoch_s
        at = [datetime.fromtimestamp(now_s + s, UTC) for s in (10.0, LONGEST_PLAN_S + over_s)]
        one = plan(instance=guests[0].uuid)
        if is_taken:
            run = await world.host.drains.plans.plan(one, at[0], at[1], "uid 0")
            assert not run.is_over
        else:
            with pytest.raises(DrainRefused, match="within 30 days"):
                await world.host.drains.plans.plan(one, at[0], at[1], "uid 0")
