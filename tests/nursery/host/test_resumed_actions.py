"""Actions of a host that was ended in the middle: the next run goes on at their step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hbtrio.config.host import LibvirtSettings
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.wire.vocabulary import ActionName
from support.actions_cases import BEGUN, asked, goes_down, votes_only, world_of
from support.fake_libvirt import FakeDomain
from support.fake_processes import HANGS, FakeRun
from support.host_world import Acted, HostWorld, ScriptedGuest, agree, now, stay_silent
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

ON = LibvirtSettings(enabled="on")
INTERRUPTED = "interrupted: the host ended while the command ran"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def history(memory: HostMemory) -> list[str]:
    """What is told of actions, the oldest first."""
    entries = [one.entry for one in await memory.history(100)]
    return [entry.reason for entry in reversed(entries) if entry.kind == "action"]


@attrs.define
class Cut:
    """An action that a host was in the middle of when it ended, and the next run's memory."""

    store: MemoryStore
    world: HostWorld
    guest: ScriptedGuest
    acted: Acted
    memory: HostMemory

    async def again(self, *, away_s: float = 5.0) -> None:
        """Ends the host and starts the next one."""
        await self.world.stop_host()
        self.world.processes.started.clear()
        self.memory = self.store.memory()
        await self.world.restart_host(self.memory, away_s=away_s)

    async def history(self) -> list[str]:
        return await history(self.memory)

    async def left(self) -> list[str]:
        """The actions that the store still has."""
        return [action.step for action in (await self.store.recall()).actions]

    def asked_since(self, since: float) -> list[tuple[str, str]]:
        return [(event, kind) for at, event, kind in asked(self.guest) if at >= since]


async def cut(
    store: MemoryStore, world: HostWorld, memory: HostMemory, name: ActionName, **options: Any
) -> Cut:
    guest = await world.heartbeating()
    if options.pop("silent", False):
        guest.reply = stay_silent
    elif options.pop("votes", False):
        guest.reply = votes_only
    await world.at(BEGUN)
    acted = await world.act(guest, name, "cmd", "{uuid}")
    await world.sleep(1)
    return Cut(store, world, guest, acted, memory)


async def test_in_the_vote_it_is_asked_again(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(memory=memory) as world:
        one = await cut(store, world, memory, ActionName.REBOOT, silent=True)
        assert await one.left() == ["voting"]
        one.guest.reply = agree
        await one.again()
        began = now()
        await world.settle()
        assert list(world.host.actions) == [one.guest.uuid]
        goes_down(world, one.guest, 20.0)
        await world.sleep(60)
        assert one.asked_since(began) == [("reboot", "revocable"), ("reboot", "irrevocable")]
        assert [moment.argv for moment in world.processes.started] == [("cmd", one.guest.uuid)]
        assert await one.history() == ["reboot: asked", "reboot: done"]
        assert await one.left() == []
        assert world.host.actions == {}


async def test_in_the_vote_it_may_still_be_refused(store: MemoryStore) -> None:
    """The new connection's guest agrees to anything until it is acknowledged: it is waited for."""
    memory = store.memory()
    async with world_of(memory=memory) as world:
        one = await cut(store, world, memory, ActionName.REBOOT, silent=True)
        one.guest.reply = lambda request: attrs.evolve(agree(request), result="reject", reason="no")
        one.guest.answers_after_s = 0.5
        await one.again()
        began = now()
        await world.sleep(60)
        assert one.asked_since(began) == [("reboot", "revocable")]
        assert await one.history() == ["reboot: asked", "reboot: rejected: no"]


@pytest.mark.parametrize("away_s", [60.0, 80.0])
async def test_a_vote_is_asked_again_for_a_minute(store: MemoryStore, away_s: float) -> None:
    """The vote would have been over 8 s after the end of the host."""
    memory = store.memory()
    async with world_of(memory=memory) as world:
        one = await cut(store, world, memory, ActionName.REBOOT, silent=True)
        one.guest.reply = agree
        await one.again(away_s=away_s)
        began = now()
        await world.sleep(200)
        lapsed = "reboot: failed: interrupted: the host was away for too long"
        if away_s == 80.0:
            assert one.asked_since(began) == []
            assert await one.history() == ["reboot: asked", lapsed]
        else:
            assert ("reboot", "revocable") in one.asked_since(began)
            assert lapsed not in await one.history()


async def test_in_the_notice_it_is_sent_again(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(memory=memory) as world:
        one = await cut(store, world, memory, ActionName.RESIZE, votes=True)
        assert await one.left() == ["preparing"]
        await one.again()
        began = now()
        goes_down(world, one.guest, 20.0)
        await world.sleep(60)
        assert one.asked_since(began) == [
            ("resize_begin", "irrevocable"),
            ("resize_end", "irrevocable"),
        ]
        assert await one.history() == ["resize: asked", "resize: done"]


async def test_too_late_after_the_notice_the_guest_is_told_of_the_end(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(memory=memory) as world:
        one = await cut(store, world, memory, ActionName.PAUSE, votes=True)
        one.guest.reply = agree
        await one.again(away_s=100)
        began = now()
        await world.sleep(60)
        assert one.asked_since(began) == [("unpause", "irrevocable")]
        assert await one.history() == [
            "pause: asked",
            "pause: failed: interrupted: the host was away for too long",
        ]
        assert world.processes.started == []


RUNS_ON = [
    (ActionName.STOP, "resume"),
    (ActionName.REBOOT, "resume"),
    (ActionName.PAUSE, "unpause"),
    (ActionName.RESIZE, "resize_end"),
    (ActionName.LIVE_MIGRATE, "live_migrate_end"),
]


@pytest.mark.parametrize(("name", "ended_by"), RUNS_ON)
async def test_a_vm_that_runs_on_after_the_command_was_cut_off(
    store: MemoryStore, name: ActionName, ended_by: str
) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, name)
        assert await one.left() == ["performing"]
        await one.again()
        began = now()
        await world.sleep(30)
        # Nothing is run again.
        assert world.processes.started == []
        assert one.asked_since(began) == [(ended_by, "irrevocable")]
        assert await one.history() == [f"{name}: asked", f"{name}: failed: {INTERRUPTED}"]
        assert world.channel(one.guest).heartbeating
        assert "loss" not in [told[1] for told in world.reports()]


async def test_a_vm_that_was_restarted_by_the_command_keeps_its_deadline(
    store: MemoryStore,
) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, ActionName.REBOOT)
        one.guest.answers_after_s, one.guest.sends_init = None, False
        await one.again(away_s=20)
        await world.at(BEGUN + 120)
        assert "loss" not in [told[1] for told in world.reports()]
        await world.at(BEGUN + 130)
        why = "not back within 121 s"
        assert [told[1:] for told in world.reports()] == [
            ("restart-expired", why),
            ("loss", "reboot", why),
        ]
        await world.sleep(10)
        assert await one.history() == ["reboot: asked", f"reboot: done: {why}"]


async def test_a_vm_that_is_back_after_the_command_was_cut_off(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, ActionName.RESIZE)
        one.guest.answers_after_s, one.guest.sends_init = None, False
        await one.again()
        await world.sleep(30)
        one.guest.answers_after_s = 0.0
        one.guest.send_init()
        began = now()
        await world.sleep(30)
        assert one.asked_since(began) == [("resize_end", "irrevocable")]
        assert await one.history() == ["resize: asked", f"resize: done: {INTERRUPTED}"]


async def test_a_vm_that_was_stopped_by_the_command(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, ActionName.STOP)
        await world.stop_host()
        one.guest.vanish()
        await one.again()
        await world.sleep(30)
        assert await one.history() == ["stop: asked", f"stop: done: {INTERRUPTED}"]


async def test_a_vm_that_was_resumed_by_the_command(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, ActionName.UNPAUSE)
        await one.again()
        began = now()
        await world.sleep(30)
        assert one.asked_since(began) == [("unpause", "irrevocable")]
        assert await one.history() == ["unpause: asked", f"unpause: done: {INTERRUPTED}"]


async def test_waiting_for_the_return_goes_on(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(memory=memory) as world:
        guest = await world.heartbeating()
        goes_down(world, guest, None)
        await world.at(BEGUN)
        acted = await world.act(guest, ActionName.RESIZE, "cmd")
        await world.sleep(10)
        one = Cut(store, world, guest, acted, memory)
        assert await one.left() == ["awaiting"]
        await one.again()
        await world.sleep(30)
        guest.answers_after_s = 0.0
        guest.send_init()
        began = now()
        await world.sleep(30)
        assert one.asked_since(began) == [("resize_end", "irrevocable")]
        assert await one.history() == ["resize: asked", "resize: done"]
        assert world.processes.started == []


async def test_waiting_for_the_stop_goes_on_until_its_deadline(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(memory=memory) as world:
        one = await cut(store, world, memory, ActionName.STOP)
        await world.at(100)
        assert await one.left() == ["going down"]
        await one.again()
        began = now()
        await world.at(BEGUN + 2 + 299)
        assert one.asked_since(began) == []
        await world.at(BEGUN + 2 + 325)
        assert one.asked_since(began) == [("resume", "irrevocable")]
        [asked_, outcome] = await one.history()
        assert (asked_, outcome.partition(": it")[0]) == ("stop: asked", "stop: failed")


@pytest.mark.parametrize(
    ("run", "step", "outcome"),
    [
        (FakeRun(), "finishing", "live-migrate: done"),
        (
            FakeRun(1),
            "finishing after a failure",
            "live-migrate: failed: the command failed: exit status 1",
        ),
    ],
)
async def test_the_end_notice_is_sent_again(
    store: MemoryStore, run: FakeRun, step: str, outcome: str
) -> None:
    memory = store.memory()
    async with world_of(run, memory=memory) as world:
        guest = await world.heartbeating()
        guest.reply = lambda request: None if request.event_type.endswith("end") else agree(request)
        await world.at(BEGUN)
        acted = await world.act(guest, ActionName.LIVE_MIGRATE, "cmd")
        await world.sleep(1)
        one = Cut(store, world, guest, acted, memory)
        assert await one.left() == [step]
        guest.reply = agree
        await one.again()
        began = now()
        await world.sleep(30)
        assert one.asked_since(began) == [("live_migrate_end", "irrevocable")]
        assert await one.history() == ["live-migrate: asked", outcome]


async def test_cut_off_twice_it_has_one_outcome(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, ActionName.REBOOT)
        for _ in range(3):
            await one.again(away_s=1)
            await world.sleep(0.1)
        await world.sleep(60)
        assert await one.history() == ["reboot: asked", f"reboot: failed: {INTERRUPTED}"]


async def test_after_a_reboot_of_the_machine_nothing_is_resumed(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, ActionName.REBOOT)
        store.boot_id = "another boot"
        await one.again()
        began = now()
        await world.sleep(60)
        assert one.asked_since(began) == []
        assert await one.left() == []
        outcome = "reboot: failed: interrupted: the machine was restarted"
        assert await one.history() == ["reboot: asked", outcome]


async def test_while_it_is_resumed_no_other_is_begun_and_nothing_is_corrected(
    store: MemoryStore,
) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory) as world:
        one = await cut(store, world, memory, ActionName.REBOOT, silent=True)
        await one.again()
        await world.settle()
        assert world.host.owners.words(one.guest.uuid) == "an operator's action (reboot)"


# -- with libvirt ---------------------------------------------------------------------------


async def machine(world: HostWorld) -> tuple[ScriptedGuest, FakeDomain]:
    guest = world.guest()
    domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
    await world.libvirt.start(domain)
    guest.appear()
    await world.at(BEGUN)
    return guest, domain


@pytest.mark.parametrize(
    ("name", "state", "outcome"),
    [
        (ActionName.PAUSE, (3, 1), f"done: {INTERRUPTED}"),
        (ActionName.SUSPEND, (5, 5), f"done: {INTERRUPTED}"),
        (ActionName.STOP, (5, 1), f"done: {INTERRUPTED}"),
        (ActionName.UNPAUSE, (3, 1), f"failed: {INTERRUPTED}"),
        # Hung, but neither frozen nor stopped.
        (ActionName.PAUSE, (1, 1), f"failed: {INTERRUPTED}"),
    ],
)
async def test_libvirt_knows_what_an_interrupted_command_has_done(
    store: MemoryStore, name: ActionName, state: tuple[int, int], outcome: str
) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory, libvirt=ON) as world:
        guest, domain = await machine(world)
        acted = await world.act(guest, name, "cmd")
        await world.sleep(1)
        one = Cut(store, world, guest, acted, memory)
        await world.stop_host()
        guest.answers_after_s, guest.sends_init = None, False
        await world.libvirt.become(domain, *state)
        await one.again()
        await world.sleep(60)
        assert await one.history() == [f"{name}: asked", f"{name}: {outcome}"]


async def test_another_qemu_process_was_restarted(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory, libvirt=ON) as world:
        guest, domain = await machine(world)
        acted = await world.act(guest, ActionName.RESIZE, "cmd")
        await world.sleep(1)
        one = Cut(store, world, guest, acted, memory)
        await world.stop_host()
        await world.libvirt.destroy(domain)
        await world.libvirt.start(domain)
        await one.again()
        began = now()
        await world.sleep(60)
        # It answers, but it is not the guest of before.
        assert await one.history() == ["resize: asked", f"resize: done: {INTERRUPTED}"]
        assert one.asked_since(began) == [("resize_end", "irrevocable")]


async def test_while_libvirt_is_silent_nothing_is_decided(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(HANGS, memory=memory, libvirt=ON) as world:
        guest, _ = await machine(world)
        acted = await world.act(guest, ActionName.REBOOT, "cmd")
        await world.sleep(1)
        one = Cut(store, world, guest, acted, memory)
        world.libvirt.hang()
        await one.again()
        await world.sleep(600)
        assert await one.history() == ["reboot: asked"]
        world.libvirt.go_on()
        await world.sleep(60)
        assert await one.history() == ["reboot: asked", f"reboot: failed: {INTERRUPTED}"]
