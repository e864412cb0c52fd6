"""One window by itself: when it closes, with what outcome, and what becomes of its handlers."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.ballot import Ballot, BallotState, Outcome
from hbtrio.nursery.time_guard import run_guard
from hbtrio.nursery.windows import LINES_EACH, Answer, BallotWindow, Handler, stay_silent, within
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.vocabulary import NotificationType, VoteResult, WindowKind

pytestmark = pytest.mark.usefixtures("autojump_clock")

VOTE, NOTICE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
ACCEPT, REJECT = Answer(VoteResult.ACCEPT, "fine"), Answer(VoteResult.REJECT, "busy")

KINDS = [
    (VOTE, WindowKind.VOTE, 8.0),
    (NOTICE, WindowKind.SHUTDOWN_NOTICE, 8.0),
    (NOTICE, WindowKind.SUSPEND_NOTICE, 6.5),
    (NOTICE, WindowKind.RESUME_NOTICE, 13.0),
    (NOTICE, WindowKind.RESTART, 300.0),
]


@attrs.define
class Handlers:
    """Makes handlers and notes which of them were cancelled, and when."""

    cancelled: list[tuple[float, str]] = attrs.field(factory=list)

    def after(
        self, delay_s: float, answer: Answer | None, *, name: str = "", dies_in_s: float = 0
    ) -> Handler:
        async def handle(window: BallotWindow) -> Answer | None:
            try:
                await trio.sleep(delay_s)
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await trio.sleep(dies_in_s)
                self.cancelled.append((now(), name))
                raise
            return answer

        return handle


@attrs.define
class Held:
    """A window under test with all that came of it."""

    window: BallotWindow
    announced: list[tuple[float, Outcome]]
    returned: list[tuple[float, Outcome]] = attrs.field(factory=list)

    async def hold(self, handlers: Mapping[str, Handler]) -> None:
        outcome = await self.window.hold(handlers)
        self.returned.append((now(), outcome))


def now() -> float:
    return round(trio.current_time(), 6)


def held(
    voters: list[str],
    notification: NotificationType = VOTE,
    kind: WindowKind = WindowKind.VOTE,
    seconds: float = 8.0,
    guard: OnTimeGuard | None = None,
) -> Held:
    announced: list[tuple[float, Outcome]] = []
    window = BallotWindow(
        kind,
        seconds,
        Ballot(notification, voters),
        lambda outcome: announced.append((now(), outcome)),
        guard or OnTimeGuard(math.inf),
    )
    return Held(window, announced)


@asynccontextmanager
async def kept_time() -> AsyncIterator[OnTimeGuard]:
    guard = OnTimeGuard(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_guard, guard)
        yield guard
        nursery.cancel_scope.cancel()


AGREED = {VOTE: Outcome(VoteResult.ACCEPT, "fine"), NOTICE: Outcome(VoteResult.COMPLETE, "fine")}
REFUSED = {VOTE: Outcome(VoteResult.REJECT, "busy"), NOTICE: Outcome(VoteResult.ERROR, "busy")}
SILENT = Outcome(VoteResult.TIMEOUT, "no answer in time from a")


@pytest.mark.parametrize(("notification", "kind", "seconds"), KINDS)
@pytest.mark.parametrize(
    ("before_s", "answer", "outcomes"),
    [
        (math.inf, ACCEPT, AGREED),
        (math.inf, REJECT, REFUSED),
        (0.001, ACCEPT, AGREED),
        (0.001, REJECT, REFUSED),
        # At the very deadline an answer counts, whatever the scheduler's order.
        (0.0, ACCEPT, AGREED),
        (0.0, REJECT, REFUSED),
        (-0.001, ACCEPT, dict.fromkeys(AGREED, SILENT)),
        (-0.001, REJECT, dict.fromkeys(AGREED, SILENT)),
    ],
)
async def test_deadlines(
    notification: NotificationType,
    kind: WindowKind,
    seconds: float,
    before_s: float,
    answer: Answer,
    outcomes: dict[NotificationType, Outcome],
) -> None:
    handlers = Handlers()
    delay_s = max(0.0, seconds - before_s)
    async with kept_time() as guard:
        one = held(["a"], notification, kind, seconds, guard)
        await one.hold({"a": handlers.after(delay_s, answer, name="a")})
    ended = min(delay_s, seconds)
    assert one.announced == one.returned == [(ended, outcomes[notification])]
    assert handlers.cancelled == ([(ended, "a")] if before_s < 0 else [])
    assert trio.current_time() == pytest.approx(ended)


async def test_a_reject_ends_a_vote_at_once_and_cancels_the_others() -> None:
    handlers = Handlers()
    one = held(["a", "b", "c"])
    await one.hold(
        {
            "a": handlers.after(1, ACCEPT, name="a"),
            "b": handlers.after(2, REJECT, name="b"),
            "c": handlers.after(3, ACCEPT, name="c"),
        }
    )
    assert one.announced == one.returned == [(2.0, REFUSED[VOTE])]
    assert handlers.cancelled == [(2.0, "c")]


async def test_a_failure_in_a_notice_lets_the_others_finish() -> None:
    handlers = Handlers()
    one = held(["a", "b"], NOTICE)
    await one.hold({"a": handlers.after(1, REJECT), "b": handlers.after(3, ACCEPT, name="b")})
    assert one.announced == one.returned == [(3.0, REFUSED[NOTICE])]
    assert handlers.cancelled == []


async def test_a_failure_in_hand_at_the_end_of_a_notice_is_its_outcome(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    handlers = Handlers()
    one = held(["a", "b"], NOTICE, WindowKind.SHUTDOWN_NOTICE)
    await one.hold({"a": handlers.after(1, REJECT), "b": handlers.after(9, ACCEPT, name="b")})
    assert one.announced == one.returned == [(8.0, REFUSED[NOTICE])]
    assert handlers.cancelled == [(8.0, "b")]
    assert caplog.messages == [
        "a: reject: busy",
        "SHUTDOWN_NOTICE window closed after 8 s, no answer from b",
    ]


async def test_the_log_says_who_answered_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    handlers = Handlers()
    voters = {
        "web": handlers.after(1, ACCEPT),
        "gone": handlers.after(2, None),
        "db": handlers.after(3, Answer(VoteResult.ACCEPT)),
        "web (2)": handlers.after(4, REJECT),
        "too late": handlers.after(9, ACCEPT),
    }
    await held(list(voters)).hold(voters)
    assert caplog.messages == ["web: accept: fine", "db: accept", "web (2): reject: busy"]


async def test_of_many_answers_some_are_in_the_log_and_the_reject_in_any_case(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    handlers = Handlers()
    voters = {f"app {number}": handlers.after(1 + number / 1000, ACCEPT) for number in range(900)}
    voters["last"] = handlers.after(2, REJECT)
    one = held(list(voters))
    await one.hold(voters)
    assert one.announced == [(2.0, REFUSED[VOTE])]
    assert caplog.messages == [
        *(f"app {number}: accept: fine" for number in range(LINES_EACH)),
        "last: reject: busy",
        f"VOTE window: {900 - LINES_EACH} more answers not shown",
    ]


async def test_handlers_that_have_no_say_are_not_waited_for() -> None:
    handlers = Handlers()
    one = held(["a", "b"])
    await one.hold({"a": handlers.after(1, None), "b": handlers.after(2, ACCEPT)})
    assert one.announced == [(2.0, AGREED[VOTE])]
    nobody = held(["a"])
    await nobody.hold({"a": handlers.after(1, None)})
    assert nobody.announced == [(3.0, Outcome(VoteResult.COMPLETE, ""))]


async def test_with_nobody_to_ask_it_is_complete_at_once() -> None:
    one = held([])
    await one.hold({})
    assert one.announced == one.returned == [(0.0, Outcome(VoteResult.COMPLETE, ""))]


async def test_a_handler_that_takes_long_to_die_does_not_hold_up_the_outcome() -> None:
    handlers = Handlers()
    one = held(["a", "b"])
    await one.hold(
        {
            "a": handlers.after(2, REJECT),
            "b": handlers.after(math.inf, None, name="b", dies_in_s=3),
        }
    )
    assert one.announced == [(2.0, REFUSED[VOTE])]
    assert one.returned == [(5.0, REFUSED[VOTE])]
    assert handlers.cancelled == [(5.0, "b")]


async def test_an_answer_that_comes_by_another_way() -> None:
    one = held(["guest"], NOTICE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.hold, {"guest": stay_silent})
        await trio.sleep(2)
        one.window.answer("guest", ACCEPT)
        # Announced on the spot; what comes behind it counts for nothing.
        assert one.announced == [(2.0, AGREED[NOTICE])]
        one.window.answer("guest", REJECT)
        one.window.abort("too late")
    assert one.announced == one.returned == [(2.0, AGREED[NOTICE])]
    one.window.abort("much too late")
    assert len(one.announced) == 1


async def test_an_answer_of_a_stranger_counts_for_nothing() -> None:
    one = held(["guest"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.hold, {"guest": stay_silent})
        await trio.sleep(2)
        one.window.answer("somebody", REJECT)
    assert one.announced == [
        (8.0, Outcome(VoteResult.TIMEOUT, "no answer in time from guest")),
    ]


@pytest.mark.parametrize("notification", [VOTE, NOTICE])
async def test_an_abort_ends_it_and_its_handlers(notification: NotificationType) -> None:
    handlers = Handlers()
    one = held(["a"], notification)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.hold, {"a": handlers.after(math.inf, None, name="a")})
        await trio.sleep(2)
        one.window.abort("superseded")
        assert one.announced == [(2.0, Outcome(VoteResult.ERROR, "superseded"))]
    assert one.returned == one.announced
    assert handlers.cancelled == [(2.0, "a")]


async def test_an_abort_before_it_opens_runs_no_handler() -> None:
    async def never(window: BallotWindow) -> Answer | None:
        raise AssertionError("was run")

    one = held(["a"])
    one.window.abort("superseded")
    await one.hold({"a": never})
    assert one.announced == one.returned == [(0.0, Outcome(VoteResult.ERROR, "superseded"))]


async def test_cancelled_from_outside_it_says_that_it_was_aborted() -> None:
    handlers = Handlers()
    one = held(["a"])
    with trio.move_on_after(2):
        await one.hold({"a": handlers.after(math.inf, None, name="a")})
    aborted = Outcome(VoteResult.ERROR, "stopped before the answer arrived")
    assert one.announced == [(2.0, aborted)]
    assert one.returned == []
    assert handlers.cancelled == [(2.0, "a")]
    assert one.window.ballot.state is BallotState.ABORTED


async def test_what_it_shows_of_its_time() -> None:
    one = held(["a"])
    assert math.isnan(one.window.deadline)
    assert one.window.remaining_s(trio.current_time()) == 8.0
    async with trio.open_nursery() as nursery:
        await trio.sleep(1)
        nursery.start_soon(one.hold, {"a": stay_silent})
        await trio.sleep(3)
        assert one.window.deadline == 9.0
        assert one.window.remaining_s(trio.current_time()) == 5.0
    assert one.window.remaining_s(trio.current_time()) == 0.0
    assert one.window.remaining_s(100.0) == 0.0


async def test_a_fault_of_a_handler_is_no_answer_and_gets_out() -> None:
    async def faulty(window: BallotWindow) -> Answer | None:
        raise LookupError("a bug")

    one = held(["a"])
    with pytest.raises(ExceptionGroup) as caught:
        await one.hold({"a": faulty})
    assert caught.group_contains(LookupError, match="a bug")
    assert [outcome.result for _, outcome in one.announced] == [VoteResult.ERROR]


@pytest.mark.parametrize(("notification", "kind", "seconds"), KINDS)
@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@pytest.mark.parametrize("frozen_s", [12.0, 3600.0])
async def test_an_answer_that_piled_up_in_a_freeze_counts(
    notification: NotificationType,
    kind: WindowKind,
    seconds: float,
    answer: Answer,
    frozen_s: float,
    autojump_clock: MockClock,
) -> None:
    handlers = Handlers()
    async with kept_time() as guard, trio.open_nursery() as nursery:
        one = held(["a"], notification, kind, seconds, guard)
        nursery.start_soon(one.hold, {"a": handlers.after(seconds - 0.5, answer)})
        await trio.sleep(seconds - 1)
        autojump_clock.jump(frozen_s)
    outcomes = AGREED if answer is ACCEPT else REFUSED
    assert one.announced == one.returned == [(seconds - 1 + frozen_s, outcomes[notification])]


@pytest.mark.parametrize(("notification", "kind", "seconds"), KINDS)
async def test_after_a_freeze_there_is_time_to_answer(
    notification: NotificationType, kind: WindowKind, seconds: float, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    woken = seconds + 12
    async with kept_time() as guard, trio.open_nursery() as nursery:
        just = held(["a"], notification, kind, seconds, guard)
        late = held(["a"], notification, kind, seconds, guard)
        nursery.start_soon(just.hold, {"a": handlers.after(woken + CALM_S - 0.001, ACCEPT)})
        nursery.start_soon(late.hold, {"a": handlers.after(woken + CALM_S + 0.001, ACCEPT)})
        await trio.testing.wait_all_tasks_blocked()
        autojump_clock.jump(woken)
    assert just.announced == [(woken + CALM_S - 0.001, AGREED[notification])]
    assert late.announced == [(woken + CALM_S, SILENT)]


# -- work within a window -----------------------------------------------------------------------


async def test_work_that_ends_within_its_window_has_its_result() -> None:
    async def wait() -> str:
        await trio.sleep(2.0)
        return "done"

    assert await within(3.0, OnTimeGuard(math.inf), wait) == "done"
    assert trio.current_time() == 2.0


async def test_work_that_takes_too_long_is_cancelled_and_waited_for() -> None:
    ended: list[float] = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1.0)
            ended.append(trio.current_time())

    with pytest.raises(trio.TooSlowError):
        await within(3.0, OnTimeGuard(math.inf), wait)
    assert ended == [4.0]


async def test_a_result_that_comes_although_it_was_cancelled_counts() -> None:
    async def wait() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(3.5)
        return "done"

    assert await within(3.0, OnTimeGuard(math.inf), wait) == "done"


async def test_a_fault_of_the_work_is_raised_by_itself() -> None:
    async def wait() -> None:
        await trio.sleep(1.0)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await within(3.0, OnTimeGuard(math.inf), wait)


async def test_work_can_be_cancelled_from_outside() -> None:
    with trio.move_on_after(1.0) as scope:
        await within(3.0, OnTimeGuard(math.inf), trio.sleep_forever)
    assert scope.cancelled_caught
    assert trio.current_time() == 1.0
