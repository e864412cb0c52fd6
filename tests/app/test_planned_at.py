"""``planned_at`` of a vote and a notice: the planned time, or None."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from app.backends import on_both, on_both_in_real_time
from app.scripted_guest import Connected, attending
from hbtrio.app import Accept, Event, Notice, Vote

PLANNED = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)


async def asked(guest: Connected, planned_at: int) -> None:
    for vote in (True, False):
        question = guest.question(Event.STOP, vote=vote)
        await guest.say(msgspec.structs.replace(question, planned_at=planned_at))
        await guest.answered(question)


TIMES = pytest.mark.parametrize(
    ("told", "planned"), [(0, None), (round(PLANNED.timestamp()), PLANNED)]
)


@TIMES
@on_both
async def test_in_the_event_loop(tmp_path: Path, told: int, planned: datetime | None) -> None:
    seen: list[datetime | None] = []

    async def vote(vote: Vote) -> Accept:
        seen.append(vote.planned_at)
        return Accept()

    async def notice(notice: Notice) -> None:
        seen.append(notice.planned_at)

    async with attending(tmp_path, on_vote=vote, on_notice=notice) as guest:
        await asked(guest, told)
    assert seen == [planned, planned]


@TIMES
@on_both_in_real_time
async def test_in_a_thread(tmp_path: Path, told: int, planned: datetime | None) -> None:
    seen: list[datetime | None] = []

    def vote(vote: Vote) -> Accept:
        seen.append(vote.planned_at)
        return Accept()

    def notice(notice: Notice) -> None:
        seen.append(notice.planned_at)

    async with attending(tmp_path, on_vote=vote, on_notice=notice) as guest:
        await asked(guest, told)
    assert seen == [planned, planned]
