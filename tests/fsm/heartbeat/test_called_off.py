"""An event that did not happen: how long the VM may be silent after it, and what that means.

The guest is heartbeating, with an interval of 1 s and RESTART of 121 s. The event begins at 0.5 s
and is called off at 10 s.
"""

from __future__ import annotations

import pytest

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Heartbeating,
    Lost,
    OpenRestart,
    RestartExpired,
    SendToGuest,
    Suspected,
)
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.channel_messages import Challenge
from hbtrio.wire.vocabulary import CorrectiveAction, Event
from support.heartbeat_bench import HeartbeatBench

S = HeartbeatState
REBOOT = CorrectiveAction.REBOOT
BEGINS, FAILS, EXPIRES = 0.5, 10.0, 131.0
RUNS = (Standing.RUNNING, "running: booted")

#: One of each kind: it freezes, restarts or stops the VM.
EVENTS = [Event.PAUSE, Event.REBOOT, Event.STOP]


def overdue(event: Event) -> str:
    return f"no answer within 121 s after {event}, which did not happen"


def begun(event: Event, *, confirms: bool) -> HeartbeatBench:
    """In an event, during which the VM hangs."""
    bench = HeartbeatBench().heartbeating()
    bench.beat.losses.are_confirmed = confirms
    begin(bench.at(BEGINS), event)
    bench.run(FAILS)
    return bench


def begin(bench: HeartbeatBench, event: Event) -> None:
    bench.skip(bench.beat.announced.notice_over(event, bench.now))


def fails(bench: HeartbeatBench, event: Event, *, is_pursued: bool = False) -> tuple[Effect, ...]:
    announced = bench.beat.announced
    return bench.skip(announced.called_off(event, "exit 1", bench.now, is_pursued=is_pursued))


def opened(effects: tuple[Effect, ...]) -> list[OpenRestart]:
    return [effect for effect in effects if isinstance(effect, OpenRestart)]


def expire(bench: HeartbeatBench, at: float = EXPIRES) -> tuple[Effect, ...]:
    bench.run(at)
    return bench.skip(bench.beat.losses.restart_expired(at))


@pytest.mark.parametrize("event", EVENTS)
def test_silent_through_restart_it_is_lost_if_libvirt_says_that_it_runs(event: Event) -> None:
    bench = begun(event, confirms=True)
    assert opened(fails(bench, event)) == [OpenRestart(121.0)]
    assert (bench.beat.state, bench.beat.is_expected_back) == (S.RETURNING, True)
    assert expire(bench) == (Suspected(overdue(event)),)
    effects = bench.skip(bench.beat.domain.confirmed(*RUNS, EXPIRES + 0.1))
    assert effects == (
        RestartExpired(overdue(event)),
        Lost(overdue(event), REBOOT, "running: booted"),
    )
    assert (bench.beat.state, bench.beat.reason) == (S.LOST, overdue(event))


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    ("standing", "state"),
    [
        (Standing.PAUSED, S.PAUSED),
        (Standing.STOPPED, S.STOPPED),
        (Standing.UNKNOWN, S.ABSENT),
    ],
)
def test_what_libvirt_says_of_a_silent_one_counts(
    standing: Standing, state: HeartbeatState, event: Event
) -> None:
    """The command failed, and has done what it was to do all the same."""
    bench = begun(event, confirms=True)
    fails(bench, event)
    expire(bench)
    effects = bench.skip(bench.beat.domain.confirmed(standing, "as it is", EXPIRES + 0.1))
    assert not any(isinstance(effect, Lost) for effect in effects)
    assert bench.beat.state is state


@pytest.mark.parametrize("event", EVENTS)
def test_while_libvirt_is_silent_nothing_is_decided(event: Event) -> None:
    bench = begun(event, confirms=True)
    fails(bench, event)
    expire(bench)
    assert bench.skip(bench.beat.domain.confirmed(None, "libvirt unknown", EXPIRES + 1)) == ()
    assert (bench.beat.state, bench.beat.suspected) == (S.RETURNING, True)
    bench.skip(bench.beat.domain.confirmed(*RUNS, EXPIRES + 60))
    assert bench.beat.state is S.LOST


@pytest.mark.parametrize("answers_s", [10.25, EXPIRES, EXPIRES + 0.05])
@pytest.mark.parametrize("event", EVENTS)
def test_an_answer_before_the_loss_ends_it(event: Event, answers_s: float) -> None:
    bench = begun(event, confirms=True)
    fails(bench, event)
    bench.run(answers_s)
    if answers_s >= EXPIRES:
        expire(bench, answers_s)
    why = f"{event} did not happen: exit 1"
    assert bench.skip(bench.answer_challenge()) == (Heartbeating(why),)
    assert (bench.beat.state, bench.beat.suspected) == (S.HEARTBEATING, False)
    assert not bench.beat.situation.is_presumed
    assert bench.beat.domain.confirmed(*RUNS, EXPIRES + 1) == ()


@pytest.mark.parametrize("event", EVENTS)
def test_without_libvirt_only_a_restart_is_judged(event: Event) -> None:
    """What was to freeze or to stop may be what the failed command did."""
    bench = begun(event, confirms=False)
    window = opened(fails(bench, event))
    if event is not Event.REBOOT:
        assert (window, bench.beat.is_expected_back) == ([], False)
        return
    assert window == [OpenRestart(121.0)]
    assert expire(bench) == (RestartExpired(overdue(event)), Lost(overdue(event), REBOOT))


@pytest.mark.parametrize("is_pursued", [True, False])
def test_the_correction_of_a_loss_that_is_tried_again_reports_it_once(*, is_pursued: bool) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(5.0)
    assert bench.beat.state is S.LOST
    bench.beat.losses.are_confirmed = True
    bench.skip(bench.beat.announced.restarts("reboot", bench.now))
    effects = fails(bench.at(FAILS), Event.REBOOT, is_pursued=is_pursued)
    assert opened(effects) == ([] if is_pursued else [OpenRestart(121.0)])
    assert bench.beat.state is S.RETURNING


@pytest.mark.parametrize("event", EVENTS)
def test_one_that_was_unwatched_before_is_not_judged(event: Event) -> None:
    """It may have been frozen all the time."""
    bench = unwatched()
    bench.beat.losses.are_confirmed = True
    begin(bench, event)
    assert fails(bench, event) == (SendToGuest(Challenge(bench.last)),)
    assert bench.beat.state is S.RETURNING
    # Nor after the next event; but once it has answered it is watched again.
    begin(bench, event)
    assert opened(fails(bench, event)) == []
    bench.skip(bench.answer_challenge())
    assert bench.beat.state is S.HEARTBEATING
    begin(bench, event)
    assert opened(fails(bench, event)) == [OpenRestart(121.0)]


def test_one_that_was_lost_after_it_was_unwatched_is_judged() -> None:
    bench = unwatched()
    bench.skip(bench.beat.announced.restarts("reboot", bench.now))
    bench.skip(bench.beat.losses.restart_expired(bench.now + 121.0))
    assert bench.beat.state is S.LOST
    begin(bench, Event.REBOOT)
    assert opened(fails(bench, Event.REBOOT)) == [OpenRestart(121.0)]


def test_one_whose_guest_had_left_is_not_judged() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.beat.losses.are_confirmed = True
    bench.skip(bench.send_exit())
    bench.skip(bench.beat.announced.restarts("reboot", bench.now))
    assert fails(bench, Event.REBOOT) == ()
    assert bench.beat.state is S.WAITING


def test_frozen_and_thawed_meanwhile_it_has_the_time_of_the_thaw() -> None:
    """Its loss speaks of the return, and not of the event before."""
    bench = begun(Event.PAUSE, confirms=True)
    fails(bench, Event.PAUSE)
    bench.skip(bench.at(20.0).beat.domain.changed(DomainChange.PAUSED, "paused: user", 20.0))
    assert bench.beat.state is S.PAUSED
    resumed = bench.at(500.0).beat.domain.changed(DomainChange.RESUMED, "running", 500.0)
    assert opened(bench.skip(resumed)) == [OpenRestart(111.0)]
    assert expire(bench, 611.0) == (Suspected("not back within 121 s"),)


def unwatched() -> HeartbeatBench:
    bench = HeartbeatBench().heartbeating()
    begin(bench, Event.PAUSE)
    bench.run(10.0)
    bench.skip(bench.answer_challenge())  # provisionally
    bench.skip(bench.at(11.0).tick())
    bench.skip(bench.at(11.25).answer_challenge())
    bench.run(400.0)
    assert bench.beat.state is S.UNWATCHED
    return bench
