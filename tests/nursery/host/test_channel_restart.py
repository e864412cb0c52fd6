"""Events that stop a VM from answering: suspension, RESTART, and what becomes of the silence."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event, ExpectedEffect, VoteResult
from support.host_world import (
    CHANNEL_DIR,
    HostWorld,
    Reply,
    ScriptedGuest,
    Told,
    now,
    stay_silent,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: When the notice is over; the guest beats on every whole second until then, and says nothing more.
NOTICED = 4.5

#: The window of the guests of these tests, and when it ends.
RESTART_S = 121
EXPIRES = NOTICED + RESTART_S

NOT_BACK = f"not back within {RESTART_S} s"

RESTARTING = [e for e, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.RESTARTS]
FREEZING = [e for e, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.FREEZES]
ENDS = {
    Event.PAUSE: Event.UNPAUSE,
    Event.SUSPEND: Event.RESUME,
    Event.LIVE_MIGRATE_BEGIN: Event.LIVE_MIGRATE_END,
}


async def noticed(
    world: HostWorld, event: Event, *, silent: bool = True, **init: int
) -> ScriptedGuest:
    """A guest that was told of ``event`` and then falls silent."""
    guest = await world.heartbeating(**init)
    await world.at(NOTICED)
    world.notice(guest, event)
    await world.settle()
    if silent:
        falls_silent(guest)
    return guest


def falls_silent(guest: ScriptedGuest) -> None:
    """It answers no challenge, and a reconnect brings no ``init`` either."""
    guest.answers_after_s = None
    guest.sends_init = False


def is_back(guest: ScriptedGuest) -> None:
    """It answers, and says ``init`` with each connection."""
    guest.answers_after_s = 0.0
    guest.sends_init = True


def later(world: HostWorld) -> list[Told]:
    """What was reported after the notice itself."""
    told = world.reports(since=NOTICED)
    assert told[0][1] == "notice"
    return told[1:]


def test_the_events_of_the_table() -> None:
    assert RESTARTING == [Event.REBOOT, Event.RESIZE_BEGIN, Event.COLD_MIGRATE_BEGIN]
    assert list(ENDS) == FREEZING


# -- RESTART --------------------------------------------------------------------------------


@pytest.mark.parametrize("event", RESTARTING)
async def test_expired_it_is_reported_and_a_loss(event: Event, world: HostWorld) -> None:
    guest = await noticed(world, event)
    channel = world.channel(guest)
    under_way = f"{event} is in progress"
    assert later(world) == [(NOTICED, "stopped", under_way)]
    assert channel.restart.window is not None
    assert channel.restart.window.remaining_s(now()) == RESTART_S
    await world.at(EXPIRES - 0.001)
    assert channel.heartbeat.state is HeartbeatState.RESTARTING
    assert not channel.restart.closed.is_set()
    await world.at(EXPIRES)
    assert later(world) == [
        (NOTICED, "stopped", under_way),
        (EXPIRES, "restart-expired", NOT_BACK),
        (EXPIRES, "loss", "reboot", NOT_BACK),
    ]
    assert channel.heartbeat.state is HeartbeatState.LOST
    assert channel.restart.window is None
    assert channel.restart.closed.is_set()
    await world.at(EXPIRES + 500)
    assert len(later(world)) == 3


@pytest.mark.parametrize("restart_s", [1, 60, 300])
async def test_its_length_is_what_the_guest_advertised(restart_s: int, world: HostWorld) -> None:
    await noticed(world, Event.REBOOT, restart_secs=restart_s)
    await world.at(NOTICED + restart_s)
    assert [told[:2] for told in later(world)] == [
        (NOTICED, "stopped"),
        (NOTICED + restart_s, "restart-expired"),
        (NOTICED + restart_s, "loss"),
    ]


async def test_it_opens_when_the_notice_is_over(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(NOTICED)
    world.notice(guest, Event.REBOOT)
    await world.at(NOTICED + 9.9)
    assert world.channel(guest).restart.window is None
    assert world.channel(guest).heartbeat.state is HeartbeatState.HEARTBEATING
    await world.at(NOTICED + 10)
    restart = world.channel(guest).restart.window
    assert restart is not None
    assert restart.deadline == NOTICED + 10 + RESTART_S


@pytest.mark.parametrize("back_at", [NOTICED + 30.25, EXPIRES - 0.5, EXPIRES - 0.001])
async def test_back_with_init_in_time(back_at: float, world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(back_at)
    guest.answers_after_s = 0.0
    guest.send_init()
    await world.at(EXPIRES + 200)
    assert later(world)[1:] == [(pytest.approx(back_at), "heartbeating", "back after reboot")]
    assert world.channel(guest).restart.window is None
    assert world.channel(guest).restart.closed.is_set()


@pytest.mark.parametrize("event", RESTARTING)
async def test_back_with_its_socket_gone_and_made_anew(event: Event, world: HostWorld) -> None:
    guest = await noticed(world, event)
    channel = world.channel(guest)
    await world.at(10)
    guest.vanish()
    await world.at(60.3)
    assert later(world) == [(NOTICED, "stopped", f"{event} is in progress")]
    assert channel.dialling.absent
    assert len(world.dialer.dials) == 1
    is_back(guest)
    guest.appear()
    await world.at(EXPIRES + 100)
    assert later(world)[1:] == [(60.3, "heartbeating", f"back after {event}")]
    assert world.channel(guest) is channel
    assert not channel.dialling.absent


async def test_back_with_a_socket_of_another_name(world: HostWorld) -> None:
    guest = await noticed(world, Event.COLD_MIGRATE_BEGIN)
    channel = world.channel(guest)
    await world.at(10)
    guest.vanish()
    await world.at(60.3)
    is_back(guest)
    guest.name = f"wrs.heartbeat.agent.0.{guest.uuid}.sock"
    guest.path = f"{CHANNEL_DIR}/{guest.name}"
    guest.appear()
    await world.settle()
    assert later(world)[1:] == [(60.3, "heartbeating", "back after cold_migrate_begin")]
    assert world.channel(guest) is channel
    assert channel.path == guest.path


async def test_a_new_socket_that_does_not_listen_yet(world: HostWorld) -> None:
    # Found between bind and listen: the retries start over, however long it was away.
    guest = await noticed(world, Event.REBOOT)
    await world.at(10)
    guest.vanish()
    await world.at(60.3)
    is_back(guest)
    guest.appear()
    world.dialer.refuse(guest.path)
    await world.at(62)
    world.dialer.listen(guest.path, guest.connected)
    await world.at(70)
    assert later(world)[1:] == [(63.3, "heartbeating", "back after reboot")]


async def test_back_with_its_socket_made_anew_in_one_moment(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(10)
    is_back(guest)
    guest.peer.close()
    guest.appear()
    await world.at(EXPIRES + 100)
    ((back_at, *words),) = later(world)[1:]
    assert words == ["heartbeating", "back after reboot"]
    # At once if the end was seen before the new socket, else a second later.
    assert back_at in (10.0, 11.0)


async def test_back_on_the_same_socket_after_an_end(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(10)
    world.dialer.refuse(guest.path)
    guest.peer.close()
    await world.at(40)
    is_back(guest)
    world.dialer.listen(guest.path, guest.connected)
    await world.at(EXPIRES + 100)
    # The retries are 1, 2, 4, 8 and 16 s apart, the first a second after the end.
    assert later(world)[1:] == [(41.0, "heartbeating", "back after reboot")]


async def test_gone_and_not_back_it_is_lost_and_then_forgotten(world: HostWorld) -> None:
    guest = await noticed(world, Event.COLD_MIGRATE_BEGIN)
    await world.at(10)
    guest.vanish()
    await world.at(EXPIRES)
    assert later(world)[1:] == [
        (EXPIRES, "restart-expired", NOT_BACK),
        (EXPIRES, "loss", "reboot", NOT_BACK),
        (EXPIRES, "stopped", "its socket did not come back"),
    ]
    assert world.host.channels == {}


async def test_a_socket_that_comes_at_the_very_end_is_not_missed(world: HostWorld) -> None:
    # They are found in the moment in which the old channels are given up: some before, some after.
    guests = await world.all_heartbeating(50, restart_secs=5)
    await world.at(NOTICED)
    for guest in guests:
        world.notice(guest, Event.REBOOT)
    await world.settle()
    for guest in guests:
        guest.vanish()
    await world.settle()
    await trio.sleep_until(NOTICED + 5)
    for guest in guests:
        guest.appear()
    await world.sleep(20)
    assert [world.channel(guest).heartbeating for guest in guests] == [True] * 50


async def test_late_it_is_lost_first_and_heartbeats_then(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(EXPIRES + 0.001)
    guest.answers_after_s = 0.0
    guest.send_init()
    await world.at(EXPIRES + 100)
    assert [told[:2] for told in later(world)[1:]] == [
        (EXPIRES, "restart-expired"),
        (EXPIRES, "loss"),
        (EXPIRES + 0.001, "heartbeating"),
    ]


async def test_an_init_in_time_whose_answer_comes_late_is_waited_for(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    channel = world.channel(guest)
    await world.at(EXPIRES - 0.1)
    guest.answers_after_s = 0.8
    guest.send_init()
    await world.at(EXPIRES + 0.5)
    assert len(later(world)) == 1
    assert channel.restart.window is not None
    await world.at(EXPIRES + 100)
    assert later(world)[1:] == [
        (EXPIRES + 0.7, "heartbeating", "back after reboot"),
    ]


async def test_an_init_that_is_a_leftover_puts_the_loss_off_once(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(EXPIRES - 0.1)
    guest.send_init()
    await world.at(EXPIRES + 2.999)
    assert len(later(world)) == 1
    await world.at(EXPIRES + 100)
    assert [told[:2] for told in later(world)[1:]] == [
        (EXPIRES + 3, "restart-expired"),
        (EXPIRES + 3, "loss"),
    ]


async def test_going_down_is_no_loss_however_it_looks(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT, silent=False)
    await world.at(7.5)
    guest.send_exit()
    guest.sends_init = False
    await world.at(9)
    guest.peer.close()
    await world.at(EXPIRES - 0.001)
    assert later(world) == [(NOTICED, "stopped", "reboot is in progress")]


async def test_an_end_notice_may_come_before_the_vm_is_back(world: HostWorld) -> None:
    guest = await noticed(world, Event.COLD_MIGRATE_BEGIN)
    await world.at(20)
    guest.reply = stay_silent
    world.notice(guest, Event.COLD_MIGRATE_END)
    await world.at(50)
    assert world.channel(guest).heartbeat.state is HeartbeatState.RESTARTING
    guest.answers_after_s = 0.0
    guest.send_init()
    await world.settle()
    assert later(world)[1:] == [
        (34.0, "notice", "cold_migrate_end", "complete", "no answer within 14 s"),
        (50.0, "heartbeating", "back after cold_migrate_begin"),
    ]


async def test_one_that_never_went_away_is_no_loss(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT, silent=False)
    await world.at(EXPIRES + 100)
    assert later(world)[1:] == [
        (EXPIRES, "heartbeating", "reboot did not happen: the guest kept answering")
    ]
    assert guest.challenged_at(since=100)[-1] == 225.0


async def test_restarted_again_the_window_starts_again(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(100)
    world.notice(guest, Event.REBOOT)
    await world.at(220.999)
    assert [told[1] for told in later(world)] == ["stopped", "notice"]
    await world.at(221)
    assert [told[:2] for told in later(world)[2:]] == [
        (221.0, "restart-expired"),
        (221.0, "loss"),
    ]


async def test_stopped_while_it_restarts_it_is_not_waited_for(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(50)
    world.notice(guest, Event.STOP)
    await world.at(400)
    assert [told[:3] for told in later(world)[1:]] == [(50.0, "notice", "stop")]
    assert world.channel(guest).restart.window is None


async def test_with_reporting_off_only_the_window_is_reported(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    world.channel(guest).heartbeat.situation.reporting = False
    await world.at(EXPIRES + 10)
    assert later(world)[1:] == [(EXPIRES, "restart-expired", NOT_BACK)]


async def test_the_loss_names_what_the_guest_advertised(world: HostWorld) -> None:
    guest = await world.heartbeating(corrective_action=CorrectiveAction.STOP)
    await world.at(NOTICED)
    world.notice(guest, Event.REBOOT)
    await world.settle()
    falls_silent(guest)
    await world.at(EXPIRES)
    assert world.reports()[-1] == (EXPIRES, "loss", "stop", NOT_BACK)


async def test_shutdown_ends_the_window_without_a_loss(world: HostWorld) -> None:
    guest = await noticed(world, Event.REBOOT)
    await world.at(EXPIRES - 0.01)
    channel = world.channel(guest)
    await world.stop_host()
    assert now() == pytest.approx(EXPIRES - 0.01)
    assert later(world) == [(NOTICED, "stopped", "reboot is in progress")]
    assert channel.restart.closed.is_set()


async def test_after_a_freeze_it_goes_on_for_the_rest_of_its_time(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    await noticed(world, Event.REBOOT)
    await world.at(100)
    autojump_clock.jump(100)
    expires_at = NOTICED + 121 + 100
    await world.at(expires_at - 0.3)  # of a freeze up to 0.22 s count as time that it ran
    assert len(later(world)) == 1
    await world.at(expires_at)
    assert [told[1] for told in later(world)[1:]] == ["restart-expired", "loss"]


async def test_an_init_that_came_during_a_freeze_counts(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    guests = await world.all_heartbeating(50)
    await world.at(NOTICED)
    for guest in guests:
        world.notice(guest, Event.REBOOT)
    await world.settle()
    for guest in guests:
        falls_silent(guest)
    await world.at(100)
    for guest in guests:
        guest.answers_after_s = 0.0
        guest.send_init()
    autojump_clock.jump(100)
    await world.at(300)
    for guest in guests:
        assert [told[:2] for told in world.reports(guest, since=50)] == [(200.0, "heartbeating")]


# -- frozen or moved ------------------------------------------------------------------------


@pytest.mark.parametrize("event", [*FREEZING, Event.STOP])
async def test_silence_after_the_notice_is_no_loss(event: Event, world: HostWorld) -> None:
    guest = await noticed(world, event)
    await world.at(400)
    assert later(world) == [(NOTICED, "stopped", f"{event} is in progress")]
    assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED
    # Two unanswered challenges, and then none: nothing piles up in a port that nobody reads.
    assert len(guest.challenged_at(since=NOTICED)) == 2
    assert guest.connections == 1


@pytest.mark.parametrize("result", list(VoteResult))
async def test_however_the_notice_was_answered(result: VoteResult, world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = lambda _: Reply(result)
    await world.at(NOTICED)
    world.notice(guest, Event.PAUSE)
    await world.settle()
    assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED


async def test_a_vote_alone_suspends_nothing(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(NOTICED)
    world.vote(guest, Event.PAUSE)
    await world.settle()
    guest.answers_after_s = None
    await world.at(20)
    assert world.reports()[-1] == (7.0, "loss", "reboot", "no answer for 3 s")


@pytest.mark.parametrize(("event", "end"), ENDS.items())
async def test_it_is_back_with_the_first_answer_after_the_end_notice(
    event: Event, end: Event, world: HostWorld
) -> None:
    guest = await noticed(world, event)
    await world.at(500.25)
    guest.answers_after_s = 0.5
    world.notice(guest, end)
    await world.at(520)
    assert later(world)[1:] == [
        (500.25, "notice", str(end), "complete", ""),
        (500.75, "heartbeating", f"back after {end} was sent"),
    ]
    assert guest.challenged_at(since=400)[:3] == [500.25, 501.25, 502.25]


@pytest.mark.parametrize("event", [*FREEZING, Event.STOP])
async def test_init_ends_it(event: Event, world: HostWorld) -> None:
    guest = await noticed(world, event)
    await world.at(50.25)
    guest.answers_after_s = 0.0
    guest.send_init()
    await world.at(60)
    assert later(world)[1:] == [(50.25, "heartbeating", f"back after {event}")]


async def test_after_the_end_notice_silence_does_not_count_yet(world: HostWorld) -> None:
    guest = await noticed(world, Event.PAUSE)
    await world.at(50)
    world.notice(guest, Event.UNPAUSE)
    await world.at(100)
    assert [told[1] for told in later(world)[1:]] == ["notice"]
    # One reconnect: it cures a port that was wedged by a migration.
    assert guest.connections == 2
    assert len(guest.challenged_at(since=50)) > 40


async def test_a_guest_that_goes_on_answering_is_challenged_and_not_heartbeating(
    world: HostWorld,
) -> None:
    guest = await noticed(world, Event.LIVE_MIGRATE_BEGIN, silent=False)
    await world.at(100)
    assert later(world) == [(NOTICED, "stopped", "live_migrate_begin is in progress")]
    assert len(guest.challenged_at(since=NOTICED)) == 96


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "after_s"),
    [(Event.PAUSE, 300), (Event.STOP, 300), (Event.LIVE_MIGRATE_BEGIN, 3600)],
)
async def test_answering_for_that_long_means_that_it_was_called_off(
    event: Event, after_s: int, world: HostWorld
) -> None:
    await noticed(world, event, silent=False, heartbeat_interval_ms=10_000)
    await world.at(NOTICED + after_s - 1)
    assert len(later(world)) == 1
    await world.at(NOTICED + after_s + 11)
    ((at, *words),) = later(world)[1:]
    assert words == ["heartbeating", f"{event} did not happen: the guest kept answering"]
    assert isinstance(at, float)
    assert 0 <= at - NOTICED - after_s <= 10


async def test_a_lost_connection_does_not_end_it(world: HostWorld) -> None:
    guest = await noticed(world, Event.LIVE_MIGRATE_BEGIN)
    await world.at(20)
    guest.peer.close()
    await world.at(40)
    assert guest.connections == 2
    assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED
    guest.answers_after_s = 0.0
    world.notice(guest, Event.LIVE_MIGRATE_END)
    await world.settle()
    assert later(world)[1:] == [
        (40.0, "heartbeating", "back after live_migrate_end was sent"),
        (40.0, "notice", "live_migrate_end", "complete", ""),
    ]


async def test_a_socket_that_goes_while_it_is_suspended_is_forgotten(world: HostWorld) -> None:
    guest = await noticed(world, Event.STOP)
    await world.at(20)
    guest.vanish()
    await world.settle()
    assert world.reports()[-1] == (20.0, "stopped", f"{guest.path} was removed")
    assert world.host.channels == {}


# -- called off -----------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Event.REBOOT, Event.PAUSE, Event.STOP])
async def test_called_off_it_is_challenged_at_once(event: Event, world: HostWorld) -> None:
    guest = await noticed(world, event)
    channel = world.channel(guest)
    await world.at(30)
    guest.answers_after_s = 0.25
    channel.outages.call_off(event, "the command failed")
    await world.at(40)
    why = f"{event} did not happen: the command failed"
    assert later(world)[1:] == [(30.25, "heartbeating", why)]
    assert channel.restart.window is None
    if event is Event.REBOOT:  # the only one that opens the window
        assert channel.restart.closed.is_set()


async def test_calling_off_what_is_gone_or_not_under_way_is_harmless(world: HostWorld) -> None:
    guest = await world.heartbeating()
    channel = world.channel(guest)
    await world.at(3.5)
    channel.outages.call_off("reboot", "no reason")
    await world.at(6.5)
    assert guest.challenged_at() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    guest.vanish()
    await world.settle()
    before = world.reports()
    channel.outages.call_off("reboot", "no reason")
    channel.outages.restarts("no reason")
    await world.at(300)
    assert world.reports() == before


# -- a corrective command restarts it -------------------------------------------------------


async def test_acted_upon_with_reboot_it_has_its_window(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(NOTICED)
    world.channel(guest).outages.restarts("corrective action reboot")
    falls_silent(guest)
    await world.at(EXPIRES)
    assert world.reports(since=2) == [
        (NOTICED, "stopped", "corrective action reboot is in progress"),
        (EXPIRES, "restart-expired", NOT_BACK),
        (EXPIRES, "loss", "reboot", NOT_BACK),
    ]


async def test_acted_upon_with_stop_it_is_not_waited_for(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(NOTICED)
    world.channel(guest).outages.stops("corrective action stop")
    falls_silent(guest)
    await world.at(400)
    assert world.reports(since=2) == [(NOTICED, "stopped", "corrective action stop is in progress")]


@pytest.mark.parametrize("how", ["stops", "is paused"])
async def test_what_ends_a_restart_without_a_socket_ends_the_waiting_for_it(
    how: str, world: HostWorld
) -> None:
    guest = await noticed(world, Event.REBOOT)
    channel = world.channel(guest)
    await world.at(20)
    if how == "stops":
        guest.vanish()
        await world.at(30)
        assert channel.dialling.absent
        channel.outages.stops("corrective action stop")
    else:
        guest.reply = stay_silent
        world.notice(guest, Event.PAUSE)
        guest.vanish()
    await world.at(40)
    assert world.reports()[-1][1:] == ("stopped", "its socket did not come back")
    assert world.host.channels == {}


async def test_the_line_about_its_end_names_the_instance(
    world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio")
    guest = await world.heartbeating()
    world.channel(guest).outages.restarts("reboot")
    guest.answers_after_s = None
    await world.at(200)
    lines = [record.getMessage() for record in caplog.records]
    closed = f"{guest.uuid}: RESTART window closed after 121 s, no answer from instance"
    assert closed in lines
