"""Votes and notices: what handlers say, and what it means when they say nothing."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from app.backends import on_both
from app.scripted_guest import attending, listening
from hbtrio.app import Accept, Application, Event, Healthy, Notice, Reject, Vote
from hbtrio.wire.app_messages import AppActionNotify, AppChallenge, Final
from hbtrio.wire.vocabulary import EVENT_TABLE, NotificationType

WINDOWS = {
    "vote_s": 3,
    "shutdown_notice_s": 4,
    "suspend_notice_s": 5,
    "resume_notice_s": 6,
}


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message
        for record in caplog.records
        if record.name == "hbtrio.app" and record.levelno >= logging.ERROR
    ]


@on_both
async def test_a_vote_is_answered_as_its_handler_says(tmp_path: Path) -> None:
    async def vote(vote: Vote) -> Accept | Reject:
        return Reject('disk "a" is busy') if vote.event == "pause" else Accept()

    async with attending(tmp_path, on_vote=vote) as guest:
        assert await guest.votes(Event.STOP) == ("accept", "")
        assert await guest.votes(Event.PAUSE) == ("reject", 'disk "a" is busy')
        assert await guest.is_told(Event.PAUSE) == ("complete", "")


@on_both
async def test_a_notice_is_complete_when_its_handler_returns(tmp_path: Path) -> None:
    async def prepare(_: Notice) -> None:
        await anyio.sleep(2.5)

    async with attending(tmp_path, on_notice=prepare) as guest:
        begun = anyio.current_time()
        assert await guest.is_told(Event.SUSPEND) == ("complete", "")
        assert anyio.current_time() - begun == pytest.approx(2.5)


@on_both
async def test_each_event_has_its_window(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    async def look(question: Vote | Notice) -> Accept | None:
        begun = anyio.current_time()
        assert question.deadline - begun == pytest.approx(question.window_s)
        assert question.remaining_s == pytest.approx(question.window_s)
        await anyio.sleep(1)
        assert question.remaining_s == pytest.approx(question.window_s - 1)
        if isinstance(question, Vote):
            seen.append(("vote", question.event, question.window_s))
            return Accept()
        seen.append(("notice", question.event, question.window_s, question.happened))
        return None

    expected: list[tuple[Any, ...]] = []
    async with attending(tmp_path, on_vote=look, on_notice=look, **WINDOWS) as guest:
        for event in EVENT_TABLE:
            assert (await guest.votes(event), await guest.is_told(event)) == (
                ("accept", ""),
                ("complete", ""),
            )
            expected.append(("vote", event, 3))
            after = event in ("unpause", "resume") or event.endswith("_end")
            window_s = 4 if event in ("stop", "reboot") else 6 if after else 5
            expected.append(("notice", event, window_s, after))
        # Of a guest that is newer than this SDK.
        assert await guest.votes(Event.UNKNOWN) == ("accept", "")
        assert await guest.is_told(Event.UNKNOWN) == ("complete", "")
        expected += [("vote", Event.UNKNOWN, 3), ("notice", Event.UNKNOWN, 4, False)]
    assert len(expected) == 26
    assert seen == expected


class Handlers:
    """Handlers that do nothing right, by the event that they are asked about."""

    def __init__(self) -> None:
        self.cancelled_at: list[float] = []

    async def fail(self, question: Vote | Notice) -> Any:
        match question.event:
            case Event.STOP:
                raise ZeroDivisionError("mine")
            case Event.PAUSE:
                try:
                    await anyio.sleep_forever()
                finally:
                    self.cancelled_at.append(anyio.current_time())
            case Event.SUSPEND:
                return "accept"
            case Event.REBOOT:
                return Accept
            case Event.RESUME:
                return None if isinstance(question, Vote) else Accept()
            case Event.UNPAUSE:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(question.window_s + 1)
                return Accept() if isinstance(question, Vote) else None
        return Accept() if isinstance(question, Vote) else None


BAD = {
    Event.STOP: "the handler failed",
    Event.PAUSE: "the handler did not finish in time",
    Event.UNPAUSE: "the handler did not finish in time",
    Event.SUSPEND: "the handler returned 'accept', not",
    Event.REBOOT: "the handler returned <class 'hbtrio.app.responses.Accept'>, not",
    Event.RESUME: "the handler returned ",
}


@on_both
@pytest.mark.parametrize("is_vote", [True, False])
@pytest.mark.parametrize("event", BAD)
async def test_a_handler_that_gives_no_answer_is_silence_and_an_error(
    tmp_path: Path, event: Event, is_vote: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    async with attending(
        tmp_path, on_vote=handlers.fail, on_notice=handlers.fail, **WINDOWS
    ) as guest:
        asked = guest.question(event, vote=is_vote)
        begun = anyio.current_time()
        await guest.say(asked)
        await guest.heard_nothing(for_s=10)
        if event is Event.PAUSE:
            assert [at - begun for at in handlers.cancelled_at] == pytest.approx(
                [3 if is_vote else 5]
            )
        # It is none the worse for it.
        await guest.is_healthy()
        assert await guest.votes(Event.RESIZE_BEGIN) == ("accept", "")
    what = "vote" if is_vote else "notice"
    (fault,) = faults(caplog)
    assert fault.startswith(f"db: {what} {event}: {BAD[event]}")
    assert fault.endswith("; no response is sent")
    tracebacks = [record.exc_info for record in caplog.records if record.exc_info]
    assert [info[0] for info in tracebacks] == [ZeroDivisionError] * (event is Event.STOP)


@on_both
async def test_a_slow_handler_holds_up_no_heartbeat(tmp_path: Path) -> None:
    async def prepare(_: Notice) -> None:
        await anyio.sleep(5)

    async with attending(tmp_path, on_notice=prepare) as guest:
        asked = guest.question(Event.STOP, vote=False)
        await guest.say(asked)
        begun = anyio.current_time()
        for _ in range(4):
            await anyio.sleep(1)
            sent = anyio.current_time()
            await guest.is_healthy()
            assert anyio.current_time() == sent
        assert await guest.answered(asked) == ("complete", "")
        assert anyio.current_time() - begun == pytest.approx(5)


@on_both
async def test_the_next_question_ends_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def vote(vote: Vote) -> Accept | Reject:
        try:
            await anyio.sleep(2)
        finally:
            ended.append(vote.event)
        return Reject("no")

    async with attending(tmp_path, on_vote=vote) as guest:
        first = guest.question(Event.STOP, vote=True)
        second = guest.question(Event.PAUSE, vote=True)
        await guest.say(first)
        await anyio.sleep(1)
        await guest.say(second)
        assert await guest.answered(second) == ("reject", "no")
        await guest.heard_nothing(for_s=20)
        # Also one that nobody handles.
        await guest.say(first)
        await anyio.sleep(1)
        assert await guest.is_told(Event.STOP) == ("complete", "")
        await guest.heard_nothing(for_s=20)
    assert ended == ["stop", "pause", "stop"]
    assert faults(caplog) == []


@on_both
async def test_an_answer_that_was_overtaken_is_not_sent(tmp_path: Path) -> None:
    remaining: list[float] = []

    async def vote(vote: Vote) -> Accept | Reject:
        if vote.event is Event.PAUSE:
            return Accept()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
            await anyio.sleep(vote.window_s)
        remaining.append(vote.remaining_s)
        return Reject("too late")

    async with attending(tmp_path, on_vote=vote) as guest:
        await guest.say(guest.question(Event.STOP, vote=True))
        await anyio.sleep(1)
        assert await guest.votes(Event.PAUSE) == ("accept", "")
        await guest.heard_nothing(for_s=20)
    assert remaining == [0]


@on_both
async def test_what_was_overtaken_and_ends_in_its_window_is_not_sent_either(tmp_path: Path) -> None:
    async def vote(vote: Vote) -> Accept | Reject:
        if vote.event is Event.PAUSE:
            return Accept()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
        return Reject("too late")

    async with attending(tmp_path, on_vote=vote) as guest:
        await guest.say(guest.question(Event.STOP, vote=True))
        await anyio.sleep(1)
        assert await guest.votes(Event.PAUSE) == ("accept", "")
        await guest.heard_nothing(for_s=20)


@on_both
async def test_a_question_that_is_neither_vote_nor_notice_is_not_answered(tmp_path: Path) -> None:
    async with attending(tmp_path) as guest:
        await guest.say(AppActionNotify(1, Event.STOP, NotificationType.UNKNOWN))
        await guest.is_healthy()


@on_both
async def test_a_lost_connection_ends_the_handler_and_its_answer(tmp_path: Path) -> None:
    ended: list[str] = []

    async def vote(vote: Vote) -> Accept:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(vote.event)
        return Accept()

    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path, on_vote=vote) as app,
    ):
        async with guest.application() as connected:
            await app.wait_registered()
            await connected.say(connected.question(Event.STOP, vote=True))
            await anyio.sleep(1)
        await anyio.sleep(0.1)
        assert ended == ["stop"]
        async with guest.application() as connected:
            await connected.is_healthy()
            await connected.say(connected.question(Event.PAUSE, vote=True))
            await anyio.sleep(1)
            assert ended == ["stop"]


@on_both
async def test_leaving_ends_the_handler_then_signs_off(tmp_path: Path) -> None:
    ended: list[str] = []

    async def prepare(notice: Notice) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(notice.event)

    async with listening(tmp_path / "api") as guest:
        app = Application("db", socket=guest.path, on_notice=prepare)
        await app.__aenter__()
        async with guest.application() as connected:
            await connected.say(connected.question(Event.STOP, vote=False))
            await anyio.sleep(1)
            await app.__aexit__(None, None, None)
            assert ended == ["stop"]
            assert await connected.hear() == Final("Exiting")
            assert await connected.hear() is None


@on_both
async def test_decorators_and_keywords_set_the_same_handlers(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest:
        app = Application("db", socket=guest.path)

        @app.on_vote
        async def vote(vote: Vote) -> Reject:
            return Reject(f"no {vote.event}")

        @app.on_notice
        async def prepare(notice: Notice) -> None:
            told.append(notice.event)

        told: list[str] = []
        assert vote.__name__ == "vote"
        with pytest.raises(RuntimeError, match="the vote handler is set already"):
            app.on_vote(vote)
        async with app, guest.application() as connected:
            assert await connected.votes(Event.STOP) == ("reject", "no stop")
            assert await connected.is_told(Event.STOP) == ("complete", "")
            with pytest.raises(RuntimeError, match="must be set before the application runs"):
                app.on_health(lambda: None)
    assert told == ["stop"]


@on_both
async def test_a_long_reason_is_cut_between_characters(tmp_path: Path) -> None:
    async def vote(_: Vote) -> Reject:
        return Reject("é" * 200)

    async with attending(tmp_path, on_vote=vote) as guest:
        assert await guest.votes() == ("reject", "é" * 95)


@on_both
async def test_what_is_no_exception_of_the_handler_comes_out_of_the_block(tmp_path: Path) -> None:
    class Interrupt(BaseException):
        """Such as KeyboardInterrupt, which ends asyncio's loop on its way."""

    async def vote(_: Vote) -> Accept:
        raise Interrupt

    async with listening(tmp_path / "api") as guest:
        with pytest.raises(Interrupt):  # noqa: PT012
            async with (
                Application("db", socket=guest.path, on_vote=vote),
                guest.application() as connected,
            ):
                await connected.say(connected.question(Event.STOP, vote=True))
                await anyio.sleep_forever()


# -- cancellations of the handler's own -----------------------------------------------------------


async def a_cancellation() -> BaseException:
    """One that has nothing to do with whom it is raised in."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class() as error:
            return error
    raise AssertionError


@on_both
async def test_a_handler_that_its_own_code_cancels_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(question: Vote | Notice) -> Any:
        if question.event is Event.STOP:
            raise await a_cancellation()
        return Accept() if isinstance(question, Vote) else None

    async with attending(tmp_path, on_vote=fail, on_notice=fail) as guest:
        for vote in (True, False):
            await guest.say(guest.question(Event.STOP, vote=vote))
            await guest.heard_nothing(for_s=10)
        await guest.is_healthy()
        assert await guest.votes(Event.PAUSE) == ("accept", "")
        assert await guest.is_told(Event.PAUSE) == ("complete", "")
    assert faults(caplog) == [
        f"db: {what} stop: the handler was cancelled by its own code; no response is sent"
        for what in ("vote", "notice")
    ]


@on_both
async def test_health_that_its_own_code_cancels_is_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> Healthy:
        raise await a_cancellation()

    async with attending(tmp_path, on_health=fail) as guest:
        await anyio.sleep(0.1)
        await guest.say(AppChallenge(7))
        await guest.heard_nothing(for_s=30)
        assert await guest.votes() == ("accept", "")
    assert faults(caplog) == [
        "db: health: the handler was cancelled by its own code; no response is sent"
    ]


def test_a_task_that_is_cancelled_does_not_cancel_who_awaits_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def vote(vote: Vote) -> Accept:
        if vote.event is Event.STOP:
            task = asyncio.create_task(asyncio.sleep(1000))
            asyncio.get_running_loop().call_soon(task.cancel)
            await task
        return Accept()

    async def main() -> None:
        async with attending(tmp_path, on_vote=vote) as guest:
            await guest.say(guest.question(Event.STOP, vote=True))
            await guest.is_healthy()
            await guest.heard_nothing(for_s=0.2)
            assert await guest.votes(Event.PAUSE) == ("accept", "")

    asyncio.run(main())
    assert faults(caplog) == [
        "db: vote stop: the handler was cancelled by its own code; no response is sent"
    ]


@on_both
async def test_tasks_of_a_handler_that_fail_on_their_way_out_end_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def fail_at_last(event: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(event)
            raise ZeroDivisionError(event)

    async def vote(vote: Vote) -> Accept:
        if vote.event is not Event.RESUME:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail_at_last, vote.event)
                await anyio.sleep_forever()
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=5) as guest:
        # One is overtaken, the other not done in time.
        await guest.say(guest.question(Event.STOP, vote=True))
        await anyio.sleep(1)
        await guest.say(guest.question(Event.PAUSE, vote=True))
        await guest.heard_nothing(for_s=20)
        await guest.is_healthy()
        assert await guest.votes(Event.RESUME) == ("accept", "")
        # And one is in progress when the block is left.
        await guest.say(guest.question(Event.SUSPEND, vote=True))
        await anyio.sleep(1)
    assert ended == ["stop", "pause", "suspend"]
    messages = faults(caplog)
    assert "db: vote pause: the handler failed; no response is sent" in messages
    assert all(": the handler failed; " in message for message in messages)
