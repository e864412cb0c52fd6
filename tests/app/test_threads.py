"""Handlers that are plain functions, and applications without an event loop; in real time."""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest
import sniffio
import trio
from anyio import from_thread

from app.backends import on_both_in_real_time
from app.scripted_guest import SOON_S, Connected, ScriptedGuest, attending, listening
from hbtrio.app import Accept, Application, Event, Healthy, Notice, Refused, Reject, Vote
from hbtrio.app.handlers import MAX_THREADS, SILENT, Handler
from hbtrio.app.sync import in_background
from hbtrio.wire.app_messages import AppInit, AppInitAck, Final

pytestmark = pytest.mark.real_time


@on_both_in_real_time
async def test_a_plain_function_is_called_in_a_thread(tmp_path: Path) -> None:
    loop = threading.current_thread()
    seen: list[float] = []

    def vote(vote: Vote) -> Accept | Reject:
        assert threading.current_thread() is not loop
        seen.append(vote.remaining_s)
        return Reject(f"no {vote.event}")

    def prepare(notice: Notice) -> None:
        assert threading.current_thread() is not loop
        seen.append(notice.remaining_s)

    async with attending(
        tmp_path, on_health=lambda: Healthy(), on_vote=vote, on_notice=prepare
    ) as guest:
        assert await guest.votes(Event.STOP) == ("reject", "no stop")
        assert await guest.is_told(Event.RESUME) == ("complete", "")
        await guest.is_healthy()
    assert 7 < seen[0] <= 8
    assert 12 < seen[1] <= 13


@on_both_in_real_time
async def test_what_calls_a_coroutine_function_is_awaited(tmp_path: Path) -> None:
    loop = threading.current_thread()

    class Voter:
        async def __call__(self, vote: Vote) -> Reject:
            assert threading.current_thread() is loop
            return Reject("object")

    async def vote(reason: str, vote: Vote) -> Reject:
        assert threading.current_thread() is loop
        return Reject(reason)

    for number, (handler, reason) in enumerate(
        [
            (Voter(), "object"),
            (functools.partial(vote, "partial"), "partial"),
            (lambda question: vote("lambda", question), "lambda"),
        ]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        async with attending(place, on_vote=handler) as guest:
            assert await guest.votes() == ("reject", reason)


@on_both_in_real_time
async def test_a_function_that_hangs_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def vote(_: Vote) -> Accept:
        released.wait(SOON_S)
        return Accept()

    async with attending(tmp_path, on_vote=vote, vote_s=1) as guest:
        await guest.say(guest.question(Event.STOP, vote=True))
        begun = anyio.current_time()
        await guest.is_healthy()
        while "db: vote stop: the handler did not finish in time; no response is sent" not in (
            caplog.messages
        ):
            await anyio.sleep(0.01)
            assert anyio.current_time() - begun < SOON_S
        assert anyio.current_time() - begun >= 0.9
        # Its answer, which comes now, is no answer to what is asked now.
        released.set()
        assert await guest.is_told() == ("complete", "")
        assert await guest.votes(Event.PAUSE) == ("accept", "")


@on_both_in_real_time
async def test_threads_that_hang_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()
    ended = threading.Semaphore(0)

    def hang() -> Healthy:
        released.wait(SOON_S)
        ended.release()
        return Healthy()

    handler = Handler[Healthy](
        hang, "health", application="db", takes=(), returns=(Healthy,), every_failure=True
    )
    for _ in range(MAX_THREADS + 2):
        assert await handler.answer(scope=anyio.move_on_after(0.01)) is SILENT
    assert [type(record.exc_info) for record in caplog.records].count(tuple) == 2
    released.set()
    for _ in range(MAX_THREADS):
        assert ended.acquire(timeout=SOON_S)
    assert not ended.acquire(blocking=False)
    # They make room, though the last may still be on its way out.
    with anyio.fail_after(SOON_S):
        while await handler.answer(scope=anyio.move_on_after(SOON_S)) is SILENT:  # noqa: ASYNC110
            await anyio.sleep(0.01)


HANGING = """\
import anyio, time
from hbtrio.app.handlers import Handler

async def main():
    handler = Handler(
        lambda: time.sleep(1000),
        "health",
        application="db",
        takes=(),
        returns=(int,),
        every_failure=True,
    )
    print(await handler.answer(scope=anyio.move_on_after(0.05)))

anyio.run(main, backend={backend!r})
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_function_that_hangs_does_not_keep_the_process(backend: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", HANGING.format(backend=backend)],
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=True,
    )
    assert ran.stdout == "NoAnswer.SILENT\n"


@on_both_in_real_time
async def test_what_a_function_raises_is_logged_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def vote(_: Vote) -> Accept:
        raise ZeroDivisionError("mine")

    async with attending(tmp_path, on_vote=vote) as guest:
        await guest.say(guest.question(Event.STOP, vote=True))
        await guest.heard_nothing(for_s=0.2)
        await guest.is_healthy()
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR and r.name == "hbtrio.app"]
    assert record.message == "db: vote stop: the handler failed; no response is sent"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


@on_both_in_real_time
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(), CancelledError()],
    ids=lambda error: type(error).__name__,
)
async def test_nothing_that_a_function_raises_ends_the_application(
    tmp_path: Path, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def vote(vote: Vote) -> Accept:
        if vote.event is Event.STOP:
            raise error
        return Accept()

    async with attending(tmp_path, on_vote=vote) as guest:
        await guest.say(guest.question(Event.STOP, vote=True))
        with anyio.fail_after(SOON_S):
            while not caplog.records:
                await guest.is_healthy()
        assert await guest.votes(Event.PAUSE) == ("accept", "")
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.message == "db: vote stop: the handler failed; no response is sent"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@on_both_in_real_time
async def test_a_coroutine_function_that_blocks_beyond_its_window_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def vote(vote: Vote) -> Reject:
        if vote.event is Event.STOP:
            time.sleep(1.1)  # noqa: ASYNC251  as careless authors do
        return Reject("too late")

    async with attending(tmp_path, on_vote=vote, vote_s=1) as guest:
        asked = guest.question(Event.STOP, vote=True)
        await guest.say(asked)
        await guest.heard_nothing(for_s=0.2)
        await guest.is_healthy()
        assert await guest.votes(Event.PAUSE) == ("reject", "too late")
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        "db: vote stop: the handler did not finish in time; no response is sent"
    ]


async def nap() -> str:
    await anyio.sleep(0.001)
    return sniffio.current_async_library()


async def trio_nap() -> str:
    await trio.sleep(0.001)
    return sniffio.current_async_library()


LOOPS: dict[str, Callable[[], str]] = {
    "anyio on asyncio": lambda: anyio.run(nap, backend="asyncio"),
    "anyio on trio": lambda: anyio.run(nap, backend="trio"),
    "asyncio": lambda: asyncio.run(nap()),
    "trio": lambda: trio.run(trio_nap),
}


@on_both_in_real_time
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_function_may_run_an_event_loop_of_its_own(tmp_path: Path, loop: str) -> None:
    mine.set("the context is that of the application")
    async with attending(
        tmp_path, on_vote=lambda _: Reject(f"{LOOPS[loop]()}, {mine.get()}")
    ) as guest:
        inner = loop.rpartition(" ")[2]
        expected = f"{inner}, the context is that of the application"
        assert await guest.votes() == ("reject", expected)


mine: ContextVar[str] = ContextVar("mine", default="none")


# -- without an event loop ------------------------------------------------------------------------


@contextmanager
def guest_in_a_thread(place: Path) -> Iterator[tuple[from_thread.BlockingPortal, ScriptedGuest]]:
    with (
        from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(listening(place / "api")) as guest,
    ):
        yield portal, guest


def test_an_application_of_plain_threads(tmp_path: Path) -> None:
    main = threading.current_thread()
    told: list[str] = []

    def prepare(notice: Notice) -> None:
        assert threading.current_thread() is not main
        told.append(notice.event)

    app = Application("web", on_notice=prepare, socket=tmp_path / "api")
    with guest_in_a_thread(tmp_path) as (portal, guest):
        with in_background(app) as background:
            with portal.wrap_async_context_manager(guest.connection()) as connected:
                assert not background.registered
                with pytest.raises(TimeoutError):
                    background.wait_registered(timeout_s=0.01)
                assert portal.call(connected.registered).name == "web"
                background.wait_registered(timeout_s=SOON_S)
                assert background.registered
                assert portal.call(connected.is_told, Event.STOP) == ("complete", "")
                portal.call(connected.is_healthy)
            again = portal.wrap_async_context_manager(guest.application())
            left = again.__enter__()
            background.wait_registered(timeout_s=SOON_S)
        assert not background.registered
        assert portal.call(left.hear) == Final("Exiting")
        assert portal.call(left.hear) is None
        again.__exit__(None, None, None)
    assert told == ["stop"]
    with pytest.raises(RuntimeError):
        background.wait_registered(timeout_s=1)


def test_a_refusal_in_plain_threads(tmp_path: Path) -> None:
    async def refuse(connected: Connected) -> None:
        assert isinstance(await connected.hear(), AppInit)
        await connected.say(AppInitAck(False))
        assert await connected.hear() is None

    app = Application("web", socket=tmp_path / "api")
    with (
        guest_in_a_thread(tmp_path) as (portal, guest),
        in_background(app) as background,
        portal.wrap_async_context_manager(guest.connection()) as connected,
    ):
        portal.call(refuse, connected)
        with pytest.raises(Refused, match="refused the registration of web"):
            background.wait_registered(timeout_s=SOON_S)


def test_what_the_block_of_plain_threads_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    fault = LookupError("mine")
    app = Application("web", socket=tmp_path / "api")
    with pytest.raises(LookupError) as raised, in_background(app):
        raise fault
    assert raised.value is fault


def test_leaving_does_not_wait_for_a_function_that_hangs(tmp_path: Path) -> None:
    begun, released = threading.Event(), threading.Event()

    def prepare(_: Notice) -> None:
        begun.set()
        assert released.wait(SOON_S)

    app = Application("web", on_notice=prepare, socket=tmp_path / "api")
    with guest_in_a_thread(tmp_path) as (portal, guest):
        with in_background(app):
            application = portal.wrap_async_context_manager(guest.application())
            connected = application.__enter__()
            portal.call(connected.say, connected.question(Event.STOP, vote=False))
            assert begun.wait(SOON_S)
        assert not released.is_set()
        assert portal.call(connected.hear) == Final("Exiting")
        application.__exit__(None, None, None)
    released.set()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_function_of_plain_threads_may_run_an_event_loop(tmp_path: Path, loop: str) -> None:
    app = Application("web", on_vote=lambda _: Reject(LOOPS[loop]()), socket=tmp_path / "api")
    with (
        guest_in_a_thread(tmp_path) as (portal, guest),
        in_background(app),
        portal.wrap_async_context_manager(guest.application()) as connected,
    ):
        assert portal.call(connected.votes) == ("reject", loop.rpartition(" ")[2])


def test_a_function_of_plain_threads_that_exits_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def vote(vote: Vote) -> Accept:
        if vote.event is Event.STOP:
            sys.exit(3)
        return Accept()

    app = Application("web", on_vote=vote, socket=tmp_path / "api")
    with (
        guest_in_a_thread(tmp_path) as (portal, guest),
        in_background(app) as background,
        portal.wrap_async_context_manager(guest.application()) as connected,
    ):
        portal.call(connected.say, connected.question(Event.STOP, vote=True))
        begun = time.monotonic()
        while not caplog.records:
            portal.call(connected.is_healthy)
            assert time.monotonic() - begun < SOON_S
        assert portal.call(connected.votes, Event.PAUSE) == ("accept", "")
        assert background.registered
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        "web: vote stop: the handler failed; no response is sent"
    ]


class Interrupt(BaseException):
    """What is no exception, and asyncio does not know."""


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Interrupt()])
def test_what_ends_the_loop_of_an_application_is_told_and_raised(
    tmp_path: Path, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def vote(_: Vote) -> Accept:
        raise error

    app = Application("web", on_vote=vote, socket=tmp_path / "api")
    with guest_in_a_thread(tmp_path) as (portal, guest):
        with pytest.raises(type(error)) as raised:  # noqa: PT012, SIM117
            with (
                in_background(app) as background,
                portal.wrap_async_context_manager(guest.application()) as connected,
            ):
                background.wait_registered(SOON_S)
                portal.call(connected.say, connected.question(Event.STOP, vote=True))
                while portal.call(connected.hear) is not None:
                    pass
                begun = time.monotonic()
                while not caplog.records:
                    assert time.monotonic() - begun < SOON_S
                with pytest.raises(RuntimeError, match="application web is not running") as told:
                    background.wait_registered(SOON_S)
                assert told.value.__cause__ is error
                assert not background.registered
        assert raised.value is error
        (record,) = caplog.records
        assert record.message == "web has stopped and is no longer registered"
        assert record.exc_info is not None
        assert record.exc_info[1] is error


def test_what_ends_the_loop_does_not_hide_what_the_block_raises(tmp_path: Path) -> None:
    async def vote(_: Vote) -> Accept:
        raise Interrupt

    fault = LookupError("mine")
    app = Application("web", on_vote=vote, socket=tmp_path / "api")
    with guest_in_a_thread(tmp_path) as (portal, guest):  # noqa: SIM117
        with pytest.raises(LookupError) as raised, in_background(app):  # noqa: PT012
            with portal.wrap_async_context_manager(guest.application()) as connected:
                portal.call(connected.say, connected.question(Event.STOP, vote=True))
                assert portal.call(connected.hear) is None
            raise fault
    assert raised.value is fault


def test_an_application_can_not_run_in_the_background_twice_at_once(tmp_path: Path) -> None:
    app = Application("web", socket=tmp_path / "api")
    before = threading.active_count()
    with in_background(app):
        with pytest.raises(RuntimeError, match="running already"), in_background(app):
            raise AssertionError
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with in_background(app) as background, pytest.raises(TimeoutError):
        background.wait_registered(0.01)
