"""More time for a handler: what is asked, what moves, and what it means when there is none."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from app.backends import on_both, on_both_in_real_time
from app.scripted_guest import Connected, attending
from hbtrio.app import Accept, Event, NoMoreTime, Notice, Vote
from hbtrio.wire.app_messages import AppActionNotify, AppMoreTime, AppTimeGranted


async def asked_for_time(guest: Connected) -> tuple[AppActionNotify, AppMoreTime]:
    """Opens a vote, and returns it with the request for more time that follows."""
    vote = guest.question(Event.STOP, vote=True)
    await guest.say(vote)
    request = await guest.hear()
    assert isinstance(request, AppMoreTime)
    assert request.invocation_id == vote.invocation_id
    return vote, request


@on_both
async def test_the_deadline_moves_by_what_was_granted(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def vote(vote: Vote) -> Accept:
        begun = anyio.current_time()
        seen.append(await vote.extend(30))
        seen.append((round(vote.window_s), round(vote.deadline - begun), round(vote.remaining_s)))
        await anyio.sleep(20)
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=3) as guest:
        asked, request = await asked_for_time(guest)
        assert (request.request, request.seconds) == (1, 30)
        await guest.say(AppTimeGranted(asked.invocation_id, 1, 20, "the limit is 20 s"))
        assert await guest.answered(asked) == ("accept", "")
    assert seen == [20, (23, 23, 23)]


@on_both
async def test_the_handler_is_cancelled_at_the_new_deadline(tmp_path: Path) -> None:
    ended: list[float] = []

    async def vote(vote: Vote) -> Accept:
        begun = anyio.current_time()
        await vote.extend(30)
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(round(anyio.current_time() - begun, 3))
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=3) as guest:
        asked, _ = await asked_for_time(guest)
        await guest.say(AppTimeGranted(asked.invocation_id, 1, 30, ""))
        await guest.heard_nothing(32.9)
        assert ended == []
        await guest.heard_nothing(1)
    assert ended == [33.0]


@on_both
async def test_nothing_granted_is_an_error_with_the_reason(tmp_path: Path) -> None:
    seen: list[str] = []

    async def vote(vote: Vote) -> Accept:
        try:
            await vote.extend(30)
        except NoMoreTime as error:
            seen.append(str(error))
        return Accept()

    async with attending(tmp_path, on_vote=vote) as guest:
        asked, _ = await asked_for_time(guest)
        await guest.say(AppTimeGranted(asked.invocation_id, 1, 0, "the VIM asks"))
        assert await guest.answered(asked) == ("accept", "")
    assert seen == ["the VIM asks"]


@on_both
async def test_a_guest_that_does_not_answer_is_waited_for_5_s(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def vote(vote: Vote) -> Accept:
        begun = anyio.current_time()
        try:
            await vote.extend(30)
        except NoMoreTime as error:
            seen.append((round(anyio.current_time() - begun, 3), str(error)))
        await anyio.sleep(1)
        # The guest was slow: its window is longer all the same.
        seen.append(round(vote.window_s))
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=8) as guest:
        asked, _ = await asked_for_time(guest)
        await guest.heard_nothing(5.5)
        await guest.say(AppTimeGranted(asked.invocation_id, 1, 30, ""))
        assert await guest.answered(asked) == ("accept", "")
    assert seen == [(5.0, "the guest daemon has not answered within 5 s"), 38]


@on_both
async def test_answers_to_other_questions_change_nothing(tmp_path: Path) -> None:
    async def vote(vote: Vote) -> Accept:
        with pytest.raises(NoMoreTime):
            await vote.extend(30)
        assert vote.window_s == 8
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=8) as guest:
        asked, _ = await asked_for_time(guest)
        await guest.say(
            AppTimeGranted(asked.invocation_id + 1, 1, 30, ""),
            AppTimeGranted(asked.invocation_id, 2, 30, ""),
        )
        assert await guest.answered(asked) == ("accept", "")
        await guest.say(AppTimeGranted(asked.invocation_id, 1, 30, ""))
        await guest.is_healthy()


@on_both
async def test_what_is_asked_after_the_end_is_an_error(tmp_path: Path) -> None:
    kept: list[Notice] = []

    async def notice(notice: Notice) -> None:
        kept.append(notice)

    async with attending(tmp_path, on_notice=notice) as guest:
        assert await guest.is_told(Event.STOP) == ("complete", "")
        with pytest.raises(NoMoreTime, match="is over"):
            await kept[0].extend(5)


@on_both
@pytest.mark.parametrize("seconds", [0, -1, 86_401, 2**64, 1.5, math.nan, math.inf, "30", True])
async def test_what_is_no_time_is_refused_at_once(seconds: Any, tmp_path: Path) -> None:
    async def vote(vote: Vote) -> Accept:
        with pytest.raises((TypeError, ValueError), match="seconds"):
            await vote.extend(seconds)
        return Accept()

    async with attending(tmp_path, on_vote=vote) as guest:
        assert await guest.votes(Event.STOP) == ("accept", "")


@pytest.mark.real_time
@on_both_in_real_time
async def test_a_thread_has_more_time_too(tmp_path: Path) -> None:
    seen: list[Any] = []

    def vote(vote: Vote) -> Accept:
        seen.append(vote.extend_sync(30))
        seen.append(30 < vote.remaining_s <= 38)
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=8) as guest:
        asked, _ = await asked_for_time(guest)
        await guest.say(AppTimeGranted(asked.invocation_id, 1, 30, ""))
        assert await guest.answered(asked) == ("accept", "")
    assert seen == [30, True]


@pytest.mark.real_time
@on_both_in_real_time
async def test_a_thread_that_waits_is_told_of_the_next_request(tmp_path: Path) -> None:
    """The next vote ends the first one: the thread must not wait for 5 s more."""
    seen: list[str] = []
    over = threading.Event()

    def vote(vote: Vote) -> Accept:
        if vote.event == Event.STOP:
            try:
                vote.extend_sync(30)
            except NoMoreTime as error:
                seen.append(str(error))
            over.set()
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=8) as guest:
        await asked_for_time(guest)
        assert await guest.votes(Event.PAUSE) == ("accept", "")
        await anyio.to_thread.run_sync(over.wait, 4.0)
    assert seen == ["the vote or notice is over"]


@on_both
async def test_the_event_loop_is_not_blocked(tmp_path: Path) -> None:
    async def vote(vote: Vote) -> Accept:
        with pytest.raises(RuntimeError, match="await extend"):
            vote.extend_sync(30)
        return Accept()

    async with attending(tmp_path, on_vote=vote) as guest:
        assert await guest.votes(Event.STOP) == ("accept", "")
