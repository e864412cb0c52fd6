"""A guest that rejects again and again: which reject stands, and what follows from one too many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hbtrio.config.windows import VetoSettings
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.vetoes import _numbers
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName, Event, VoteResult
from support.actions_cases import asked
from support.fake_processes import FakeRun
from support.host_world import VOTE, HostWorld, Reply, ScriptedGuest, agree, host_world
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

OVERRIDDEN = "overridden after 2 rejects in 100 s: busy"


def rejects(request: ActionNotify) -> Reply:
    return Reply(VoteResult.REJECT, "busy") if request.notification_type is VOTE else agree(request)


def world_of(memory: HostMemory | None = None) -> Any:
    veto = VetoSettings(max_rejects=2, per_s=100)
    return host_world(veto=veto, runs={"cmd": FakeRun()}, memory=memory)


async def guest_of(world: HostWorld) -> ScriptedGuest:
    guest = await world.heartbeating()
    guest.reply = rejects
    await world.at(4.5)
    return guest


async def outcome(world: HostWorld, guest: ScriptedGuest) -> str:
    acted = await world.act(guest, ActionName.PAUSE, "cmd")
    await world.sleep(1)
    ends = [line["outcome"] for line in acted.lines if line["step"] == "end"]
    return ends[0] if ends else acted.run.state.value


async def test_the_third_reject_is_overridden_and_the_guest_is_told_of_the_event() -> None:
    async with world_of() as world:
        guest = await guest_of(world)
        assert [await outcome(world, guest) for _ in range(2)] == ["rejected", "rejected"]
        since = 6.5
        assert await outcome(world, guest) == "going down"
        assert [(event, kind) for at, event, kind in asked(guest) if at >= since] == [
            ("pause", "revocable"),
            ("pause", "irrevocable"),
        ]
        assert [told[1:] for told in world.reports(since=since)][:3] == [
            ("overridden", "pause", OVERRIDDEN),
            ("vote", "pause", "accept", OVERRIDDEN),
            ("notice", "pause", "complete", ""),
        ]
        assert world.host.counts.overridden == {Event.PAUSE: 1}
        assert [moment.argv for moment in world.processes.started] == [("cmd",)]


async def test_after_the_time_they_stand_again() -> None:
    async with world_of() as world:
        guest = await guest_of(world)
        assert [await outcome(world, guest) for _ in range(2)] == ["rejected", "rejected"]
        await world.sleep(100)
        assert await outcome(world, guest) == "rejected"


async def test_what_is_only_a_question_neither_counts_nor_is_overridden() -> None:
    async with world_of() as world:
        guest = await guest_of(world)
        for _ in range(5):
            vote = world.vote(guest, Event.PAUSE)
            await world.settle()
            assert vote.outcome is not None
            assert vote.outcome.result is VoteResult.REJECT
        assert [await outcome(world, guest) for _ in range(2)] == ["rejected", "rejected"]


async def test_the_vim_s_votes_count_too() -> None:
    async with world_of() as world:
        guest = await guest_of(world)
        results = []
        for _ in range(3):
            vote = await world.vim_vote(guest, Event.PAUSE)
            assert vote.outcome is not None
            results.append(str(vote.outcome.result))
        assert results == ["reject", "reject", "accept"]


async def test_an_objection_of_the_host_itself_always_stands() -> None:
    async with world_of() as world:
        guest = await guest_of(world)
        channel = world.channel(guest)
        for _ in range(4):
            vote = channel.open_round(
                Event.PAUSE, VOTE, begins_action=True, objection="group db: one is down"
            )
            await world.settle()
            assert vote.outcome is not None
            assert vote.outcome.result is VoteResult.REJECT


async def test_by_default_all_stand() -> None:
    async with host_world(runs={"cmd": FakeRun()}) as world:
        guest = await guest_of(world)
        assert [await outcome(world, guest) for _ in range(10)] == ["rejected"] * 10


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def restarted(
    world: HostWorld, store: MemoryStore, away_s: float = 1.0, **config: Any
) -> None:
    await world.restart_host(store.memory(), away_s=away_s, **config)
    await world.sleep(4)


@pytest.mark.parametrize("last", ["rejected", "going down"])
async def test_a_restart_of_the_host_forgets_no_reject(last: str, store: MemoryStore) -> None:
    async with world_of(store.memory()) as world:
        guest = await guest_of(world)
        assert await outcome(world, guest) == "rejected"
        await restarted(world, store)
        if last == "rejected":
            await world.sleep(100)
        assert await outcome(world, guest) == "rejected"
        await restarted(world, store)
        assert await outcome(world, guest) == last


async def test_an_overridden_reject_begins_the_count_anew_over_a_restart(
    store: MemoryStore,
) -> None:
    async with world_of(store.memory()) as world:
        guest = await guest_of(world)
        outcomes = [await outcome(world, guest) for _ in range(3)]
        assert outcomes == ["rejected", "rejected", "going down"]
        await world.sleep(1)
        assert [hold.kind for hold in (await store.recall()).holds] == []


async def test_another_rule_counts_what_is_remembered(store: MemoryStore) -> None:
    async with world_of(store.memory()) as world:
        guest = await guest_of(world)
        assert [await outcome(world, guest) for _ in range(2)] == ["rejected", "rejected"]
        await restarted(world, store, veto=VetoSettings(max_rejects=3, per_s=1000))
        await world.sleep(500)
        assert await outcome(world, guest) == "rejected"
        await restarted(world, store, veto=VetoSettings(max_rejects=1, per_s=1000))
        assert await outcome(world, guest) == "going down"


async def test_without_a_limit_nothing_is_remembered(store: MemoryStore) -> None:
    async with world_of(store.memory()) as world:
        guest = await guest_of(world)
        assert await outcome(world, guest) == "rejected"
        await world.sleep(1)
        assert [hold.kind for hold in (await store.recall()).holds] == ["rejects of pause"]
        await restarted(world, store, veto=VetoSettings())
        assert [await outcome(world, guest) for _ in range(3)] == ["rejected"] * 3
        assert (await store.recall()).holds == ()


async def test_an_instance_that_has_gone_takes_its_rejects_with_it(store: MemoryStore) -> None:
    async with world_of(store.memory()) as world:
        guest = await guest_of(world)
        assert await outcome(world, guest) == "rejected"
        guest.send_exit()
        guest.vanish()
        await world.sleep(120)
        assert (await store.recall()).holds == ()


def test_what_is_no_list_of_times_counts_nothing() -> None:
    assert _numbers("1.5 x") == []
