"""Both halves of the application API together: our server with an application on our SDK."""

from __future__ import annotations

import pytest
import trio

from hbtrio.app import Accept, Application, Healthy, Notice, Reject, Unhealthy, Vote
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.vocabulary import CorrectiveAction, VoteResult
from support.guest_world import STOP_NOTICE, STOP_VOTE, response, said
from support.raw_application import app_world

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_an_application_votes_is_told_and_says_how_it_is() -> None:
    told: list[tuple[str, int]] = []
    health: list[Healthy | Unhealthy] = [Healthy()]

    async def vote(_: Vote) -> Accept | Reject:
        await trio.sleep(1.5)
        return Reject("a backup is running")

    async def notice(notice: Notice) -> None:
        told.append((notice.event, round(notice.window_s)))

    async def feel() -> Healthy | Unhealthy:
        return health[0]

    async with app_world() as bench:
        app = Application(
            "db",
            socket=bench.path,
            shutdown_notice_s=4,
            on_vote=vote,
            on_notice=notice,
            on_health=feel,
        )
        async with app:
            await app.wait_registered()
            await trio.sleep_until(2.0)
            bench.device.send(STOP_VOTE)
            await trio.sleep_until(4.0)
            bench.device.send(STOP_NOTICE)
            await trio.sleep_until(5.0)
            assert said(bench.device.unread()) == [
                (3.5, response(STOP_VOTE, VoteResult.REJECT, "a backup is running")),
                (4.0, response(STOP_NOTICE, VoteResult.COMPLETE)),
            ]
            assert told == [("stop", 4)]
            assert bench.applications.health() == [HealthStatus(True)]
            health[0] = Unhealthy("disk full", CorrectiveAction.REBOOT)
            await trio.sleep_until(10.0)
            assert bench.applications.health() == [
                HealthStatus(False, CorrectiveAction.REBOOT, "disk full", "db")
            ]
        await bench.settle()
        assert bench.applications.health() == []


async def test_an_application_is_registered_again_with_a_guest_that_is_started_again() -> None:
    async with app_world() as bench, Application("db", socket=bench.path) as app:
        await app.wait_registered()
        await bench.settle()
        bench.serving.cancel()
        await bench.settle()
        assert not app.registered
        await trio.sleep_until(20.0)
        bench.serving = trio.CancelScope()
        bench.nursery.start_soon(bench.serve, await open_unix_listener(bench.path))
        await app.wait_registered()
        assert list(bench.applications.handlers(STOP_VOTE)) == ["db"]
        assert trio.current_time() < 31.0
