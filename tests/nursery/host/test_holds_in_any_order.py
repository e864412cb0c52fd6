"""Holds, losses, returns and restarts of the host in any order: what is on hold is left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, now
from support.memory_store import MemoryStore, memory_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("autojump_clock")]

#: A loss is noticed and acted upon, or after a restart found at the end of RESTART, within this.
ACTED_S = 160.0

STEPS = ("hold", "hold", "unhold", "silent", "silent", "back", "restart")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


class Model:
    """What an operator knows: when the instance is on hold, and whether it answers."""

    def __init__(self) -> None:
        #: Each hold from when to when.
        self.holds: list[tuple[float, float]] = []
        self.silent = False

    def hold(self, seconds: float) -> None:
        self.unhold()
        self.holds.append((now(), now() + seconds))

    def unhold(self) -> None:
        if self.on_hold:
            begun, _ = self.holds.pop()
            self.holds.append((begun, now()))

    @property
    def on_hold(self) -> bool:
        return bool(self.holds) and now() < self.holds[-1][1]

    def forbids(self, at: float) -> bool:
        return any(begun < at < ended for begun, ended in self.holds)


async def take(step: str, world: HostWorld, store: MemoryStore, model: Model, seconds: int) -> None:
    guest = world.guests[0]
    match step:
        case "hold":
            assert await world.host.holds.hold(guest.uuid, seconds, "why", "who")
            model.hold(seconds)
        case "unhold" if model.on_hold:
            await world.host.holds.unhold(guest.uuid, "who")
            model.unhold()
        case "silent":
            guest.answers_after_s, guest.sends_init, model.silent = None, False, True
        case "back" if model.silent:
            guest.answers_after_s, guest.sends_init, model.silent = 0.0, True, False
            comes_back(guest)
        case "restart":
            await world.restart_host(store.memory(), away_s=5)
            await world.settle()


def comes_back(guest: ScriptedGuest) -> None:
    if not (guest.peer.closed or guest.peer.host_closed):
        guest.send_init()


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_on_hold_is_left_alone_and_then_acted_upon(
    seed: int, store: MemoryStore
) -> None:
    draw, model = random.Random(seed), Model()
    async with host_world(
        memory=store.memory(),
        corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}"), per_hour=3600),
        brake=BrakeSettings(share=1.0),
        runs={"reset": FakeRun()},
    ) as world:
        await world.heartbeating()
        for _ in range(12):
            await take(draw.choice(STEPS), world, store, model, draw.choice([5, 30, 300]))
            await world.sleep(draw.choice([0.3, 3, 20, 150]))
            assert (world.host.holds.of(world.guests[0].uuid) is not None) == model.on_hold
        await take("silent", world, store, model, 0)
        if model.on_hold:
            await world.at(model.holds[-1][1] + 0.1)
        begun = len(world.processes.started)
        await world.sleep(ACTED_S)
        assert len(world.processes.started) > begun
        acted = [moment.time_s for moment in world.processes.started]
        assert [at for at in acted if model.forbids(at)] == []
