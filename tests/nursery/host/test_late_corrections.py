"""A VM that has answered is not reset by a host that was stopped, in whatever order its tasks run.

A stall is a jump of the clock over the moment of a decision. Either the guest's answer is in the
channel by then, behind more than its reader takes at once; or the whole machine stood still, and
the guest goes on a little later than its host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.host import (
    BrakeSettings,
    CorrectiveCommands,
    CorrectiveSettings,
    LibvirtSettings,
)
from hbtrio.fsm.ownership import NEXT_STEP_S, Owner
from hbtrio.wire.link_messages import Reporting, RoundCommand
from hbtrio.wire.vocabulary import Event
from support.fake_libvirt import ANSWER_S, FakeDomain
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world
from support.linked_host import linked
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.slow

#: More than a guest may send at once, so that its reader takes a rest.
FLOOD: Final = (b"x" * 3999 + b"\n") * 4

BEFORE_S: Final = 0.05

#: How much later than its host a guest goes on, when the whole machine stood still.
LATER_S: Final = 0.3

#: Seconds of ``no_io_for_s``.
OBSERVED_S: Final = 5.0

STALLS = pytest.mark.parametrize("stall_s", [0.1, 0.75, 3.0])


def reset_world(**settings: Any) -> AbstractAsyncContextManager[HostWorld]:
    return host_world(
        corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}")),
        corrective=CorrectiveSettings(**settings),
        brake=BrakeSettings(share=1.0),
        libvirt=LibvirtSettings(enabled="on"),
        runs=lambda _: FakeRun(),
    )


async def running(world: HostWorld) -> tuple[ScriptedGuest, FakeDomain]:
    guest = world.guest()
    domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
    await world.libvirt.start(domain)
    guest.appear()
    await world.at(4.5)
    assert world.channel(guest).heartbeating
    return guest, domain


def falls_silent(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


def answers_behind_a_flood(guest: ScriptedGuest) -> None:
    guest.peer.send_bytes(FLOOD, cut=4096)
    guest.answer_challenge()
    guest.answers_after_s = 0.0


Prepare = Callable[[HostWorld, ScriptedGuest], Awaitable[None]]


async def fails(_: HostWorld, guest: ScriptedGuest) -> None:
    falls_silent(guest)


async def fails_under_a_vote(world: HostWorld, guest: ScriptedGuest) -> None:
    """So it is decided anew once the vote has lapsed, after fresh challenges."""
    await world.vim_vote(guest, Event.REBOOT)
    falls_silent(guest)


def reset_at(prepare: Prepare, **settings: Any) -> float:
    """When the command runs on a host that is on time, for a guest that stays silent."""

    async def scenario() -> float:
        async with reset_world(**settings) as world:
            guest, _ = await running(world)
            await prepare(world, guest)
            await world.sleep(120)
            (moment,) = world.processes.started
            return moment.time_s

    return trio.run(scenario, clock=MockClock(autojump_threshold=0))


@STALLS
def test_an_answer_in_the_channel_while_libvirt_is_asked(stall_s: float) -> None:
    at_s = reset_at(fails) - ANSWER_S / 2

    async def scenario(clock: MockClock) -> tuple[int, bool]:
        async with reset_world() as world:
            guest, _ = await running(world)
            falls_silent(guest)
            await world.at(at_s)
            answers_behind_a_flood(guest)
            clock.jump(stall_s)
            await world.sleep(30)
            return len(world.processes.started), world.channel(guest).heartbeating

    assert in_every_order(scenario) == [(0, True)] * ORDERS


# -- the fresh challenges -----------------------------------------------------------------------


@STALLS
def test_an_answer_in_the_channel_at_the_end_of_the_fresh_challenges(
    stall_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The instance is back: it does not fail anew, and no command comes up for decision."""
    caplog.set_level("INFO", "hbtrio.corrective")
    # After the challenges it is held for an interval, and libvirt is asked.
    at_s = reset_at(fails_under_a_vote) - ANSWER_S - 1.0 - BEFORE_S

    async def scenario(clock: MockClock) -> tuple[int, bool]:
        async with reset_world() as world:
            guest, _ = await running(world)
            await fails_under_a_vote(world, guest)
            await world.at(at_s)
            answers_behind_a_flood(guest)
            clock.jump(stall_s)
            await world.sleep(30)
            return len(world.processes.started), world.channel(guest).heartbeating

    assert in_every_order(scenario) == [(0, True)] * ORDERS
    assert [line for line in caplog.messages if "not run: the instance is" in line] == []


def test_a_machine_that_stood_still_at_the_end_of_the_fresh_challenges(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hbtrio.corrective")
    at_s = reset_at(fails_under_a_vote) - ANSWER_S - 1.0 - BEFORE_S

    async def scenario(clock: MockClock) -> int:
        async with reset_world() as world:
            guest, _ = await running(world)
            await fails_under_a_vote(world, guest)
            await world.at(at_s)
            clock.jump(3.0)
            await world.sleep(LATER_S)
            guest.answer_challenge()
            guest.answers_after_s = 0.0
            await world.sleep(30)
            return len(world.processes.started)

    assert in_every_order(scenario) == [0] * ORDERS
    assert [line for line in caplog.messages if "not run: the instance is" in line] == []


# -- no_io_for_s --------------------------------------------------------------------------------


@STALLS
def test_an_answer_in_the_channel_at_the_end_of_the_observation(stall_s: float) -> None:
    """libvirt is asked for the traffic, and once more for the state, after it."""
    at_s = reset_at(fails, no_io_for_s=OBSERVED_S) - 2 * ANSWER_S - BEFORE_S

    async def scenario(clock: MockClock) -> tuple[int, bool]:
        async with reset_world(no_io_for_s=OBSERVED_S) as world:
            guest, _ = await running(world)
            falls_silent(guest)
            await world.at(at_s)
            answers_behind_a_flood(guest)
            clock.jump(stall_s)
            await world.sleep(30)
            return len(world.processes.started), world.channel(guest).heartbeating

    assert in_every_order(scenario) == [(0, True)] * ORDERS


def test_a_machine_that_stood_still_at_the_end_of_the_observation() -> None:
    """A VM that goes on after its host has time to do I/O before it is looked at."""
    at_s = reset_at(fails, no_io_for_s=OBSERVED_S) - 2 * ANSWER_S - BEFORE_S

    async def scenario(clock: MockClock) -> tuple[int, list[str]]:
        async with reset_world(no_io_for_s=OBSERVED_S) as world:
            guest, domain = await running(world)
            falls_silent(guest)
            await world.at(at_s)
            clock.jump(3.0)
            await world.sleep(LATER_S)
            domain.requests += 1
            await world.sleep(30)
            causes = [report.cause for report in world.host.reports.recent if report.cause]
            return len(world.processes.started), causes

    assert in_every_order(scenario) == [(0, ["busy"])] * ORDERS


# -- confirm ------------------------------------------------------------------------------------


@STALLS
def test_a_refusal_by_confirm_that_has_come(stall_s: float) -> None:
    """The command ends 50 ms before its limit."""
    limit_s = 30.0
    refuses = FakeRun(exit_code=1, stdout=b"under repair\n", delay_s=limit_s - BEFORE_S)

    async def scenario(clock: MockClock) -> list[str]:
        commands = CorrectiveCommands(reboot=("reset", "{uuid}"), timeout_s=limit_s)
        async with host_world(
            corrective_commands=commands,
            corrective=CorrectiveSettings(confirm=("ask",)),
            brake=BrakeSettings(share=1.0),
            runs=lambda _: refuses,
        ) as world:
            guest = await world.heartbeating()
            await world.at(4.5)
            falls_silent(guest)
            while not world.processes.started:
                await world.sleep(0.1)
            await world.at(world.processes.started[0].time_s + limit_s - 2 * BEFORE_S)
            clock.jump(stall_s)
            await world.sleep(5)
            return [report.reason for report in world.host.reports.recent if report.cause]

    assert in_every_order(scenario) == [["reboot not run: under repair"]] * ORDERS


# -- an orchestrator's action -------------------------------------------------------------------


@pytest.mark.parametrize(("stall_s", "before"), [(BEFORE_S, 1000), (0.1, 0), (0.75, 0), (3.0, 0)])
def test_a_notice_in_the_link_when_the_vote_before_it_lapses(stall_s: float, before: int) -> None:
    """The VIM goes on with its action: nobody else gets the instance in between.

    Also behind others, more than the link's reader takes in one turn.
    """

    async def scenario(clock: MockClock) -> tuple[bool, Owner]:
        async with linked() as on:
            guest = await on.world.heartbeating()
            await on.world.at(4.5)
            await on.world.vim_vote(guest, Event.STOP)
            freed: list[float] = []

            async def watch() -> None:
                await on.world.host.owners.until_free(guest.uuid)
                freed.append(trio.current_time())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await on.world.at(4.5 + NEXT_STEP_S - BEFORE_S)
                notice = RoundCommand("c-1", guest.uuid, Event.STOP, False, 1.0, 1e6, "boot-1")
                await on.agent.post(*[Reporting("", False)] * before, notice)
                clock.jump(stall_s)
                await on.world.sleep(5)
                nursery.cancel_scope.cancel()
            return bool(freed), on.world.host.owners.of(guest.uuid).owner

    assert in_every_order(scenario) == [(False, Owner.ORCHESTRATOR)] * ORDERS
