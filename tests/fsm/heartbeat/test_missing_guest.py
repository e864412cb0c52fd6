"""A VM that runs and whose guest does not come, or has left and does not come back."""

from __future__ import annotations

import math

import pytest

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.heartbeat.effects import (
    Absent,
    Effect,
    Heartbeating,
    Lost,
    OpenRestart,
    Reconnect,
    RestartExpired,
    Stopped,
    Suspected,
    Unwatched,
)
from hbtrio.fsm.heartbeat.rules import EXCUSED, HeartbeatRules
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.profile import Profile
from hbtrio.wire.vocabulary import Event
from support.heartbeat_bench import HeartbeatBench

S = HeartbeatState
NOBODY = "no guest has begun to heartbeat within 50 s"
GONE = "its guest had exited, and is not back within 50 s"
UNHEARD = Unwatched(NOBODY, is_alarming=False)


def never_heard(*, confirms: bool = False) -> HeartbeatBench:
    """At 0.0 s connected, and nobody speaks."""
    bench = HeartbeatBench(absent_after_s=50.0)
    bench.beat.losses.are_confirmed = confirms
    bench.skip(bench.open())
    return bench


def exited(*, confirms: bool = False) -> HeartbeatBench:
    """At 10.25 s its guest has said exit."""
    bench = HeartbeatBench(absent_after_s=50.0)
    bench.beat.losses.are_confirmed = confirms
    bench.heartbeating()
    bench.run(10.0, answers=True)
    bench.skip(bench.at(10.25).send_exit())
    assert bench.beat.state is S.WAITING
    return bench


def change(bench: HeartbeatBench, what: DomainChange) -> tuple[Effect, ...]:
    return bench.skip(bench.beat.domain.changed(what, what.value, bench.now))


def reports(came: list[tuple[float, Effect]]) -> list[tuple[float, Effect]]:
    return [(when, effect) for when, effect in came if type(effect) is not Reconnect]


# -- nobody has come ------------------------------------------------------------------------------


def test_one_that_never_says_init_is_unwatched_once() -> None:
    bench = never_heard()
    assert bench.run(49.99) == []
    bench.expect(bench.at(50.0).tick(), [UNHEARD], state=S.UNHEARD, reason=NOBODY, due=120.0)
    assert reports(bench.run(2000.0)) == []
    assert bench.beat.state.shown == "unwatched"


def test_without_a_setting_it_has_the_restart_of_the_default_profile() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    reason = "no guest has begun to heartbeat within 121 s"
    assert reports(bench.run(130.0)) == [(121.0, Unwatched(reason, is_alarming=False))]


def test_one_that_says_init_later_heartbeats_as_ever() -> None:
    bench = never_heard()
    bench.run(60.0)
    bench.skip(bench.send_init())
    assert bench.skip(bench.answer_challenge()) == (Heartbeating("init answered"),)
    assert bench.beat.state is S.HEARTBEATING
    assert [type(effect) for _, effect in bench.run(70.0)][-1] is Lost


def test_an_init_that_is_being_proven_is_not_cut_short() -> None:
    bench = never_heard()
    bench.run(49.5)
    bench.skip(bench.send_init())
    assert reports(bench.run(50.3)) == []
    assert bench.skip(bench.answer_challenge()) == (Heartbeating("init answered"),)


def test_an_init_that_nobody_answers_for_proves_nothing() -> None:
    bench = never_heard()
    bench.run(49.5)
    bench.skip(bench.send_init())
    assert [effect for _, effect in bench.run(60.0)][-1] == UNHEARD


def test_a_reconnect_does_not_begin_the_time_anew() -> None:
    bench = never_heard()
    bench.run(49.0)
    bench.skip(bench.beat.closed("the host closed it"))
    bench.skip(bench.open())
    assert reports(bench.run(51.0)) == [(50.0, UNHEARD)]


def test_without_libvirt_one_that_cannot_be_reached_is_not_said_to_run() -> None:
    bench = never_heard()
    bench.run(20.0)
    bench.skip(bench.beat.closed("reset"))
    assert bench.run(1000.0) == []
    assert (bench.beat.state, bench.beat.due) == (S.WAITING, math.inf)
    bench.skip(bench.open())
    assert reports(bench.run(1060.0)) == [(1050.0, UNHEARD)]


def test_a_late_host_excuses_it_for_a_while() -> None:
    bench = never_heard()
    [(when, effect)] = bench.run(100.0, late=True)
    assert effect == UNHEARD
    assert 50.0 + EXCUSED * 1.0 <= when <= 51.0 + EXCUSED * 1.0


def test_time_in_which_this_process_did_not_run_does_not_count() -> None:
    bench = never_heard()
    bench.run(30.0)
    bench.at(130.0).beat.stood_still(100.0)
    assert reports(bench.run(200.0)) == [(150.0, UNHEARD)]


def test_another_setting_holds_for_the_next_guest_that_is_waited_for() -> None:
    bench = never_heard()
    bench.beat.use(HeartbeatRules(absent_after_s=5.0))
    assert reports(bench.run(49.0)) == []
    change(bench, DomainChange.STARTED)
    [(when, _)] = reports(bench.run(60.0))
    assert when == 54.0


# -- libvirt --------------------------------------------------------------------------------------


def test_libvirt_is_asked_before_it_is_said() -> None:
    bench = never_heard(confirms=True)
    assert bench.run(50.0) == [(50.0, Suspected(NOBODY))]
    assert bench.beat.suspected
    assert bench.run(60.0) == []
    effects = bench.beat.domain.confirmed(Standing.RUNNING, "running: booted", 60.0)
    assert bench.skip(effects) == (UNHEARD,)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    ("standing", "words", "state"),
    [
        (Standing.PAUSED, "paused: user", S.PAUSED),
        (Standing.STOPPED, "shut off: shutdown", S.STOPPED),
        (Standing.ENDING, "in shutdown", S.STOPPED),
        (Standing.FAILED, "shut off: crashed", S.STOPPED),
    ],
)
def test_one_that_does_not_run_is_neither_absent_nor_unwatched(
    standing: Standing, words: str, state: HeartbeatState, *, left: bool
) -> None:
    bench = exited(confirms=True) if left else never_heard(confirms=True)
    bench.run(61.0)
    bench.skip(bench.beat.domain.confirmed(standing, words, 61.0))
    assert bench.beat.state is state
    assert not bench.beat.suspected
    assert reports(bench.run(1000.0)) == []


def test_while_libvirt_is_silent_nothing_is_said() -> None:
    bench = exited(confirms=True)
    bench.run(61.0)
    for now in (62.0, 500.0):
        assert bench.skip(bench.beat.domain.confirmed(None, "libvirt unknown", now)) == ()
        assert bench.beat.suspected
        assert bench.beat.situation.waits_for_libvirt
    effects = bench.beat.domain.confirmed(Standing.RUNNING, "running: booted", 501.0)
    assert bench.skip(effects) == (Absent(GONE),)


def test_one_that_libvirt_does_not_know_counts_as_running_while_it_is_connected() -> None:
    bench = never_heard(confirms=True)
    bench.run(50.0)
    assert bench.skip(bench.beat.domain.confirmed(None, "", 50.1)) == (UNHEARD,)


def test_an_init_beats_libvirts_answer() -> None:
    bench = never_heard(confirms=True)
    bench.run(50.0)
    bench.skip(bench.send_init())
    assert bench.skip(bench.beat.domain.confirmed(Standing.RUNNING, "running", 50.1)) == ()
    assert bench.skip(bench.answer_challenge()) == (Heartbeating("init answered"),)


def test_one_that_libvirt_calls_running_needs_no_connection() -> None:
    bench = HeartbeatBench(absent_after_s=50.0)
    bench.beat.losses.are_confirmed = True
    bench.at(7.0)
    bench.beat.domain.runs(7.0)
    bench.beat.domain.runs(20.0)  # no news
    assert bench.run(57.0) == [(57.0, Suspected(NOBODY))]
    effects = bench.beat.domain.confirmed(Standing.RUNNING, "running: booted", 57.1)
    assert bench.skip(effects) == (UNHEARD,)


def test_paused_time_does_not_count() -> None:
    bench = never_heard()
    bench.run(30.0)
    change(bench, DomainChange.PAUSED)
    bench.run(530.0)
    change(bench, DomainChange.RESUMED)
    assert bench.beat.state is S.WAITING
    assert reports(bench.run(600.0)) == [(550.0, UNHEARD)]


@pytest.mark.parametrize("left", [True, False])
def test_a_pause_after_it_was_said_does_not_have_it_said_again(*, left: bool) -> None:
    bench = exited() if left else never_heard()
    bench.run(100.0)
    state = bench.beat.state
    change(bench, DomainChange.PAUSED)
    bench.run(200.0)
    change(bench, DomainChange.RESUMED)
    assert bench.beat.state is state
    assert reports(bench.run(2000.0)) == []


@pytest.mark.parametrize("left", [True, False])
def test_another_qemu_process_is_waited_for_anew(*, left: bool) -> None:
    bench = exited() if left else never_heard()
    bench.run(100.0)
    change(bench, DomainChange.STOPPED)
    bench.run(200.0)
    change(bench, DomainChange.STARTED)
    assert bench.beat.state is S.WAITING
    assert reports(bench.run(300.0)) == [(250.0, UNHEARD)]


# -- the guest has left ---------------------------------------------------------------------------


def test_one_that_said_exit_and_is_not_back_is_absent_once() -> None:
    bench = exited()
    assert bench.run(60.24) == []
    assert bench.run(60.25) == [(60.25, Absent(GONE))]
    assert (bench.beat.state, bench.beat.reason) == (S.ABSENT, GONE)
    assert reports(bench.run(2000.0)) == []


def test_without_a_setting_it_has_the_restart_that_its_guest_asked_for() -> None:
    bench = HeartbeatBench().heartbeating(restart_secs=7)
    bench.skip(bench.send_exit())
    reason = "its guest had exited, and is not back within 7 s"
    assert bench.run(20.0) == [(7.25, Absent(reason))]


def test_one_that_comes_back_in_time_is_not_absent() -> None:
    bench = exited()
    bench.run(60.0)
    bench.skip(bench.send_init())
    assert bench.skip(bench.answer_challenge()) == (Heartbeating("init answered"),)
    bench.run(100.0, answers=True)
    assert bench.beat.state is S.HEARTBEATING


def test_one_that_comes_back_later_heartbeats_as_ever() -> None:
    bench = exited()
    bench.run(100.0)
    bench.skip(bench.send_init())
    assert bench.skip(bench.answer_challenge()) == (Heartbeating(f"back after {GONE}"),)


def test_an_announced_restart_is_not_cut_short() -> None:
    """Its exit belongs to it, and RESTART decides."""
    bench = HeartbeatBench(absent_after_s=5.0).heartbeating()
    bench.skip(bench.beat.announced.notice_opened(Event.REBOOT, bench.now))
    bench.skip(bench.beat.announced.notice_over(Event.REBOOT, bench.now))
    bench.skip(bench.send_exit())
    assert [type(effect) for _, effect in bench.run(100.0)] == []
    assert bench.beat.state is S.RESTARTING


def test_an_exit_while_it_is_paused_counts_from_the_end_of_the_pause() -> None:
    bench = HeartbeatBench(absent_after_s=50.0).heartbeating()
    change(bench, DomainChange.PAUSED)
    bench.skip(bench.send_exit())
    bench.run(500.0)
    change(bench, DomainChange.RESUMED)
    assert bench.run(600.0) == [(550.0, Absent(GONE))]


def test_a_reset_of_one_that_has_left_opens_restart_instead() -> None:
    bench = exited()
    bench.run(20.0)
    assert bench.skip(bench.beat.domain.reset(20.0)) == (OpenRestart(121.0),)
    assert Absent not in {type(effect) for _, effect in bench.run(140.0)}
    assert bench.beat.state is S.RESTARTING


def test_a_restart_that_is_called_off_begins_the_time_anew() -> None:
    bench = never_heard()
    bench.run(10.0)
    bench.skip(bench.beat.announced.restarts("reboot", 10.0))
    bench.skip(bench.at(30.0).beat.announced.called_off("reboot", "it failed", 30.0))
    assert bench.beat.state is S.WAITING
    assert reports(bench.run(100.0)) == [(80.0, UNHEARD)]


def test_after_a_restart_without_a_guest_it_is_waited_for_again() -> None:
    bench = never_heard()
    bench.skip(bench.beat.announced.restarts("reboot", 0.0))
    bench.skip(bench.at(121.0).beat.losses.restart_expired(121.0))
    assert bench.beat.state is S.WAITING
    assert reports(bench.run(200.0)) == [(171.0, UNHEARD)]


# -- after a restart of the host ------------------------------------------------------------------

PROFILE = Profile(name="vm1", restart_s=60)


def test_an_exit_before_the_restart_has_what_was_left_of_its_time() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.beat.earlier.had_left(PROFILE, "guest exited: bye", 20.0, 0.0))
    assert bench.beat.reason == "guest exited: bye"
    reason = "its guest had exited, and is not back within 60 s"
    assert bench.run(100.0) == [(20.0, Absent(reason))]


@pytest.mark.parametrize(("unheard", "state"), [(True, S.UNHEARD), (False, S.ABSENT)])
def test_what_was_said_before_the_restart_is_not_said_again(
    state: HeartbeatState, *, unheard: bool
) -> None:
    bench = HeartbeatBench(absent_after_s=50.0)
    bench.skip(bench.open())
    bench.skip(bench.beat.earlier.was_missing(Profile(), "why", 0.0, unheard=unheard))
    assert (bench.beat.state, bench.beat.reason) == (state, "why")
    assert reports(bench.run(1000.0)) == []
    # Nobody was ever heard here, so its end is no news.
    assert bench.beat.removed("socket gone") == ()


def test_whoever_has_spoken_since_the_restart_is_believed() -> None:
    bench = HeartbeatBench().heartbeating()
    assert bench.beat.earlier.had_left(PROFILE, "bye", 20.0, 1.0) == ()
    assert bench.beat.earlier.was_missing(PROFILE, "why", 1.0, unheard=True) == ()
    assert bench.beat.state is S.HEARTBEATING
    bench.skip(bench.send_exit())
    assert bench.beat.earlier.had_left(PROFILE, "bye", 1.0, 1.0) == ()
    assert bench.beat.reason == "guest exited: Exiting..."


@pytest.mark.parametrize(("was", "state"), [(S.SUSPENDED, S.SUSPENDED), (S.UNWATCHED, S.UNWATCHED)])
def test_one_that_was_frozen_stays_so(was: HeartbeatState, state: HeartbeatState) -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.beat.earlier.frozen(PROFILE, "why", "pause", was, 0.0))
    assert (bench.beat.state, bench.beat.reason) == (state, "why")
    came = reports(bench.run(1000.0))
    assert [effect for _, effect in came if isinstance(effect, Lost | Unwatched)] == []
    bench.skip(bench.send_init())
    assert [type(one) for one in bench.skip(bench.answer_challenge())] == [Heartbeating]
    assert bench.beat.state is S.HEARTBEATING


def test_one_that_was_back_provisionally_may_still_freeze() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.beat.earlier.frozen(PROFILE, "why", "pause", S.PROVISIONAL, 0.0))
    bench.run(1.0)
    assert bench.skip(bench.answer_challenge()) == (Heartbeating("back after pause"),)
    assert bench.beat.state is S.PROVISIONAL
    came = [effect for _, effect in bench.run(100.0)]
    assert [type(effect) for effect in came if isinstance(effect, Stopped | Lost)] == [Stopped]
    assert bench.beat.state is S.SUSPENDED


def test_a_pause_that_libvirt_has_told_before_leaves_no_time_of_waiting() -> None:
    """Once it runs it has RESTART, and not what was left of the time until its init."""
    bench = HeartbeatBench(absent_after_s=50.0)
    bench.skip(bench.open())
    bench.run(30.0)
    change(bench, DomainChange.PAUSED)
    bench.skip(bench.beat.earlier.frozen(PROFILE, "why", "pause", S.PAUSED, 30.0))
    assert change(bench, DomainChange.RESUMED)[0] == OpenRestart(60)
    effects = bench.skip(bench.beat.losses.restart_expired(90.0))
    assert isinstance(effects[0], RestartExpired)
