"""Corrective commands beside libvirt: what its answer, confirm and no_io_for_s allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest

from hbtrio.config.host import (
    AgentLinkSettings,
    BrakeSettings,
    CorrectiveCommands,
    CorrectiveSettings,
    LibvirtSettings,
)
from hbtrio.lab.virsh_output import CRASHED
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.reports import Report
from hbtrio.wire.vocabulary import CorrectiveAction, Health
from support.fake_libvirt import FakeDomain
from support.fake_processes import HANGS, FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, now
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

COMMANDS = CorrectiveCommands(
    reboot=("reset", "{uuid}", "{state}"), reboot_gone=("start", "{uuid}")
)


def libvirt_world(
    *,
    commands: CorrectiveCommands = COMMANDS,
    run: FakeRun | None = None,
    answers: list[FakeRun] | None = None,
    memory: HostMemory | None = None,
    agent: AgentLinkSettings | None = None,
    **settings: Any,
) -> AbstractAsyncContextManager[HostWorld]:
    def runs(argv: Sequence[str]) -> FakeRun:
        return answers.pop(0) if argv[0] == "ask" and answers else run or FakeRun()

    return host_world(
        corrective_commands=commands,
        corrective=CorrectiveSettings(**settings),
        brake=BrakeSettings(share=1.0),
        libvirt=LibvirtSettings(enabled="on"),
        agent=agent or AgentLinkSettings(),
        memory=memory,
        runs=runs,
    )


@attrs.frozen
class Machine:
    """A guest in a running domain."""

    guest: ScriptedGuest
    domain: FakeDomain


async def running(world: HostWorld) -> Machine:
    guest = world.guest()
    domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
    await world.libvirt.start(domain)
    guest.appear()
    await world.sleep(3)
    assert world.channel(guest).heartbeating
    return Machine(guest, domain)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


def falls_silent(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


def started(world: HostWorld) -> list[tuple[str, ...]]:
    return [moment.argv for moment in world.processes.started if moment.argv[0] != "ask"]


def told(world: HostWorld, kind: str) -> list[Report]:
    return [report for report in world.host.reports.recent if report.kind == kind]


async def test_a_vm_that_runs_and_is_silent_is_reset_and_the_event_has_the_answer() -> None:
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.sleep(10)
        assert started(world) == [("reset", machine.guest.uuid, "running: booted")]
        (report,) = told(world, "corrective")
        assert (report.outcome, report.state) == ("done", "running: booted")


async def test_one_that_is_paused_between_the_loss_and_the_command_is_left_alone() -> None:
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        await world.libvirt.suspend(machine.domain, 3)
        await world.sleep(120)
        assert started(world) == []


async def test_while_libvirt_is_silent_nothing_is_run_and_then_it_is_decided_anew() -> None:
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        world.libvirt.hung = True
        since = now()
        while not told(world, "not-acted"):
            await world.sleep(0.1)
        # It was held for an interval, and then libvirt had 2 s.
        assert now() - since == pytest.approx(1 + 2, abs=0.11)
        await world.sleep(60)
        assert started(world) == []
        (report,) = told(world, "not-acted")
        assert (report.cause, report.alarm) == ("libvirt-silent", True)
        assert report.state == "libvirt unknown"
        world.libvirt.hung = False
        back = now()
        await world.sleep(60)
        assert [argv[0] for argv in started(world)] == ["reset"]
        # At least 7 s of silence to fresh challenges.
        assert world.processes.started[0].time_s >= back + 7
        assert len(told(world, "not-acted")) == 1


async def test_one_that_answers_fresh_challenges_alone_is_left_alone_then() -> None:
    """The one that it was sent before it was lost is gone, as it had not read it."""
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        world.libvirt.hang()
        while not told(world, "not-acted"):
            await world.sleep(0.1)
        machine.guest.answers_after_s = 0.0
        world.libvirt.go_on()
        await world.sleep(20)
        assert started(world) == []
        assert world.channel(machine.guest).heartbeating


async def test_the_time_of_silence_begins_anew_with_an_init() -> None:
    """Its guest is starting, although it does not answer yet."""
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        world.libvirt.hang()
        while not told(world, "not-acted"):
            await world.sleep(0.1)
        world.libvirt.go_on()
        for _ in range(5):
            await world.sleep(4)
            machine.guest.send_init()
        assert started(world) == []
        said = now()
        await world.sleep(60)
        assert world.processes.started[0].time_s >= said + 7


async def test_a_vm_kept_after_a_panic_is_reset() -> None:
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.libvirt.become(machine.domain, CRASHED, 1, "Crashed Panicked")
        await world.sleep(10)
        assert started(world) == [("reset", machine.guest.uuid, "crashed: panicked")]


async def test_a_vm_whose_qemu_failed_is_started_once() -> None:
    async with libvirt_world() as world:
        machine = await running(world)
        machine.guest.vanish()
        await world.libvirt.kill(machine.domain)
        await world.sleep(60)
        assert started(world) == [("start", machine.guest.uuid)]


@pytest.mark.parametrize("tells", [True, False])
async def test_a_vm_that_failed_at_an_unknown_time_is_not_started(tells: bool) -> None:
    """libvirt was away for minutes: the VM may run elsewhere by now, whatever an event says."""
    async with libvirt_world() as world:
        machine = await running(world)
        world.libvirt.hang()
        await world.sleep(10)
        machine.guest.vanish()
        machine.domain.state, machine.domain.reason, machine.domain.domain_id = 5, 3, -1
        await world.sleep(100)
        world.libvirt.go_on()
        if tells:
            world.libvirt.print_event("event 'lifecycle' for domain 'web-1': Stopped Failed")
        await world.sleep(60)
        assert [report.reason for report in told(world, "loss")] == ["shut off: crashed"]
        assert started(world) == []
        [report] = told(world, "not-acted")
        assert (report.cause, report.alarm) == ("unsure", True)


async def test_one_that_failed_under_an_agent_is_not_started() -> None:
    """The VIM may have started it elsewhere."""
    async with libvirt_world(agent=AgentLinkSettings(connect="unix:/agent")) as world:
        world.host.set_reporting("", enabled=True)
        machine = await running(world)
        world.host.set_reporting(machine.guest.uuid, enabled=True)
        machine.guest.vanish()
        await world.libvirt.kill(machine.domain)
        await world.sleep(60)
        assert started(world) == []
        assert [report.cause for report in told(world, "not-acted")] == ["unsure"]


async def test_one_that_failed_before_its_turn_came_anew_is_not_started() -> None:
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        world.libvirt.hang()
        await world.sleep(5)
        world.libvirt.go_on()
        await world.libvirt.kill(machine.domain)
        await world.sleep(1)
        machine.guest.vanish()
        await world.sleep(60)
        assert started(world) == []
        assert [report.cause for report in told(world, "not-acted")] == ["libvirt-silent", "unsure"]


async def test_one_that_is_only_remembered_is_not_started(store: MemoryStore) -> None:
    async with libvirt_world(memory=store.memory()) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.restart_host(store.memory())
        await world.sleep(5)
        machine.guest.vanish()
        await world.libvirt.kill(machine.domain)
        await world.sleep(60)
        assert [report.reason for report in told(world, "loss")] == ["shut off: crashed"]
        assert started(world) == []
        assert [report.cause for report in told(world, "not-acted")] == ["unsure"]


async def test_why_nothing_will_be_done_is_in_status_until_it_is_back() -> None:
    async with libvirt_world(commands=CorrectiveCommands(reboot=("reset", "{uuid}"))) as world:
        machine = await running(world)
        uuid = machine.guest.uuid
        machine.guest.vanish()
        await world.libvirt.kill(machine.domain)
        await world.sleep(60)
        [report] = told(world, "not-acted")
        assert report.alarm
        why = world.host.corrective.why_not(uuid)
        assert why is not None
        assert (why.cause, why.text) == ("down", "shut off: crashed")
        machine.guest.appear()
        await world.libvirt.start(machine.domain)
        await world.sleep(60)
        assert world.channel(machine.guest).heartbeating
        assert world.host.corrective.why_not(uuid) is None


@pytest.mark.parametrize("reason", [1, 2, 4, 5])
async def test_a_vm_that_was_shut_off_is_never_started(reason: int) -> None:
    async with libvirt_world() as world:
        machine = await running(world)
        falls_silent(machine.guest)
        machine.guest.vanish()
        await world.libvirt.become(machine.domain, 5, reason, "Stopped Whatever")
        await world.sleep(200)
        assert started(world) == []


async def test_a_command_that_failed_without_a_reset_is_tried_again() -> None:
    async with libvirt_world(run=FakeRun(1, delay_s=1.0)) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.sleep(30)
        assert len(started(world)) >= 2
        await world.sleep(1000)
        assert len(started(world)) == 6
        assert {report.outcome for report in told(world, "corrective")} == {"failed"}


async def test_a_command_that_failed_after_a_reset_is_not() -> None:
    async with libvirt_world(run=FakeRun(1, delay_s=1.0)) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not started(world):
            await world.sleep(0.1)
        world.libvirt.reset(machine.domain)
        await world.sleep(60)
        assert len(started(world)) == 1
        assert world.channel(machine.guest).restart.window is not None


async def test_a_command_that_was_killed_at_its_time_limit_is_not(store: MemoryStore) -> None:
    """It counts, in the next run of the host as well: the VM may have been reset."""
    once = attrs.evolve(COMMANDS, per_hour=1)
    async with libvirt_world(run=HANGS, memory=store.memory(), commands=once) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.sleep(110)
        assert [report.outcome for report in told(world, "corrective")] == ["timed-out"]
        assert len(started(world)) == 1
        assert world.channel(machine.guest).restart.window is not None
        # At the end of RESTART it is lost again, and the limit is used up.
        await world.sleep(60)
        assert [report.cause for report in told(world, "not-acted")] == ["limit"]
        assert len(started(world)) == 1
        assert len((await store.recall()).corrective_runs) == 1


@pytest.mark.parametrize("away_s", [0.5, 1.5])
async def test_a_command_that_failed_while_events_may_have_been_missed_is_not(
    away_s: float,
) -> None:
    """libvirtd ends with its reset: whether the VM was reset, no event tells any more."""
    async with libvirt_world(run=FakeRun(1, delay_s=1.0)) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not started(world):
            await world.sleep(0.1)
        world.libvirt.stop()
        await world.sleep(away_s)
        world.libvirt.restart()
        await world.sleep(60)
        assert len(started(world)) == 1
        assert world.channel(machine.guest).restart.window is not None


async def test_confirm_may_refuse_and_is_asked_again_each_minute() -> None:
    answers = [FakeRun(1, stdout=b"under repair\nnot shown\n"), FakeRun(1), FakeRun(0)]
    async with libvirt_world(answers=answers, confirm=("ask", "{uuid}")) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.sleep(60)
        assert started(world) == []
        assert [(r.cause, r.reason) for r in told(world, "not-acted")] == [
            ("confirm", "reboot not run: under repair")
        ]
        await world.sleep(200)
        assert [argv[0] for argv in started(world)] == ["reset"]
        assert answers == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (FakeRun(fault="No such file or directory"), "confirm: ask: No such file or directory"),
        (HANGS, "confirm: no answer within 60 s"),
        (FakeRun(signal=9), "confirm: signal 9: "),
    ],
    ids=["missing", "hung", "killed"],
)
async def test_a_confirm_that_does_not_answer_refuses(answer: FakeRun, why: str) -> None:
    async with libvirt_world(answers=[answer] * 3, confirm=("ask", "{uuid}")) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.sleep(100)
        assert started(world) == []
        assert [(r.cause, r.reason) for r in told(world, "not-acted")] == [
            ("confirm", f"reboot not run: {why}")
        ]


async def test_libvirt_is_asked_again_after_confirm() -> None:
    """It takes a while, in which the VM may be paused and libvirtd hang."""
    async with libvirt_world(
        answers=[FakeRun(delay_s=5.0)] * 3, confirm=("ask", "{uuid}")
    ) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not world.processes.started:
            await world.sleep(0.1)
        world.libvirt.hang()
        machine.domain.state, machine.domain.reason = 3, 3
        await world.sleep(60)
        assert started(world) == []
        assert [report.cause for report in told(world, "not-acted")] == ["libvirt-silent"]


async def test_libvirt_is_asked_again_after_the_observation() -> None:
    """A pause of which no event has told."""
    async with libvirt_world(no_io_for_s=2) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        await world.sleep(2)
        machine.domain.state, machine.domain.reason = 3, 3
        await world.sleep(60)
        assert started(world) == []


async def test_a_vm_whose_qemu_hangs_is_not_known_to_be_idle() -> None:
    async with libvirt_world(no_io_for_s=2) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        machine.domain.hung = True
        await world.sleep(60)
        assert started(world) == []
        [report] = told(world, "not-acted")
        assert (report.cause, report.alarm) == ("busy", True)
        assert report.reason.startswith("reboot not run: it is unknown whether")


async def test_a_dry_run_says_what_it_would_have_run() -> None:
    async with libvirt_world(dry_run=True) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        await world.sleep(60)
        assert started(world) == []
        (report,) = told(world, "corrective")
        argv = ["reset", machine.guest.uuid, "running: booted"]
        assert (report.outcome, report.reason) == (
            "dry-run",
            f"reboot would have been run: {argv}",
        )
        assert world.channel(machine.guest).restart.window is None


async def test_one_whose_packets_grow_is_reported_until_they_stop() -> None:
    async with libvirt_world(no_io_for_s=30) as world:
        machine = await running(world)
        falls_silent(machine.guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        for _ in range(120):
            machine.domain.requests += 1
            await world.sleep(1)
        (report,) = told(world, "not-acted")
        assert (report.cause, report.alarm) == ("busy", True)
        assert "disk requests and sent packets in 30 s" in report.reason
        assert started(world) == []
        await world.sleep(200)
        assert [argv[0] for argv in started(world)] == ["reset"]


async def test_one_that_is_ill_is_reset_although_its_disk_is_busy() -> None:
    """That its kernel lives is no news: it answers."""
    async with libvirt_world(no_io_for_s=30) as world:
        machine = await running(world)
        guest = machine.guest
        guest.health, guest.action = Health.UNHEALTHY, CorrectiveAction.REBOOT
        for _ in range(60):
            machine.domain.requests += 1
            await world.sleep(1)
        assert [argv[0] for argv in started(world)] == ["reset"]
        assert told(world, "not-acted") == []
