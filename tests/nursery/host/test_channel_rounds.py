"""Votes and notices of a running host: every window to the millisecond, every way one can end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trio.testing import MockClock

from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.round import NotHeartbeating, Round, RoundOpen
from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import (
    MAX_ID,
    ActionNotify,
    ActionResponse,
    Challenge,
    Init,
    InitAck,
    Message,
    Nack,
)
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, NotificationType, VoteResult, WindowKind
from support.host_world import (
    FIRST_ID,
    NOTICE,
    VOTE,
    HostWorld,
    Reply,
    ScriptedGuest,
    now,
    stay_silent,
    uuid_of,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: When a round is opened; the guest beats on every whole second.
OPENED = 4.5

#: What the guest of these tests advertises.
SECONDS = {
    WindowKind.VOTE: 9,
    WindowKind.SHUTDOWN_NOTICE: 10,
    WindowKind.SUSPEND_NOTICE: 11,
    WindowKind.RESUME_NOTICE: 14,
}

VOTES = [(event, VOTE, WindowKind.VOTE) for event, rule in EVENT_TABLE.items() if rule.voted]
NOTICES = [(event, NOTICE, rule.notice) for event, rule in EVENT_TABLE.items()]
ROUNDS = pytest.mark.parametrize(("event", "notification", "kind"), VOTES + NOTICES)

#: One of each window.
WINDOWS = pytest.mark.parametrize(
    ("event", "notification", "kind"),
    [
        (Event.STOP, VOTE, WindowKind.VOTE),
        (Event.LIVE_MIGRATE_BEGIN, VOTE, WindowKind.VOTE),
        (Event.STOP, NOTICE, WindowKind.SHUTDOWN_NOTICE),
        (Event.REBOOT, NOTICE, WindowKind.SHUTDOWN_NOTICE),
        (Event.PAUSE, NOTICE, WindowKind.SUSPEND_NOTICE),
        (Event.UNPAUSE, NOTICE, WindowKind.RESUME_NOTICE),
    ],
)

COMPLETE = Reply(VoteResult.COMPLETE)
REJECT = Reply(VoteResult.REJECT, "busy")


async def opened(
    world: HostWorld,
    event: Event,
    notification: NotificationType,
    reply: Callable[[ActionNotify], Reply | None] = stay_silent,
) -> tuple[ScriptedGuest, Round]:
    """A guest that beats, and a round on it that was opened at ``OPENED``."""
    guest = await world.heartbeating()
    guest.reply = reply
    await world.at(OPENED)
    current = world.host.open_round(guest.uuid, event, notification)
    await world.settle()
    return guest, current


def verdicts(world: HostWorld) -> list[tuple[Any, ...]]:
    """What was reported of votes and notices."""
    return [told for told in world.reports() if told[1] in ("vote", "notice")]


def kind_of(notification: NotificationType) -> str:
    return "vote" if notification is VOTE else "notice"


def agreed(notification: NotificationType) -> VoteResult:
    return VoteResult.ACCEPT if notification is VOTE else VoteResult.COMPLETE


# -- opening --------------------------------------------------------------------------------


@ROUNDS
async def test_it_is_sent_at_once_with_its_window(
    event: Event, notification: NotificationType, kind: WindowKind, world: HostWorld
) -> None:
    guest, current = await opened(world, event, notification)
    asked = guest.asked
    assert asked == ActionNotify(current.invocation_id, event, notification, SECONDS[kind] * 1000)
    assert 0 <= asked.invocation_id <= MAX_ID
    assert asked.invocation_id != FIRST_ID
    assert (current.window.kind, current.window.seconds) == (kind, SECONDS[kind])
    assert current.outcome is None
    await world.at(OPENED + 3)
    assert current.window.remaining_s(now()) == pytest.approx(SECONDS[kind] - 3)


async def test_each_round_has_an_id_of_its_own(world: HostWorld) -> None:
    guest = await world.heartbeating()
    ids = set()
    for _ in range(10):
        world.vote(guest)
        await world.settle()
        ids.add(guest.asked.invocation_id)
    assert len(ids) == 10
    assert [told[:4] for told in verdicts(world)] == [(1.0, "vote", "stop", "accept")] * 10


# -- the window -----------------------------------------------------------------------------


@ROUNDS
async def test_silence_until_the_deadline_is_agreement(
    event: Event, notification: NotificationType, kind: WindowKind, world: HostWorld
) -> None:
    _, current = await opened(world, event, notification)
    end = OPENED + SECONDS[kind]
    await world.at(end - 0.001)
    assert verdicts(world) == []
    assert not current.done.is_set()
    await world.at(end)
    why = f"no answer within {SECONDS[kind]} s"
    result = agreed(notification)
    assert verdicts(world) == [(end, kind_of(notification), str(event), str(result), why)]
    assert current.outcome is not None
    assert (current.outcome.result, current.outcome.reason) == (result, why)
    assert current.done.is_set()
    await world.at(end + 100)
    assert len(verdicts(world)) == 1


@ROUNDS
async def test_an_early_answer_ends_it(
    event: Event, notification: NotificationType, kind: WindowKind, world: HostWorld
) -> None:
    result = agreed(notification)
    answer = Reply(result, "fine", after_s=0.3)
    _, current = await opened(world, event, notification, lambda _: answer)
    await world.at(OPENED + 0.299)
    assert not current.done.is_set()
    await world.at(OPENED + 60)
    words = (kind_of(notification), str(event), str(result), "fine")
    assert verdicts(world) == [(OPENED + 0.3, *words)]


@ROUNDS
async def test_an_early_reject_ends_it(
    event: Event, notification: NotificationType, kind: WindowKind, world: HostWorld
) -> None:
    answer = Reply(VoteResult.REJECT, "busy", after_s=0.3)
    await opened(world, event, notification, lambda _: answer)
    await world.at(OPENED + 60)
    # A notice can't be refused: a deployed guest says so of a handler that failed.
    result = "reject" if notification is VOTE else "error"
    words = (kind_of(notification), str(event), result, "busy")
    assert verdicts(world) == [(OPENED + 0.3, *words)]


@WINDOWS
@pytest.mark.parametrize("before_s", [0.001, 0.5])
async def test_an_answer_just_before_the_deadline_counts(
    before_s: float,
    event: Event,
    notification: NotificationType,
    kind: WindowKind,
    world: HostWorld,
) -> None:
    end = OPENED + SECONDS[kind]
    answer = Reply(VoteResult.REJECT, "busy", after_s=end - OPENED - before_s)
    await opened(world, event, notification, lambda _: answer)
    await world.at(end + 60)
    result = "reject" if notification is VOTE else "error"
    words = (kind_of(notification), str(event), result, "busy")
    assert verdicts(world) == [(pytest.approx(end - before_s), *words)]


@WINDOWS
async def test_an_answer_at_the_deadline_is_one_outcome(
    event: Event, notification: NotificationType, kind: WindowKind, world: HostWorld
) -> None:
    end = OPENED + SECONDS[kind]
    answer = Reply(VoteResult.REJECT, "busy", after_s=end - OPENED)
    _, current = await opened(world, event, notification, lambda _: answer)
    await world.at(end + 60)
    ((at, _, _, result, why),) = verdicts(world)
    assert at == end
    refused = "reject" if notification is VOTE else "error"
    in_time = (refused, "busy")
    too_late = (str(agreed(notification)), f"no answer within {SECONDS[kind]} s")
    assert (result, why) in (in_time, too_late)
    assert current.outcome is not None
    assert (str(current.outcome.result), current.outcome.reason) == (result, why)


@WINDOWS
async def test_an_answer_after_the_deadline_is_nacked(
    event: Event, notification: NotificationType, kind: WindowKind, world: HostWorld
) -> None:
    end = OPENED + SECONDS[kind]
    answer = Reply(VoteResult.REJECT, "busy", after_s=end - OPENED + 0.001)
    guest, current = await opened(world, event, notification, lambda _: answer)
    await world.at(end + 0.001)
    ((at, *words),) = verdicts(world)
    assert (at, words[2]) == (end, str(agreed(notification)))
    nack = Nack(current.invocation_id, "no action with this invocation_id is open")
    assert guest.messages[-1] == nack


@WINDOWS
async def test_shutdown_ends_it_at_once_with_one_report(
    event: Event, notification: NotificationType, kind: WindowKind, world: HostWorld
) -> None:
    _, current = await opened(world, event, notification)
    await world.at(OPENED + 2)
    await world.stop_host()
    assert now() == OPENED + 2
    ((at, *words),) = verdicts(world)
    assert (at, words[:3]) == (OPENED + 2, [kind_of(notification), str(event), "error"])
    assert current.done.is_set()


# -- the process itself late ----------------------------------------------------------------


@WINDOWS
@pytest.mark.parametrize(
    ("over_s", "allows_s"), [(0.0, 1.0), (0.6, 0.4), (1.0, 0.05), (20.0, 0.05), (3000.0, 0.05)]
)
async def test_after_a_freeze_it_waits_until_a_second_after_the_window(
    over_s: float,
    allows_s: float,
    event: Event,
    notification: NotificationType,
    kind: WindowKind,
    autojump_clock: MockClock,
    world: HostWorld,
) -> None:
    """The agent does not wait for longer; a host that is thawed later still reads."""
    await opened(world, event, notification)
    await world.at(OPENED + SECONDS[kind] - 3)
    autojump_clock.jump(3 + over_s)
    decided = OPENED + SECONDS[kind] + over_s + allows_s
    await world.at(decided - 0.001)
    assert verdicts(world) == []
    await world.at(decided + 0.001)
    result = str(agreed(notification))
    why = f"no answer within {SECONDS[kind]} s"
    words = (kind_of(notification), str(event), result, why)
    assert verdicts(world) == [(pytest.approx(decided, abs=1e-3), *words)]


@WINDOWS
async def test_an_answer_that_came_during_a_freeze_counts(
    event: Event,
    notification: NotificationType,
    kind: WindowKind,
    autojump_clock: MockClock,
    world: HostWorld,
) -> None:
    answer = Reply(VoteResult.REJECT, "busy", after_s=5)
    await opened(world, event, notification, lambda _: answer)
    await world.at(OPENED + 1)
    autojump_clock.jump(100)
    await world.settle()
    result = "reject" if notification is VOTE else "error"
    words = (kind_of(notification), str(event), result, "busy")
    assert verdicts(world) == [(OPENED + 101, *words)]


# -- what an answer may look like -----------------------------------------------------------


@pytest.mark.parametrize(
    ("notification", "said", "reported"),
    [
        (VOTE, "accept", "accept"),
        (VOTE, "complete", "complete"),
        (VOTE, "reject", "reject"),
        (VOTE, "timeout", "timeout"),
        (VOTE, "error", "error"),
        (VOTE, "unknown", "error"),
        (NOTICE, "accept", "complete"),
        (NOTICE, "complete", "complete"),
        (NOTICE, "reject", "error"),
        (NOTICE, "timeout", "timeout"),
        (NOTICE, "error", "error"),
        (NOTICE, "unknown", "error"),
    ],
)
async def test_what_a_guest_says_and_what_is_reported(
    notification: NotificationType, said: str, reported: str, world: HostWorld
) -> None:
    answer = Reply(VoteResult(said), "because")
    _, current = await opened(world, Event.PAUSE, notification, lambda _: answer)
    # With ``unknown`` a deployed client repeats the reason of the action before.
    reason = "" if said == "unknown" else "because"
    words = (kind_of(notification), "pause", reported, reason)
    assert verdicts(world) == [(OPENED, *words)]
    assert current.outcome is not None
    assert str(current.outcome.result) == reported


async def test_a_word_nobody_knows_is_an_error_not_a_consent(world: HostWorld) -> None:
    guest, current = await opened(world, Event.STOP, VOTE)
    answer = ActionResponse(current.invocation_id, Event.STOP, VOTE, VoteResult.ACCEPT, "hm")
    guest.peer.send_bytes(encode(answer, 9).replace(b'"accept"', b'"maybe"'))
    await world.settle()
    assert verdicts(world) == [(OPENED, "vote", "stop", "error", "")]


async def test_only_the_id_tells(world: HostWorld) -> None:
    answer = Reply(VoteResult.REJECT, "busy", event=Event.RESUME, notification=NOTICE)
    await opened(world, Event.STOP, VOTE, lambda _: answer)
    assert verdicts(world) == [(OPENED, "vote", "stop", "reject", "busy")]


@pytest.mark.parametrize("wrong", [0, FIRST_ID, MAX_ID])
async def test_an_answer_with_another_id_is_nacked_and_not_used(
    wrong: int, world: HostWorld
) -> None:
    answer = Reply(VoteResult.REJECT, "busy", invocation_id=wrong)
    guest, current = await opened(world, Event.STOP, VOTE, lambda _: answer)
    assert verdicts(world) == []
    assert guest.messages[-1] == Nack(wrong, "no action with this invocation_id is open")
    guest.answer_vote(guest.asked, Reply(VoteResult.ACCEPT, "mine"))
    await world.settle()
    assert verdicts(world) == [(OPENED, "vote", "stop", "accept", "mine")]
    assert current.done.is_set()


async def test_an_answer_to_nothing_is_nacked(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.peer.send(ActionResponse(7, Event.STOP, VOTE, VoteResult.REJECT, ""))
    await world.settle()
    assert guest.messages[-1] == Nack(7, "no action with this invocation_id is open")
    assert verdicts(world) == []


async def test_the_first_of_two_answers_counts(world: HostWorld) -> None:
    guest, _ = await opened(world, Event.STOP, VOTE)
    guest.answer_vote(guest.asked, REJECT)
    guest.answer_vote(guest.asked, Reply(VoteResult.ACCEPT))
    await world.settle()
    assert verdicts(world) == [(OPENED, "vote", "stop", "reject", "busy")]


@pytest.mark.parametrize(
    "reason",
    [
        b'disk "a" busy',
        b"C:\\temp\\",
        b"tab\there",
        b"caf\xe9",
        b"\xe2\x82",
        b'","vote_result":"accept',
    ],
)
async def test_a_reject_stays_one_whatever_its_reason_holds(
    reason: bytes, world: HostWorld
) -> None:
    guest, current = await opened(world, Event.STOP, VOTE)
    answer = ActionResponse(current.invocation_id, Event.STOP, VOTE, VoteResult.REJECT, "@")
    guest.peer.send_bytes(encode(answer, 9).replace(b"@", reason))
    await world.settle()
    ((_, *words),) = verdicts(world)
    assert words[:3] == ["vote", "stop", "reject"]


# -- what may happen in the middle ----------------------------------------------------------


def closes(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.peer.close()


def resets(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.peer.reset()


def vanish(world: HostWorld, guest: ScriptedGuest) -> None:
    guest.vanish()


def is_removed(world: HostWorld, guest: ScriptedGuest) -> None:
    world.directory.remove(guest.name)


BOTH = pytest.mark.parametrize("notification", [VOTE, NOTICE])


@BOTH
@pytest.mark.parametrize("event", [Event.STOP, Event.REBOOT, Event.PAUSE])
@pytest.mark.parametrize("ends", [closes, resets, vanish, is_removed])
async def test_a_channel_that_ends_ends_it_with_one_report(
    ends: Callable[[HostWorld, ScriptedGuest], None],
    event: Event,
    notification: NotificationType,
    world: HostWorld,
) -> None:
    guest, current = await opened(world, event, notification)
    await world.at(OPENED + 2.25)
    ends(world, guest)
    await world.at(60)
    ((at, *words),) = verdicts(world)
    assert (at, words[:3]) == (OPENED + 2.25, [kind_of(notification), str(event), "error"])
    assert "channel" in words[3]
    assert current.done.is_set()
    stopped = [told for told in world.reports(since=2) if told[1] == "stopped"]
    assert 1 <= len(stopped) <= 2
    assert world.reports()[-1][1] != "loss"


@BOTH
async def test_after_a_break_the_next_round_is_a_new_one(
    notification: NotificationType, world: HostWorld
) -> None:
    guest, current = await opened(world, Event.UNPAUSE, notification)
    await world.at(OPENED + 2)
    guest.peer.close()
    await world.at(OPENED + 3)
    again = world.host.open_round(guest.uuid, Event.UNPAUSE, notification)
    await world.settle()
    assert guest.asked.invocation_id == again.invocation_id != current.invocation_id
    # The answer to the first comes late, on the new connection.
    guest.peer.send(
        ActionResponse(current.invocation_id, Event.UNPAUSE, notification, VoteResult.REJECT, "old")
    )
    await world.settle()
    assert not again.done.is_set()
    guest.answer_vote(guest.asked, COMPLETE)
    await world.settle()
    assert [told[:4] for told in verdicts(world)] == [
        (OPENED + 2, kind_of(notification), "unpause", "error"),
        (OPENED + 3, kind_of(notification), "unpause", "complete"),
    ]


@BOTH
async def test_a_reject_before_the_end_is_heard(
    notification: NotificationType, autojump_clock: MockClock, world: HostWorld
) -> None:
    # Among so many, the pacer finds some of the connections broken before their reader has run.
    guests = await world.all_heartbeating(60)
    await world.at(OPENED)
    for guest in guests:
        guest.reply = stay_silent
        world.host.open_round(guest.uuid, Event.LIVE_MIGRATE_BEGIN, notification)
    await world.settle()
    for guest in guests:
        guest.answer_vote(guest.asked, REJECT)
        guest.peer.close()
    autojump_clock.jump(0.5)
    await world.settle()
    result = "reject" if notification is VOTE else "error"
    words = (kind_of(notification), "live_migrate_begin", result, "busy")
    assert verdicts(world) == [(OPENED + 0.5, *words)] * 60


@BOTH
async def test_exit_in_the_middle_is_silence(
    notification: NotificationType, world: HostWorld
) -> None:
    guest, _ = await opened(world, Event.PAUSE, notification)
    await world.at(OPENED + 2)
    guest.send_exit()
    await world.at(100)
    seconds = 9 if notification is VOTE else 11
    why = f"no answer within {seconds} s"
    words = (kind_of(notification), "pause", str(agreed(notification)), why)
    assert verdicts(world) == [(OPENED + seconds, *words)]
    assert world.reports(since=2)[0] == (OPENED + 2, "stopped", "guest exited: Exiting...")
    assert "loss" not in [told[1] for told in world.reports()]


@BOTH
async def test_init_in_the_middle_is_acked_and_the_window_stays(
    notification: NotificationType, world: HostWorld
) -> None:
    # A deployed guest never answers a vote that was pending when it started over.
    guest, current = await opened(world, Event.PAUSE, notification)
    await world.at(OPENED + 2)
    guest.send_init()
    await world.settle()
    said: list[type[Message]] = [type(heard.message) for heard in guest.received_since(since=6.2)]
    assert said == [InitAck, Challenge]
    assert not current.done.is_set()
    await world.at(100)
    seconds = 9 if notification is VOTE else 11
    assert [told[:1] for told in verdicts(world)] == [(OPENED + seconds,)]


@BOTH
async def test_heartbeats_go_on_in_the_middle(
    notification: NotificationType, world: HostWorld
) -> None:
    guest, _ = await opened(world, Event.STOP, notification)
    await world.at(13)
    assert guest.challenged_at(since=4.2) == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]


async def test_a_loss_in_the_middle_of_a_vote(world: HostWorld) -> None:
    guest, _ = await opened(world, Event.STOP, VOTE)
    guest.answers_after_s = None
    await world.at(100)
    assert world.reports(since=2) == [
        (7.0, "loss", "reboot", "no answer for 3 s"),
        (13.5, "vote", "stop", "accept", "no answer within 9 s"),
    ]


# -- when none can be opened ----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("second", [VOTE, NOTICE])
async def test_a_second_one_is_refused(
    notification: NotificationType, second: NotificationType, world: HostWorld
) -> None:
    guest, current = await opened(world, Event.STOP, notification)
    await world.at(OPENED + 2)
    sent = len(guest.received)
    left = 7.0 if notification is VOTE else 8.0
    kind = kind_of(notification)
    with pytest.raises(RoundOpen) as refused:
        world.host.open_round(guest.uuid, Event.PAUSE, second)
    assert str(refused.value) == f"a {kind} on stop is open for another {left:.1f} s"
    await world.settle()
    assert len(guest.received) == sent
    guest.answer_vote(guest.asked, COMPLETE)
    await world.settle()
    assert current.done.is_set()
    world.host.open_round(guest.uuid, Event.PAUSE, second)


@BOTH
async def test_nothing_is_sent_to_one_that_is_not_heartbeating(
    notification: NotificationType, world: HostWorld
) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.at(5)
    with pytest.raises(NotHeartbeating) as refused:
        world.host.open_round(guest.uuid, Event.STOP, notification)
    assert str(refused.value) == f"{guest.uuid} is not heartbeating: discovered"
    await world.at(50)
    assert guest.received == []
    assert world.reports() == []


@BOTH
async def test_nothing_is_sent_without_a_connection(
    notification: NotificationType, world: HostWorld
) -> None:
    guest = await world.heartbeating()
    await world.at(4.5)
    guest.peer.close()
    await world.settle()
    for event in (Event.STOP, Event.UNPAUSE):
        with pytest.raises(NotHeartbeating, match="not heartbeating: closed by the peer"):
            world.host.open_round(guest.uuid, event, notification)
    assert verdicts(world) == []


async def test_one_whose_end_was_not_noticed_yet(world: HostWorld) -> None:
    # The operator's request finds it; it must not fail for that, and the round has its outcome.
    guest = await world.heartbeating()
    await world.at(4.5)
    guest.peer.close()
    current = world.vote(guest)
    await world.settle()
    assert current.done.is_set()
    why = "the channel was closed: broken pipe"
    assert verdicts(world) == [(4.5, "vote", "stop", "error", why)]
    await world.at(6)
    assert world.channel(guest).heartbeating


async def test_nothing_is_sent_to_one_that_is_lost(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.answers_after_s = None
    await world.at(10)
    with pytest.raises(NotHeartbeating, match="not heartbeating: no answer for 3 s"):
        world.vote(guest)


async def test_an_unknown_instance(world: HostWorld) -> None:
    with pytest.raises(UnknownInstance, match=f"no instance {uuid_of(99)} on this host"):
        world.host.open_round(uuid_of(99), Event.STOP, VOTE)


async def test_uuids_are_known_in_either_case(world: HostWorld) -> None:
    guest = await world.heartbeating()
    world.host.open_round(guest.uuid.upper(), Event.STOP, VOTE)
    await world.settle()
    assert len(verdicts(world)) == 1


# -- notices after an event -----------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        Event.UNPAUSE,
        Event.RESUME,
        Event.RESIZE_END,
        Event.LIVE_MIGRATE_END,
        Event.COLD_MIGRATE_END,
    ],
)
async def test_a_post_notice_reaches_one_that_waits(event: Event, world: HostWorld) -> None:
    # The script handler of a VM that has just arrived must see it.
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.at(OPENED)
    world.notice(guest, event)
    await world.settle()
    assert [type(message) for message in guest.messages] == [Challenge, ActionNotify]
    assert verdicts(world) == [(OPENED, "notice", str(event), "complete", "")]
    assert world.reports()[0] == (OPENED, "heartbeating", f"back after {event} was sent")


@pytest.mark.parametrize("event", [Event.STOP, Event.PAUSE, Event.REBOOT])
async def test_a_pre_notice_does_not(event: Event, world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.at(OPENED)
    with pytest.raises(NotHeartbeating):
        world.notice(guest, event)


# -- windows are what a guest advertises, within the host's limits --------------------------


@pytest.mark.parametrize(("asked", "used"), [(-5, 1), (0, 1), (1, 1), (600, 600), (10**9, 600)])
async def test_an_advertised_window_is_clamped(asked: int, used: int, world: HostWorld) -> None:
    guest = await world.heartbeating(
        vote_secs=asked,
        shutdown_notice_secs=asked,
        suspend_notice_secs=asked,
        resume_notice_secs=asked,
    )
    windows = [world.vote(guest).window.seconds]
    for event in (Event.UNPAUSE, Event.PAUSE, Event.STOP):
        await world.settle()
        windows.append(world.notice(guest, event).window.seconds)
    assert windows == [used] * 4
    await world.settle()
    assert guest.asked.timeout_ms == used * 1000


async def test_a_new_init_changes_the_next_window_only(world: HostWorld) -> None:
    guest, current = await opened(world, Event.STOP, VOTE)
    guest.send_init(vote_secs=100)
    await world.settle()
    assert isinstance(guest.init, Init)
    assert current.window.seconds == 9
    await world.at(OPENED + 9)
    assert current.done.is_set()
    assert world.vote(guest).window.seconds == 100
