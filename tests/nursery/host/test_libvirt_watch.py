"""What the host knows of libvirt's domains, and when; libvirt is fake, and so is the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.known_domains import Domain
from hbtrio.lab.virsh_output import PAUSED, RUNNING, lifecycle
from hbtrio.nursery.host.libvirt_watch import (
    RESYNC_S,
    DomainListener,
    LibvirtWatch,
    Look,
    Source,
)
from hbtrio.nursery.host.virsh import QUESTION_S, Virsh
from hbtrio.nursery.time_guard import run_guard
from hbtrio.policy.time_guard import OnTimeGuard
from support.fake_libvirt import ANSWER_S, FakeLibvirt

pytestmark = pytest.mark.usefixtures("autojump_clock")

A = "11111111-1111-1111-1111-111111111111"
B = "11111111-1111-1111-1111-111111111112"
SOCKET = "/var/lib/libvirt/qemu/channel/target/domain-1-a/cgcs.heartbeat"

C = DomainChange


@attrs.define
class Watched:
    """A watch over a fake libvirt, and all that it announced."""

    libvirt: FakeLibvirt
    watch: LibvirtWatch
    changes: list[tuple[float, str, tuple[DomainChange, ...], str]] = attrs.field(factory=list)
    resets: list[str] = attrs.field(factory=list)
    channels: list[tuple[str, tuple[str, ...]]] = attrs.field(factory=list)

    def changed(self, domain: Domain, happened: tuple[DomainChange, ...]) -> None:
        at = round(trio.current_time(), 3)
        self.changes.append((at, domain.name, happened, domain.state.words))

    @property
    def happened(self) -> list[tuple[DomainChange, ...]]:
        return [happened for _, _, happened, _ in self.changes]

    async def look(self, uuid: str = A, within_s: float = 0.5) -> Look:
        return (await self.watch.look([uuid], within_s))[uuid]


@asynccontextmanager
async def watched(*, required: bool = True, settle: bool = True) -> AsyncIterator[Watched]:
    libvirt = FakeLibvirt()
    made: list[Watched] = []
    listener = DomainListener(
        on_change=lambda domain, happened: made[0].changed(domain, happened),
        on_reset=lambda domain: made[0].resets.append(domain.name),
        on_channels=lambda uuid, paths: made[0].channels.append((uuid, paths)),
    )
    guard = OnTimeGuard(trio.current_time())
    virsh = Virsh(libvirt, "qemu:///system", guard)
    watch = LibvirtWatch(virsh, listener, guard, required=required)
    made.append(Watched(libvirt, watch))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)
        nursery.start_soon(watch.run)
        if settle:
            await trio.sleep(2)
        yield made[0]
        nursery.cancel_scope.cancel()


async def running(world: Watched, uuid: str = A, name: str = "a") -> None:
    domain = world.libvirt.define(uuid, name, [SOCKET])
    await world.libvirt.start(domain)
    await trio.sleep(1)
    world.changes.clear()


async def test_a_pause_is_known_with_its_reason_within_a_quarter_of_a_second() -> None:
    async with watched() as world:
        await running(world)
        began = trio.current_time()
        await world.libvirt.suspend(world.libvirt.domains[A], reason=3)
        await trio.sleep(1)
        ((at, name, happened, words),) = world.changes
        assert (name, happened, words) == ("a", (C.PAUSED,), "paused: saving")
        assert at - began < 0.25


async def test_a_state_that_follows_its_event_late_is_asked_for_again() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.print_event(lifecycle("a", "Suspended Paused"))
        await trio.sleep(0.09)
        world.libvirt.domains[A].state, world.libvirt.domains[A].reason = PAUSED, 1
        await trio.sleep(0.2)
        assert world.happened == [(C.PAUSED,)]


async def test_a_burst_of_events_is_one_question() -> None:
    async with watched() as world:
        await running(world)
        asked = len(world.libvirt.questions)
        for _ in range(1000):
            world.libvirt.print_event(lifecycle("a", "Suspended Paused"))
        await trio.sleep(1)
        # At once, and once more when the state has followed.
        assert len(world.libvirt.questions) - asked == 2


async def test_events_without_end_leave_most_of_the_time_to_others() -> None:
    async with watched() as world:
        await running(world)
        asked = len(world.libvirt.questions)
        for _ in range(1000):
            world.libvirt.print_event(lifecycle("a", "Suspended Paused"))
            await trio.sleep(0.01)
        questions = len(world.libvirt.questions) - asked
        assert questions <= 0.2 * 10 / ANSWER_S + 6
        assert questions > 10


async def test_without_events_it_asks_every_ten_seconds() -> None:
    async with watched() as world:
        asked = len(world.libvirt.questions)
        await trio.sleep(100)
        assert len(world.libvirt.questions) - asked == 10


async def test_what_no_event_told_is_found_by_the_next_question() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.domains[A].state, world.libvirt.domains[A].reason = PAUSED, 5
        await trio.sleep(RESYNC_S + 1)
        assert world.happened == [(C.PAUSED,)]
        domain = world.watch.domain(A)
        assert domain is not None
        assert domain.state.is_alarming


async def test_a_reset_is_told_by_its_event_alone() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.reset(world.libvirt.domains[A])
        assert world.resets == ["a"] * 3
        world.libvirt.print_event("event 'reboot' for domain 'nobody'")
        assert world.resets == ["a"] * 3
        await trio.sleep(1)
        assert world.changes == []


async def test_a_domain_that_libvirt_forgets_has_stopped() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.undefine(world.libvirt.domains[A])
        await trio.sleep(1)
        assert world.happened == [(C.STOPPED,)]
        assert (await world.look()).standing is Standing.STOPPED
        # And once only.
        await trio.sleep(3 * RESYNC_S)
        assert world.happened == [(C.STOPPED,)]
        # Defined again, it starts anew.
        await running(world)
        assert (await world.look()).standing is Standing.RUNNING


async def test_a_renamed_domain_keeps_its_uuid() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.domains[A].name = "b"
        await trio.sleep(RESYNC_S)
        assert world.watch.uuid_of("b") == A
        assert world.watch.uuid_of("a") is None


# -- a look --------------------------------------------------------------------------------------


async def test_a_look_is_a_fresh_answer() -> None:
    async with watched() as world:
        await running(world)
        # Nobody told: no event.
        world.libvirt.domains[A].state, world.libvirt.domains[A].reason = PAUSED, 3
        began = trio.current_time()
        look = await world.look()
        assert look == Look(Source.ANSWER, Standing.PAUSED, "paused: saving")
        assert trio.current_time() - began == pytest.approx(ANSWER_S)


async def test_those_who_look_at_once_share_a_question() -> None:
    async with watched() as world:
        await running(world)
        asked = len(world.libvirt.questions)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(world.look)
        assert len(world.libvirt.questions) - asked == 1


async def test_a_look_does_not_trust_a_question_that_was_asked_before_it() -> None:
    async with watched() as world, trio.open_nursery() as nursery:
        await running(world)
        nursery.start_soon(world.look)
        await trio.sleep(ANSWER_S / 2)
        asked = len(world.libvirt.questions)
        look = await world.look()
        assert look.standing is Standing.RUNNING
        assert len(world.libvirt.questions) - asked == 1


async def test_a_look_just_after_an_event_waits_until_the_state_has_followed() -> None:
    async with watched() as world, trio.open_nursery() as nursery:
        await running(world)
        nursery.start_soon(world.libvirt.suspend, world.libvirt.domains[A])
        await trio.testing.wait_all_tasks_blocked()
        assert (await world.look()).standing is Standing.PAUSED


async def test_a_domain_that_stops_during_a_look_is_not_running() -> None:
    """The question was asked before the event, and its answer came after it."""
    async with watched() as world, trio.open_nursery() as nursery:
        await running(world)

        async def suspend() -> None:
            await trio.sleep(ANSWER_S / 2)
            await world.libvirt.suspend(world.libvirt.domains[A])

        nursery.start_soon(suspend)
        assert (await world.look()).standing is Standing.PAUSED


@pytest.mark.parametrize("late_s", [0.0, ANSWER_S / 2])
async def test_an_answer_that_came_too_soon_after_such_an_event_is_none(late_s: float) -> None:
    async with watched() as world, trio.open_nursery() as nursery:
        await running(world)

        async def suspend() -> None:
            await trio.sleep(late_s)
            world.libvirt.print_event(lifecycle("a", "Suspended Paused"))
            await trio.sleep(ANSWER_S + 0.03)
            world.libvirt.hang()

        nursery.start_soon(suspend)
        look = await world.look()
        assert look == Look(Source.SILENCE, words="libvirt unknown", doubtful=True)


async def test_events_without_end_do_not_postpone_a_look() -> None:
    async with watched() as world, trio.open_nursery() as nursery:
        await running(world)

        async def flood() -> None:
            while True:
                world.libvirt.print_event(lifecycle("a", "Resumed Unpaused"))
                await trio.sleep(0.01)

        nursery.start_soon(flood)
        began = trio.current_time()
        look = await world.look()
        assert (look.source, look.standing) == (Source.ANSWER, Standing.RUNNING)
        assert trio.current_time() - began <= 0.5
        nursery.cancel_scope.cancel()


async def test_a_look_at_a_silent_libvirt_is_bounded() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.hang()
        began = trio.current_time()
        assert await world.look() == Look(Source.SILENCE, words="libvirt unknown")
        assert trio.current_time() - began == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("event", "doubtful"), [("Suspended Paused", True), ("Resumed Unpaused", False)]
)
async def test_a_silence_after_an_event_that_stops_the_domain_is_doubtful(
    event: str, doubtful: bool
) -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.print_event(lifecycle("a", event))
        world.libvirt.hang()
        assert (await world.look()).doubtful is doubtful


async def test_a_silence_is_doubtful_if_the_domain_was_not_running_when_last_heard_of() -> None:
    async with watched() as world:
        await running(world)
        await world.libvirt.suspend(world.libvirt.domains[A])
        await trio.sleep(1)
        world.libvirt.hang()
        assert (await world.look()).doubtful


async def test_an_instance_that_libvirt_never_knew_is_none_of_its() -> None:
    async with watched() as world:
        await running(world)
        assert await world.look(B) == Look(Source.NONE)


# -- a libvirt that is away ----------------------------------------------------------------------


async def test_a_host_without_virsh_runs_as_if_there_were_no_libvirt() -> None:
    async with watched(required=False, settle=False) as world:
        world.libvirt.installed = False
        await trio.sleep(60)
        assert not world.watch.in_use
        assert await world.look() == Look(Source.NONE)
        assert world.watch.fault == "virsh: No such file or directory"


async def test_a_libvirt_that_has_answered_once_is_in_use() -> None:
    async with watched(required=False) as world:
        await running(world)
        world.libvirt.stop()
        await trio.sleep(60)
        assert world.watch.in_use
        assert world.watch.fault == "no socket"
        assert (await world.look()).source is Source.SILENCE


async def test_a_required_libvirt_is_in_use_before_its_first_answer() -> None:
    async with watched(settle=False) as world:
        world.libvirt.hang()
        assert (await world.look()).source is Source.SILENCE


async def test_a_hung_libvirt_is_asked_again_until_it_answers() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.hang()
        asked = len(world.libvirt.questions)
        await trio.sleep(60)
        assert world.watch.fault == f"no answer within {QUESTION_S:g} s"
        assert 10 <= len(world.libvirt.questions) - asked <= 20
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.watch.next_answer)
            await trio.sleep(1)
            world.libvirt.go_on()
        assert world.watch.answers
        assert world.changes == []


async def test_what_happened_while_libvirt_was_down_is_found_when_it_is_back() -> None:
    async with watched() as world:
        await running(world)
        domain = world.libvirt.domains[A]
        world.libvirt.stop()
        domain.state, domain.reason, domain.domain_id = 5, 3, -1
        await trio.sleep(5)
        world.libvirt.up = True  # back, and it has seen how QEMU ended
        await trio.sleep(6)
        assert world.happened == [(C.FAILED,)]
        # A second restart forgets the reason, which is no news.
        world.libvirt.stop()
        await trio.sleep(5)
        world.libvirt.restart()
        await trio.sleep(12)
        assert world.happened == [(C.FAILED,)]


# -- channels ------------------------------------------------------------------------------------


async def test_the_sockets_of_a_domain_are_told_when_it_starts_and_when_it_ends() -> None:
    async with watched() as world:
        await running(world)
        assert world.channels == [(A, (SOCKET,))]
        await world.libvirt.destroy(world.libvirt.domains[A])
        await trio.sleep(1)
        assert world.channels == [(A, (SOCKET,)), (A, ())]


async def test_a_port_that_is_plugged_in_is_found() -> None:
    async with watched() as world:
        await running(world)
        world.libvirt.domains[A].sockets = ("/new",)
        world.libvirt.print_event("event 'device-added' for domain 'a': channel2")
        await trio.sleep(1)
        assert world.channels[-1] == (A, ("/new",))


async def test_a_hung_qemu_keeps_only_its_own_channel_from_being_found() -> None:
    async with watched() as world:
        world.libvirt.define(A, "a", [SOCKET]).hung = True
        await world.libvirt.start(world.libvirt.domains[A])
        await running(world, B, "b")
        await trio.sleep(10)
        assert world.channels == [(B, (SOCKET,))]
        assert (await world.look(A)).standing is Standing.RUNNING
        world.libvirt.domains[A].hung = False
        await trio.sleep(60)
        assert world.channels == [(B, (SOCKET,)), (A, (SOCKET,))]


async def test_an_answer_about_a_domain_that_has_ended_is_dropped() -> None:
    async with watched() as world:
        domain = world.libvirt.define(A, "a", [SOCKET])
        domain.hung = True
        await world.libvirt.start(domain)
        await trio.sleep(0.5)
        await world.libvirt.destroy(domain)
        await trio.sleep(0.5)
        domain.hung = False
        await trio.sleep(60)
        assert world.channels == [(A, ())]


async def test_a_domain_that_ends_before_it_is_asked_about_again_disturbs_nothing() -> None:
    async with watched() as world:
        domain = world.libvirt.define(A, "a", [SOCKET])
        domain.hung = True
        await world.libvirt.start(domain)
        await trio.sleep(4)  # one question was in vain, and is to be repeated
        await world.libvirt.destroy(domain)
        await trio.sleep(60)
        await running(world, B, "b")
        assert world.channels == [(A, ()), (B, (SOCKET,))]


async def test_many_domains_are_described_by_few_commands() -> None:
    async with watched() as world:
        asked = len(world.libvirt.questions)
        for number in range(100):
            uuid = f"{number:08x}{A[8:]}"
            domain = world.libvirt.define(uuid, f"vm-{number}", [f"/{number}"])
            domain.state, domain.reason, domain.domain_id = RUNNING, 1, number
        await trio.sleep(1)
        assert len(world.channels) == 100
        assert len(world.libvirt.questions) - asked <= 10


def test_the_clock_is_fake(autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
