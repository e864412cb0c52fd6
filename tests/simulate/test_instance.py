"""Instances and their libvirt, and what its watcher in a simulated process makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import pytest

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.known_domains import Domain
from hbtrio.nursery.host.libvirt_watch import DomainListener, LibvirtWatch
from hbtrio.nursery.host.virsh import Virsh as AskedVirsh
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.simulate.instance import Guest, Instance
from hbtrio.simulate.libvirt import Libvirt, Virsh
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import Began, Condition, Observation, Over, Placed
from hbtrio.simulate.process import Process
from hbtrio.simulate.signals import SignalQueue
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace
from hbtrio.simulate.virtio import VirtioPort
from hbtrio.simulate.vm_changes import Ending

UUID = "4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59"


class Host:
    """A host without a daemon."""

    def __init__(self, timeline: Timeline, name: str) -> None:
        self.name = name
        self.libvirt = Libvirt(timeline, name)
        self.plugged: list[str] = []

    def plug(self, instance: Instance) -> str:
        self.plugged.append(instance.name)
        return f"/vms/{instance.uuid}"

    def unplug(self, instance: Instance) -> None:
        self.plugged.remove(instance.name)


@attrs.define
class World:
    """An instance, two hosts, and what the libvirt watcher of the first one has seen."""

    timeline: Timeline
    trace: Trace
    here: Host
    there: Host
    instance: Instance
    seen: list[Observation]
    changes: list[tuple[float, DomainChange]]
    resets: list[float]
    watch: LibvirtWatch | None = None

    def run(self, seconds: float) -> None:
        self.timeline.run(self.timeline.now + seconds)

    def standing(self) -> Standing | None:
        assert self.watch is not None
        domain = self.watch.domain(UUID)
        return None if domain is None else domain.state.standing

    def conditions(self) -> list[tuple[str, Condition]]:
        return [
            (type(one).__name__, one.condition)
            for one in self.seen
            if isinstance(one, Began | Over)
        ]


@pytest.fixture
def world() -> World:
    timeline = Timeline("instance")
    trace = Trace(timeline)
    seen: list[Observation] = []

    def start_guest(instance: Instance) -> Guest:
        process = Process(instance.machine, timeline, trace, f"guest {timeline.now}")
        signals = SignalQueue(process)

        async def main() -> None:
            with signals.receive() as received:
                async for _ in received:
                    return

        process.start(main)
        return Guest(process, signals)

    def make_port() -> VirtioPort:
        return VirtioPort(timeline, trace, "web")

    instance = Instance(timeline, "web", UUID, make_port, start_guest, seen.append)
    here, there = Host(timeline, "here"), Host(timeline, "there")
    world = World(timeline, trace, here, there, instance, seen, [], [])
    daemon = Process(Machine(timeline, "here"), timeline, trace, "compute-0")

    def changed(_domain: Domain, changes: tuple[DomainChange, ...]) -> None:
        world.changes += [(timeline.now, change) for change in changes]

    listener = DomainListener(
        on_change=changed,
        on_reset=lambda _: world.resets.append(timeline.now),
        on_channels=lambda _uuid, _sockets: None,
    )

    async def main() -> None:
        guard = OnTimeGuard(math.inf)
        virsh = AskedVirsh(Virsh(here.libvirt, daemon), "qemu:///system", guard)
        world.watch = LibvirtWatch(virsh, listener, guard, required=True)
        await world.watch.run()

    daemon.start(main)
    instance.boot(here)
    world.run(20.0)
    assert instance.guest_lives
    assert world.standing() is Standing.RUNNING
    world.changes.clear()
    seen.clear()
    return world


@pytest.mark.parametrize(
    ("do", "change"),
    [
        (lambda instance: instance.end(Ending.DESTROYED), DomainChange.STOPPED),
        (lambda instance: instance.end(Ending.CRASHED), DomainChange.FAILED),
        (lambda instance: instance.pause(), DomainChange.PAUSED),
    ],
)
def test_what_happens_to_the_vm_is_known_soon(
    world: World, do: Callable[[Instance], object], change: DomainChange
) -> None:
    began = world.timeline.now
    do(world.instance)
    world.run(1.0)
    [(at, seen)] = world.changes
    assert seen is change
    assert at - began < 0.5
    assert world.instance.guest_lives is (change is DomainChange.PAUSED)


def test_a_pause_stops_its_clocks_and_its_guest(world: World) -> None:
    read = world.instance.machine.monotonic()
    assert world.instance.pause()
    assert not world.instance.pause()
    world.run(10.0)
    assert world.instance.machine.monotonic() == read
    assert world.instance.guest is not None
    assert world.instance.guest.process.frozen
    world.instance.resume()
    world.run(10.0)
    assert world.instance.machine.monotonic() == pytest.approx(read + 10.0)
    assert not world.instance.guest.process.frozen
    assert [change for _, change in world.changes] == [DomainChange.PAUSED, DomainChange.RESUMED]
    assert world.conditions() == [("Began", Condition.VM_PAUSED), ("Over", Condition.VM_PAUSED)]


def test_a_stall_is_unknown_to_libvirt(world: World) -> None:
    world.instance.stall(5.0)
    world.run(4.0)
    assert world.instance.machine.paused
    assert world.standing() is Standing.RUNNING
    world.run(2.0)
    assert not world.instance.machine.paused
    assert world.changes == []
    assert world.conditions() == [("Began", Condition.VM_STALLED), ("Over", Condition.VM_STALLED)]


def test_a_pause_in_a_stall_outlasts_it(world: World) -> None:
    world.instance.stall(5.0)
    world.instance.pause()
    world.run(6.0)
    assert world.instance.machine.paused
    world.instance.stall(1.0)  # it stands still already
    world.instance.resume()
    assert not world.instance.machine.paused


def test_a_resume_in_a_stall_waits_for_its_end(world: World) -> None:
    world.instance.stall(5.0)
    world.instance.pause()
    world.instance.resume()
    assert world.instance.machine.paused
    world.run(6.0)
    assert not world.instance.machine.paused


def test_a_hang_lasts_until_a_reset(world: World) -> None:
    world.instance.hang()
    world.run(60.0)
    old = world.instance.guest
    assert old is not None
    assert old.process.frozen
    assert world.standing() is Standing.RUNNING
    world.instance.reset()
    assert not old.process.alive
    world.run(20.0)
    assert world.instance.guest_lives
    assert world.instance.guest is not old
    assert len(world.resets) >= 1
    assert world.conditions() == [
        ("Began", Condition.VM_HUNG),
        ("Began", Condition.GUEST_DOWN),
        ("Over", Condition.VM_HUNG),
        ("Over", Condition.GUEST_DOWN),
    ]


def test_one_that_boots_does_not_hang(world: World) -> None:
    world.instance.reset()
    world.instance.hang()
    world.run(60.0)
    assert world.instance.guest_lives
    assert not world.instance.hung


def test_a_guest_told_to_shut_down_ends_and_then_its_qemu(world: World) -> None:
    guest = world.instance.guest
    assert guest is not None
    world.instance.shut_down()
    world.run(0.4)
    assert not guest.process.alive
    assert world.here.plugged == ["web"]
    world.run(5.0)
    assert world.here.plugged == []
    assert world.here.libvirt.domains[UUID].reason == Ending.SHUTDOWN.value[0]
    assert [change for _, change in world.changes] == [DomainChange.STOPPED]


def test_a_shutdown_ends_no_later_boot(world: World) -> None:
    world.instance.shut_down()
    world.instance.end(Ending.DESTROYED)
    world.instance.boot(world.here)
    world.run(60.0)
    assert world.instance.guest_lives
    assert world.here.plugged == ["web"]


def test_a_migration_moves_it_with_its_guest(world: World) -> None:
    guest = world.instance.guest
    world.instance.migrate(world.there)
    world.run(2.0)
    assert world.instance.guest is guest
    assert world.instance.guest_lives
    assert not world.instance.machine.paused
    assert (world.here.plugged, world.there.plugged) == ([], ["web"])
    assert world.standing() is Standing.STOPPED
    assert [one.host for one in world.seen if isinstance(one, Placed)] == ["there"]
    assert world.conditions() == [
        ("Began", Condition.VM_MIGRATING),
        ("Over", Condition.VM_MIGRATING),
    ]


def test_a_paused_vm_does_not_migrate(world: World) -> None:
    world.instance.pause()
    world.instance.migrate(world.there)
    world.run(2.0)
    assert (world.here.plugged, world.there.plugged) == (["web"], [])


def test_a_saved_vm_goes_on_where_it_was(world: World) -> None:
    guest = world.instance.guest
    read = world.instance.machine.monotonic()
    world.instance.save(30.0)
    world.run(20.0)
    assert world.instance.place is None
    assert world.instance.machine.monotonic() == read
    world.run(20.0)
    assert world.instance.guest is guest
    assert world.instance.guest_lives
    assert world.here.plugged == ["web"]
    changes = [change for _, change in world.changes]
    assert changes[:2] == [DomainChange.PAUSED, DomainChange.STOPPED]
    assert changes[-1] in (DomainChange.STARTED, DomainChange.RESUMED)


def test_a_vm_that_is_destroyed_while_it_migrates_stays_away(world: World) -> None:
    world.instance.migrate(world.there)
    world.instance.end(Ending.DESTROYED)
    world.run(5.0)
    assert world.instance.place is None
    assert (world.here.plugged, world.there.plugged) == ([], [])


def test_a_killed_guest_is_down_until_it_is_revived(world: World) -> None:
    world.instance.kill_guest()
    world.run(5.0)
    assert not world.instance.guest_lives
    world.instance.revive_guest()
    world.instance.revive_guest()  # it lives already
    world.run(1.0)
    assert world.instance.guest_lives
    assert world.conditions() == [("Began", Condition.GUEST_DOWN), ("Over", Condition.GUEST_DOWN)]


def test_a_guest_that_does_not_handle_signals_yet_is_killed_by_one(world: World) -> None:
    guest = world.instance.guest
    assert guest is not None
    early = SignalQueue(guest.process)
    early.send(15)
    assert not guest.process.alive


def test_a_hung_libvirt_answers_what_was_asked_once_it_goes_on(world: World) -> None:
    assert world.watch is not None
    world.here.libvirt.hang()
    world.instance.pause()
    world.run(5.0)
    assert not world.watch.answers
    assert world.standing() is Standing.RUNNING
    world.here.libvirt.go_on()
    world.run(2.0)
    assert world.watch.answers
    assert world.standing() is Standing.PAUSED


def test_a_libvirt_that_was_down_has_forgotten_reasons(world: World) -> None:
    assert world.watch is not None
    world.here.libvirt.stop()
    world.instance.end(Ending.CRASHED)
    world.run(12.0)
    assert not world.watch.answers
    world.here.libvirt.restart()
    world.run(12.0)
    assert world.watch.answers
    domain = world.watch.domain(UUID)
    assert domain is not None
    assert (domain.state.state, domain.state.reason) == (5, 0)


def test_a_hung_libvirt_loses_its_followers(world: World) -> None:
    """As ``virsh event`` gives up; afterwards it is begun anew and sees events again."""
    world.here.libvirt.hang()
    world.run(30.0)
    world.here.libvirt.go_on()
    world.run(10.0)
    world.changes.clear()
    began = world.timeline.now
    world.instance.pause()
    world.run(5.0)
    assert [change for _, change in world.changes] == [DomainChange.PAUSED]
    # Not by the look every 10 s; it rests a little after an answer that took long.
    assert world.changes[0][0] - began < 3.0
