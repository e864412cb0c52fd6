"""More time, planned events and withdrawn rejects at the scripted guest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from app.backends import on_both
from hbtrio.app import Accept, Application, NoMoreTime, Notice, Reject, Vote
from hbtrio.app.sync import in_background
from hbtrio.testing import BackgroundGuest, ScriptedGuest
from hbtrio.testing.question import Question
from hbtrio.wire.app_messages import AppMoreTime


@on_both
async def test_a_window_is_extended_by_what_the_host_grants_in_all() -> None:
    seen: list[Any] = []

    async def prepare(notice: Notice) -> None:
        begun = anyio.current_time()
        for seconds in (20, 20, 20):
            try:
                seen.append(await notice.extend(seconds))
            except NoMoreTime as error:
                seen.append(str(error))
        seen.append(round(notice.deadline - begun))
        await anyio.sleep_forever()

    async with (
        ScriptedGuest() as guest,
        Application("db", on_notice=prepare, shutdown_notice_s=5, socket=guest.socket),
    ):
        db = await guest.wait_registered("db")
        answer = await db.notify("stop", max_extension_s=30)
        assert seen == [20, 10, "the limit is 30 s in all", 35]
        assert (answer.result, answer.extended_s) == ("timeout", 30)
        assert answer.took_s == pytest.approx(35)
        # Each vote or notice has its own.
        assert (await db.notify("stop", max_extension_s=30)).extended_s == 30


@on_both
async def test_no_more_time_is_granted_unless_the_test_says_so() -> None:
    seen: list[str] = []

    async def vote(vote: Vote) -> Accept:
        try:
            await vote.extend(1)
        except NoMoreTime as error:
            seen.append(str(error))
        await anyio.sleep_forever()
        raise AssertionError

    async with (
        ScriptedGuest() as guest,
        Application("db", on_vote=vote, vote_s=4, socket=guest.socket),
    ):
        db = await guest.wait_registered("db")
        answer = await db.vote("stop")
        assert seen == ["the host gives no more time"]
        assert (answer.result, answer.extended_s) == ("timeout", 0)
        assert answer.took_s == pytest.approx(4)


@on_both
async def test_what_is_left_of_the_vm_s_window_is_not_counted_against_the_host() -> None:
    async def vote(vote: Vote) -> Accept:
        await vote.extend(10)
        await anyio.sleep(13)
        return Accept()

    async with (
        ScriptedGuest() as guest,
        Application("db", on_vote=vote, vote_s=4, socket=guest.socket),
    ):
        db = await guest.wait_registered("db")
        # The VM's window has 6 s more than the application's: 4 of the 10 are the host's.
        answer = await db.vote("stop", window_s=10, max_extension_s=4)
        assert (answer.result, answer.extended_s) == ("accept", 10)
        short = await db.vote("stop", window_s=10, max_extension_s=1)
        assert (short.result, short.extended_s) == ("timeout", 7)
        assert short.took_s == pytest.approx(11)


@pytest.mark.usefixtures("autojump_clock")
async def test_a_request_or_an_answer_that_has_arrived_beats_the_end_of_the_window() -> None:
    asking = Question("db", 5, None, 3)
    unread = [AppMoreTime(1, 1, 3)]

    def read() -> None:
        if unread:
            assert asking.more_time(unread.pop()).seconds == 3
        else:
            asking.close("accept")

    begun = anyio.current_time()
    await asking.wait(read)
    assert (asking.result, asking.extended_s) == ("accept", 3)
    assert anyio.current_time() - begun == pytest.approx(8)


@on_both
async def test_a_planned_event_has_its_time() -> None:
    seen: list[datetime | None] = []

    async def vote(vote: Vote) -> Accept:
        seen.append(vote.planned_at)
        return Accept()

    async def prepare(notice: Notice) -> None:
        seen.append(notice.planned_at)

    at = datetime(2030, 1, 31, 12, 0, 7, tzinfo=UTC)
    async with (
        ScriptedGuest() as guest,
        Application("db", on_vote=vote, on_notice=prepare, socket=guest.socket),
    ):
        db = await guest.wait_registered("db")
        await db.vote("stop", planned_at=at)
        await db.notify("stop", planned_at=at.replace(microsecond=999_999))
        await db.vote("stop")
        assert seen == [at, at, None]
        with pytest.raises(ValueError, match="planned_at: 2030-01-31 12:00:07 has no time zone"):
            await db.vote("stop", planned_at=at.replace(tzinfo=None))
        assert len(db.answers) == 3


@on_both
async def test_a_reject_is_withdrawn_once_and_for_its_event() -> None:
    async def vote(vote: Vote) -> Reject:
        return Reject("not now")

    async with ScriptedGuest() as guest:
        async with Application("db", on_vote=vote, socket=guest.socket) as app:
            db = await guest.wait_registered("db")
            await app.ready_for("stop")  # nothing was rejected
            assert (await db.vote("stop")).result == "reject"
            fault = (
                r"db did not say that it is ready for stop within 2 s; it is Health\(.*'healthy'"
            )
            with pytest.raises(TimeoutError, match=fault):
                await db.wait_ready("stop", timeout_s=2)
            await app.ready_for("stop")
            await db.wait_ready("stop", timeout_s=2)
            await db.wait_ready("stop", timeout_s=0)
            with pytest.raises(TimeoutError):
                await db.wait_ready("reboot", timeout_s=2)
            assert (await db.vote("stop")).result == "reject"
            with pytest.raises(TimeoutError):
                await db.wait_ready("stop", timeout_s=2)
        with pytest.raises(ValueError, match="no event 'halt'"):
            await db.wait_ready("halt")


def test_an_application_of_threads() -> None:
    seen: list[Any] = []

    def vote(vote: Vote) -> Reject:
        seen.append(vote.planned_at)
        return Reject("not now")

    def prepare(notice: Notice) -> None:
        seen.append((notice.planned_at, notice.extend_sync(7)))

    at = datetime(2030, 1, 31, 12, tzinfo=UTC)
    with BackgroundGuest() as guest:
        app = Application("web", on_vote=vote, on_notice=prepare, socket=guest.socket)
        with in_background(app) as background:
            web = guest.wait_registered("web", timeout_s=60)
            asked = web.vote("stop", window_s=60, planned_at=at)
            assert (asked.result, seen) == ("reject", [at])
            background.ready_for("stop")
            web.wait_ready("stop", timeout_s=60)
            done = web.notify("stop", window_s=60, planned_at=at, max_extension_s=60)
            assert (done.result, done.extended_s, seen[1:]) == ("complete", 7, [(at, 7)])
