"""FAILURE_POLICY: what a voter that fails does in a vote, for each event and each failure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.guest import GuestConfig, parse_guest_config
from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.system.runner import SystemProcesses
from hbtrio.wire.channel_messages import ActionNotify, Init, InitAck
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, NotificationType, VoteResult
from nursery.guest.test_event_scripts import settled_by
from support.fake_processes import HANGS, FakeRun
from support.guest_world import GuestWorld, handlers, response, said
from support.raw_application import app_world, init

REVOCABLE, IRREVOCABLE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
ACCEPT, REJECT, COMPLETE, TIMEOUT, *_ = VoteResult
VOTED: Final = [event for event, rule in EVENT_TABLE.items() if rule.voted]
NO_INTERPRETER: Final = "the interpreter named in its first line does not exist"

#: What a script does, the result if failures are allowed, and if they reject; the reason is that of
#: both. A hung one is ended at 8 s, the end of the guest's own window.
FAILURES: Final = [
    (FakeRun(fault="Permission denied"), COMPLETE, "vote could not be run: Permission denied"),
    (FakeRun(fault=NO_INTERPRETER), COMPLETE, f"vote could not be run: {NO_INTERPRETER}"),
    (FakeRun(signal=9, stdout=b"so far"), COMPLETE, "vote was killed by signal SIGKILL"),
    (HANGS, TIMEOUT, "no answer in time from vote"),
]

#: What is no failure: a script that exits with a status has voted.
VOTES: Final = [
    (FakeRun(0, b"fine\n"), ACCEPT, "fine"),
    (FakeRun(0, b"x" * 10_000), ACCEPT, "x" * 223),
    (FakeRun(0, b"fine\n", stderr=b"y" * 10_000), ACCEPT, "fine"),
    (FakeRun(1, b"busy\n"), REJECT, "busy"),
    (FakeRun(126, b""), REJECT, ""),
    (FakeRun(255, b"x" * 10_000), REJECT, "x" * 223),
]


def vote_on(event: Event) -> ActionNotify:
    return ActionNotify(900, event, REVOCABLE, 9000)


async def answers(
    notify: ActionNotify, run: FakeRun | None, path: Path, rejects: frozenset[Event]
) -> list[tuple[float, object]]:
    """What the guest says to a vote or notice after 2 s of an event script that does this."""
    begun = trio.current_time()
    processes = handlers(path, {} if run is None else {"vote": run})
    world = GuestWorld(processes=processes, events=path / "vote", failure_rejects=rejects)
    async with trio.open_nursery() as nursery:
        await world.enable(nursery)
        await trio.sleep_until(begun + 2.0)
        world.device.unread()
        world.device.send(notify)
        await trio.sleep_until(begun + 20.0)
        heard = said(world.device.unread())
        nursery.cancel_scope.cancel()
    return [(round(at_s - begun, 6), message) for at_s, message in heard]


@pytest.mark.parametrize("event", VOTED)
@pytest.mark.parametrize("rejects", [True, False], ids=["reject", "allow"])
@pytest.mark.parametrize(("run", "allowed", "reason"), FAILURES)
async def test_a_failure_rejects_the_vote_on_its_event_alone(
    run: FakeRun,
    allowed: VoteResult,
    reason: str,
    rejects: bool,
    event: Event,
    tmp_path: Path,
    autojump_clock: MockClock,
) -> None:
    policy = frozenset({event} if rejects else {*VOTED} - {event})
    at_s = 10.0 if math.isinf(run.delay_s) else 2.0
    expected = response(vote_on(event), REJECT if rejects else allowed, reason)
    assert await answers(vote_on(event), run, tmp_path, policy) == [(at_s, expected)]


@pytest.mark.parametrize(("run", "result", "reason"), VOTES)
async def test_a_script_that_exits_has_voted(
    run: FakeRun, result: VoteResult, reason: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    notify = vote_on(Event.STOP)
    for policy in (frozenset(VOTED), frozenset[Event]()):
        expected = response(notify, result, reason)
        assert await answers(notify, run, tmp_path, policy) == [(2.0, expected)]


@pytest.mark.parametrize(("run", "result", "reason"), FAILURES)
async def test_a_notice_is_never_rejected(
    run: FakeRun, result: VoteResult, reason: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    notify = ActionNotify(901, Event.STOP, IRREVOCABLE, 9000)
    ((_, answer),) = await answers(notify, run, tmp_path, frozenset(EVENT_TABLE))
    assert answer == response(notify, result, reason)


@pytest.mark.parametrize("is_directory", [True, False])
async def test_nothing_to_run_is_a_failure_of_its_own(
    is_directory: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    if is_directory:
        (tmp_path / "vote").mkdir()
    notify = vote_on(Event.STOP)
    expected = response(notify, REJECT, "vote could not be run: there is no script")
    assert await answers(notify, None, tmp_path, frozenset({Event.STOP})) == [(2.0, expected)]
    allowed = response(notify, COMPLETE, "")
    assert await answers(notify, None, tmp_path, frozenset({Event.PAUSE})) == [(2.0, allowed)]
    notice = msgspec.structs.replace(notify, notification_type=IRREVOCABLE)
    assert await answers(notice, None, tmp_path, frozenset({Event.STOP})) == [
        (2.0, response(notice, COMPLETE, ""))
    ]


@pytest.mark.usefixtures("autojump_clock")
async def test_an_application_without_an_answer_rejects_and_one_that_ends_does_not() -> None:
    notify = vote_on(Event.STOP)
    async with app_world(failure_rejects=frozenset({Event.STOP})) as world:
        await world.join(init("web", vote_secs=3, heartbeat_interval_ms=60_000))
        orders = await world.join(init("orders", heartbeat_interval_ms=60_000))
        await trio.sleep_until(2.0)
        world.device.send(notify)
        await orders.asked()
        orders.crash()
        await trio.sleep_until(15.0)
        expected = response(notify, REJECT, "no answer in time from web")
        assert said(world.device.unread()) == [(5.0, expected)]


async def test_a_policy_read_anew_holds_from_the_next_vote_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    processes = handlers(tmp_path, {"vote": FakeRun(fault="Permission denied")})
    world = GuestWorld(processes=processes, events=tmp_path / "vote")
    notify = vote_on(Event.STOP)
    async with trio.open_nursery() as nursery:
        await world.enable(nursery)
        results = []
        for policy in (frozenset({Event.STOP}), frozenset[Event]()):
            world.guest.reload(msgspec.structs.replace(world.setup, failure_rejects=policy))
            heard = await world.device.next()
            assert isinstance(heard.message, Init)
            world.device.send(InitAck(heard.message.invocation_id))
            await world.settle()
            world.device.send(notify)
            await world.settle()
            results += [answer.vote_result for _, answer in said(world.device.unread())]
        nursery.cancel_scope.cancel()
    assert results == [REJECT, COMPLETE]


# -- real scripts -----------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize(
    ("text", "mode", "cause"),
    [
        ("#!/bin/sh\nexit 0\n", 0o644, "could not be run: Permission denied"),
        ("#!/nowhere/sh\nexit 0\n", 0o755, f"could not be run: {NO_INTERPRETER}"),
        ("#!/bin/sh\nkill -KILL $$\n", 0o755, "was killed by signal SIGKILL"),
        (None, 0, "could not be run: there is no script"),
    ],
)
async def test_real_scripts_that_fail(
    text: str | None, mode: int, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "vote"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    async with SystemProcesses() as processes:
        scripts = EventScripts(str(path), processes, failure_rejects={Event.STOP})
        outcome = await settled_by(scripts, vote_on(Event.STOP), failure_rejects=True)
    assert (outcome.result, outcome.reason) == (REJECT, f"vote {cause}")


# -- the configuration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("", []),
        ("FAILURE_POLICY=allow", []),
        ("FAILURE_POLICY=reject", VOTED),
        ("FAILURE_POLICY=reject\nFAILURE_POLICY_STOP=allow", VOTED[1:]),
        ("FAILURE_POLICY_STOP=reject", [Event.STOP]),
        ("FAILURE_POLICY_STOP=reject\nFAILURE_POLICY_STOP=", []),
        ("FAILURE_POLICY=reject\nFAILURE_POLICY_STOP=", VOTED),
    ],
)
def test_the_events_of_a_policy(text: str, events: list[Event]) -> None:
    assert parse_guest_config(text, "conf").failure_rejects == frozenset(events)


@pytest.mark.parametrize("event", VOTED)
def test_each_event_has_a_key(event: Event) -> None:
    config = parse_guest_config(f"FAILURE_POLICY_{event.upper()}=reject", "conf")
    assert config.failure_rejects == {event}
    assert config == GuestConfig(**{f"failure_policy_{event}": "reject"})  # type: ignore[arg-type]
