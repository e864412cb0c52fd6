"""The scripted guest in the background, as pytest's fixtures have it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio
import pytest

from hbtrio.app import Accept, Application, Healthy, Reject, Unhealthy, Vote
from hbtrio.app.sync import in_background
from hbtrio.testing import BackgroundGuest, Health, ScriptedGuest

pytest_plugins = ["hbtrio.testing.fixtures"]


def test_an_application_of_threads(hbtrio_guest: BackgroundGuest) -> None:
    health: list[Healthy | Unhealthy] = [Healthy()]
    asked: list[str] = []

    def vote(vote: Vote) -> Accept | Reject:
        asked.append(threading.current_thread().name)
        return Reject("busy")

    # The socket is that of the environment.
    app = Application(
        "web", on_vote=vote, on_health=lambda: health[0], health_every_s=0.1, heartbeat_s=0.4
    )
    with in_background(app) as background:
        web = hbtrio_guest.wait_registered("web")
        background.wait_registered(timeout_s=60)
        assert (web.name, web.registered, web.heartbeat_s) == ("web", True, 0.4)
        assert [one.name for one in hbtrio_guest.applications] == ["web"]
        assert web.window_s("stop", vote=True) == 8
        answer = web.vote("stop", window_s=60)
        assert (answer.result, answer.reason) == ("reject", "busy")
        assert web.notify("stop").result == "complete"
        assert [one.kind for one in web.answers] == ["vote", "notice"]
        assert asked != [threading.current_thread().name]
        assert web.challenge().healthy
        health[0] = Unhealthy("disk full")
        assert web.wait_health("ill", timeout_s=60) == Health("ill", "disk full", "log")
        assert web.health.reason == "disk full"
        web.withhold_challenges()
        web.resume_challenges()
        web.disconnect()
        web = hbtrio_guest.wait_registered("web", timeout_s=60)
        hbtrio_guest.restart()
        assert not web.registered
        hbtrio_guest.wait_registered("web", timeout_s=60)
    hbtrio_guest.wait_gone("web", timeout_s=60)


def test_it_can_be_away_at_first_and_refuse(hbtrio_guest: BackgroundGuest) -> None:
    hbtrio_guest.stop()
    hbtrio_guest.refuses = True
    with in_background(Application("web")):
        hbtrio_guest.start()
        assert hbtrio_guest.refuses
        with pytest.raises(TimeoutError, match="no application 'web' registered within 1 s"):
            hbtrio_guest.wait_registered("web", timeout_s=1)
        hbtrio_guest.refuses = False
        hbtrio_guest.wait_registered("web", timeout_s=60)


def test_outside_its_block_there_is_nothing(tmp_path: Path) -> None:
    guest = BackgroundGuest(tmp_path / "api")
    assert guest.socket == str(tmp_path / "api")
    with pytest.raises(RuntimeError, match="is not running"):
        guest.restart()
    for _ in range(2):
        with guest:
            assert os.path.lexists(guest.socket)
            with pytest.raises(RuntimeError, match="is running already"):
                guest.__enter__()
        assert not os.path.lexists(guest.socket)


def test_a_fault_on_entering_is_raised_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "api").touch()
    with pytest.raises(OSError, match="Address already in use"):
        BackgroundGuest(tmp_path / "api").__enter__()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_other_fixture_is_for_the_tests_own_event_loop(
    hbtrio_async_guest: ScriptedGuest, backend: str
) -> None:
    async def test() -> None:
        async with hbtrio_async_guest as guest, Application("db"):
            assert guest.socket == os.environ["HBTRIO_APP_SOCKET"]
            assert (await (await guest.wait_registered("db")).vote("stop")).result == "accept"

    anyio.run(test, backend=backend)
