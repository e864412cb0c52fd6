"""What the tests of drains share: a host with a memory, guests that reject, and what they saw."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from hbtrio.config.host import ActionCommands
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drains import DrainPlan
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName, VoteResult
from support.fake_processes import FakeRun
from support.host_world import VOTE, HostWorld, Reply, ScriptedGuest, agree, host_world
from support.lines import members
from support.memory_store import MemoryStore

#: How long a migration takes, in seconds.
MIGRATES_S = 2.0

#: What each guest's notice window takes if it is not answered.
COMMANDS = ActionCommands(live_migrate=("migrate", "{uuid}"), stop=("stop", "{uuid}"))


@asynccontextmanager
async def drained_host(
    store: MemoryStore, guests: int, **config: Any
) -> AsyncIterator[tuple[HostWorld, list[ScriptedGuest]]]:
    """A host that remembers, with guests that agree to everything, named vm-1 and so on."""
    runs = {"migrate": FakeRun(delay_s=MIGRATES_S), "stop": FakeRun(delay_s=MIGRATES_S)}
    async with host_world(runs=runs, memory=store.memory(), actions=COMMANDS, **config) as world:
        made = [world.guest(name=f"vm-{number + 1}").appear() for number in range(guests)]
        await world.sleep(3)
        assert world.host.heartbeating == guests
        yield world, made


def plan(**options: Any) -> DrainPlan:
    """A drain that migrates."""
    return DrainPlan(**({"action": ActionName.LIVE_MIGRATE} | options))


def rejects(reason: str = "a backup runs", *, until_s: float = float("inf")) -> Callable[..., Any]:
    """Answers that reject votes until some time."""

    def reply(asked: ActionNotify) -> Reply | None:
        if asked.notification_type is VOTE and trio.current_time() < until_s:
            return Reply(VoteResult.REJECT, reason)
        return agree(asked)

    return reply


def states(run: DrainRun) -> list[str]:
    """The states of its instances, in their order."""
    return [item.state.value for item in run.machine.items.values()]


async def over(run: DrainRun, within_s: float = 300.0) -> str:
    """Waits until a drain has ended, and returns its outcome."""
    with trio.move_on_after(within_s):
        async for _ in run.watch():
            pass
    assert run.is_over, states(run)
    return run.outcome


async def lines(run: DrainRun, into: list[dict[str, Any]]) -> None:
    """Follows a drain to its end."""
    async for line in run.watch():
        if line is not None:
            into.append(members(line))


def heard(guest: ScriptedGuest) -> list[str]:
    """The votes and notices that a guest was sent."""
    asked = [message for message in guest.messages if isinstance(message, ActionNotify)]
    return [
        f"{'vote' if one.notification_type is VOTE else 'notice'} {one.event_type}" for one in asked
    ]
