"""Votes and notices in the guest: who is asked, what is answered, when, and under which id."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock

from hbtrio.nursery.guest.rounds import ROUNDS_PER_S
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, Exit, Init, InitAck
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, NotificationType, VoteResult, WindowKind
from support.fake_processes import HANGS, FakeRun
from support.guest_world import (
    IRREVOCABLE,
    REVOCABLE,
    SETTINGS,
    STOP_NOTICE,
    STOP_VOTE,
    GuestWorld,
    handlers,
    response,
    said,
    when,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")

ACCEPT, REJECT, COMPLETE = VoteResult.ACCEPT, VoteResult.REJECT, VoteResult.COMPLETE
ERROR, TIMEOUT = VoteResult.ERROR, VoteResult.TIMEOUT
SILENT = "no answer in time from handler"
TOO_MANY = "too many actions at once"


@attrs.frozen
class Case:
    """One of the guest's windows, as a host asks for it from the advertised seconds."""

    notify: ActionNotify
    kind: WindowKind
    seconds: int

    @property
    def agreed(self) -> VoteResult:
        return ACCEPT if self.kind is WindowKind.VOTE else COMPLETE

    @property
    def refused(self) -> VoteResult:
        return REJECT if self.kind is WindowKind.VOTE else ERROR


def case(event: Event, notification: NotificationType, kind: WindowKind, seconds: int) -> Case:
    return Case(ActionNotify(900, event, notification, 1000 * (seconds + 1)), kind, seconds)


CASES = [
    case(Event.COLD_MIGRATE_BEGIN, REVOCABLE, WindowKind.VOTE, SETTINGS.vote_s),
    case(Event.REBOOT, IRREVOCABLE, WindowKind.SHUTDOWN_NOTICE, SETTINGS.shutdown_notice_s),
    case(Event.PAUSE, IRREVOCABLE, WindowKind.SUSPEND_NOTICE, SETTINGS.suspend_notice_s),
    case(Event.COLD_MIGRATE_END, IRREVOCABLE, WindowKind.RESUME_NOTICE, SETTINGS.resume_notice_s),
]
each_window = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.value)


async def bench_with(
    tmp_path: Path, nursery: trio.Nursery, runs: Mapping[str, FakeRun]
) -> GuestWorld:
    """A guest enabled at 1.0 whose event directory holds these scripts; it is 2.0."""
    bench = GuestWorld(processes=handlers(tmp_path, runs), events=tmp_path)
    await bench.enable(nursery)
    await trio.sleep_until(2.0)
    return bench


# -- the matrix of the windows --------------------------------------------------------------------


async def test_the_windows_are_those_advertised() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        await bench.enable(nursery)
        nursery.cancel_scope.cancel()
    (heard,) = bench.device.received
    # A second is added for the way. RESTART is the host's window: the guest only advertises it.
    assert said([heard]) == [
        (1.0, Init(101, "vm1", 1000, 9, 8, 7, 14, 301, SETTINGS.corrective_action))
    ]
    assert heard.sequence == 1


@each_window
@pytest.mark.parametrize("exit_code", [0, 1])
@pytest.mark.parametrize(
    ("before_s", "in_time"),
    [(math.inf, True), (3.5, True), (0.001, True), (0.0, True), (-0.001, False), (-60, False)],
)
async def test_deadlines(
    case: Case,
    exit_code: int,
    before_s: float,
    in_time: bool,
    tmp_path: Path,
) -> None:
    delay_s = max(0.0, case.seconds - before_s)
    runs = {"handler": FakeRun(exit_code, b"my reason\nmore\n", delay_s=delay_s)}
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, runs)
        bench.device.send(case.notify)
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    ended = round(2.0 + min(delay_s, case.seconds), 6)
    if in_time:
        answer = response(case.notify, case.refused if exit_code else case.agreed, "my reason")
    else:
        answer = response(case.notify, TIMEOUT, SILENT)
    assert said(bench.device.unread()) == [(ended, answer)]
    over = [(ended, "handler")]
    assert when(bench.processes.ended) == (over if in_time else [])
    assert when(bench.processes.cancelled) == ([] if in_time else over)


@each_window
async def test_cancelled_by_shutdown(case: Case, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": HANGS})
        bench.device.send(case.notify)
        await trio.sleep_until(4.0)
        bench.guest.stop()
    assert said(bench.device.unread()) == [
        (4.0, response(case.notify, ERROR, "the daemon is stopping")),
        (4.0, Exit("Exiting...")),
    ]
    assert when(bench.processes.cancelled) == [(4.0, "handler")]
    assert bench.ended_at == 4.0


@each_window
@pytest.mark.parametrize("exit_code", [0, 1])
@pytest.mark.parametrize("frozen_s", [12.0, 3600.0])
async def test_late_with_the_answer_at_hand(
    case: Case, exit_code: int, frozen_s: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Frozen beyond the window's end while the script has long ended: that answer is sent."""
    runs = {"handler": FakeRun(exit_code, b"my reason", delay_s=1.5)}
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, runs)
        bench.device.send(case.notify)
        await trio.sleep_until(3.0)
        autojump_clock.jump(case.seconds + frozen_s)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    answer = response(case.notify, case.refused if exit_code else case.agreed, "my reason")
    assert said(bench.device.unread()) == [(3.0 + case.seconds + frozen_s, answer)]


@each_window
@pytest.mark.parametrize(
    ("over_s", "allows_s"), [(0.0, 0.8), (0.5, 0.3), (0.79, 0.05), (0.9, 0.05), (30.0, 0.05)]
)
async def test_late_with_nothing_at_hand(
    case: Case, over_s: float, allows_s: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It decides 0.2 s before the host does; later it still reads what has arrived."""
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": HANGS})
        bench.device.send(case.notify)
        ends_at = 2.0 + case.seconds
        await trio.sleep_until(3.0)
        autojump_clock.jump(ends_at + over_s - 3.0)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    timeout = response(case.notify, TIMEOUT, SILENT)
    assert said(bench.device.unread()) == [(pytest.approx(ends_at + over_s + allows_s), timeout)]


@pytest.mark.parametrize(
    ("timeout_ms", "seconds"),
    [
        (-(2**31), 0.0),
        (-1, 0.0),
        (0, 0.0),
        (1, 0.001),
        (999, 0.999),
        (1000, 1.0),
        (1001, 0.001),
        (4000, 3.0),
        (2**31 - 1, 2_147_482.647),
    ],
)
@pytest.mark.parametrize("notification", [REVOCABLE, IRREVOCABLE])
async def test_the_window_of_a_timeout_ms(
    timeout_ms: int,
    seconds: float,
    notification: NotificationType,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The way back is taken off what is longer than it; what is not is used whole."""
    caplog.set_level(logging.INFO)
    notify = ActionNotify(900, Event.STOP, notification, timeout_ms)
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": HANGS})
        bench.device.send(notify)
        await bench.settle()
        kind = "VOTE" if notification is REVOCABLE else "SHUTDOWN_NOTICE"
        opened = f"{notification} stop: {kind} window of {seconds:g} s, asking handler"
        assert opened in caplog.messages
        if seconds > 1000:  # not slept through: the guard alone would tick for minutes
            await trio.sleep_until(10)
            assert bench.device.unread() == []
        else:
            heard = await bench.device.next()
            assert said([heard]) == [(round(2.0 + seconds, 6), response(notify, TIMEOUT, SILENT))]
        nursery.cancel_scope.cancel()


# -- who is asked, and what follows from their answers --------------------------------------------


@pytest.mark.parametrize("event", EVENT_TABLE)
@pytest.mark.parametrize("notification", [REVOCABLE, IRREVOCABLE])
async def test_a_script_is_told_what_it_is_about(
    event: Event, notification: NotificationType, tmp_path: Path
) -> None:
    notify = ActionNotify(2**31 - 1, event, notification, 9000)
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": FakeRun(0, b"fine\n")})
        bench.device.send(notify)
        heard = await bench.device.next()
        nursery.cancel_scope.cancel()
    result = ACCEPT if notification is REVOCABLE else COMPLETE
    assert said([heard]) == [(2.0, response(notify, result, "fine"))]
    (started,) = bench.processes.started
    assert started.argv == (str(tmp_path / "handler"), notification.value, event.value)


OK, REFUSES = FakeRun(0, b"fine\n", delay_s=2), FakeRun(1, b"busy\n", delay_s=1)
KILLED, BROKEN = FakeRun(signal=9, delay_s=0.5), FakeRun(fault="Exec format error")
A_KILLED = "a was killed by signal SIGKILL"


@pytest.mark.parametrize(
    ("notify", "runs", "at_s", "result", "reason"),
    [
        (STOP_VOTE, {}, 2.0, COMPLETE, ""),
        (STOP_VOTE, {"a": KILLED}, 2.5, COMPLETE, A_KILLED),
        (STOP_VOTE, {"a": BROKEN}, 2.0, COMPLETE, "a could not be run: Exec format error"),
        (
            STOP_VOTE,
            {"a": KILLED, "b": OK, "c": BROKEN},
            4.0,
            ACCEPT,
            f"fine; c could not be run: Exec format error; {A_KILLED}",
        ),
        (STOP_VOTE, {"a": KILLED, "b": REFUSES}, 3.0, REJECT, "busy"),
        (STOP_VOTE, {"a": REFUSES, "b": HANGS, "c": OK}, 3.0, REJECT, "busy"),
        (STOP_VOTE, {"a": OK, "b": OK}, 4.0, ACCEPT, "fine"),
        (STOP_VOTE, {"a": OK, "b": HANGS}, 10.0, TIMEOUT, "no answer in time from b"),
        (STOP_VOTE, {"a": HANGS, "b": HANGS}, 10.0, TIMEOUT, "no answer in time from a, b"),
        (STOP_NOTICE, {}, 2.0, COMPLETE, ""),
        (STOP_NOTICE, {"a": KILLED}, 2.5, COMPLETE, A_KILLED),
        (STOP_NOTICE, {"a": KILLED, "b": REFUSES}, 3.0, ERROR, f"busy; {A_KILLED}"),
        (STOP_NOTICE, {"a": OK, "b": OK}, 4.0, COMPLETE, "fine"),
        (STOP_NOTICE, {"a": REFUSES, "b": OK}, 4.0, ERROR, "busy"),
        (STOP_NOTICE, {"a": REFUSES, "b": HANGS}, 9.0, ERROR, "busy"),
        (STOP_NOTICE, {"a": OK, "b": HANGS}, 9.0, TIMEOUT, "no answer in time from b"),
    ],
)
async def test_several_scripts(
    notify: ActionNotify,
    runs: Mapping[str, FakeRun],
    at_s: float,
    result: VoteResult,
    reason: str,
    tmp_path: Path,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, runs)
        bench.device.send(notify)
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(at_s, response(notify, result, reason))]
    # All start together; the answer ends those that are still running.
    alive = [name for name, run in runs.items() if run.fault is None]
    assert sorted(when(bench.processes.started)) == [(2.0, name) for name in alive]
    slow = [name for name in alive if 2.0 + runs[name].delay_s > at_s]
    assert sorted(when(bench.processes.cancelled)) == [(at_s, name) for name in slow]


async def test_a_configured_script_that_is_missing_has_no_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(events=tmp_path / "nowhere")
        await bench.enable(nursery)
        bench.device.send(STOP_VOTE)
        heard = await bench.device.next()
        nursery.cancel_scope.cancel()
    assert said([heard]) == [(1.0, response(STOP_VOTE, COMPLETE))]
    missing = f"script {tmp_path / 'nowhere'} does not exist"
    assert ("hbtrio.scripts", logging.ERROR, missing) in caplog.record_tuples


async def test_a_reason_is_made_fit_for_the_wire(tmp_path: Path) -> None:
    line = 'disk "a\\b" busy\t' + "é" * 300
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": FakeRun(1, line.encode())})
        bench.device.send(STOP_VOTE)
        heard = await bench.device.next()
        nursery.cancel_scope.cancel()
    assert isinstance(heard.message, ActionResponse)
    reason = heard.message.log_msg
    assert heard.message == response(STOP_VOTE, REJECT, reason)
    assert reason.startswith("disk 'a/b' busy éé")
    assert len(reason.encode()) == 222


@pytest.mark.parametrize(
    ("event", "notification"),
    [("bogus", "revocable"), ("unknown", "irrevocable"), ("stop", "bogus"), ("x", "y")],
)
async def test_what_nobody_knows_is_complete(event: str, notification: str, tmp_path: Path) -> None:
    notify = ActionNotify(5, Event(event), NotificationType(notification), 9000)
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": FakeRun(1)})
        bench.device.send(notify)
        heard = await bench.device.next()
        nursery.cancel_scope.cancel()
    assert said([heard]) == [(2.0, response(notify, COMPLETE))]
    assert bench.processes.started == []


@pytest.mark.parametrize("notify", [STOP_VOTE, STOP_NOTICE])
async def test_before_the_host_has_acknowledged_it_is_complete(
    notify: ActionNotify, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=handlers(tmp_path, {"handler": FakeRun(1)}), events=tmp_path)
        nursery.start_soon(bench.run)
        await trio.sleep_until(0.5)  # initial: not released
        bench.device.send(notify)
        assert said([await bench.device.next()]) == [(0.5, response(notify, COMPLETE))]
        init = await bench.device.next()  # enabling
        bench.device.send(notify)
        assert said([await bench.device.next()]) == [(1.0, response(notify, COMPLETE))]
        assert isinstance(init.message, Init)
        bench.device.send(InitAck(init.message.invocation_id), notify)
        answered = await bench.device.next()
        nursery.cancel_scope.cancel()
    assert isinstance(answered.message, ActionResponse)
    assert answered.message.vote_result is (REJECT if notify is STOP_VOTE else ERROR)


def number_of(one: tuple[float, object]) -> int:
    assert isinstance(one[1], ActionResponse)
    return one[1].invocation_id


# -- one action after another ---------------------------------------------------------------------


async def test_a_newer_action_ends_the_one_in_progress(tmp_path: Path) -> None:
    newer = ActionNotify(77, Event.REBOOT, IRREVOCABLE, 4000)
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": HANGS})
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(3.0)
        bench.device.send(newer)
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [
        (3.0, response(STOP_VOTE, ERROR, "superseded by a newer action")),
        (6.0, response(newer, TIMEOUT, SILENT)),
    ]
    assert when(bench.processes.started) == [(2.0, "handler"), (3.0, "handler")]
    assert when(bench.processes.cancelled) == [(3.0, "handler"), (6.0, "handler")]


async def test_the_same_id_again_is_another_action(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": REFUSES})
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(2.5)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [
        (2.5, response(STOP_VOTE, ERROR, "superseded by a newer action")),
        (3.5, response(STOP_VOTE, REJECT, "busy")),
    ]


@pytest.mark.parametrize("runs", [{}, {"handler": OK}, {"handler": HANGS}, {"a": OK, "b": REFUSES}])
@pytest.mark.parametrize("at_once", [True, False])
async def test_each_of_many_actions_is_answered_once_under_its_id_and_event(
    runs: Mapping[str, FakeRun], at_once: bool, tmp_path: Path
) -> None:
    asked = [
        ActionNotify(number, event, notification, 4000)
        for number, (event, notification) in enumerate(
            (event, notification)
            for event in EVENT_TABLE
            for notification in (REVOCABLE, IRREVOCABLE)
        )
    ]
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, runs)
        if at_once:
            bench.device.send_bytes(bench.device.encoded(*asked))
        for notify in asked:
            if not at_once:
                bench.device.send(notify)
            await trio.sleep(0.3)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    answers = [one.message for one in bench.device.unread()]
    assert all(isinstance(answer, ActionResponse) for answer in answers)
    assert [
        (answer.invocation_id, answer.event_type, answer.notification_type)
        for answer in answers
        if isinstance(answer, ActionResponse)
    ] == [(one.invocation_id, one.event_type, one.notification_type) for one in asked]


def asked_at(number: int) -> float:
    """Fewer than thirty in a second."""
    return 2.0 + number / 16


async def test_scripts_that_do_not_die_hold_up_no_answer_and_are_bounded(tmp_path: Path) -> None:
    processes = handlers(tmp_path, {"handler": FakeRun(delay_s=math.inf, dies_in_s=10)})
    asked = [ActionNotify(number, Event.STOP, REVOCABLE, 9000) for number in range(66)]
    last = ActionNotify(99, Event.STOP, REVOCABLE, 9000)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, events=tmp_path)
        await bench.enable(nursery)
        for notify in asked:
            await trio.sleep_until(asked_at(notify.invocation_id))
            bench.device.send(notify)
            await bench.settle()
        assert len(processes.started) == 64
        # Another one has a place when they are gone.
        await trio.sleep_until(21.5)
        bench.device.send(last)
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    superseded = "superseded by a newer action"
    assert sorted(said(bench.device.unread()), key=number_of) == [
        *((asked_at(one), response(asked[one - 1], ERROR, superseded)) for one in range(1, 65)),
        *((asked_at(one), response(asked[one], ERROR, TOO_MANY)) for one in (64, 65)),
        (29.5, response(last, TIMEOUT, SILENT)),
    ]
    assert len(processes.started) == 65


async def test_a_flood_of_votes_starts_so_many_scripts_a_second(tmp_path: Path) -> None:
    processes = handlers(tmp_path, {"handler": FakeRun(delay_s=5)})
    asked = [ActionNotify(number, Event.STOP, REVOCABLE, 9000) for number in range(100)]
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(processes=processes, events=tmp_path)
        await bench.enable(nursery)
        for second, flood in ((2.0, asked[:50]), (2.999, asked[50:69]), (3.0, asked[69:])):
            await trio.sleep_until(second)
            for notify in flood:
                bench.device.send(notify)
                await bench.settle()
        assert [moment.time_s for moment in processes.started] == [
            *[2.0] * ROUNDS_PER_S,
            *[3.0] * ROUNDS_PER_S,
        ]
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    answers = {one.message.invocation_id: one.message for one in bench.device.unread()}
    assert sorted(answers) == list(range(100))
    refused = [number for number, answer in answers.items() if answer.log_msg == TOO_MANY]
    assert sorted(refused) == [*range(30, 69), 99]
    # The last one that was asked has been ended by the one after it.
    assert {answer.vote_result for answer in answers.values()} == {ERROR}


# -- the session around an action -----------------------------------------------------------------


async def test_an_action_outlives_a_new_handshake(tmp_path: Path) -> None:
    """Unlike the deployed client, which never answers a vote that was pending at a re-init."""
    settings = msgspec.structs.replace(SETTINGS, hb_min_timeout_ms=3000)
    runs = {"handler": FakeRun(1, b"busy", delay_s=4)}
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(settings, processes=handlers(tmp_path, runs), events=tmp_path)
        await bench.enable(nursery)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(5.5)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [
        (4.0, settings.init(102)),
        (5.0, response(STOP_VOTE, REJECT, "busy")),
    ]


async def test_a_stop_when_an_answer_is_being_written_keeps_the_order(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_with(tmp_path, nursery, {"handler": REFUSES})
        bench.device.stop_reading()
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(3.5)  # the reject is on its way
        bench.device.send(STOP_NOTICE)
        await trio.sleep_until(4.0)
        bench.guest.stop()
        await trio.sleep_until(4.25)
        bench.device.resume_reading()
    assert said(bench.device.unread()) == [
        (4.25, response(STOP_VOTE, REJECT, "busy")),
        (4.25, response(STOP_NOTICE, ERROR, "the daemon is stopping")),
        (4.25, Exit("Exiting...")),
    ]
