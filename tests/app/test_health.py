"""Health: what the handler said last goes with each heartbeat, and no word is silence."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest

from app.backends import on_both
from app.scripted_guest import Connected, attending, listening
from hbtrio.app import Application, CorrectiveAction, Healthy, Unhealthy
from hbtrio.wire.app_messages import AppChallenge, AppChallengeResponse


class Health:
    """A health handler that does what it is told."""

    def __init__(self) -> None:
        self.says: object = Healthy()
        self.takes_s = 0.0
        self.asked_at: list[float] = []

    async def __call__(self) -> Healthy | Unhealthy:
        self.asked_at.append(anyio.current_time())
        await anyio.sleep(self.takes_s)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says  # type: ignore[return-value]


async def says(guest: Connected) -> tuple[bool, str, str]:
    answer = await guest.beats()
    return answer.healthy, str(answer.corrective_action), answer.log_msg


@on_both
async def test_heartbeats_carry_what_the_handler_said_last(tmp_path: Path) -> None:
    health = Health()
    async with attending(tmp_path, on_health=health, corrective_action="stop") as guest:
        await guest.is_healthy()
        await anyio.sleep(0.5)  # off the grid of its calls
        for word, expected in [
            (Unhealthy("disk full"), (False, "stop", "disk full")),
            (Unhealthy("disk full", "reboot"), (False, "reboot", "disk full")),
            (Unhealthy("odd", CorrectiveAction.NONE), (False, "none", "odd")),
            (Healthy(), (True, "none", "")),
        ]:
            health.says = word
            await anyio.sleep(1)
            sent = anyio.current_time()
            assert await says(guest) == expected
            assert anyio.current_time() == sent


@on_both
async def test_the_handler_is_called_on_its_own_grid(tmp_path: Path) -> None:
    health = Health()
    health.takes_s = 1.5
    async with attending(tmp_path, on_health=health, health_every_s=2.5) as guest:
        begun = anyio.current_time()
        await anyio.sleep(10.1)
        await guest.is_healthy()
    assert [at - begun for at in health.asked_at] == pytest.approx([0, 2.5, 5, 7.5, 10])


@on_both
async def test_before_its_first_word_it_is_healthy(tmp_path: Path) -> None:
    health = Health()
    health.takes_s = 5
    health.says = Unhealthy("cold")
    async with attending(tmp_path, on_health=health, health_every_s=10) as guest:
        await anyio.sleep(4)
        await guest.is_healthy()
        await anyio.sleep(1.1)
        assert await says(guest) == (False, "log", "cold")


@on_both
@pytest.mark.parametrize("bad", [ZeroDivisionError("mine"), True, None, Healthy, "hangs"])
async def test_while_it_gives_no_answer_the_heartbeats_are_silent(
    tmp_path: Path, bad: object, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health()
    async with attending(tmp_path, on_health=health) as guest:
        await guest.is_healthy()
        if bad == "hangs":
            health.takes_s = 1000
        health.says = bad
        await anyio.sleep(2)
        await guest.say(AppChallenge(7))
        await guest.heard_nothing(for_s=30)
        # The guest sends no other challenge before this one is answered.
        health.says, health.takes_s = Healthy(), 0
        assert await guest.hear() == AppChallengeResponse(7, True, CorrectiveAction.NONE, "")
        await guest.is_healthy()
        # And votes and notices go on all the while.
        assert await guest.votes() == ("accept", "")
    errors = [
        record.message
        for record in caplog.records
        if record.name == "hbtrio.app" and record.levelno >= logging.ERROR
    ]
    assert len(errors) == 1, "the rest are there for debugging"
    assert errors[0].startswith("db: health")


@on_both
async def test_each_time_it_begins_to_fail_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health()
    async with attending(tmp_path, on_health=health):
        for _ in range(3):
            health.says = ZeroDivisionError("mine")
            await anyio.sleep(4)
            health.says = Healthy()
            await anyio.sleep(4)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 3


@on_both
async def test_a_new_connection_begins_healthy(tmp_path: Path) -> None:
    health = Health()
    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path, on_health=health) as app,
    ):
        async with guest.application() as connected:
            health.says = ZeroDivisionError("mine")
            await app.wait_registered()
            await anyio.sleep(1.5)
            await connected.say(AppChallenge(7))
            await connected.heard_nothing(for_s=5)
        health.says, health.takes_s = Unhealthy("ill"), 0.5
        async with guest.application() as connected:
            await connected.is_healthy()
            await anyio.sleep(0.6)
            assert await says(connected) == (False, "log", "ill")
