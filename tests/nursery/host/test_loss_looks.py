"""No loss is reported before libvirt was asked; libvirt is fake, and so is the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from itertools import pairwise
from typing import Any

import attrs
import pytest
from trio.testing import MockClock

from hbtrio.config.host import LibvirtSettings
from hbtrio.fsm.heartbeat.domain_changes import ENDS_S
from hbtrio.lab.virsh_output import CRASHED, lifecycle
from hbtrio.nursery.host.libvirt_watch import Look
from hbtrio.nursery.host.loss_looks import REAPED_S
from hbtrio.wire.vocabulary import Event
from support.fake_libvirt import FakeDomain
from support.host_world import HostWorld, ScriptedGuest, host_world, now

ON = LibvirtSettings(enabled="on")


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[HostWorld]:
    """A host without guests, whose libvirt answers."""
    async with host_world(libvirt=ON) as world:
        yield world


@attrs.frozen
class Machine:
    """A guest in a running domain, of a second's heartbeat and 121 s for RESTART."""

    guest: ScriptedGuest
    domain: FakeDomain
    world: HostWorld

    @property
    def state(self) -> str:
        return self.world.channel(self.guest).heartbeat.state.shown

    def told(self, *kinds: str) -> list[tuple[Any, ...]]:
        """The reports about it since it was heartbeating: kind and what else, without the times."""
        return [told[1:] for told in self.world.reports(self.guest) if told[1] in kinds]

    def hang(self) -> None:
        """The guest answers nothing from now on."""
        self.guest.answers_after_s = None

    def go_on(self) -> None:
        self.guest.answers_after_s = 0.0


async def running(world: HostWorld) -> Machine:
    guest = world.guest()
    domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
    await world.libvirt.start(domain)
    guest.appear()
    await world.sleep(3)
    machine = Machine(guest, domain, world)
    assert machine.state == "heartbeating"
    return machine


#: QEMU was told to end: libvirt's state and reason, and its event.
IN_SHUTDOWN = (4, 0, "Shutdown Finished after host request")

BAD = ("loss", "stopped", "unhealthy", "absent")


async def test_a_hung_guest_is_lost_with_libvirts_word(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    questions = len(world.libvirt.questions)
    await world.sleep(4)
    assert [told[0] for told in machine.told(*BAD)] == ["loss"]
    assert len(world.libvirt.questions) > questions
    assert machine.state == "lost"


async def test_a_pause_is_no_loss_and_its_end_is_awaited(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    await world.libvirt.suspend(machine.domain)
    await world.sleep(0.1)
    assert machine.state == "paused"
    await world.sleep(300)
    assert machine.told(*BAD) == []
    await world.libvirt.resume(machine.domain)
    machine.go_on()
    await world.sleep(3)
    assert machine.state == "heartbeating"
    assert machine.told(*BAD) == []


async def test_a_guest_that_hangs_in_its_thaw_is_lost(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    await world.libvirt.suspend(machine.domain)
    await world.sleep(10)
    await world.libvirt.resume(machine.domain)
    await world.sleep(110)
    assert machine.told(*BAD) == []
    await world.sleep(20)
    assert [told[0] for told in machine.told(*BAD)] == ["loss"]


async def paused_in_vain(world: HostWorld) -> Machine:
    """The command of its pause has failed, and it hangs since just before that."""
    machine = await running(world)
    world.notice(machine.guest, Event.PAUSE)
    await world.sleep(1)
    machine.hang()
    await world.sleep(4)
    world.channel(machine.guest).outages.call_off("pause", "it failed")
    return machine


async def test_a_guest_that_hangs_in_a_pause_that_failed_is_lost(world: HostWorld) -> None:
    machine = await paused_in_vain(world)
    await world.sleep(120)
    assert [told[0] for told in machine.told(*BAD)] == ["stopped"]
    await world.sleep(2)
    why = "no answer within 121 s after pause, which did not happen"
    assert machine.told("loss") == [("loss", "reboot", why)]
    assert machine.state == "lost"


async def test_one_that_was_paused_by_what_failed_is_not_lost(world: HostWorld) -> None:
    """The command has timed out, and its pause follows."""
    machine = await paused_in_vain(world)
    await world.sleep(20)
    machine.domain.state, machine.domain.reason = 3, 1  # and no event tells of it
    await world.sleep(300)
    assert machine.told("loss") == []
    assert machine.state == "paused"


async def test_a_pause_that_no_event_told_of_is_seen_by_the_look(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    machine.domain.state, machine.domain.reason = 3, 3
    await world.sleep(5)
    assert machine.told(*BAD) == []
    assert machine.state == "paused"


async def test_an_answer_during_the_look_ends_it(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    channel = world.channel(machine.guest)
    while not channel.heartbeat.suspected:
        await world.sleep(0.01)
    machine.guest.answer_challenge()
    machine.go_on()
    await world.sleep(5)
    assert machine.told(*BAD) == []
    assert machine.state == "heartbeating"


async def test_an_answer_that_was_not_read_yet_ends_it_too(
    world: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await running(world)
    machine.hang()
    watch = world.host.domains.watch
    assert watch is not None
    look = watch.look

    async def answered(uuids: Collection[str], within_s: float) -> Mapping[str, Look]:
        looks = await look(uuids, within_s)
        machine.guest.answer_challenge()
        machine.go_on()
        return looks

    monkeypatch.setattr(watch, "look", answered)
    await world.sleep(5)
    assert machine.told(*BAD) == []
    assert machine.state == "heartbeating"


async def test_many_losses_of_a_moment_are_one_question(world: HostWorld) -> None:
    machines = [await running(world) for _ in range(3)]
    await world.sleep(3)
    # On the next beat all of them are silent, and libvirt has just been asked.
    asked = world.libvirt.questions
    for machine in machines:
        machine.hang()
    before = len(asked)
    while not all(machine.told("loss") for machine in machines):
        await world.sleep(0.05)
    # One for each beat that the three share, and one that was due anyway.
    assert len(asked) - before <= 1 + len({world.channel(m.guest).slot for m in machines})


async def test_a_silent_libvirt_is_waited_for_half_a_second(world: HostWorld) -> None:
    machine = await running(world)
    world.libvirt.hang()
    machine.hang()
    channel = world.channel(machine.guest)
    while not channel.heartbeat.suspected:
        await world.sleep(0.01)
    suspected_at = now()
    await world.sleep(0.45)
    assert machine.told("loss") == []
    await world.sleep(0.2)
    (loss,) = machine.told("loss")
    assert "libvirt unknown" in str(loss)
    assert now() - suspected_at < 1.0


async def test_a_doubtful_silence_is_held_until_libvirt_answers(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    # The pause is heard of, and libvirtd hangs before it can be asked.
    world.libvirt.print_event(lifecycle("web-1", "Suspended Paused"))
    world.libvirt.hang()
    machine.domain.state, machine.domain.reason = 3, 1
    await world.sleep(60)
    assert machine.told(*BAD) == []
    world.libvirt.go_on()
    await world.sleep(10)
    assert machine.told(*BAD) == []
    assert machine.state == "paused"


@pytest.mark.parametrize("reaped_after_s", [0.0, 0.3, 1.7])
async def test_a_killed_qemu_is_a_loss_and_nothing_else(
    world: HostWorld, reaped_after_s: float
) -> None:
    machine = await running(world)
    machine.guest.vanish()
    await world.sleep(reaped_after_s)
    assert machine.told(*BAD) == []
    await world.libvirt.kill(machine.domain)
    await world.sleep(1)
    (loss,) = machine.told(*BAD)
    assert loss[0] == "loss"
    assert "shut off: crashed" in str(loss)
    # It is lost until somebody starts it again.
    await world.sleep(100)
    assert machine.state == "lost"
    machine.guest.appear()
    machine.go_on()
    await world.libvirt.start(machine.domain)
    await world.sleep(5)
    assert machine.state == "heartbeating"
    assert len(machine.told("loss")) == 1


async def test_a_failed_domain_that_is_undefined_is_forgotten(world: HostWorld) -> None:
    machine = await running(world)
    machine.guest.vanish()
    await world.libvirt.kill(machine.domain)
    await world.sleep(1)
    world.libvirt.undefine(machine.domain)
    await world.sleep(1)
    assert machine.guest.uuid not in world.host.channels


async def test_a_destroyed_vm_is_stopped_and_forgotten(world: HostWorld) -> None:
    machine = await running(world)
    machine.guest.vanish()
    await world.libvirt.destroy(machine.domain)
    await world.sleep(1)
    (stopped,) = machine.told(*BAD)
    assert stopped[0] == "stopped"
    assert "shut off: destroyed" in str(stopped)
    assert machine.guest.uuid not in world.host.channels


@pytest.mark.parametrize("took_s", [0.5, 4.0, 14.0])
@pytest.mark.parametrize("first", ["the socket", "libvirt"])
async def test_a_vm_that_is_destroyed_slowly_has_its_final_reason(
    world: HostWorld, first: str, took_s: float
) -> None:
    """On a busy machine libvirt calls it in shutdown until its process has been reaped."""
    machine = await running(world)
    if first == "the socket":
        machine.guest.vanish()
    await world.libvirt.become(machine.domain, *IN_SHUTDOWN)
    await world.sleep(took_s)
    if first == "libvirt":
        machine.guest.vanish()
    assert machine.told(*BAD) == []
    await world.libvirt.destroy(machine.domain)
    await world.sleep(1)
    (stopped,) = machine.told(*BAD)
    assert stopped[0] == "stopped"
    assert "shut off: destroyed" in str(stopped)
    await world.sleep(REAPED_S)
    assert machine.guest.uuid not in world.host.channels
    assert len(machine.told(*BAD)) == 1


@pytest.mark.parametrize("vanishes", [False, True])
async def test_one_that_goes_on_ending_is_reported_as_that(
    world: HostWorld, vanishes: bool
) -> None:
    machine = await running(world)
    if vanishes:
        machine.guest.vanish()
    await world.libvirt.become(machine.domain, *IN_SHUTDOWN)
    await world.sleep(ENDS_S - 0.1)
    assert machine.told(*BAD) == []
    await world.sleep(REAPED_S)
    (stopped,) = machine.told(*BAD)
    assert "in shutdown" in str(stopped)
    assert (machine.guest.uuid in world.host.channels) is not vanishes


async def test_a_connection_that_is_closed_while_its_vm_runs(world: HostWorld) -> None:
    machine = await running(world)
    machine.guest.peer.close()
    await world.sleep(5)
    assert machine.told(*BAD) == []
    assert machine.state == "heartbeating"

    machine.hang()
    machine.guest.peer.close()
    await world.sleep(110)
    assert machine.told(*BAD) == []
    await world.sleep(20)
    assert [told[0] for told in machine.told(*BAD)] == ["loss"]


async def test_a_vm_killed_while_libvirtd_is_away(world: HostWorld) -> None:
    machine = await running(world)
    world.libvirt.stop()
    machine.guest.vanish()
    machine.domain.state, machine.domain.reason, machine.domain.domain_id = 5, 3, -1
    await world.sleep(60)
    assert machine.told("loss") == []
    world.libvirt.restart()
    machine.domain.reason = 3
    await world.sleep(10)
    (loss,) = machine.told("loss")
    assert "shut off: crashed" in str(loss)


async def test_a_reset_opens_a_full_restart_window(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    world.libvirt.reset(machine.domain)
    await world.sleep(115)
    assert machine.told("loss") == []
    assert machine.state == "restarting"
    await world.sleep(20)
    assert [told[0] for told in machine.told("loss")] == ["loss"]


async def test_a_panic_that_libvirt_restarts_is_no_loss(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    await world.libvirt.become(machine.domain, CRASHED, 1, "Crashed Panicked")
    await world.libvirt.become(machine.domain, 1, 9, "Resumed Unpaused")
    await world.sleep(20)
    assert machine.told("loss") == []
    machine.guest.send_init()
    machine.go_on()
    await world.sleep(5)
    assert machine.state == "heartbeating"


async def test_a_preserved_panic_is_a_loss_at_once(world: HostWorld) -> None:
    machine = await running(world)
    machine.hang()
    await world.libvirt.become(machine.domain, CRASHED, 1, "Crashed Panicked")
    await world.sleep(1)
    (loss,) = machine.told("loss")
    assert "crashed: panicked" in str(loss)


@pytest.mark.parametrize("reason", [5, 6])
async def test_a_pause_by_a_fault_is_an_alarm(world: HostWorld, reason: int) -> None:
    machine = await running(world)
    machine.hang()
    await world.libvirt.suspend(machine.domain, reason)
    await world.sleep(10)
    assert machine.told(*BAD) == []
    assert [told[0] for told in machine.told("paused")] == ["paused"]
    last = world.channel(machine.guest).reports.last
    assert last is not None
    assert last.alarm


async def test_the_look_delays_no_beat(world: HostWorld) -> None:
    machine, other = await running(world), await running(world)
    world.libvirt.hang()
    machine.hang()
    since = now()
    await world.sleep(10)
    beats = other.guest.challenged_at(since)
    assert len(beats) >= 9
    assert all(after - before == pytest.approx(1.0) for before, after in pairwise(beats))
