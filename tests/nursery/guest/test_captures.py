"""What a host once said to a deployed guest client, said to ours: where the two agree.

Each capture's host side is replayed at its recorded times into a guest whose scripts do what the
recorded ones did, and all that the guest says is compared with the recorded guest's side: kinds,
order, ids, events, results, health, action, and the time to a fraction of a second.

Where PROTOCOL.md has us differ on purpose, ``ours`` turns what the deployed client said into what
we say instead:

- a notice that succeeded is answered ``complete``, not ``accept``; one that failed ``error``, not
  ``reject``;
- a reason is the first line of a script's output, not all lines joined by blanks;
- a timeout names who was silent;
- a healthy report carries no text;
- an answer without a reason carries no reason of an earlier one.

Nothing else may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import msgspec
import pytest
import trio

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.nursery.guest.voters import Voters
from hbtrio.nursery.windows import Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.channel_codec import MessageError, decode
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    ChallengeResponse,
    Exit,
    Init,
    Message,
)
from hbtrio.wire.vocabulary import Event, Health, NotificationType, VoteResult
from support.fake_processes import HANGS, FakeProcesses, FakeRun
from support.guest_world import GuestWorld
from support.memory_device import Received
from wire.captured import CHANNEL_FILES, GUEST_TO_HOST, HOST_TO_GUEST, Captured, capture

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: What the recorded client was configured with.
SETTINGS = SessionSettings(
    name="vm1", vote_s=8, shutdown_notice_s=8, suspend_notice_s=8, resume_notice_s=13, restart_s=600
)

#: How far apart the recorded answer and ours may be: real scripts took some milliseconds, and the
#: client's timers are late by a few more at each round.
TOLERANCE_S = 0.05

HEALTH = "/etc/health"


@attrs.frozen
class Situation:
    """What was around the recorded client, as far as it can be told from what it said."""

    #: What the event script did, by invocation id; None: there was no script.
    events: Callable[[int], FakeRun] | None = None
    #: When the health script started to say something else; empty: there was none.
    health: Sequence[tuple[float, FakeRun]] = ()


def recorded_events(
    name: str, delays_s: Mapping[int, float] | None = None
) -> Callable[[int], FakeRun]:
    """Scripts that end as the recorded ones did, at once or after the delay given for an id."""
    answers = {
        message.invocation_id: message
        for message in said(name)
        if isinstance(message, ActionResponse)
    }

    def run(number: int) -> FakeRun:
        answer = answers[number]
        if answer.vote_result is VoteResult.TIMEOUT:
            return HANGS
        exit_code = 1 if answer.vote_result is VoteResult.REJECT else 0
        delay_s = (delays_s or {}).get(number, 0.0)
        return FakeRun(exit_code, output_of(answer), delay_s=delay_s)

    return run


#: Outputs of several lines in c_reject, by their reasons; all others are one line.
OUTPUTS = {
    "line one line two line three": b"line one\nline two\nline three\n",
    "second": b"\nsecond\n",
    "first second": b"first\nsecond\n",
    "a\r b\r": b"a\r\nb\r\n",
}


def output_of(answer: ActionResponse) -> bytes:
    return OUTPUTS.get(answer.log_msg, answer.log_msg.encode())


def messages(name: str, direction: str) -> Iterator[tuple[Captured, Message | None]]:
    for captured in capture(name):
        if captured.direction == direction:
            try:
                yield captured, decode(captured.line)
            except MessageError:
                yield captured, None


def said(name: str) -> list[Message]:
    return [message for _, message in messages(name, GUEST_TO_HOST) if message is not None]


ILL, WELL = FakeRun(1, b"File bad exists.\nsecond\n"), FakeRun(0, b"File bad does not exist.\n")

SITUATIONS = {
    "a_basic": Situation(),
    "b_accept": Situation(recorded_events("b_accept")),
    "c_reject": Situation(recorded_events("c_reject", {1022: 1.01})),
    "e_timeout": Situation(recorded_events("e_timeout")),
    "f_notify": Situation(recorded_events("f_notify")),
    "g_health": Situation(
        health=[(0.0, WELL), (6.5, ILL), (82.5, WELL), (88.5, ILL)],
    ),
    "h_noscript": Situation(),
    "i1_two_apps": Situation(),
    "k1_silent": Situation(),
}


class TwoApplications:
    """i1_two_apps: A accepts and B rejects every vote; both are told of notices."""

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        vote = notify.notification_type is NotificationType.REVOCABLE

        async def a(window: BallotWindow) -> Answer | None:
            await trio.lowlevel.checkpoint()
            return Answer(VoteResult.ACCEPT if vote else VoteResult.COMPLETE)

        async def b(window: BallotWindow) -> Answer | None:
            # Its first answer took long enough for a challenge to be answered before it.
            await trio.sleep(0.004 if notify.invocation_id == 1001 else 0)
            return Answer(VoteResult.REJECT, "no from B") if vote else Answer(VoteResult.COMPLETE)

        return {"A": a, "B": b}

    def health(self) -> list[HealthStatus]:
        return [HealthStatus(True), HealthStatus(True)]


def ours(message: Message) -> Message:
    """What we say where the deployed client said ``message``."""
    match message:
        case ChallengeResponse(heartbeat_health=Health.HEALTHY):
            return msgspec.structs.replace(message, log_msg="")
        case ChallengeResponse():
            return msgspec.structs.replace(message, log_msg="File bad exists.")
        case ActionResponse(vote_result=VoteResult.TIMEOUT):
            return msgspec.structs.replace(message, log_msg="no answer in time from handler")
        case ActionResponse():
            result = message.vote_result
            reason = output_of(message).decode().partition("\n")[0].strip()
            if message.notification_type is NotificationType.IRREVOCABLE:
                result = {
                    VoteResult.ACCEPT: VoteResult.COMPLETE,
                    VoteResult.REJECT: VoteResult.ERROR,
                }.get(result, result)
                if message.log_msg == "no from B":
                    reason = ""
            return msgspec.structs.replace(message, vote_result=result, log_msg=reason)
        case _:
            return message


async def replayed(name: str, tmp_path: Path) -> list[Received]:
    """What our guest says to the host of this capture."""
    situation = SITUATIONS[name]
    events: Path | None = None
    voters: Voters | None = None
    asked: list[ActionNotify] = []
    if situation.events is not None:
        events = tmp_path / "handler"
        events.touch(mode=0o755)
    if name == "i1_two_apps":
        voters = TwoApplications()

    def run(argv: Sequence[str]) -> FakeRun:
        if argv[0] == HEALTH:
            return [run for at_s, run in situation.health if at_s <= trio.current_time()][-1]
        assert situation.events is not None
        # One script for each action, in the order in which they were asked about.
        known = [one for one in asked if one.event_type is not Event.UNKNOWN]
        return situation.events(known[len(processes.started)].invocation_id)

    processes = FakeProcesses(run)
    ids = [message.invocation_id for message in said(name) if isinstance(message, Init)]
    bench = GuestWorld(
        SETTINGS,
        processes=processes,
        events=events,
        voters=voters,
        health=HEALTH if situation.health else None,
        health_interval_s=1.0,
        new_id=iter(ids).__next__,
    )
    end = max(captured.at_s for captured in capture(name))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        for captured, message in messages(name, HOST_TO_GUEST):
            await trio.sleep_until(captured.at_s)
            if isinstance(message, ActionNotify):
                asked.append(message)
            bench.device.send_bytes(captured.data)
            await bench.settle()
        await trio.sleep_until(end)
        if isinstance(said(name)[-1], Exit):
            bench.guest.stop()
        await bench.settle()
        nursery.cancel_scope.cancel()
    return bench.device.received


@pytest.mark.parametrize("name", CHANNEL_FILES)
async def test_a_capture(name: str, tmp_path: Path) -> None:
    heard = await replayed(name, tmp_path)
    recorded = [
        (captured, message)
        for captured, message in messages(name, GUEST_TO_HOST)
        if message is not None
    ]
    assert [one.message for one in heard] == [ours(message) for _, message in recorded]
    for one, (captured, _) in zip(heard, recorded, strict=True):
        assert one.at_s == pytest.approx(captured.at_s, abs=TOLERANCE_S), one
    assert [one.sequence for one in heard] == list(range(1, len(heard) + 1))


def test_every_capture_has_its_situation_and_the_differences_occur() -> None:
    assert set(SITUATIONS) == set(CHANNEL_FILES)
    differing = {
        type(message).__name__
        for name in CHANNEL_FILES
        for message in said(name)
        if ours(message) != message
    }
    assert differing == {"ActionResponse", "ChallengeResponse"}
