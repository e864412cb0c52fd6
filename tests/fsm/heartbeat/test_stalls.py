"""A host that did not run: silence is counted in challenges that were sent and listened for."""

from __future__ import annotations

import pytest

from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Lost,
    Note,
    OpenRestart,
    Reconnect,
    RestartExpired,
    SendToGuest,
    Unwatched,
)
from hbtrio.fsm.heartbeat.outage import CALL_OFF_S
from hbtrio.fsm.heartbeat.rules import EXCUSED, WEDGED_AFTER
from hbtrio.wire.vocabulary import Event
from support.heartbeat_bench import HeartbeatBench
from support.heartbeat_cases import LOSS, MISSED, TOO_LONG, S, challenge, kinds

# -- a host that is late ------------------------------------------------------------------------


def test_a_host_that_is_always_late_excuses_a_bounded_number_of_challenges() -> None:
    bench = HeartbeatBench().heartbeating()
    came = bench.run(1.0 + EXCUSED, late=True)
    assert {type(effect) for _, effect in came} == {SendToGuest}
    assert (bench.beat.state, bench.beat.missed) == (S.HEARTBEATING, 0)
    came = bench.run(1000.0, late=True)
    assert kinds(came, Note, Lost) == [(2.0 + EXCUSED, MISSED), (3.0 + EXCUSED, LOSS)]


@pytest.mark.parametrize("interval_s", [0.4, 1.0, 60.0])
def test_the_bound_is_one_of_challenges_whatever_the_interval(interval_s: float) -> None:
    bench = HeartbeatBench().heartbeating(interval_ms=int(interval_s * 1000))
    ((lost_at, _),) = kinds(bench.run(10_000.0, late=True), Lost)
    assert lost_at == pytest.approx((EXCUSED + 3) * interval_s)


def test_one_answer_renews_the_excuse() -> None:
    bench = HeartbeatBench().heartbeating()
    for _ in range(20):
        came = bench.run(bench.now + EXCUSED, late=True)
        assert {type(effect) for _, effect in came} == {SendToGuest}
        bench.skip(bench.answer_challenge())
    assert (bench.beat.state, bench.beat.missed) == (S.HEARTBEATING, 0)


def test_an_event_renews_the_excuse() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(EXCUSED + 2.0, late=True)
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.skip(bench.beat.announced.runs_again("enabled", bench.now))
    came = bench.run(bench.now + EXCUSED, late=True)
    assert kinds(came, Note, Lost) == []


def test_the_time_in_which_a_late_host_stood_still_uses_up_no_excuse() -> None:
    """A third of each second it runs: three times as many challenges are excused."""
    bench = HeartbeatBench().heartbeating()
    for second in range(1, 3 * EXCUSED):
        bench.beat.stood_still(2 / 3)
        assert bench.skip(bench.at(float(second)).tick(late=True)) == (challenge(second + 1),)
    came: list[tuple[float, Effect]] = []
    for second in range(3 * EXCUSED, 10 * EXCUSED):
        bench.beat.stood_still(2 / 3)
        came += [(second, effect) for effect in bench.skip(bench.at(float(second)).tick(late=True))]
    # And each miss that counts takes three seconds, as much as one interval of listening.
    (missed_at, _), (lost_at, _) = kinds(came, Note, Lost)
    assert 3 * EXCUSED < missed_at < 3 * EXCUSED + 6
    assert lost_at == missed_at + 3


def test_a_host_that_is_always_late_raises_the_alarm_about_an_unwatched_one() -> None:
    bench = HeartbeatBench().heartbeating()
    came_back_before_the_freeze(bench)
    at = bench.now
    alarms = kinds(bench.run(at + 1000.0, late=True), Unwatched)
    assert [when for when, _ in alarms] == [pytest.approx(CALL_OFF_S + EXCUSED, abs=1.0)]


# -- a stall that is too short for being late ---------------------------------------------------


@pytest.mark.parametrize("stall_s", [0.1, 0.5, 0.79])
def test_a_challenge_that_nobody_listened_for_has_its_whole_interval(stall_s: float) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(1.9)
    bench.at(1.9 + stall_s).beat.stood_still(stall_s)
    bench.at(max(2.0, bench.now))
    bench.expect(bench.tick(), [], due=pytest.approx(2.0 + stall_s))
    over_at = bench.beat.due
    bench.expect(
        bench.at(over_at).answer_challenge(),
        [],
        beats=2,
        round_trip_s=pytest.approx(1.0 + stall_s),
        owes_answer=False,
    )
    assert bench.beat.missed == 0


def test_a_guest_that_is_dead_is_lost_by_as_much_later_as_its_host_stood_still() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(1.5)
    bench.at(2.0).beat.stood_still(0.5)
    bench.run(2.7)
    bench.at(3.0).beat.stood_still(0.25)
    assert kinds(bench.run(100.0), Note, Lost) == [(2.5, MISSED), (3.75, LOSS)][1:]
    assert bench.beat.missed == 2


def test_short_stalls_again_and_again_do_not_keep_a_dead_guest_alive() -> None:
    bench = HeartbeatBench().heartbeating()
    for _ in range(40):
        bench.run(bench.now + 0.25)
        bench.at(bench.now + 0.25).beat.stood_still(0.25)
    assert bench.beat.state is S.LOST


# -- what else means silence --------------------------------------------------------------------


def test_a_reconnect_is_put_off() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.at(119.0).beat.stood_still(89.0)
    assert bench.run(208.9) == []
    assert bench.run(209.0) == [(209.0, TOO_LONG)]


def test_a_reconnect_after_a_return_is_put_off() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.run(10.0)
    bench.skip(bench.beat.announced.runs_again("enabled", 10.0))
    bench.run(14.5)
    bench.at(14.9).beat.stood_still(0.4)
    ((at, _),) = kinds(bench.run(30.0), Reconnect)
    assert at == pytest.approx(10.0 + WEDGED_AFTER + 0.4)


def test_an_answer_after_a_stall_shows_no_event_called_off() -> None:
    """The host stood still for most of the time in which the VM was to be paused."""
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.run(5.0, answers=True)
    bench.at(CALL_OFF_S + 10.0).beat.stood_still(CALL_OFF_S)
    bench.skip(bench.tick(late=True))
    bench.skip(bench.answer_challenge())
    assert bench.beat.state is S.SUSPENDED
    bench.run(2 * CALL_OFF_S + 0.2, answers=True)
    assert bench.beat.state is S.SUSPENDED
    bench.run(2 * CALL_OFF_S + 2.0, answers=True)
    assert bench.beat.state is S.HEARTBEATING


def came_back_before_the_freeze(bench: HeartbeatBench) -> None:
    """It missed two challenges, answered, and has been silent since."""
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.run(5.0)
    bench.skip(bench.answer_challenge(bench.last))
    bench.skip(bench.answer_challenge())
    assert bench.beat.state is S.PROVISIONAL
    bench.run(20.0)
    assert bench.beat.state is S.SUSPENDED


def test_the_alarm_about_an_unwatched_one_is_put_off() -> None:
    bench = HeartbeatBench().heartbeating()
    came_back_before_the_freeze(bench)
    bench.at(100.0).beat.stood_still(60.0)
    bench.skip(())
    assert kinds(bench.run(CALL_OFF_S + 60.0), Unwatched) == []
    assert len(kinds(bench.run(CALL_OFF_S + 62.0), Unwatched)) == 1


def test_a_guest_that_answered_before_a_stall_never_went_down() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.restarts("reboot", bench.now))
    bench.run(5.0, answers=True)
    bench.at(12.0).beat.stood_still(6.0)
    assert [type(e) for e in bench.skip(bench.beat.losses.restart_expired(12.0))] != [
        RestartExpired
    ]
    assert bench.beat.state is S.HEARTBEATING


def test_an_outage_without_an_end_has_none_to_put_off() -> None:
    bench = HeartbeatBench().heartbeating()
    before = bench.beat.situation.outage
    bench.beat.stood_still(5.0)
    assert bench.beat.situation.outage is before


def test_a_stall_moves_no_beat() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.at(0.9).beat.stood_still(0.5)
    bench.expect((), [])
    bench.expect(bench.at(1.0).tick(), [challenge(2)], due=2.0, owes_answer=True)


def test_a_restart_window_is_opened_in_full() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.beat.stood_still(5.0)
    effects = bench.skip(bench.beat.announced.restarts("reboot", bench.now))
    assert OpenRestart(121) in effects
