"""A guest that asks for more time: its host's windows, what is shown, and what bounds it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from hbtrio.api.host_status import instance_status
from hbtrio.config.windows import ExtensionSettings, WindowSettings
from hbtrio.policy.more_time import FOR_AN_AGENT, FOR_THE_VIM, NOT_A_TIME, NOT_OPEN, OFF
from hbtrio.wire.channel_messages import (
    OFFERED,
    Extension,
    InitAck,
    Nack,
    TimeGranted,
)
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType, VoteResult, WindowKind
from support.actions_cases import asked
from support.fake_processes import FakeRun
from support.host_world import (
    NOTICE,
    VOTE,
    HostWorld,
    Reply,
    ScriptedGuest,
    agree,
    host_world,
    now,
    stay_silent,
)
from support.memory_store import MemoryStore, memory_store
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: When a vote or notice is opened.
OPENED = 4.5

LIMITS = WindowSettings(
    max_extension_s=ExtensionSettings(
        vote=40, shutdown_notice=50, suspend_notice=60, resume_notice=70
    )
)
SECONDS = {
    WindowKind.VOTE: (9, 40),
    WindowKind.SHUTDOWN_NOTICE: (10, 50),
    WindowKind.SUSPEND_NOTICE: (11, 60),
    WindowKind.RESUME_NOTICE: (14, 70),
}
WINDOWS = pytest.mark.parametrize(
    ("event", "notification", "kind"),
    [
        (Event.STOP, VOTE, WindowKind.VOTE),
        (Event.STOP, NOTICE, WindowKind.SHUTDOWN_NOTICE),
        (Event.PAUSE, NOTICE, WindowKind.SUSPEND_NOTICE),
        (Event.UNPAUSE, NOTICE, WindowKind.RESUME_NOTICE),
    ],
)


def world_of(**config: Any) -> Any:
    return host_world(windows=LIMITS, runs={"cmd": FakeRun()}, **config)


async def silent(world: HostWorld) -> ScriptedGuest:
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(OPENED)
    return guest


def granted(guest: ScriptedGuest) -> list[tuple[int, int, str]]:
    """The host's answers: the request, the seconds, the reason."""
    return [
        (one.request, one.seconds, one.log_msg)
        for one in guest.messages
        if isinstance(one, TimeGranted)
    ]


def ends(world: HostWorld) -> list[tuple[Any, ...]]:
    return [told for told in world.reports() if told[1] in ("vote", "notice", "extended")]


# -- the window -----------------------------------------------------------------------------


@WINDOWS
async def test_the_window_ends_later_by_what_was_granted_and_no_more(
    event: Event, notification: NotificationType, kind: WindowKind
) -> None:
    seconds, limit = SECONDS[kind]
    async with world_of() as world:
        guest = await silent(world)
        current = world.host.open_round(guest.uuid, event, notification)
        await world.at(OPENED + 5)
        guest.ask_time(30)
        await world.settle()
        guest.ask_time(30, "db")
        await world.settle()
        left = limit - 30
        assert granted(guest) == [(1, 30, ""), (2, left if left < 30 else 30, why(limit, left))]
        whole = 30 + min(30, left)
        assert current.window.remaining_s(now()) == pytest.approx(seconds + whole - 5)
        await world.at(OPENED + seconds + whole - 0.001)
        assert current.outcome is None
        await world.at(OPENED + seconds + whole)
        assert current.outcome is not None
        assert current.outcome.reason == f"no answer within {seconds + whole} s"


def why(limit: int, left: int) -> str:
    return f"the limit is {limit} s in all" if left < 30 else ""


async def test_an_answer_ends_an_extended_window_at_once() -> None:
    async with world_of() as world:
        guest = await silent(world)
        current = world.vote(guest)
        await world.settle()
        guest.ask_time(30)
        await world.at(OPENED + 20)
        guest.answer_vote(guest.asked, Reply(VoteResult.REJECT, "busy"))
        await world.settle()
        assert current.outcome is not None
        assert ends(world)[-1] == (OPENED + 20, "vote", "stop", "reject", "busy")


@pytest.mark.parametrize("late_s", [0.0, 0.5, 3600.0])
def test_a_request_that_has_arrived_before_the_end_is_in_time(late_s: float) -> None:
    """The host was stopped over the end of its window: the request in its socket counts."""

    async def scenario(clock: MockClock) -> tuple[int, float]:
        async with world_of() as world:
            guest = await silent(world)
            current = world.vote(guest)
            await world.at(OPENED + 8.99)
            guest.ask_time(30)
            clock.jump(0.01 + late_s)
            await world.sleep(0.2)
            return granted(guest)[0][1], current.window.seconds

    assert in_every_order(scenario) == [(30, 39)] * ORDERS


async def test_one_that_arrives_after_the_end_is_granted_nothing() -> None:
    async with world_of() as world:
        guest = await silent(world)
        world.vote(guest)
        await world.at(OPENED + 9.1)
        guest.ask_time(30)
        await world.settle()
        assert granted(guest) == [(1, 0, NOT_OPEN)]
        assert [told[1] for told in ends(world)] == ["vote"]


async def test_a_request_under_another_id_changes_nothing() -> None:
    async with world_of() as world:
        guest = await silent(world)
        current = world.vote(guest)
        await world.settle()
        guest.ask_time(30, invocation_id=guest.asked.invocation_id ^ 1)
        await world.settle()
        assert granted(guest) == [(1, 0, NOT_OPEN)]
        assert current.window.seconds == 9


# -- refusals -------------------------------------------------------------------------------


async def test_it_is_off_by_default_and_not_offered() -> None:
    async with host_world() as world:
        guest = await silent(world)
        assert guest.messages[0] == InitAck(guest.init.invocation_id, OFFERED)
        current = world.vote(guest)
        await world.settle()
        guest.ask_time(30)
        await world.settle()
        assert granted(guest) == [(1, 0, OFF)]
        assert current.window.seconds == 9


async def test_one_class_alone_is_offered_and_granted() -> None:
    only = WindowSettings(max_extension_s=ExtensionSettings(shutdown_notice=20))
    async with host_world(windows=only) as world:
        guest = await silent(world)
        offered = OFFERED | Extension.MORE_TIME
        assert guest.messages[0] == InitAck(guest.init.invocation_id, offered)
        world.vote(guest)
        await world.settle()
        guest.ask_time(5)
        await world.settle()
        assert granted(guest) == [(1, 0, OFF)]


@pytest.mark.parametrize(("by_vim", "reason"), [(True, FOR_THE_VIM), (False, FOR_AN_AGENT)])
@pytest.mark.parametrize("notification", [VOTE, NOTICE])
async def test_whoever_has_a_timer_of_its_own_is_not_made_to_wait(
    by_vim: bool, reason: str, notification: NotificationType
) -> None:
    async with world_of() as world:
        guest = await silent(world)
        world.host.rounds.open(
            world.channel(guest), Event.STOP, notification, "command-1", "vim", by_vim=by_vim
        )
        await world.settle()
        guest.ask_time(30)
        await world.settle()
        assert granted(guest) == [(1, 0, reason)]
        await world.sleep(11)
        assert [told[0] for told in ends(world)] == [OPENED + (9 if notification is VOTE else 10)]


@pytest.mark.parametrize("seconds", [0, -1, -(2**31), 86_401, 2**31 - 1, 2**32 - 1])
async def test_numbers_without_sense_are_granted_nothing(seconds: int) -> None:
    async with world_of() as world:
        guest = await silent(world)
        current = world.vote(guest)
        await world.settle()
        guest.ask_time(seconds)
        await world.settle()
        assert granted(guest) == [(1, 0, NOT_A_TIME)]
        assert current.window.seconds == 9


@pytest.mark.parametrize("seconds", [b"NaN", b"1e999", b'"30"', b"30.5", b"true", b"4294967296"])
async def test_what_is_no_number_is_a_bad_message(seconds: bytes) -> None:
    async with world_of() as world:
        guest = await silent(world)
        current = world.vote(guest)
        await world.settle()
        guest.peer.send_bytes(
            b'\n{"version":3,"revision":1,"msg_type":"more_time","sequence":9,"invocation_id":%d,'
            b'"request":1,"seconds":%s,"name":"orders"}\n' % (guest.asked.invocation_id, seconds)
        )
        await world.settle()
        assert isinstance(guest.messages[-1], Nack)
        assert granted(guest) == []
        assert current.window.seconds == 9


async def test_a_guest_that_asks_for_ever_gets_the_limit_and_few_answers() -> None:
    async with world_of() as world:
        guest = await silent(world)
        current = world.vote(guest)
        for _ in range(10 * 60):
            guest.ask_time(1)
            await world.sleep(0.1)
        assert current.outcome is not None
        # Requests that a voter makes are 32 at most; a forged one beyond is refused.
        assert ends(world)[-1][0] == OPENED + 9 + 32
        assert len(ends(world)) == 33
        assert sum(seconds for _, seconds, _ in granted(guest)) == 32
        assert len(granted(guest)) <= 8 * 61


# -- what is shown --------------------------------------------------------------------------


async def test_it_is_told_in_events_history_status_and_metrics(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with world_of() as world:
        guest = await silent(world)
        world.vote(guest)
        await world.at(OPENED + 5)
        guest.ask_time(30, 'or"ders\x07')
        await world.settle()
        reason = "the vote on stop was extended by 30 s by or'ders"
        assert ends(world) == [(OPENED + 5, "extended", "stop", reason)]
        shown = instance_status(world.host, world.channel(guest), now())
        assert shown.open is not None
        assert (shown.open.remaining_s, shown.open.extended) == (
            34.0,
            "extended by 30 s by or'ders",
        )
        assert world.host.counts.extended_s == {WindowKind.VOTE: 30}
        assert any(reason in line for line in caplog.messages)


async def test_an_action_tells_it_and_goes_on_after_the_extended_window() -> None:
    async with world_of() as world:
        guest = await silent(world)
        guest.reply = lambda one: None if one.notification_type is NOTICE else agree(one)
        acted = await world.act(guest, ActionName.REBOOT, "cmd")
        await world.at(OPENED + 9)
        guest.ask_time(20)
        await world.sleep(40)
        steps = [(at, line) for at, line in zip(acted.times, acted.lines, strict=True)]
        extended = [(at, line) for at, line in steps if "extended" in line]
        assert extended == [
            (
                OPENED + 9,
                {
                    "step": "notice",
                    "event": "reboot",
                    "window": "SHUTDOWN_NOTICE",
                    "extended": "extended by 20 s by orders",
                    "seconds": 21.0,
                },
            )
        ]
        assert world.processes.started[0].time_s == OPENED + 30


async def test_an_action_that_waits_for_an_extended_vote_waits_as_long() -> None:
    async with world_of() as world:
        guest = await silent(world)
        world.vote(guest)
        acted = await world.act(guest, ActionName.REBOOT, "cmd")
        await world.at(OPENED + 5)
        guest.ask_time(30)
        await world.at(OPENED + 38.9)
        assert [line["seconds"] for line in acted.lines] == [9.0, 34.0]
        await world.at(OPENED + 39.1)
        assert asked(guest)[-1] == (OPENED + 39, "reboot", "revocable")


async def test_an_operator_s_notice_is_called_off_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_of() as world:
        guest = await silent(world)
        seen: list[float] = []
        noticed = world.host.owners.noticed

        def note(uuid: str, event: str, called_off_at: float) -> None:
            seen.append(called_off_at)
            noticed(uuid, event, called_off_at)

        monkeypatch.setattr(world.host.owners, "noticed", note)
        world.notice(guest, Event.PAUSE)
        await world.settle()
        guest.ask_time(30)
        await world.settle()
        assert [round(at, 3) for at in seen] == [OPENED + 311, OPENED + 341]


# -- restarts -------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def test_a_guest_that_restarts_ends_the_extended_window() -> None:
    async with world_of() as world:
        guest = await silent(world)
        current = world.vote(guest)
        await world.settle()
        guest.ask_time(30)
        await world.sleep(1)
        guest.vanish()
        await world.settle()
        assert current.outcome is not None
        assert current.outcome.result is VoteResult.ERROR


async def test_a_host_that_restarts_asks_anew_with_a_fresh_window(store: MemoryStore) -> None:
    """It was away for longer than the window as opened: the extension was remembered."""
    memory = store.memory()
    async with world_of(memory=memory) as world:
        guest = await silent(world)
        await world.act(guest, ActionName.REBOOT, "cmd")
        await world.sleep(5)
        guest.ask_time(40)
        await world.sleep(1)
        # 43 s are left of the vote, which may be resumed for another minute.
        memory = store.memory()
        await world.restart_host(memory, away_s=100)
        began = now()
        await world.sleep(2)
        votes = [one for one in asked(guest) if one[0] >= began]
        assert [one[1:] for one in votes] == [("reboot", "revocable")]
        channel = world.channel(guest)
        assert channel.round is not None
        assert channel.round.window.seconds == 9
        guest.ask_time(40)
        await world.settle()
        assert channel.round.window.seconds == 49
