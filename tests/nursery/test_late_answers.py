"""An answer that has arrived beats the deadline, in whatever order the tasks run.

A stall is a jump of the clock over the deadline, with the answer already where it arrives: in a
socket, a channel, a script's exit. The process then finds both at once.
"""

from __future__ import annotations

import math
import os
import time
from itertools import count
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.ballot import Ballot, Outcome
from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.nursery.windows import Answer, BallotWindow, Window
from hbtrio.policy.allowances import told_timeout_s
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import RoundResult
from hbtrio.system.runner import SystemProcesses
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult, WindowKind
from support.agent_world import agent_world
from support.guest_world import STOP_VOTE, response, said
from support.host_world import NOTICE, VOTE, Reply, host_world, stay_silent
from support.raw_application import app_world, init
from support.rounds_cases import agrees_s
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.slow

#: How long before the deadline the process stalls.
BEFORE_S = 0.05

#: More than an application or a guest may send at once, so that its reader takes a rest.
FLOOD = (b"x" * 3999 + b"\n") * 4

STALLS = pytest.mark.parametrize("stall_s", [0.1, 0.6])

REJECT = VoteResult.REJECT
NO = Answer(REJECT, "busy")


# -- the window itself ------------------------------------------------------------------------


@STALLS
@pytest.mark.parametrize("hops", [1, 3, 5])
def test_an_answer_on_its_way_through_several_tasks(stall_s: float, hops: int) -> None:
    async def scenario(clock: MockClock) -> VoteResult:
        exited = trio.Event()

        async def handle(_: BallotWindow) -> Answer:
            await through(hops)
            return NO

        async def through(left: int) -> None:
            if left == 0:
                await exited.wait()
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(through, left - 1)

        ballot = Ballot(NotificationType.REVOCABLE, ["script"])
        guard = OnTimeGuard(math.inf)
        window = BallotWindow(WindowKind.VOTE, 8.0, ballot, lambda _: None, guard)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(window.hold, {"script": handle})
            await trio.sleep(8.0 - BEFORE_S)
            exited.set()
            clock.jump(stall_s)
        return ballot.settled.result

    assert in_every_order(scenario) == [REJECT] * ORDERS


@STALLS
def test_an_answer_that_only_its_source_has(stall_s: float) -> None:
    """Nobody is woken by it: the deadline has to go and get it."""

    async def scenario(clock: MockClock) -> str:
        arrived: list[str] = []

        def read() -> bool:
            if arrived:
                window.close(arrived.pop())
            return False

        window = Window[str](8.0, OnTimeGuard(math.inf), sources=[read])
        async with trio.open_nursery() as nursery:

            async def stall() -> None:
                await trio.sleep(8.0 - BEFORE_S)
                arrived.append("no")
                clock.jump(stall_s)

            nursery.start_soon(stall)
            return await window.wait()

    assert in_every_order(scenario) == ["no"] * ORDERS


@STALLS
def test_an_answer_that_a_task_has_still_to_read(stall_s: float) -> None:
    """A source that says so is waited for, as for a store that takes what came before."""

    async def scenario(clock: MockClock) -> str:
        backlog = 0

        def at_work() -> bool:
            return backlog > 0

        async def read() -> None:
            nonlocal backlog
            while backlog:
                await trio.sleep(0.005)
                backlog -= 1
            window.close("no")

        window = Window[str](8.0, OnTimeGuard(math.inf), sources=[at_work])
        async with trio.open_nursery() as nursery:

            async def stall() -> None:
                nonlocal backlog
                await trio.sleep(8.0 - BEFORE_S)
                backlog = 9
                nursery.start_soon(read)
                clock.jump(stall_s)

            nursery.start_soon(stall)
            return await window.wait()

    assert in_every_order(scenario) == ["no"] * ORDERS


# -- the guest ----------------------------------------------------------------------------------


@STALLS
@pytest.mark.parametrize(("own_s", "flood"), [(5, FLOOD), (1000, b""), (1000, FLOOD)])
def test_an_application_s_answer_in_its_socket(stall_s: float, own_s: int, flood: bytes) -> None:
    """At the end of the application's own window, or of the VM's.

    Also where its reader is taking a rest, because the application has sent a lot before.
    """

    async def scenario(clock: MockClock) -> list[tuple[float, object]]:
        async with app_world() as bench:
            app = await bench.join(init("web", vote_secs=own_s, heartbeat_interval_ms=60_000))
            await trio.sleep_until(2.0)
            bench.device.send(STOP_VOTE)
            asked = await app.asked()
            await trio.sleep_until(2.0 + min(8, own_s) - BEFORE_S)
            app.send_bytes(flood)
            await bench.settle()
            app.answer(asked, REJECT, "busy")
            clock.jump(stall_s)
            await bench.settle()
            return said(bench.device.unread())

    at_s = round(2.0 + min(8, own_s) - BEFORE_S + stall_s, 6)
    expected = [(at_s, response(STOP_VOTE, REJECT, "busy"))]
    assert in_every_order(scenario) == [expected] * ORDERS


async def test_the_exit_of_a_real_script(tmp_path: Path) -> None:
    """It ends while the process stands still over the end of the window."""
    script, leader, go = tmp_path / "refuse", tmp_path / "pid", tmp_path / "go"
    os.mkfifo(leader)
    os.mkfifo(go)
    script.write_text(f"#!/bin/sh\necho $$ >{leader}\nread _ <{go}\necho busy\nexit 1\n")
    script.chmod(0o755)
    ballot = Ballot(NotificationType.REVOCABLE, [script.name])
    guard = OnTimeGuard(math.inf)
    window = BallotWindow(WindowKind.VOTE, 3.0, ballot, lambda _: None, guard)
    async with SystemProcesses() as processes, trio.open_nursery() as nursery:
        handlers = EventScripts(str(script), processes).handlers(STOP_VOTE)
        nursery.start_soon(window.hold, handlers)
        with trio.fail_after(2.5):
            pid = int(await trio.to_thread.run_sync(leader.read_text, abandon_on_cancel=True))
        # The stall lasts until the script has ended and the window's time is over. The script is
        # looked at and not reaped, which is for its runner to do.
        go.write_text("\n")
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
        time.sleep(window.remaining_s(trio.current_time()) + 0.1)  # noqa: ASYNC251
    assert ballot.settled == Outcome(REJECT, "busy")


# -- the host -----------------------------------------------------------------------------------


@STALLS
@pytest.mark.parametrize("flood", [b"", FLOOD])
@pytest.mark.parametrize("notification", [VOTE, NOTICE])
def test_a_guest_s_answer_in_its_channel(
    stall_s: float, flood: bytes, notification: NotificationType
) -> None:
    """Also where its reader is taking a rest, because the guest has sent a lot before."""

    async def scenario(clock: MockClock) -> Outcome | None:
        async with host_world() as world:
            guest = await world.heartbeating()
            guest.reply = stay_silent
            await world.at(4.5)
            current = world.host.open_round(guest.uuid, Event.STOP, notification)
            await world.at(4.5 + current.window.seconds - BEFORE_S)
            assert guest.asked is not None
            if flood:
                guest.peer.send_bytes(flood, cut=4096)
            guest.answer_vote(guest.asked, Reply(REJECT, "busy"))
            clock.jump(stall_s)
            await world.settle()
            return current.outcome

    refused = REJECT if notification is VOTE else VoteResult.ERROR
    assert in_every_order(scenario) == [Outcome(refused, "busy")] * ORDERS


@pytest.mark.parametrize("notification", [VOTE, NOTICE])
async def test_a_guest_that_sends_without_end_postpones_nothing(
    notification: NotificationType, autojump_clock: MockClock
) -> None:
    async with host_world() as world, trio.open_nursery() as nursery:
        guest = await world.heartbeating()
        guest.reply = stay_silent
        await world.at(4.5)
        current = world.host.open_round(guest.uuid, Event.STOP, notification)

        async def flood() -> None:
            while True:
                guest.peer.write(FLOOD)
                await guest.peer.wait_room()

        await world.at(4.5 + current.window.seconds - 1.0)
        guest.answers_after_s = None
        nursery.start_soon(flood)
        await current.done.wait()
        assert trio.current_time() == pytest.approx(4.5 + current.window.seconds)
        assert current.outcome is not None
        assert current.outcome.reason.startswith("no answer within")
        nursery.cancel_scope.cancel()


@STALLS
def test_a_restarted_guest_s_first_beat_in_its_channel(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> list[str]:
        async with host_world() as world:
            guest = await world.heartbeating()
            await world.at(4.5)
            world.channel(guest).outages.restarts("reboot")
            await world.settle()
            window = world.channel(guest).restart.window
            assert window is not None
            guest.answers_after_s = None
            guest.peer.close()
            guest.sends_init = False
            await world.at(window.deadline - 2 * BEFORE_S)
            guest.send_init()
            await world.at(window.deadline - BEFORE_S)
            guest.peer.send_bytes(FLOOD, cut=4096)
            guest.answer_challenge()
            clock.jump(stall_s)
            await world.settle()
            return [str(told[1]) for told in world.reports(guest, since=4.5)]

    assert in_every_order(scenario) == [["stopped", "heartbeating"]] * ORDERS


@STALLS
def test_a_guest_s_answer_in_its_channel_after_a_restart_that_failed(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> list[str]:
        async with host_world() as world:
            guest = await world.heartbeating()
            await world.at(4.5)
            guest.answers_after_s = None
            outages = world.channel(guest).outages
            outages.restarts("reboot")
            await world.at(10)
            outages.call_off("reboot", "it failed")
            await world.settle()
            window = world.channel(guest).restart.window
            assert window is not None
            await world.at(window.deadline - BEFORE_S)
            guest.peer.send_bytes(FLOOD, cut=4096)
            guest.answer_challenge()
            clock.jump(stall_s)
            await world.settle()
            return [str(told[1]) for told in world.reports(guest, since=4.5)]

    assert in_every_order(scenario) == [["stopped", "heartbeating"]] * ORDERS


# -- the agent ----------------------------------------------------------------------------------


@STALLS
@pytest.mark.parametrize(("before", "each_s"), [(0, 0.0), (6, 0.015)])
@pytest.mark.parametrize("vote", [True, False])
def test_a_host_s_report_in_its_link(
    stall_s: float, before: int, each_s: float, vote: bool, tmp_path: Path
) -> None:
    """Also behind others, each of which the store takes first, on a disk that is slow."""
    folders = count()

    async def scenario(clock: MockClock) -> RoundResult:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        async with agent_world(folder) as on:
            host = await on.bound_host()
            host.silent()
            asked = await on.ask(Event.STOP, vote=vote)
            assert asked.outcome is not None
            await on.at(trio.current_time() + agrees_s(asked.seconds) - BEFORE_S)
            on.worker.slow_s = each_s
            for _ in range(before):
                await host.report("heartbeating", reason="init answered")
            await host.outcome(host.commands[-1], REJECT if vote else VoteResult.ERROR, "busy")
            clock.jump(stall_s)
            return await asked.outcome.wait()

    refused = REJECT if vote else VoteResult.ERROR
    ends = in_every_order(scenario)
    assert [(end.result, end.reason) for end in ends] == [(refused, "busy")] * ORDERS


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize(("left_s", "is_sent"), [(0.2, True), (-0.05, False)])
def test_a_thaw_around_the_end_of_the_vim_s_timer(
    left_s: float, is_sent: bool, reported: bool, tmp_path: Path
) -> None:
    """What the agent has is sent while the VIM waits for it, and never later."""
    folders = count()

    async def scenario(clock: MockClock) -> list[tuple[str, str]]:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        async with agent_world(folder) as on:
            host = await on.bound_host()
            host.silent()
            asked = await on.ask(Event.STOP, vote=True)
            opened_at = trio.current_time()
            assert asked.outcome is not None
            # The agent is stopped before the host's window ends, and for longer than the window.
            await on.at(opened_at + 1.0)
            if reported:
                await host.outcome(host.commands[-1], REJECT, "busy")
            ends_at = opened_at + told_timeout_s(asked.seconds)
            clock.jump(ends_at - left_s - trio.current_time())
            await trio.sleep(20.0)
            end = await asked.outcome.wait()
            assert end.result is (REJECT if reported else VoteResult.ACCEPT)
            assert all(at < ends_at for at, *_ in on.vim.verdicts)
            return [(response, reason) for _, _, response, reason in on.vim.verdicts]

    verdict = ("reject", "busy") if reported else ("allow", "no answer within 9 s")
    assert in_every_order(scenario) == [[verdict] if is_sent else []] * ORDERS
