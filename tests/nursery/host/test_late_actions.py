"""What is seen of a VM by the end of an action's wait counts, if the host is stopped over it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.action import ActionState
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.wire.vocabulary import ActionName
from support.actions_cases import DOWN_S, freezes, world_of
from support.fake_processes import HANGS, FakeRun
from support.host_world import HostWorld, ScriptedGuest
from support.memory_store import MemoryStore, memory_store
from support.run_order import ORDERS, folders, in_every_order

pytestmark = pytest.mark.slow

#: More than a guest may send at once, so that its reader takes a rest.
FLOOD: Final = (b"x" * 3999 + b"\n") * 4

#: The states of a resumed action before it is seen what its command has done.
UNDECIDED: Final = (ActionState.PLANNED, ActionState.PERFORMING)

STALLS = pytest.mark.parametrize("stall_s", [0.1, 0.75, 3.0])


def at_once() -> AbstractAsyncContextManager[HostWorld]:
    world: AbstractAsyncContextManager[HostWorld] = world_of(FakeRun())
    return world


@STALLS
def test_a_vm_that_is_down_by_the_end_of_the_wait(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> tuple[str, str]:
        async with at_once() as world:
            guest = await world.heartbeating()
            began = clock.current_time()
            acted = await world.act(guest, ActionName.STOP, "cmd", force=True)
            await world.at(began + DOWN_S[ActionName.STOP] - 0.05)
            guest.peer.send_bytes(FLOOD, cut=4096)
            guest.vanish()
            clock.jump(stall_s)
            await world.sleep(20)
            return acted.lines[-1]["outcome"], acted.lines[-1]["reason"]

    assert in_every_order(scenario) == [("done", "")] * ORDERS


@STALLS
def test_a_vm_that_runs_on_to_the_end_of_the_wait(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> str:
        async with at_once() as world:
            guest = await world.heartbeating()
            began = clock.current_time()
            acted = await world.act(guest, ActionName.PAUSE, "cmd", force=True)
            await world.at(began + DOWN_S[ActionName.PAUSE] - 0.05)
            clock.jump(stall_s)
            await world.sleep(20)
            return str(acted.lines[-1]["outcome"])

    assert in_every_order(scenario) == ["failed"] * ORDERS


async def interrupted(world: HostWorld, store: MemoryStore) -> tuple[ScriptedGuest, HostMemory]:
    """A guest that falls silent when its notice was sent, and a host that starts anew."""
    guest = await world.heartbeating()
    freezes(guest)
    await world.act(guest, ActionName.REBOOT, "cmd", force=True)
    await world.sleep(1)
    memory = store.memory()
    await world.restart_host(memory)
    await world.settle()
    assert list(world.host.actions) == [guest.uuid]
    return guest, memory


def decided_after(folder: Path) -> float:
    """How long after its start a host that is on time takes the guest for silent."""

    async def scenario(clock: MockClock) -> float:
        with memory_store(folder) as store:
            async with world_of(HANGS, memory=store.memory()) as world:
                guest, _ = await interrupted(world, store)
                began = clock.current_time()
                while world.host.actions[guest.uuid].state in UNDECIDED:
                    await world.sleep(0.01)
                return clock.current_time() - began

    clock = MockClock(autojump_threshold=0)
    return trio.run(scenario, clock, clock=clock)


@STALLS
def test_an_answer_in_the_channel_after_an_interrupted_command(
    stall_s: float, tmp_path: Path
) -> None:
    made = folders(tmp_path)
    after_s = decided_after(next(made))
    assert 6.9 < after_s < 8

    async def scenario(clock: MockClock) -> str:
        with memory_store(next(made)) as store:
            async with world_of(HANGS, memory=store.memory()) as world:
                guest, memory = await interrupted(world, store)
                await world.sleep(after_s - 0.05)
                guest.peer.send_bytes(FLOOD, cut=4096)
                guest.answer_challenge()
                guest.answers_after_s = 0.0
                clock.jump(stall_s)
                await world.sleep(60)
                return (await memory.history(1))[0].entry.reason

    why = "reboot: failed: interrupted: the host ended while the command ran"
    assert in_every_order(scenario) == [why] * ORDERS
