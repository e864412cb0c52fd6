"""A host that is started again: who was heartbeating is expected back, and judged with care."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hbtrio.config.host import BrakeSettings, CorrectiveCommands, LibvirtSettings
from hbtrio.fsm.heartbeat.outage import CALL_OFF_S
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import Event, Health
from support.fake_libvirt import FakeDomain
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

ON = LibvirtSettings(enabled="on")
OVERDUE = "not back within 121 s"
UNWATCHED = ("unwatched", "no guest has begun to heartbeat within 121 s")
WHY = "it was heartbeating before the host's restart"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def hung(world: HostWorld) -> ScriptedGuest:
    """A guest that is heartbeating, and hangs from now on."""
    guest = await world.heartbeating()
    await world.sleep(1)
    guest.answers_after_s, guest.sends_init = None, False
    return guest


def kinds(world: HostWorld) -> list[tuple[str, str]]:
    return [(report.kind, report.reason) for report in world.host.reports.recent]


def state_of(world: HostWorld, guest: ScriptedGuest) -> str:
    return world.channel(guest).heartbeat.state.shown


async def test_a_guest_that_is_well_goes_on(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        guest.sends_init = False
        await world.restart_host(store.memory(), away_s=30)
        await world.sleep(1)
        assert kinds(world) == [("heartbeating", WHY)]
        assert world.channel(guest).heartbeat.profile.name == "vm"
        await world.sleep(300)
        assert kinds(world) == [("heartbeating", WHY)]


async def test_a_guest_that_hung_meanwhile_is_found(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await hung(world)
        await world.restart_host(store.memory(), away_s=30)
        await world.sleep(120)
        assert kinds(world) == []
        await world.sleep(4)
        assert kinds(world) == [("restart-expired", OVERDUE), ("loss", OVERDUE)]
        assert state_of(world, guest) == "lost"


async def test_one_without_a_socket_is_absent_once(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await hung(world)
        await world.stop_host()
        guest.vanish()
        await world.restart_host(store.memory())
        await world.sleep(130)
        reason = f"{OVERDUE} of the host's restart: it has no socket"
        assert kinds(world) == [("absent", reason)]
        await world.restart_host(store.memory())
        await world.sleep(130)
        assert kinds(world) == []


async def test_a_socket_that_comes_back_in_time(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await hung(world)
        await world.stop_host()
        guest.vanish()
        await world.restart_host(store.memory())
        await world.sleep(20)
        guest.answers_after_s = 0.0
        guest.appear()
        await world.sleep(3)
        assert kinds(world) == [("heartbeating", WHY)]


async def test_one_that_had_left_has_what_was_left_of_its_time_to_come_back(
    store: MemoryStore,
) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        guest.send_exit()
        await world.sleep(1)
        guest.sends_init = False
        await world.restart_host(store.memory(), away_s=60)
        await world.sleep(50)
        assert (kinds(world), state_of(world, guest)) == ([], "waiting")
        await world.sleep(15)
        reason = "its guest had exited, and is not back within 121 s"
        assert kinds(world) == [("absent", reason)]
        # What was said before a restart is not said again.
        await world.restart_host(store.memory())
        await world.sleep(300)
        assert (kinds(world), state_of(world, guest)) == ([], "absent")
        assert world.channel(guest).why == reason


async def test_one_that_was_frozen_is_not_expected(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        world.notice(guest, Event.PAUSE)
        await world.sleep(1)
        guest.answers_after_s, guest.sends_init = None, False
        await world.restart_host(store.memory())
        await world.sleep(200)
        assert (kinds(world), state_of(world, guest)) == ([], "suspended")


async def paused(world: HostWorld, store: MemoryStore, event: Event = Event.PAUSE) -> ScriptedGuest:
    """A guest that was frozen, and a host that has started anew meanwhile."""
    guest = await world.heartbeating()
    world.notice(guest, event)
    await world.sleep(1)
    guest.answers_after_s, guest.sends_init = None, False
    await world.restart_host(store.memory())
    await world.sleep(30)
    return guest


async def test_one_that_is_thawed_and_answers(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await paused(world, store)
        guest.answers_after_s = 0.0
        guest.send_init()
        await world.sleep(3)
        assert kinds(world) == [("heartbeating", "back after pause")]
        guest.answers_after_s = None
        await world.sleep(10)
        assert [kind for kind, _ in kinds(world)] == ["heartbeating", "loss"]


async def test_one_that_hangs_after_its_end_notice(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await paused(world, store)
        world.notice(guest, Event.UNPAUSE)
        await world.sleep(120)
        assert "loss" not in [kind for kind, _ in kinds(world)]
        await world.sleep(5)
        assert ("loss", OVERDUE) in kinds(world)


async def test_one_that_was_to_be_stopped_is_not_missed(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await paused(world, store, Event.STOP)
        await world.sleep(300)
        assert (kinds(world), state_of(world, guest)) == ([UNWATCHED], "unwatched")


# -- frozen, or perhaps so: back provisionally, unwatched ---------------------------------------


SILENT_AGAIN = "silent again after pause, which should be over by now"


async def provisional(world: HostWorld, guest: ScriptedGuest) -> None:
    """The guest is silent for 4 s after the notice of a pause, and then answers again."""
    world.notice(guest, Event.PAUSE)
    await world.sleep(1)
    guest.answers_after_s, guest.sends_init = None, False
    await world.sleep(4)
    guest.answers_after_s = 0.0
    guest.send_init()
    await world.sleep(0.5)
    assert world.channel(guest).heartbeat.state is HeartbeatState.PROVISIONAL


async def unwatched(world: HostWorld, guest: ScriptedGuest) -> None:
    """It is silent once more at the time at which the pause should be over."""
    await provisional(world, guest)
    guest.answers_after_s = None
    await world.sleep(CALL_OFF_S)
    assert kinds(world)[-1] == ("unwatched", SILENT_AGAIN)


async def frozen(world: HostWorld, guest: ScriptedGuest) -> None:
    """Its pause was announced, and it is silent."""
    await provisional(world, guest)
    guest.answers_after_s = None
    await world.sleep(10)
    assert state_of(world, guest) == "suspended"


@pytest.mark.parametrize("freezes", ["while no host runs", "afterwards"])
async def test_one_that_was_back_provisionally_may_freeze(store: MemoryStore, freezes: str) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        await provisional(world, guest)
        await world.stop_host()
        if freezes == "while no host runs":
            guest.answers_after_s = None
        await world.restart_host(store.memory())
        await world.sleep(5)
        if freezes == "afterwards":
            assert world.channel(guest).heartbeat.state is HeartbeatState.PROVISIONAL
            guest.answers_after_s = None
        await world.sleep(100)
        assert state_of(world, guest) == "suspended"
        assert "loss" not in [kind for kind, _ in kinds(world)]
        # After its end notice it is missed, as ever.
        world.notice(guest, Event.UNPAUSE)
        await world.sleep(130)
        assert ("loss", OVERDUE) in kinds(world)


async def test_one_that_was_unwatched_stays_so_until_it_answers(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        await unwatched(world, guest)
        for _ in range(2):
            await world.restart_host(store.memory())
            await world.sleep(2 * CALL_OFF_S)
            # The alarm was raised before.
            assert (kinds(world), state_of(world, guest)) == ([], "unwatched")
            assert world.channel(guest).why == SILENT_AGAIN
        guest.answers_after_s = 0.0
        guest.send_init()
        await world.sleep(2)
        assert kinds(world) == [("heartbeating", "back after pause")]
        guest.answers_after_s = None
        await world.sleep(10)
        assert kinds(world)[-1] == ("loss", "no answer for 3 s")


@pytest.mark.parametrize("was", [frozen, provisional, unwatched])
@pytest.mark.parametrize("hangs", [False, True])
async def test_one_that_libvirt_calls_running_is_expected_back(
    store: MemoryStore, was: Callable[[HostWorld, ScriptedGuest], Awaitable[None]], hangs: bool
) -> None:
    async with host_world(memory=store.memory(), libvirt=ON) as world:
        guest, _ = await machine(world)
        await was(world, guest)
        await world.stop_host()
        guest.answers_after_s = None if hangs else 0.0
        await world.restart_host(store.memory())
        await world.sleep(110)
        assert "loss" not in [kind for kind, _ in kinds(world)]
        assert state_of(world, guest) == ("returning" if hangs else "heartbeating")
        await world.sleep(20)
        assert (kinds(world)[-1] == ("loss", OVERDUE)) is hangs


async def test_a_restart_keeps_its_deadline(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        world.notice(guest, Event.REBOOT)
        await world.sleep(1)
        guest.answers_after_s, guest.sends_init = None, False
        await world.restart_host(store.memory(), away_s=60)
        await world.sleep(58)
        assert kinds(world) == []
        await world.sleep(6)
        assert kinds(world) == [("restart-expired", OVERDUE), ("loss", OVERDUE)]


async def test_a_second_restart_of_the_host_changes_no_deadline(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        await hung(world)
        await world.restart_host(store.memory())
        await world.sleep(60)
        await world.restart_host(store.memory())
        await world.sleep(58)
        assert kinds(world) == []
        await world.sleep(6)
        assert kinds(world) == [("restart-expired", OVERDUE), ("loss", OVERDUE)]


async def test_after_a_reboot_of_the_machine_all_start_anew(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await hung(world)
        store.boot_id = "another boot"
        await world.restart_host(store.memory())
        await world.sleep(120)
        assert (kinds(world), state_of(world, guest)) == ([], "waiting")
        await world.sleep(80)
        assert (kinds(world), state_of(world, guest)) == ([UNWATCHED], "unwatched")


async def test_after_that_nobody_without_a_socket_is_absent(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await hung(world)
        await world.stop_host()
        guest.vanish()
        store.boot_id = "another boot"
        await world.restart_host(store.memory())
        await world.sleep(200)
        assert kinds(world) == []


async def test_another_socket_is_another_start_of_qemu(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await hung(world)
        store.sockets[guest.path] = "made anew"
        await world.restart_host(store.memory())
        await world.sleep(120)
        assert (kinds(world), state_of(world, guest)) == ([], "waiting")
        await world.sleep(80)
        assert (kinds(world), state_of(world, guest)) == ([UNWATCHED], "unwatched")


async def test_a_disk_that_answers_late(store: MemoryStore) -> None:
    """Even then nobody is forgotten: nothing is written before it was read."""
    async with host_world(memory=store.memory()) as world:
        await hung(world)
        store.worker.slow_s = 20
        await world.restart_host(store.memory())
        await world.sleep(140)
        assert kinds(world) == []
        await world.sleep(5)
        assert kinds(world) == [("restart-expired", OVERDUE), ("loss", OVERDUE)]


async def machine(world: HostWorld) -> tuple[ScriptedGuest, FakeDomain]:
    """A heartbeating guest that says no ``init`` again, and its running domain."""
    guest = world.guest()
    domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
    await world.libvirt.start(domain)
    guest.appear()
    await world.sleep(3)
    assert world.channel(guest).heartbeating
    guest.sends_init = False
    return guest, domain


async def test_the_limit_of_corrective_commands_counts_on(store: MemoryStore) -> None:
    limit = CorrectiveCommands(reboot=("reset",), per_hour=1)
    options: dict[str, Any] = {"runs": {"reset": FakeRun()}, "corrective_commands": limit}
    async with host_world(memory=store.memory(), **options) as world:
        guest = await hung(world)
        await world.sleep(30)
        assert len(world.processes.started) == 1
        guest.answers_after_s = 0.0
        guest.peer.send(guest.init)
        await world.sleep(10)
        assert state_of(world, guest) == "heartbeating"
        guest.answers_after_s = None
        await world.restart_host(store.memory())
        await world.sleep(1800)
        assert "loss" in [kind for kind, _ in kinds(world)]
        assert len(world.processes.started) == 1


@pytest.mark.parametrize("acted", [False, True])
async def test_a_lost_one_to_which_nothing_was_done_is_lost_anew(
    store: MemoryStore, *, acted: bool
) -> None:
    """It was held to see whether others fail with it when the host ended."""
    commands = CorrectiveCommands(reboot=("reset",))
    options: dict[str, Any] = {"runs": {"reset": FakeRun()}, "corrective_commands": commands}
    brake = BrakeSettings(share=1.0)
    async with host_world(memory=store.memory(), brake=brake, **options) as world:
        guest = await hung(world)
        while ("loss", "no answer for 3 s") not in kinds(world):
            await world.sleep(0.1)
        if acted:
            await world.sleep(100)
            guest.answers_after_s = 0.0
            guest.send_init()
            await world.sleep(2)
        await world.restart_host(store.memory())
        done = len(world.processes.started)
        await world.sleep(130)
        # One that was acted upon is not lost anew.
        assert len(world.processes.started) - done == (0 if acted else 1)
        assert ("loss" in [kind for kind, _ in kinds(world)]) is not acted
        # Once something was done, nothing is left to be done.
        assert (await store.recall()).holds == ()


async def test_illness_counts_on(store: MemoryStore) -> None:
    """What was reported is no news to the next run; a minute later it is, as ever."""
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        guest.sends_init = False
        guest.health, guest.log_msg = Health.UNHEALTHY, "disk full"
        await world.sleep(3)
        assert [kind for kind, _ in kinds(world)].count("unhealthy") == 1
        await world.restart_host(store.memory())
        await world.sleep(10)
        assert [kind for kind, _ in kinds(world)] == ["heartbeating"]
        await world.sleep(60)
        assert ("unhealthy", "disk full") in kinds(world)


# -- with libvirt ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "shown", "expected"),
    [
        # Soon after the loss the channel is opened anew.
        ((1, 1), "waiting", ["restart-expired", "loss"]),
        ((3, 1), "paused", ["paused"]),
        ((5, 2), "stopped", ["stopped"]),
        ((5, 3), "lost", ["loss"]),
    ],
    ids=["running", "paused", "destroyed", "failed"],
)
async def test_libvirt_decides(
    store: MemoryStore, state: tuple[int, int], shown: str, expected: list[str]
) -> None:
    async with host_world(memory=store.memory(), libvirt=ON) as world:
        guest, domain = await machine(world)
        await world.stop_host()
        guest.answers_after_s = None
        await world.libvirt.become(domain, *state)
        await world.restart_host(store.memory())
        await world.sleep(130)
        assert state_of(world, guest) == shown
        assert [kind for kind, _ in kinds(world)] == expected


@pytest.mark.parametrize("enabled", ["auto", "on"])
async def test_while_libvirt_is_silent_nothing_is_decided(store: MemoryStore, enabled: str) -> None:
    """Also if it is in use only because it has answered an earlier run of the host."""
    settings = LibvirtSettings(enabled=enabled, uri="qemu:///session")
    async with host_world(memory=store.memory(), libvirt=settings) as world:
        guest, _ = await machine(world)
        guest.answers_after_s = None
        await world.stop_host()
        world.libvirt.hang()
        await world.restart_host(store.memory())
        await world.sleep(600)
        assert (kinds(world), state_of(world, guest)) == ([], "returning")
        world.libvirt.go_on()
        await world.sleep(20)
        assert [kind for kind, _ in kinds(world)] == ["restart-expired", "loss"]


async def test_another_qemu_process_is_seen_once_libvirt_answers(store: MemoryStore) -> None:
    async with host_world(memory=store.memory(), libvirt=ON) as world:
        guest, domain = await machine(world)
        guest.answers_after_s = None
        await world.stop_host()
        await world.libvirt.destroy(domain)
        await world.libvirt.start(domain)
        await world.restart_host(store.memory())
        await world.sleep(200)
        assert (kinds(world), state_of(world, guest)) == ([UNWATCHED], "unwatched")


async def test_another_qemu_process_of_one_that_was_frozen(store: MemoryStore) -> None:
    """It is not expected to go on, and so its silence is no loss."""
    async with host_world(memory=store.memory(), libvirt=ON) as world:
        guest, domain = await machine(world)
        world.notice(guest, Event.PAUSE)
        await world.sleep(1)
        guest.answers_after_s, guest.sends_init = None, False
        await world.stop_host()
        await world.libvirt.destroy(domain)
        await world.libvirt.start(domain)
        world.libvirt.hang()
        await world.restart_host(store.memory())
        await world.sleep(10)
        world.libvirt.go_on()
        await world.sleep(200)
        assert (kinds(world), state_of(world, guest)) == ([UNWATCHED], "unwatched")


async def test_a_closed_connection_of_a_vm_that_runs(store: MemoryStore) -> None:
    """Without a restart of the host the same rule holds."""
    async with host_world(libvirt=ON) as world:
        guest, _ = await machine(world)
        guest.answers_after_s = None
        guest.peer.close()
        await world.sleep(5)
        assert state_of(world, guest) == "returning"
        await world.sleep(125)
        assert [kind for kind, _ in kinds(world)][-2:] == ["restart-expired", "loss"]


async def test_a_closed_connection_of_a_vm_that_ends(store: MemoryStore) -> None:
    async with host_world(libvirt=ON) as world:
        guest, domain = await machine(world)
        guest.answers_after_s = None
        guest.peer.close()
        await world.libvirt.destroy(domain)
        await world.sleep(130)
        assert state_of(world, guest) == "stopped"
        assert "loss" not in [kind for kind, _ in kinds(world)]


@pytest.mark.parametrize("resumed", ["before", "meanwhile", "after"])
@pytest.mark.parametrize("silent_s", [0.0, 60.0])
async def test_a_paused_vm_that_hangs_when_it_is_resumed(
    store: MemoryStore, resumed: str, silent_s: float
) -> None:
    """Whether it is resumed while no host runs, or afterwards, and however late libvirt answers."""
    async with host_world(memory=store.memory(), libvirt=ON) as world:
        guest, domain = await machine(world)
        await world.libvirt.suspend(domain)
        await world.sleep(2)
        assert state_of(world, guest) == "paused"
        guest.answers_after_s = None
        await world.stop_host()
        if silent_s:
            world.libvirt.hang()
        if resumed == "before":
            await world.libvirt.resume(domain)
        await world.restart_host(store.memory())
        await world.sleep(silent_s / 2)
        if resumed == "meanwhile":
            await world.libvirt.resume(domain)
        await world.sleep(silent_s / 2)
        world.libvirt.go_on()
        await world.sleep(30)
        if resumed == "after":
            assert state_of(world, guest) == "paused"
            await world.sleep(300)
            assert "loss" not in [kind for kind, _ in kinds(world)]
            await world.libvirt.resume(domain)
        await world.sleep(130)
        assert "loss" in [kind for kind, _ in kinds(world)]


async def test_a_paused_vm_that_is_well_when_it_is_resumed(store: MemoryStore) -> None:
    async with host_world(memory=store.memory(), libvirt=ON) as world:
        guest, domain = await machine(world)
        await world.libvirt.suspend(domain)
        await world.sleep(2)
        guest.answers_after_s = None
        await world.restart_host(store.memory())
        await world.sleep(300)
        await world.libvirt.resume(domain)
        guest.answers_after_s = 0.0
        await world.sleep(10)
        assert state_of(world, guest) == "heartbeating"
        assert "loss" not in [kind for kind, _ in kinds(world)]
