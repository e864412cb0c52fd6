"""The scripted guest that users test their applications with, at applications of the SDK."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest

from app.backends import on_both, on_both_in_real_time
from hbtrio.app import Accept, Application, Healthy, Notice, Refused, Reject, Unhealthy, Vote
from hbtrio.testing import Answer, Health, ScriptedGuest
from hbtrio.wire.app_codec import encode
from hbtrio.wire.app_messages import AppInit
from hbtrio.wire.vocabulary import CorrectiveAction


def exists(path: str) -> bool:
    return os.path.lexists(path)


async def reject(vote: Vote) -> Accept | Reject:
    return Reject(f"no {vote.event} now")


async def hang(_: Vote) -> Accept:
    await anyio.sleep_forever()
    raise AssertionError


@on_both
async def test_votes_and_notices_have_the_answers_of_the_handlers() -> None:
    prepared: list[tuple[str, float]] = []

    async def prepare(notice: Notice) -> None:
        await anyio.sleep(0.5)
        prepared.append((notice.event, notice.window_s))

    async with ScriptedGuest() as guest:
        app = Application(
            "db", on_vote=reject, on_notice=prepare, suspend_notice_s=3, socket=guest.socket
        )
        async with app:
            db = await guest.wait_registered("db")
            assert guest.applications == [db]
            assert (db.name, db.heartbeat_s, db.registered) == ("db", 1.0, True)
            assert [db.window_s("pause", vote=vote) for vote in (True, False)] == [8, 3]
            vote = await db.vote("stop")
            assert (vote.kind, vote.event) == ("vote", "stop")
            assert (vote.result, vote.reason) == ("reject", "no stop now")
            notice = await db.notify("pause")
            assert (notice.kind, notice.result, notice.reason) == ("notice", "complete", "")
            assert notice.took_s == pytest.approx(0.5)
            assert prepared == [("pause", 3)]
            assert db.answers == [vote, notice]
        await guest.wait_gone("db")
        assert guest.applications == []


@on_both
async def test_a_window_is_the_applications_or_the_vms_if_that_is_shorter() -> None:
    async with (
        ScriptedGuest() as guest,
        Application("db", on_vote=hang, vote_s=4, socket=guest.socket),
    ):
        db = await guest.wait_registered()
        for window_s, took_s in ((None, 4.0), (1.5, 1.5), (100, 4.0)):
            answer = await db.vote("stop", window_s=window_s)
            assert (answer.result, answer.reason) == ("timeout", "")
            assert answer.took_s == pytest.approx(took_s)


@on_both
async def test_a_newer_question_and_leaving_end_the_open_one() -> None:
    answers: list[Answer] = []
    async with ScriptedGuest() as guest:
        async with Application("db", on_vote=hang, socket=guest.socket):
            db = await guest.wait_registered()
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    answers.append(await db.vote("stop"))

                tasks.start_soon(ask)
                await anyio.sleep(0.1)
                assert (await db.notify("stop")).result == "complete"
            assert [answer.result for answer in answers] == ["none"]
            tasks_left = anyio.create_task_group()
            async with tasks_left:
                tasks_left.start_soon(ask)
                await anyio.sleep(0.1)
                db.disconnect()
                assert (db.registered, guest.applications) == (False, [])
                db.disconnect()
        assert [answer.result for answer in answers] == ["none", "none"]
        with pytest.raises(RuntimeError, match="application db is not registered"):
            await db.vote("stop")
        assert db.health == Health("gone", "", "none")


@on_both
async def test_events_are_checked() -> None:
    async with ScriptedGuest() as guest, Application("db", socket=guest.socket):
        db = await guest.wait_registered()
        with pytest.raises(ValueError, match="no event 'halt'; there are stop, reboot, "):
            await db.vote("halt")
        with pytest.raises(ValueError, match="no event 'unknown'"):
            db.window_s("unknown", vote=True)


@on_both
async def test_a_challenge_can_be_sent_at_once_and_the_others_keep_coming() -> None:
    health: list[Healthy | Unhealthy] = [Unhealthy("disk full", "reboot")]

    async def feel() -> Healthy | Unhealthy:
        return health[0]

    async with (
        ScriptedGuest() as guest,
        Application("db", heartbeat_s=60, health_every_s=0.1, on_health=feel, socket=guest.socket),
    ):
        db = await guest.wait_registered()
        await anyio.sleep(0.2)
        begun = anyio.current_time()
        ill = Health("ill", "disk full", "reboot")
        assert await db.challenge() == await db.challenge() == db.health == ill
        health[0] = Healthy()
        await anyio.sleep(0.2)
        assert db.health == ill
        assert (await db.challenge()).healthy
        assert anyio.current_time() - begun == pytest.approx(0.2)
        health[0] = Unhealthy("disk full")
        # The next by itself comes an interval after the last.
        assert await db.wait_health("ill", timeout_s=61) == Health("ill", "disk full", "log")
        assert anyio.current_time() - begun == pytest.approx(60.2)


@on_both
async def test_an_application_that_does_not_answer_is_silent() -> None:
    feels = anyio.Event()
    feels.set()

    async def feel() -> Healthy:
        await feels.wait()
        return Healthy()

    async with (
        ScriptedGuest() as guest,
        Application(
            "db", health_every_s=0.4, on_health=feel, corrective_action="stop", socket=guest.socket
        ),
    ):
        db = await guest.wait_registered()
        await anyio.sleep(3)
        assert db.health.healthy
        feels = anyio.Event()
        silent = await db.wait_health("silent")
        assert silent == Health("silent", "Application db heartbeat timeout 2000 ms.", "stop")
        with pytest.raises(TimeoutError, match="db did not answer the challenge within 2 s; it is"):
            await db.challenge(timeout_s=2)
        feels.set()
        await db.wait_health("healthy")


@on_both
async def test_without_challenges_the_application_connects_anew_and_nobody_is_silent() -> None:
    async with ScriptedGuest() as guest, Application("db", socket=guest.socket) as app:
        db = await guest.wait_registered()
        db.withhold_challenges()
        await anyio.sleep(5)
        assert db.health.healthy
        assert (await db.challenge()).healthy
        await anyio.sleep(5)
        assert (await db.challenge()).healthy
        db.resume_challenges()
        await anyio.sleep(30)
        assert db.registered
        db.withhold_challenges()
        # The SDK takes a daemon without challenges for hung.
        await guest.wait_gone("db")
        again = await guest.wait_registered("db")
        assert again is not db
        await anyio.sleep(30)
        assert again.health.healthy
        assert app.registered


@on_both
async def test_it_ends_and_starts_again() -> None:
    async with ScriptedGuest() as guest, Application("db", socket=guest.socket) as app:
        db = await guest.wait_registered()
        await guest.stop()
        await guest.stop()
        assert guest.applications == []
        assert not exists(guest.socket)
        assert db.health.state == "gone"
        await anyio.sleep(1)
        assert not app.registered
        await guest.start()
        await guest.start()
        assert (await guest.wait_registered("db")) is not db
        await guest.restart()
        await guest.wait_registered("db")


@on_both
async def test_registrations_can_be_refused() -> None:
    async with ScriptedGuest() as guest:
        guest.refuses = True
        async with Application("db", socket=guest.socket) as app:
            await anyio.sleep(0.1)
            with pytest.raises(Refused):
                await app.wait_registered()
            fault = (
                r"no application 'db' registered within 0.1 s; registered: nobody; connected "
                r"without a registration: [01]"
            )
            with pytest.raises(TimeoutError, match=fault):
                await guest.wait_registered("db", timeout_s=0.1)
            guest.refuses = False
            await guest.wait_registered("db")


@on_both
async def test_of_several_the_one_of_the_name_is_found() -> None:
    async with (
        ScriptedGuest() as guest,
        Application("web", socket=guest.socket),
        Application("db", socket=guest.socket),
    ):
        assert (await guest.wait_registered("db")).name == "db"
        assert (await guest.wait_registered("web")).name == "web"
        assert {one.name for one in guest.applications} == {"web", "db"}
        with pytest.raises(TimeoutError, match="web is still registered after 1 s"):
            await guest.wait_gone("web", timeout_s=1)


@on_both
async def test_any_program_that_speaks_the_protocol_can_be_tested() -> None:
    """Here one without the SDK, that crashes."""
    async with ScriptedGuest() as guest:
        with socket.socket(socket.AF_UNIX) as program:
            program.connect(guest.socket)
            init = AppInit("c", 500, 1, 1, 1, 1, CorrectiveAction.REBOOT)
            program.sendall(b"noise" + encode(init, 1))
            c = await guest.wait_registered("c")
            assert await c.wait_health("silent") == Health(
                "silent", "Application c heartbeat timeout 1000 ms.", "reboot"
            )
        await guest.wait_gone("c")


@on_both
async def test_the_path_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "api"
    async with ScriptedGuest(path) as guest:
        assert guest.socket == str(path)
        with pytest.raises(RuntimeError, match="is running already"):
            await guest.__aenter__()
    assert not path.exists()
    path.touch()
    with pytest.raises(OSError, match="Address already in use"):
        await ScriptedGuest(path).__aenter__()


@on_both
async def test_outside_its_block_there_is_nothing() -> None:
    guest = ScriptedGuest()
    with pytest.raises(RuntimeError, match="no socket before its block is entered"):
        _ = guest.socket
    with pytest.raises(RuntimeError, match="is not running"):
        await guest.start()
    for _ in range(2):
        async with guest:
            directory = Path(guest.socket).parent
            assert directory.is_dir()
        assert not directory.exists()


@on_both
async def test_a_long_directory_for_temporary_files_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    async with ScriptedGuest() as guest, Application("db", socket=guest.socket):
        await guest.wait_registered("db")
    assert not any(long.iterdir())


@on_both
async def test_an_error_of_the_block_is_raised_as_it_is() -> None:
    async def fail() -> None:
        async with ScriptedGuest() as guest, Application("db", socket=guest.socket):
            await guest.wait_registered()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


@on_both
async def test_a_cancelled_block_leaves_nothing_behind() -> None:
    with anyio.move_on_after(1) as scope:
        async with ScriptedGuest() as guest, Application("db", socket=guest.socket):
            path = guest.socket
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not exists(path)


@on_both_in_real_time
async def test_it_needs_no_clock_of_its_own() -> None:
    async with (
        ScriptedGuest() as guest,
        Application("db", heartbeat_s=0.4, on_vote=lambda _: Reject("busy"), socket=guest.socket),
    ):
        db = await guest.wait_registered("db")
        assert (await db.vote("stop")).reason == "busy"
        assert (await db.challenge()).healthy
