"""Registering, and being registered again after whatever happens."""

from __future__ import annotations

import itertools
import logging
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import pytest

from app.backends import jump, on_both
from app.scripted_guest import SOON_S, attending, listening
from hbtrio.app import Application, Healthy, Refused
from hbtrio.app.connection import ACK_S
from hbtrio.wire.app_messages import AppChallenge, AppChallengeResponse, AppInit, AppInitAck, Final
from hbtrio.wire.vocabulary import CorrectiveAction, Event


@on_both
async def test_from_the_registration_to_the_farewell(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest:
        app = Application(
            "db",
            heartbeat_s=1.5,
            vote_s=2,
            shutdown_notice_s=3,
            suspend_notice_s=4,
            resume_notice_s=5,
            corrective_action="reboot",
            socket=guest.path,
        )
        assert not app.registered
        async with AsyncExitStack() as stack:
            async with app as entered:
                assert entered is app
                connected = await stack.enter_async_context(guest.connection())
                assert await connected.hear() == AppInit(
                    "db", 1500, 2, 3, 4, 5, CorrectiveAction.REBOOT
                )
                assert not app.registered
                await connected.say(AppInitAck(True))
                await app.wait_registered()
                assert app.registered
                await connected.is_healthy()
                await connected.is_healthy()
            assert not app.registered
            assert await connected.hear() == Final("Exiting")
            assert await connected.hear() is None


@on_both
async def test_without_handlers_it_agrees(tmp_path: Path) -> None:
    async with attending(tmp_path) as connected:
        assert await connected.votes(Event.PAUSE) == ("accept", "")
        assert await connected.is_told(Event.PAUSE) == ("complete", "")
        await connected.is_healthy()


@on_both
async def test_it_waits_for_a_guest_that_is_not_there_yet(tmp_path: Path) -> None:
    async with Application("db", socket=tmp_path / "api") as app:
        await anyio.sleep(60)
        assert not app.registered
        async with listening(tmp_path / "api") as guest:
            started = anyio.current_time()
            async with guest.application():
                await app.wait_registered()
                assert anyio.current_time() - started <= 10


@on_both
async def test_it_registers_again_when_the_guest_restarts(tmp_path: Path) -> None:
    async with Application("db", socket=tmp_path / "api") as app:
        for _ in range(3):
            async with listening(tmp_path / "api") as guest, guest.application() as connected:
                await app.wait_registered()
                await connected.is_healthy()
            await anyio.sleep(0.1)
            assert not app.registered


@on_both
async def test_attempts_get_rarer_and_a_success_makes_them_frequent_again(tmp_path: Path) -> None:
    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path, jitter=lambda: 0.0),
    ):
        times = []
        for _ in range(8):
            async with guest.connection() as connected:
                times.append(anyio.current_time())
                assert isinstance(await connected.hear(), AppInit)
        waits = [later - time for time, later in itertools.pairwise(times)]
        assert waits == pytest.approx([0.5, 1, 2, 4, 8, 10, 10])
        async with guest.application():
            pass
        closed = anyio.current_time()
        async with guest.connection():
            assert anyio.current_time() - closed == pytest.approx(0.5)


@on_both
async def test_chance_takes_up_to_half_of_the_wait(tmp_path: Path) -> None:
    chances = itertools.cycle([1.0, 0.5])
    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path, jitter=lambda: next(chances)),
    ):
        times = []
        for _ in range(7):
            async with guest.connection() as connected:
                times.append(anyio.current_time())
                assert isinstance(await connected.hear(), AppInit)
    waits = [later - time for time, later in itertools.pairwise(times)]
    assert waits == pytest.approx([0.25, 0.75, 1, 3, 4, 7.5])


@on_both
async def test_a_guest_that_closes_without_reading_is_tried_again(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest, Application("db", socket=guest.path) as app:
        for _ in range(2):
            async with guest.connection():
                await anyio.sleep(0.1)  # the registration has arrived, and is reset
        async with guest.application():
            await app.wait_registered()


@on_both
async def test_a_guest_that_does_not_answer_is_tried_again(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest, Application("db", socket=guest.path) as app:
        async with guest.connection() as connected:
            assert isinstance(await connected.hear(), AppInit)
            # A challenge is no answer to a registration.
            await connected.say(AppChallenge(1))
            asked = anyio.current_time()
            assert await connected.hear() is None
            assert anyio.current_time() - asked == pytest.approx(ACK_S)
        async with guest.application():
            await app.wait_registered()


@on_both
async def test_a_refusal_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path / "api") as guest, Application("db", socket=guest.path) as app:
        for _ in range(2):
            async with guest.connection() as connected:
                assert isinstance(await connected.hear(), AppInit)
                await connected.say(AppInitAck(False))
                assert await connected.hear() is None
            with pytest.raises(
                Refused, match="refused the registration of db with a heartbeat every 1 s"
            ):
                await app.wait_registered()
            assert not app.registered
        async with guest.application() as connected:
            with anyio.fail_after(SOON_S):
                while not app.registered:
                    await connected.is_healthy()
            await app.wait_registered()
        # From now on it is not refused, but waits.
        with anyio.move_on_after(0.1) as waited:
            await anyio.sleep(0.05)
            await app.wait_registered()
        assert waited.cancelled_caught
    errors = [
        record.message
        for record in caplog.records
        if record.name == "hbtrio.app" and record.levelno >= logging.ERROR
    ]
    assert errors == ["db is not registered: the guest daemon refused the registration"]


@on_both
async def test_whoever_waits_is_told_of_a_refusal(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest, Application("db", socket=guest.path) as app:
        refused = []

        async def wait() -> None:
            try:
                await app.wait_registered()
            except Refused as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            async with guest.connection() as connected:
                await connected.hear()
                await connected.say(AppInitAck(False))
        assert len(refused) == 1


@on_both
async def test_what_the_guest_sends_may_come_in_any_pieces(tmp_path: Path) -> None:
    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path),
        guest.connection() as connected,
    ):
        await connected.hear()
        vote = connected.question(Event.STOP, vote=True)
        await connected.say(AppInitAck(True), AppChallenge(1), vote)
        assert await connected.hear() == AppChallengeResponse(1, True, CorrectiveAction.NONE, "")
        assert await connected.answered(vote) == ("accept", "")
        data = b"garbage" + connected.encoded(AppChallenge(2)) + b"FDFD" + connected.encoded(vote)
        for byte in data:
            await connected.send(bytes([byte]))
        assert await connected.hear() == AppChallengeResponse(2, True, CorrectiveAction.NONE, "")
        assert await connected.answered(vote) == ("accept", "")


@on_both
async def test_a_guest_that_does_not_read_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path / "api") as guest, Application("db", socket=guest.path) as app:
        async with guest.application() as connected:
            begun = anyio.current_time()
            with suppress(BrokenPipeError):
                while True:
                    await connected.say(AppChallenge(1))
            assert 0 < anyio.current_time() - begun <= 2.5
        async with guest.application():
            await app.wait_registered()
    assert caplog.messages == [
        "db is not registered: the guest daemon no longer reads",
    ]


@on_both
async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest:
        fault = LookupError("mine")
        with pytest.raises(LookupError) as raised:  # noqa: PT012
            async with Application("db", socket=guest.path) as app, guest.application():
                await app.wait_registered()
                raise fault
        assert raised.value is fault


@on_both
async def test_when_the_block_is_cancelled_it_signs_off(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest, anyio.create_task_group() as tasks:
        app = Application("db", socket=guest.path)
        left = []

        async def run(scope: anyio.CancelScope) -> None:
            with scope:
                async with app:
                    await anyio.sleep_forever()
            left.append(scope.cancelled_caught)

        scope = anyio.CancelScope()
        tasks.start_soon(run, scope)
        async with guest.application() as connected:
            await app.wait_registered()
            scope.cancel()
            assert await connected.hear() == Final("Exiting")
            assert await connected.hear() is None
        assert not app.registered
    assert left == [True]


@on_both
async def test_it_can_be_entered_again_but_not_twice_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest:
        app = Application("db", socket=guest.path)
        with pytest.raises(RuntimeError, match="not running"):
            await app.wait_registered()
        for _ in range(2):
            async with app, guest.application() as connected:
                await app.wait_registered()
                with pytest.raises(RuntimeError, match="running already"):
                    async with app:
                        pass
                await connected.is_healthy()
        with pytest.raises(RuntimeError, match="not running"):
            await app.wait_registered()


@on_both
async def test_two_applications_in_one_process(tmp_path: Path) -> None:
    async with (
        listening(tmp_path / "api") as guest,
        Application("a", socket=guest.path),
        guest.connection() as first,
    ):
        assert (await first.registered()).name == "a"
        async with Application("b", socket=guest.path), guest.connection() as second:
            assert (await second.registered()).name == "b"
            await first.is_healthy()
            await second.is_healthy()
        await first.is_healthy()


# -- a guest that hangs ---------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize(("heartbeat_s", "patience_s"), [(0.4, 10), (1, 10), (4, 20)])
async def test_a_guest_that_sends_no_challenge_is_taken_for_hung(
    tmp_path: Path, heartbeat_s: float, patience_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path, heartbeat_s=heartbeat_s) as app,
    ):
        async with guest.application() as connected:
            await connected.is_healthy()
            await anyio.sleep(patience_s - 0.1)
            await connected.is_healthy()
            heard = anyio.current_time()
            assert app.registered
            assert await connected.hear() is None
            assert anyio.current_time() - heard == pytest.approx(patience_s)
            assert not app.registered
        async with guest.application():
            await app.wait_registered()
    assert caplog.messages == [
        f"db is not registered: the guest daemon hangs: no challenge for {patience_s} s"
    ]


@on_both
@pytest.mark.parametrize("frozen_s", [0.1, 0.7, 100.0])
async def test_a_challenge_that_came_during_a_freeze_counts(
    tmp_path: Path, frozen_s: float
) -> None:
    """The application was frozen over the end of its patience."""
    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path) as app,
        guest.application() as connected,
    ):
        await connected.is_healthy()
        await anyio.sleep(10 - 0.05)
        await connected.say(AppChallenge(7))
        jump(frozen_s)
        assert await connected.hear() == AppChallengeResponse(7, True, CorrectiveAction.NONE, "")
        await anyio.sleep(1)
        assert app.registered


@on_both
async def test_a_guest_that_waits_for_an_answer_does_not_hang(tmp_path: Path) -> None:
    known = anyio.Event()

    async def health() -> Healthy:
        await known.wait()
        return Healthy()

    async with attending(tmp_path, heartbeat_s=1, health_every_s=1, on_health=health) as guest:
        await guest.is_healthy()
        await anyio.sleep(2)
        await guest.say(AppChallenge(7))
        await guest.heard_nothing(for_s=60)
        known.set()
        assert await guest.hear() == AppChallengeResponse(7, True, CorrectiveAction.NONE, "")
        answered = anyio.current_time()
        assert await guest.hear() is None
        assert 8 <= anyio.current_time() - answered <= 10


@on_both
async def test_time_that_nobody_has_seen_is_not_the_guests_fault(tmp_path: Path) -> None:
    async with attending(tmp_path, heartbeat_s=1) as guest:
        await guest.is_healthy()
        for _ in range(4):
            jump(60)
            await anyio.sleep(0.1)
        await guest.is_healthy()


# -- what the log says of it ----------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.message)
        for record in caplog.records
        if record.levelno >= logging.INFO
    ]


@on_both
async def test_a_guest_that_is_not_there_is_worth_a_warning_after_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = tmp_path / "api"
    missing = f"db is not registered: {place}: no such file or directory"
    refused = f"db is not registered: {place}: connection refused"
    async with Application("db", socket=place) as app:
        await anyio.sleep(59)
        assert told(caplog) == [("INFO", missing)]
        await anyio.sleep(100)
        assert told(caplog) == [("INFO", missing), ("WARNING", missing)]
        caplog.clear()
        async with listening(place) as guest, guest.application():
            await app.wait_registered()
            assert told(caplog) == [("INFO", "db is registered with the guest daemon")]
            caplog.clear()
        await anyio.sleep(59)
        assert told(caplog) == [
            ("WARNING", "db is not registered: lost the connection to the guest daemon"),
            ("INFO", refused),
        ]
        await anyio.sleep(100)
        assert told(caplog)[2:] == [("WARNING", refused)]


@on_both
async def test_a_place_that_can_not_be_is_worth_a_warning_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "api"
    async with Application("db", socket=place):
        await anyio.sleep(300)
    assert told(caplog) == [("WARNING", f"db is not registered: {place}: not a directory")]
