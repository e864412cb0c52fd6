"""Restarts: the RESTART window, how it ends, and two events in a row."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from hbtrio.fsm.heartbeat.effects import (
    Heartbeating,
    Lost,
    OpenRestart,
    Reconnect,
    RestartExpired,
)
from hbtrio.wire.vocabulary import Event, Health
from support.events_cases import (
    LEFTOVER,
    REBOOT,
    RESTARTING,
    S,
    challenge,
    kinds,
    restarting,
    suspended,
)
from support.heartbeat_bench import HeartbeatBench

# -- restarting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("event", RESTARTING)
def test_a_restart_by_the_book(event: Event) -> None:
    bench = restarting(event)
    bench.expect(bench.at(0.5).send_exit(), [], due=120.5)
    assert bench.run(30.0) == []
    bench.expect(
        bench.beat.closed("reset"), [], connected=False, is_heartbeating=False, due=math.inf
    )
    bench.expect(
        bench.at(31.0).open(),
        [challenge(2)],
        connected=True,
        is_heartbeating=True,
        due=32.0,
        owes_answer=True,
    )
    assert bench.run(60.0) == [(32.0, challenge(3))]
    bench.skip(bench.send_init())
    bench.expect(
        bench.at(60.25).answer_challenge(),
        [Heartbeating(f"back after {event}")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    bench.expect(bench.at(121.25).beat.losses.restart_expired(121.25), [])


@pytest.mark.parametrize("had_one", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_without_a_guest_before_it_none_is_lost_in_a_restart(had_one: bool, times: int) -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    if had_one:
        bench.skip(bench.send_init())
        bench.skip(bench.answer_challenge())
        bench.skip(bench.send_exit())
    for _ in range(times):
        bench.skip(bench.beat.announced.restarts("reboot", bench.now))
        bench.run(bench.now + 10.0)
    bench.skip(bench.send_init())  # a leftover
    bench.run(60.0)
    why = f"not back within {bench.beat.profile.restart_s} s"
    bench.expect(
        bench.beat.losses.restart_expired(60.0),
        [RestartExpired(why)],
        state=S.WAITING,
        is_heartbeating=False,
        reason=why,
    )
    # Its return is that of any new guest.
    bench.skip(bench.at(70.0).send_init())
    assert bench.answer_challenge() == (Heartbeating("init answered"),)


def returning_without_a_guest() -> HeartbeatBench:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, 0.0))
    return bench


def suspended_without_a_guest() -> HeartbeatBench:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.beat.announced.stops("a command", 0.0))
    return bench


@pytest.mark.parametrize("reach", [returning_without_a_guest, suspended_without_a_guest])
def test_what_was_announced_makes_no_guest(reach: Callable[[], HeartbeatBench]) -> None:
    bench = reach()
    bench.skip(bench.beat.announced.notice_opened(Event.REBOOT, 0.0))
    bench.skip(bench.beat.announced.notice_over(Event.REBOOT, 1.0))
    bench.run(200.0)
    assert bench.beat.losses.restart_expired(200.0) == (RestartExpired("not back within 121 s"),)
    assert bench.beat.state is S.WAITING


def test_a_guest_that_exits_on_its_notice_is_expected_back() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_opened(Event.REBOOT, bench.now))
    bench.skip(bench.at(1.0).send_exit())
    bench.skip(bench.at(10.0).beat.announced.notice_over(Event.REBOOT, 10.0))
    bench.run(131.0)
    why = "not back within 121 s"
    assert bench.beat.losses.restart_expired(131.0) == (RestartExpired(why), Lost(why, REBOOT))


def test_a_guest_whose_connection_broke_is_expected_back() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.closed("reset"))
    bench.skip(bench.beat.announced.restarts("reboot", bench.now))
    why = "not back within 121 s"
    assert bench.beat.losses.restart_expired(131.0) == (RestartExpired(why), Lost(why, REBOOT))


@pytest.mark.parametrize("init_seen", [False, True])
def test_called_off_without_a_guest_it_goes_on_waiting(init_seen: bool) -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.beat.announced.restarts("reboot", 0.0))
    bench.run(1.0)
    if init_seen:
        bench.skip(bench.send_init())
    bench.expect(
        bench.at(1.25).beat.announced.called_off("reboot", "it failed", 1.25),
        [],
        state=S.WAITING,
        is_heartbeating=False,
        reason="reboot did not happen: it failed",
        due=2.0 if init_seen else 120.0,
        owes_answer=init_seen,
    )
    # A probe's answer says nothing any more; that to an init does.
    came = bench.answer_challenge()
    assert came == ((Heartbeating("init answered"),) if init_seen else ())


@pytest.mark.parametrize("event", RESTARTING)
def test_not_back_within_restart_is_a_loss(event: Event) -> None:
    bench = restarting(event)
    assert bench.run(119.0) == [(1.0, challenge(2)), (2.0, challenge(3))]
    why = "not back within 121 s"
    bench.expect(
        bench.at(121.25).beat.losses.restart_expired(121.25),
        [RestartExpired(why), Lost(why, REBOOT)],
        state=S.LOST,
        is_heartbeating=False,
        reason=why,
        due=120.25,
    )
    bench.expect(bench.beat.losses.restart_expired(121.25), [])
    # The reconnect that was due is made up for, and nothing is lost a second time.
    again = Reconnect("connected, but no heartbeat for 120 s (lost)")
    assert bench.run(300.0) == [(121.25, again), (241.25, again)]


def test_with_reporting_off_only_the_window_is_reported() -> None:
    bench = restarting()
    bench.beat.situation.reporting = False
    why = "not back within 121 s"
    assert bench.beat.losses.restart_expired(121.25) == (RestartExpired(why),)
    assert bench.beat.state is S.LOST


def test_not_back_without_a_connection_is_a_loss_too() -> None:
    bench = restarting()
    bench.skip(bench.at(0.75).answer_challenge())
    bench.skip(bench.beat.closed("reset"))
    why = "not back within 121 s"
    bench.expect(
        bench.at(1.0).beat.losses.restart_expired(1.0),
        [RestartExpired(why), Lost(why, REBOOT)],
        state=S.LOST,
        reason=why,
    )
    bench.expect(bench.at(500.0).open(), [], connected=True, due=620.0)
    bench.skip(bench.send_init())
    assert bench.at(500.25).answer_challenge() == (Heartbeating(f"back after {why}"),)


def test_one_that_goes_on_answering_never_went_away() -> None:
    bench = restarting()
    bench.run(121.0, answers=True)
    bench.expect(
        bench.at(121.25).beat.losses.restart_expired(121.25),
        [Heartbeating("reboot did not happen: the guest kept answering")],
        state=S.HEARTBEATING,
        health=Health.UNKNOWN,  # until its next answer
        reason="answers challenges",
    )
    # If it dies only now, that is found.
    assert [when for when, _ in kinds(bench.run(200.0), Lost)] == [123.0]


def test_one_that_goes_on_answering_is_challenged_on_though_its_probes_are_over() -> None:
    """Two intervals, less the grid of the pacer, are just enough to miss both."""
    bench = restarting()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(1.984375).answer_challenge())
    for now in (2.0, 2.984375, 3.96875):
        bench.beat.align(now)
        bench.skip(bench.at(now).tick())
    assert (bench.beat.missed, bench.beat.owes_answer) == (2, False)
    assert Heartbeating in map(type, bench.at(3.975).beat.losses.restart_expired(3.975))
    assert bench.beat.due == 4.975


def test_a_challenge_on_its_way_at_the_end_of_the_window_is_forgotten() -> None:
    bench = restarting()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(1.5).beat.losses.restart_expired(1.5))
    assert (bench.beat.state, bench.beat.owes_answer, bench.beat.due) == (S.LOST, False, 120.25)
    bench.expect(bench.at(1.75).answer_challenge(), [])


@pytest.mark.parametrize(("answered_at", "lost"), [(119.26, False), (119.25, True)])
def test_going_on_means_an_answer_within_two_intervals(answered_at: float, lost: bool) -> None:
    bench = restarting()
    bench.run(119.0, answers=True)
    bench.skip(bench.at(answered_at).answer_challenge())
    bench.run(121.24)
    effects = bench.at(121.25).beat.losses.restart_expired(121.25)
    assert (Lost in map(type, effects)) is lost
    assert math.isinf(bench.beat.due) is False


def test_answers_from_before_the_notice_are_no_going_on() -> None:
    bench = HeartbeatBench().heartbeating(interval_ms=60_000, restart_secs=61)
    bench.skip(bench.beat.announced.notice_over(Event.REBOOT, 0.25))
    bench.run(61.0)
    assert Lost in map(type, bench.at(61.25).beat.losses.restart_expired(61.25))


def test_an_exit_is_no_going_on() -> None:
    bench = restarting()
    bench.run(120.5, answers=True)
    bench.skip(bench.send_exit())
    assert Lost in map(type, bench.at(121.25).beat.losses.restart_expired(121.25))


def test_an_init_in_the_last_moment_is_given_time_to_prove_itself() -> None:
    bench = restarting()
    bench.run(121.0)
    bench.skip(bench.send_init())
    bench.expect(bench.at(121.25).beat.losses.restart_expired(121.25), [OpenRestart(3.0)])
    bench.skip(bench.at(121.5).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING
    bench.expect(bench.at(124.25).beat.losses.restart_expired(124.25), [])


def test_an_init_in_the_last_moment_that_is_a_leftover_does_not_help() -> None:
    bench = restarting()
    bench.run(121.0)
    bench.skip(bench.send_init())
    bench.skip(bench.at(121.25).beat.losses.restart_expired(121.25))
    assert bench.run(124.0)[-1] == (123.0, LEFTOVER)
    assert Lost in map(type, bench.at(124.25).beat.losses.restart_expired(124.25))


def test_greeting_again_does_not_put_off_the_loss_for_ever() -> None:
    bench = restarting()
    bench.run(121.0)
    bench.skip(bench.send_init())
    bench.skip(bench.at(121.25).beat.losses.restart_expired(121.25))
    bench.run(124.0)
    bench.skip(bench.send_init())
    assert Lost in map(type, bench.at(124.25).beat.losses.restart_expired(124.25))


def test_each_restart_has_a_last_moment_of_its_own() -> None:
    bench = restarting()
    bench.skip(bench.at(121.0).send_init())
    bench.skip(bench.at(121.25).beat.losses.restart_expired(121.25))
    bench.skip(bench.at(121.5).beat.announced.restarts("rebooted", 121.5))
    bench.skip(bench.at(240.0).send_init())
    assert bench.at(242.0).beat.losses.restart_expired(242.0) == (OpenRestart(3.0),)


def test_an_old_init_brings_no_restarting_vm_back() -> None:
    bench = restarting()
    bench.run(30.0)
    bench.skip(bench.send_init())
    for old in (1, 2, 3):
        assert Heartbeating not in map(type, bench.skip(bench.answer_challenge(old)))
    assert kinds(bench.run(119.0), Heartbeating, Lost) == []
    assert bench.beat.state is S.RESTARTING


def test_a_slow_shutdown_is_probed_on() -> None:
    """A stall of some seconds must not make the guest say init and go down as one that beats."""
    bench = restarting()
    bench.run(4.0)
    bench.skip(bench.answer_challenge(3))
    assert bench.beat.due == 5.0
    assert kinds(bench.run(60.0, answers=True), Heartbeating, Lost) == []


def test_a_silent_restart_is_reconnected_every_120_s() -> None:
    bench = restarting()
    slow = Reconnect("connected, but no heartbeat for 120 s (restarting)")
    assert bench.run(400.0)[2:] == [(120.25, slow), (240.25, slow), (360.25, slow)]


def test_a_restart_after_a_long_freeze_is_not_reconnected_at_once() -> None:
    bench = suspended()
    bench.run(5000.0)
    bench.skip(bench.beat.announced.notice_over(Event.REBOOT, 5000.0))
    assert kinds(bench.run(5119.9), Reconnect) == []


# -- two in a row -------------------------------------------------------------------------------


def test_reboot_and_cold_migrate_end_while_it_is_down() -> None:
    """The notice goes out when the agent's patience is over: the RESTART window goes on."""
    bench = restarting(Event.COLD_MIGRATE_BEGIN)
    bench.run(100.0)
    bench.expect(bench.beat.announced.notice_opened(Event.COLD_MIGRATE_END, 100.0), [])
    bench.expect(bench.beat.announced.notice_over(Event.COLD_MIGRATE_END, 100.0), [])
    assert Lost in map(type, bench.at(121.25).beat.losses.restart_expired(121.25))


@pytest.mark.parametrize("event", [Event.COLD_MIGRATE_END, Event.RESIZE_END])
def test_an_end_notice_after_the_vm_has_come_back_changes_nothing(event: Event) -> None:
    bench = restarting(Event.COLD_MIGRATE_BEGIN)
    bench.run(60.0)
    bench.skip(bench.send_init())
    bench.skip(bench.at(60.25).answer_challenge())
    bench.expect(bench.beat.announced.notice_opened(event, 60.5), [])
    bench.expect(bench.beat.announced.notice_over(event, 61.0), [])


def test_an_end_notice_after_the_window_challenges_once_more() -> None:
    bench = restarting(Event.COLD_MIGRATE_BEGIN)
    bench.run(119.0)
    bench.skip(bench.at(121.25).beat.losses.restart_expired(121.25))
    assert bench.beat.announced.notice_opened(Event.COLD_MIGRATE_END, 121.25) == (
        challenge(4),
        OpenRestart(121.0),
    )
    assert bench.beat.state is S.RETURNING


def test_a_pause_and_then_a_reboot() -> None:
    bench = suspended()
    bench.run(50.0)
    bench.expect(
        bench.beat.announced.notice_over(Event.REBOOT, 50.0),
        [OpenRestart(121)],
        state=S.RESTARTING,
        reason="reboot is in progress",
        due=51.0,
    )
    bench.expect(bench.at(51.0).tick(), [challenge(4)], due=52.0, owes_answer=True)


def test_a_reboot_and_then_a_stop() -> None:
    bench = restarting()
    bench.run(50.0)
    bench.expect(
        bench.beat.announced.notice_over(Event.STOP, 50.0),
        [],
        state=S.SUSPENDED,
        reason="stop is in progress",
        due=51.0,
    )
    bench.expect(bench.at(121.25).beat.losses.restart_expired(121.25), [])


def test_the_same_event_twice() -> None:
    bench = restarting()
    bench.expect(
        bench.at(0.5).beat.announced.restarts("a command", 0.5),
        [OpenRestart(121)],
        reason="a command is in progress",
    )
    bench.expect(
        bench.at(0.75).beat.announced.notice_over(Event.PAUSE, 0.75),
        [],
        state=S.SUSPENDED,
        reason="pause is in progress",
    )
    bench.expect(
        bench.beat.announced.notice_over(Event.SUSPEND, 0.75), [], reason="suspend is in progress"
    )


def test_a_loss_is_answered_with_a_reboot_that_helps() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(5.0)
    bench.expect(
        bench.beat.announced.restarts("a command", 5.0),
        [OpenRestart(121)],
        state=S.RESTARTING,
        is_heartbeating=True,
        reason="a command is in progress",
        due=6.0,
    )
    bench.run(60.0)
    bench.skip(bench.send_init())
    assert bench.at(60.25).answer_challenge() == (Heartbeating("back after a command"),)


def test_a_loss_is_answered_with_a_reboot_that_does_not_help() -> None:
    bench = HeartbeatBench().heartbeating()
    came = bench.run(5.0)
    bench.skip(bench.beat.announced.restarts("rebooted: lost", 5.0))
    came += bench.run(125.0)
    came += [(126.0, effect) for effect in bench.at(126.0).beat.losses.restart_expired(126.0)]
    assert kinds(came, Lost) == [
        (3.0, Lost("no answer for 3 s", REBOOT)),
        (126.0, Lost("not back within 121 s", REBOOT)),
    ]
