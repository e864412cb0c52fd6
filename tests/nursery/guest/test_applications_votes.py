"""Votes and notices with applications and the script side by side: one answer to the host, always.

What is expected is reckoned by :func:`expected`, from the rules alone.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path

import attrs
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.nursery.time_guard import TAKE_IN_S
from hbtrio.wire.app_messages import AppActionNotify as Question
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, Challenge, InitAck
from hbtrio.wire.channel_messages import Init as GuestInit
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, NotificationType, VoteResult, window_of
from support.fake_processes import HANGS, FakeRun
from support.guest_world import (
    IRREVOCABLE,
    REVOCABLE,
    STOP_NOTICE,
    STOP_VOTE,
    handlers,
    response,
    said,
)
from support.raw_application import RawApplication, app_world, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

ACCEPT, REJECT, COMPLETE = VoteResult.ACCEPT, VoteResult.REJECT, VoteResult.COMPLETE
ERROR, TIMEOUT = VoteResult.ERROR, VoteResult.TIMEOUT


class Does(Enum):
    """What a voter does, some time after it was asked."""

    ACCEPTS = "accepts"
    REJECTS = "rejects"
    COMPLETES = "completes"
    SAYS_NOTHING = "says nothing at all"
    CRASHES = "crashes"
    SIGNS_OFF = "signs off"
    REGISTERS_ANEW = "registers anew"
    REJECTS_AND_CRASHES = "rejects and crashes"
    REJECTS_ANOTHER_EVENT = "rejects, and names another event than it was asked about"
    ANSWERS_ANOTHER_ID = "rejects what it was not asked"
    ANSWERS_TWICE = "accepts, then rejects"


REJECTING = (Does.REJECTS, Does.REJECTS_AND_CRASHES, Does.REJECTS_ANOTHER_EVENT)
AGREEING = {Does.ACCEPTS: ACCEPT, Does.ANSWERS_TWICE: ACCEPT, Does.COMPLETES: COMPLETE}

#: What an event script can do.
SCRIPTED = (Does.ACCEPTS, Does.REJECTS, Does.CRASHES, Does.SAYS_NOTHING)


@attrs.frozen
class Part:
    """What one voter does in a round: what, how long after it was asked, and its own window."""

    name: str
    does: Does
    after_s: float
    own_s: float = 1000.0

    @property
    def reason(self) -> str:
        return f"said by {self.name}"

    @property
    def over_s(self) -> float:
        """When nothing more is expected of it, should the window of the VM be longer."""
        acts = self.does not in (Does.SAYS_NOTHING, Does.ANSWERS_ANOTHER_ID)
        return min(self.after_s, self.own_s) if acts else self.own_s


def play(part: Part, app: RawApplication, nursery: trio.Nursery) -> None:
    """Has an application play its part in all rounds."""

    async def later(asked: Question) -> None:
        await trio.sleep(part.after_s)
        perform(part, app, asked)

    app.on_event = lambda asked: nursery.start_soon(later, asked)


def perform(part: Part, app: RawApplication, asked: Question) -> None:
    match part.does:
        case Does.ACCEPTS:
            app.answer(asked, ACCEPT, part.reason)
        case Does.REJECTS:
            app.answer(asked, REJECT, part.reason)
        case Does.COMPLETES:
            app.answer(asked, COMPLETE, part.reason)
        case Does.SAYS_NOTHING:
            pass
        case Does.CRASHES:
            app.crash()
        case Does.SIGNS_OFF:
            app.deregister()
        case Does.REGISTERS_ANEW:
            app.send(init(part.name))
        case Does.REJECTS_AND_CRASHES:
            app.answer(asked, REJECT, part.reason)
            app.crash()
        case Does.REJECTS_ANOTHER_EVENT:
            other = {"event_type": Event.RESUME, "notification_type": NotificationType.UNKNOWN}
            app.answer(asked, REJECT, part.reason, **other)
        case Does.ANSWERS_ANOTHER_ID:
            app.answer(asked, REJECT, part.reason, invocation_id=asked.invocation_id + 1)
        case Does.ANSWERS_TWICE:
            app.answer(asked, ACCEPT, part.reason)
            app.answer(asked, REJECT, "on second thoughts")


def run_of(part: Part) -> FakeRun:
    """What an event script does to play its part."""
    if part.does is Does.SAYS_NOTHING:
        return HANGS
    killed = 9 if part.does is Does.CRASHES else None
    exit_code = 1 if part.does is Does.REJECTS else 0
    return FakeRun(exit_code, part.reason.encode(), delay_s=part.after_s, signal=killed)


def expected(
    parts: Sequence[Part], window_s: float, *, vote: bool
) -> tuple[float, VoteResult, str]:
    """Seconds from the question to the answer, the answer and its reason; the script is first."""
    owed = [part.name for part in parts]
    failure: tuple[VoteResult, str] | None = None
    reason, accepted, over_s, killed = "", False, 0.0, ""
    for part in sorted(parts, key=lambda part: part.over_s):
        if part.over_s >= window_s:
            break
        over_s = part.over_s
        owed.remove(part.name)
        if over_s == part.own_s:
            failure = failure or (TIMEOUT, f"no answer in time from {part.name}")
        elif part.does in REJECTING:
            if vote:
                return over_s, REJECT, part.reason
            failure = failure or (ERROR, part.reason)
        elif part.does in AGREEING:
            reason = reason or part.reason
            accepted |= vote and AGREEING[part.does] is ACCEPT
        elif part is parts[0]:
            killed = f"{part.name} was killed by signal SIGKILL"
    if owed:
        over_s = window_s
        failure = failure or (TIMEOUT, f"no answer in time from {', '.join(owed)}")
    result, reason = failure or (ACCEPT if accepted else COMPLETE, reason)
    return over_s, result, "; ".join(filter(None, (reason, killed)))


async def held(
    parts: Sequence[Part], notify: ActionNotify, directory: Path
) -> list[tuple[float, object]]:
    """What the host hears from 2.0 on, when it asks; the first part is a script's."""
    script, *others = parts
    processes = handlers(directory, {script.name: run_of(script)})
    async with app_world(events=directory, processes=processes) as bench:
        for part in others:
            # One window of each kind, and beats that are in nobody's way.
            seconds = int(part.own_s)
            terms = init(
                part.name,
                heartbeat_interval_ms=600_000,
                vote_secs=seconds,
                shutdown_notice_secs=seconds,
            )
            play(part, await bench.join(terms), bench.nursery)
        await trio.sleep_until(2.0)
        bench.device.send(notify)
        await trio.sleep_until(12.0)
        return said(bench.device.unread())


#: No two things happen at the same time: their order would be trio's to choose.
DELAYS = [0.1 + 0.37 * number for number in range(30)]


@st.composite
def rounds(draw: st.DrawFn) -> list[Part]:
    """A script and one to four applications; windows around that of the VM as a whole."""
    count = draw(st.integers(1, 4))
    delays = draw(st.permutations(DELAYS).map(lambda order: order[: count + 1]))
    script = Part("script", draw(st.sampled_from(SCRIPTED)), delays[0])
    windows = draw(st.permutations([1, 2, 3, 5, 6, 20, 30, 40]).map(lambda order: order[:count]))
    return [script] + [
        Part(f"app{number}", draw(st.sampled_from(Does)), delay, window)
        for number, (delay, window) in enumerate(zip(delays[1:], windows, strict=True))
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(parts=rounds(), vote=st.booleans())
def test_whatever_they_do_there_is_one_answer(parts: list[Part], vote: bool) -> None:
    notify, window_s = (STOP_VOTE, 8.0) if vote else (STOP_NOTICE, 7.0)
    with tempfile.TemporaryDirectory(prefix="app.") as directory:
        clock = MockClock(autojump_threshold=0)
        heard = trio.run(held, parts, notify, Path(directory), clock=clock)
    after_s, result, reason = expected(parts, window_s, vote=vote)
    assert heard == [(pytest.approx(2.0 + after_s), response(notify, result, reason))]


@pytest.mark.parametrize("vote", [True, False])
@pytest.mark.parametrize(
    ("first", "second"), [*itertools.product(Does, repeat=2)], ids=lambda does: does.value
)
async def test_all_pairs(first: Does, second: Does, vote: bool, tmp_path: Path) -> None:
    """Two applications, one after the other, and a script that agrees in between."""
    parts = [
        Part("script", Does.ACCEPTS, 1.5),
        Part("one", first, 1.0, 3),
        Part("two", second, 2.0, 5),
    ]
    notify, window_s = (STOP_VOTE, 8.0) if vote else (STOP_NOTICE, 7.0)
    after_s, result, reason = expected(parts, window_s, vote=vote)
    assert await held(parts, notify, tmp_path) == [
        (pytest.approx(2.0 + after_s), response(notify, result, reason))
    ]


async def test_the_log_names_who_rejects_and_the_host_has_the_bare_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    parts = [
        Part("web", Does.ACCEPTS, 0.1),  # the script
        Part("web", Does.SAYS_NOTHING, 0.0, 1),
        Part("db", Does.REJECTS, 2.0),
    ]
    assert await held(parts, STOP_VOTE, tmp_path) == [
        (4.0, response(STOP_VOTE, REJECT, "said by db"))
    ]
    first = caplog.messages.index("revocable stop: VOTE window of 8 s, asking web, web (2), db")
    assert caplog.messages[first + 1 : first + 5] == [
        "web: accept: said by web",
        "web (2): timeout: no answer in time from web (2)",
        "db: reject: said by db",
        "revocable stop: reject (db: said by db)",
    ]


async def test_who_is_silent_has_the_same_name_for_the_host(tmp_path: Path) -> None:
    parts = [Part("web", Does.ACCEPTS, 0.1), Part("web", Does.SAYS_NOTHING, 0.0, 1)]
    late = response(STOP_VOTE, TIMEOUT, "no answer in time from web (2)")
    assert await held(parts, STOP_VOTE, tmp_path) == [(3.0, late)]


# -- windows --------------------------------------------------------------------------------------

EVERY = [
    (event, notification)
    for event in EVENT_TABLE
    for notification in (REVOCABLE, IRREVOCABLE)
    if notification is IRREVOCABLE or EVENT_TABLE[event].voted
]


@pytest.mark.parametrize(("event", "notification"), EVERY)
async def test_each_application_has_its_own_window_for_each_event(
    event: Event, notification: NotificationType
) -> None:
    registration = init("web")
    own_s = {
        "VOTE": registration.vote_secs,
        "SHUTDOWN_NOTICE": registration.shutdown_notice_secs,
        "SUSPEND_NOTICE": registration.suspend_notice_secs,
        "RESUME_NOTICE": registration.resume_notice_secs,
    }[window_of(event, notification).name]
    notify = ActionNotify(900, event, notification, 100_000)
    async with app_world() as bench:
        app = await bench.join(registration)
        await trio.sleep_until(2.0)
        bench.device.send(notify)
        asked = await app.asked()
        assert (asked.event_type, asked.notification_type) == (event, notification)
        await trio.sleep_until(60.0)
        late = "no answer in time from web"
        assert said(bench.device.unread()) == [(2.0 + own_s, response(notify, TIMEOUT, late))]
        app.answer(asked, REJECT, "late")  # it is over
        await bench.settle()
        assert bench.device.unread() == []


@pytest.mark.parametrize("planned_at", [0, 1_790_000_000])
async def test_an_application_is_told_the_planned_time(planned_at: int) -> None:
    async with app_world() as bench:
        app = await bench.join(init("web"))
        notify = ActionNotify(900, Event.STOP, REVOCABLE, 9000, planned_at)
        bench.device.send(notify)
        assert (await app.asked()).planned_at == planned_at


async def test_the_window_of_the_vm_bounds_that_of_an_application() -> None:
    async with app_world() as bench:
        await bench.join(init("web", vote_secs=2**32 - 1))
        await bench.join(init("db", vote_secs=8))  # just as long as the VM's
        await trio.sleep_until(2.0)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(100.0)
        silent = response(STOP_VOTE, TIMEOUT, "no answer in time from web, db")
        assert said(bench.device.unread()) == [(10.0, silent)]


async def test_with_nobody_registered_the_round_is_complete_at_once() -> None:
    async with app_world() as bench:
        await bench.join()
        (await bench.join(init("gone"))).deregister()
        await bench.settle()
        bench.device.send(STOP_VOTE)
        await bench.settle()
        assert said(bench.device.unread()) == [(1.0, response(STOP_VOTE, COMPLETE))]


# -- who comes and goes during a round ------------------------------------------------------------


async def test_who_registers_during_a_round_is_asked_the_next_time() -> None:
    async with app_world() as bench:
        early = await bench.join(init("early"))
        bench.device.send(STOP_VOTE)
        asked = await early.asked()
        late = await bench.join(init("late"))
        early.answer(asked, ACCEPT)
        await bench.settle()
        assert said(bench.device.unread()) == [(1.0, response(STOP_VOTE, ACCEPT))]
        bench.device.send(STOP_NOTICE)
        for app in (early, late):
            app.answer(await app.asked(2 if app is early else 1), COMPLETE)
        await bench.settle()
        assert said(bench.device.unread()) == [(1.0, response(STOP_NOTICE, COMPLETE))]
        assert len(late.received_of(Question)) == 1


async def test_who_goes_between_the_question_and_its_task_is_not_asked() -> None:
    async with app_world() as bench:
        app = await bench.join(init("web"))
        app.deregister()
        bench.device.send(STOP_VOTE)  # whichever of the two is read first
        await bench.settle()
        assert said(bench.device.unread()) == [(1.0, response(STOP_VOTE, COMPLETE))]


async def test_a_newer_action_is_asked_at_once_and_both_are_answered() -> None:
    async with app_world() as bench:
        app = await bench.join(init("web"))
        bench.device.send(STOP_VOTE)
        first = await app.asked()
        await trio.sleep_until(1.5)
        bench.device.send(STOP_NOTICE)
        second = await app.asked(2)
        assert first.invocation_id != second.invocation_id
        app.answer(first, REJECT, "to the old one")
        await trio.sleep_until(1.7)
        app.answer(second, COMPLETE, "to the new one")
        await trio.sleep_until(60.0)
        assert said(bench.device.unread()) == [
            (1.5, response(STOP_VOTE, ERROR, "superseded by a newer action")),
            (1.7, response(STOP_NOTICE, COMPLETE, "to the new one")),
        ]


@pytest.mark.slow
async def test_a_thousand_newer_actions_are_answered_once_each() -> None:
    """An application that answers each of them at a time of its own."""
    async with app_world() as bench:
        app = await bench.join(init("web", heartbeat_interval_ms=600_000))

        async def later(asked: Question) -> None:
            await trio.sleep(0.01 * (asked.invocation_id % 7))
            app.answer(asked, ACCEPT)

        app.on_event = lambda asked: bench.nursery.start_soon(later, asked)
        for number in range(1000):
            bench.device.send(msgspec.structs.replace(STOP_VOTE, invocation_id=number))
            await trio.sleep(0.05)
        await trio.sleep(20)
        answers = [one.message for one in bench.device.unread()]
    numbers = [answer.invocation_id for answer in answers if isinstance(answer, ActionResponse)]
    assert numbers == list(range(1000))


async def test_the_host_s_new_init_does_not_hang_the_question() -> None:
    """The guest goes back to init during a vote: the application is told of the next event."""
    async with app_world() as bench:
        app = await bench.join(init("web"))
        bench.device.send(STOP_VOTE)
        first = await app.asked()
        bench.device.disconnect()
        await trio.sleep_until(5.0)
        (again,) = (one.message for one in bench.device.unread() if one.at_s > 1.0)
        assert isinstance(again, GuestInit)
        bench.device.send(InitAck(again.invocation_id), Challenge(1), STOP_NOTICE)
        app.answer(first, REJECT, "too late")
        app.answer(await app.asked(2), COMPLETE, "told")
        await bench.settle()
        assert bench.device.unread()[-1].message == response(STOP_NOTICE, COMPLETE, "told")


# -- the guest's own lateness ---------------------------------------------------------------------


@pytest.mark.parametrize("answers", [True, False])
async def test_an_application_s_window_is_not_over_while_the_guest_was_frozen(
    answers: bool, autojump_clock: MockClock
) -> None:
    async with app_world() as bench:
        app = await bench.join(init("web"))
        await trio.sleep_until(2.0)
        bench.device.send(msgspec.structs.replace(STOP_VOTE, timeout_ms=600_000))
        asked = await app.asked()
        await trio.sleep_until(3.0)
        autojump_clock.jump(30.0)  # its window is 3 s
        if answers:
            app.answer(asked, REJECT, "in time, as far as it knows")
        await trio.sleep_until(100.0)
        heard = said(bench.device.unread())
    if answers:
        assert heard == [(33.0, response(STOP_VOTE, REJECT, "in time, as far as it knows"))]
    else:
        silent = response(STOP_VOTE, TIMEOUT, "no answer in time from web")
        assert heard == [(33.0 + TAKE_IN_S, silent)]


async def test_a_stopped_application_finds_its_question_and_one_challenge(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """SIGSTOP: nothing is read for a minute of votes; then all of it at once."""
    caplog.set_level(logging.INFO)
    async with app_world() as bench:
        app = await bench.join(init("web"))
        app.stop()
        for number in range(6):
            bench.device.send(msgspec.structs.replace(STOP_VOTE, invocation_id=number))
            await trio.sleep(10.0)
        silent = partial(response, result=TIMEOUT, reason="no answer in time from web")
        assert said(bench.device.unread()) == [
            (4.0 + 10 * number, silent(msgspec.structs.replace(STOP_VOTE, invocation_id=number)))
            for number in range(6)
        ]
        app.resume()
        await trio.sleep_until(63.5)
        assert [type(message).__name__ for _, message in app.received] == [
            "AppInitAck",
            *("AppActionNotify", "AppChallenge"),
            *["AppActionNotify"] * 5,
            *("AppChallenge", "AppChallenge"),
        ]
        assert [status.healthy for status in bench.applications.health()] == [True]
