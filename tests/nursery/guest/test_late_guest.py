"""A stall of the guest over one of its deadlines, in whatever order its tasks then run.

What decides has arrived by then: in the channel, in a socket, as the end of a run.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.guest_session_table import SessionState
from hbtrio.nursery.guest.app_connection import UNREGISTERED_S
from hbtrio.nursery.guest.app_writer import UNREAD_S, AppWriter
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.port import SocketPort
from hbtrio.nursery.time_guard import run_guard
from hbtrio.nursery.windows import Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.wire.app_messages import AppChallenge
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, Challenge
from hbtrio.wire.vocabulary import CorrectiveAction, VoteResult
from support.fake_processes import FakeProcesses, FakeRun
from support.guest_world import STOP_VOTE, GuestWorld
from support.raw_application import app_world, init
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.slow

#: How long before the deadline the guest stalls.
BEFORE_S = 0.05

#: Short of what the on-time guard calls late, and beyond.
STALLS = pytest.mark.parametrize("stall_s", [0.1, 0.6, 0.75, 3.0])


@STALLS
def test_a_challenge_in_the_channel(stall_s: float) -> None:
    """The session is not begun again."""

    async def scenario(clock: MockClock) -> tuple[SessionState, int]:
        async with trio.open_nursery() as nursery:
            bench = GuestWorld()
            await bench.enable(nursery)
            await trio.sleep_until(bench.guest.session.deadline - BEFORE_S)
            bench.device.send(Challenge(7))
            clock.jump(stall_s)
            await trio.sleep(0.5)
            state, answers = bench.guest.session.state, len(bench.device.unread())
            nursery.cancel_scope.cancel()
        return state, answers

    assert in_every_order(scenario) == [(SessionState.ENABLED, 1)] * ORDERS


@STALLS
def test_a_registration_in_the_socket(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> float | None:
        async with app_world() as world:
            app = await world.join()
            await trio.sleep_until(1.0 + UNREGISTERED_S - BEFORE_S)
            app.send(init("web"))
            clock.jump(stall_s)
            await trio.sleep(3.0)
            return app.closed_at

    assert in_every_order(scenario) == [None] * ORDERS


@STALLS
@pytest.mark.parametrize("interval_ms", [400, 1000])
@pytest.mark.parametrize("after", [False, True])
def test_an_application_s_beat(stall_s: float, interval_ms: int, after: bool) -> None:
    """In the socket, or sent right after the stall, which was the whole machine's."""

    async def scenario(clock: MockClock) -> list[bool]:
        async with app_world() as world:
            app = await world.join(init("web", heartbeat_interval_ms=interval_ms))
            app.beats = False
            patience_s = 2 * interval_ms / 1000
            await trio.sleep_until(1.0 + patience_s - BEFORE_S)
            [(_, challenge)] = app.received_of(AppChallenge)
            assert isinstance(challenge, AppChallenge)
            if not after:
                app.beat(challenge)
            clock.jump(stall_s)
            await trio.sleep(0.02)
            healthy = [one.healthy for one in world.applications.health()]
            if after:
                app.beat(challenge)
            app.beats = True
            await trio.sleep(0.1)
            return healthy + [one.healthy for one in world.applications.health()]

    assert in_every_order(scenario) == [[True, True]] * ORDERS


@STALLS
def test_an_application_that_reads_again(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> list[str]:
        closed: list[str] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        for end in (ours, theirs):
            end.setblocking(False)
        port, guard = SocketPort(ours), OnTimeGuard(trio.current_time())
        with theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_guard, guard)
                writer = AppWriter(port, nursery, closed.append, guard)
                while writer.idle:
                    writer.send_message(AppChallenge(7))
                await trio.sleep(UNREAD_S - BEFORE_S)
                read_all(theirs)
                clock.jump(stall_s)
                await trio.sleep(3.0)
                assert writer.idle
                nursery.cancel_scope.cancel()
            port.close()
        return closed

    assert in_every_order(scenario) == [[]] * ORDERS


def read_all(end: socket.socket) -> None:
    with suppress(BlockingIOError):
        while end.recv(65536):
            pass


@STALLS
def test_the_end_of_a_health_run(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> tuple[list[str], int]:
        said: list[str] = []
        hung = 0

        def note_hung(_: object) -> None:
            nonlocal hung
            hung += 1

        processes = FakeProcesses({"health": FakeRun(1, b"ill", delay_s=30 - BEFORE_S / 2)})
        script = HealthScript("health", 30.0, processes, 1, CorrectiveAction.REBOOT)
        guard = OnTimeGuard(trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_guard, guard)
            nursery.start_soon(script.run, lambda one: said.append(one.reason), note_hung, guard)
            await trio.sleep_until(30 - BEFORE_S)
            clock.jump(stall_s)
            await trio.sleep(5.0)
            nursery.cancel_scope.cancel()
        return said, hung

    assert in_every_order(scenario) == [(["ill"], 0)] * ORDERS


class Rejecting:
    """An application that rejects what it is asked as soon as it is told to."""

    def __init__(self) -> None:
        self.told = trio.Event()

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        async def answer(_: BallotWindow) -> Answer:
            await self.told.wait()
            for _pass in range(4):  # as many tasks as an answer passes through
                await trio.lowlevel.checkpoint()
            return Answer(VoteResult.REJECT, "busy")

        return {"app": answer}

    def health(self) -> list[HealthStatus]:
        return []

    def known(self) -> Sequence[KnownVoter]:
        return []


@STALLS
def test_a_reject_beats_the_end_of_the_guest(stall_s: float) -> None:
    """A stopped guest finds signal and reject at once; a vote that is given up is consent."""

    async def scenario(clock: MockClock) -> list[VoteResult | str]:
        async with trio.open_nursery() as nursery:
            voters = Rejecting()
            bench = GuestWorld(voters=voters)
            await bench.enable(nursery)
            bench.device.send(STOP_VOTE)
            await trio.sleep(1.0)
            voters.told.set()
            clock.jump(stall_s)
            bench.guest.stop()
            await trio.sleep(5.0)
            heard = [one.message for one in bench.device.unread()]
            nursery.cancel_scope.cancel()
        return [
            one.vote_result if isinstance(one, ActionResponse) else type(one).__name__
            for one in heard
        ]

    assert in_every_order(scenario) == [[VoteResult.REJECT, "Exit"]] * ORDERS
