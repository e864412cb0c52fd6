"""A host that is killed between any two of its transactions: its history is true and whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.wire.vocabulary import ActionName
from support.drain_cases import drained_host, heard, plan, rejects
from support.host_world import HostWorld, ScriptedGuest
from support.memory_store import memory_store

#: More than any of these has.
MOST = 40

Ask = Callable[[HostWorld, ScriptedGuest], Awaitable[object]]


async def a_plan(world: HostWorld, guest: ScriptedGuest) -> None:
    before = datetime.fromtimestamp(world.host.memory.moment.epoch_s + 40, UTC)
    await world.host.drains.plans.plan(plan(instance=guest.uuid), None, before, "uid 0")


async def a_retry(world: HostWorld, guest: ScriptedGuest) -> None:
    one = plan(instance=guest.uuid)
    await world.host.drains.plans.retry(one, 40, "uid 0", gives_up=False)


async def a_forcing_drain(world: HostWorld, _: ScriptedGuest) -> None:
    rules = DrainRules(on_reject=OnReject.FORCE)
    run = world.host.drains.start(plan(rules=rules), "uid 0")
    await run.stored.wait()


async def an_action(world: HostWorld, guest: ScriptedGuest) -> None:
    world.host.begin_action(guest.uuid, ActionName.LIVE_MIGRATE, (), force=False, who="uid 0")
    await trio.sleep(0.5)


async def told(world: HostWorld) -> list[tuple[str, str]]:
    """What the history has of what was asked for, with its kind, in order."""
    entries = [one.entry for one in await world.host.memory.history(100)]
    kinds = ("action", "overridden", "vote", "notice")
    return [(one.kind, one.reason) for one in reversed(entries) if one.kind in kinds]


@attrs.frozen
class Life:
    """What became of what was asked for.

    Args:
        is_killed: whether the host was killed in it.
        entries: what the history has in the end.
        notices: how often the guest was told that it is migrated.
    """

    is_killed: bool
    entries: list[tuple[str, str]]
    notices: int

    def count(self, kind: str, *beginnings: str) -> int:
        return sum(of == kind and words.startswith(beginnings) for of, words in self.entries)


async def killed_at(number: int, ask: Ask, folder: Path) -> Life:
    with memory_store(folder) as store:
        async with drained_host(store, 1) as (world, (guest,)):
            guest.reply = rejects()
            killed = store.kill_at_write(number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, world, guest)
                with trio.move_on_after(200):
                    await killed.wait()
                nursery.cancel_scope.cancel()
            if killed.is_set():
                await world.restart_host(store.memory())
                await world.sleep(200)
            notices = heard(guest).count("notice live_migrate_begin")
            return Life(killed.is_set(), await told(world), notices)


def lives(ask: Ask, folder: Path) -> Iterator[tuple[int, Life]]:
    """Yields a life for each of its writes, killed before that; the last one is not killed."""
    for number in range(MOST):
        within = folder / str(number)
        within.mkdir()
        clock = trio.testing.MockClock(autojump_threshold=0)
        life = trio.run(killed_at, number, ask, within, clock=clock)
        yield number, life
        if not life.is_killed:
            return
    pytest.fail("it has more writes")


@pytest.mark.parametrize("ask", [a_plan, a_retry, a_forcing_drain])
def test_a_reject_is_overridden_once_and_that_is_recorded(ask: Ask, tmp_path: Path) -> None:
    for number, life in lives(ask, tmp_path):
        why = f"killed at its write {number}: {life.entries}"
        asked = life.count("action", "live-migrate: asked")
        rejected = life.count("action", "live-migrate: rejected")
        # A command that was cut off is not repeated.
        ended = life.count("action", "live-migrate: done", "live-migrate: failed: interrupted")
        if number == 0:  # nobody was answered that it is begun
            assert (life.count("action", ""), life.notices) == (0, 0), why
            continue
        is_plan = ask is not a_forcing_drain
        assert life.count("action", "live-migrate: planned: ") == is_plan, why
        assert (ended, asked) == (1, rejected + 1), why
        assert life.count("overridden", "overridden ") == 1, why
        assert life.notices, why


def test_an_action_has_a_beginning_and_an_end_or_neither(tmp_path: Path) -> None:
    whole = ["live-migrate: asked", "live-migrate: rejected: a backup runs"]
    for number, life in lives(an_action, tmp_path):
        actions = [words for kind, words in life.entries if kind == "action"]
        assert actions == (whole if number else []), f"killed at its write {number}: {life.entries}"
