"""Losses and what is none: late hosts, init, exit, closed sockets; and ill health."""

from __future__ import annotations

import math

import msgspec
import pytest

from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Heartbeating,
    Ill,
    Lost,
    Note,
    Reconnect,
    SendToGuest,
    Stopped,
)
from hbtrio.wire.channel_messages import (
    OFFERED,
    InitAck,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
)
from support.heartbeat_bench import HeartbeatBench, answer, init
from support.heartbeat_cases import (
    ACK,
    LEFTOVER,
    LOG,
    LOSS,
    MISSED,
    NONE,
    PROFILE,
    REBOOT,
    STOP,
    TOO_LONG,
    UNKNOWN,
    S,
    challenge,
    kinds,
)

# -- loss ---------------------------------------------------------------------------------------


def test_loss_comes_three_intervals_after_the_last_answered_challenge_was_sent() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(bench.at(1.0).tick(), [challenge(2)], due=2.0, owes_answer=True)
    bench.expect(bench.at(2.0).tick(), [MISSED, challenge(3)], due=3.0, missed=1)
    bench.expect(bench.at(2.97).tick(), [], due=3.0)
    bench.expect(
        bench.at(3.0).tick(),
        [LOSS],
        state=S.LOST,
        is_heartbeating=False,
        reason="no answer for 3 s",
        missed=2,
        owes_answer=False,
        due=123.0,
    )


def test_an_answer_just_before_the_end_prevents_it() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(2.0)
    bench.expect(bench.at(3.0).answer_challenge(), [], beats=2, round_trip_s=1.0, owes_answer=False)
    bench.expect(bench.tick(), [challenge(4)], due=4.0, owes_answer=True)


@pytest.mark.parametrize("interval_s", [0.4, 0.75, 1.0, 2.5, 60.0])
@pytest.mark.parametrize("threshold", [0, 1, 3, 60])
def test_the_threshold_is_how_many_misses_in_a_row_are_forgiven(
    threshold: int, interval_s: float
) -> None:
    bench = HeartbeatBench(failure_threshold=threshold).heartbeating(
        interval_ms=int(interval_s * 1000)
    )
    came = bench.run(10_000.0)
    lost = kinds(came, Lost)
    assert len(lost) == 1
    assert lost[0][0] == pytest.approx((threshold + 2) * interval_s)
    assert len(kinds(came, Note)) == threshold


def test_misses_that_are_not_in_a_row_are_no_loss() -> None:
    bench = HeartbeatBench().heartbeating()
    for second in range(1, 200, 2):
        bench.skip(bench.at(float(second)).tick())
        assert bench.at(second + 1.0).tick() == (MISSED, challenge(bench.last + 1))
        bench.skip(bench.at(second + 1.25).answer_challenge(bench.last + 1))
        bench.last += 1
    assert (bench.beat.state, bench.beat.missed) == (S.HEARTBEATING, 100)


def test_loss_is_reported_once() -> None:
    bench = HeartbeatBench().heartbeating()
    came = bench.run(1000.0)
    assert kinds(came, Lost, Stopped, Heartbeating) == [(3.0, LOSS)]
    again = Reconnect("connected, but no heartbeat for 120 s (lost)")
    assert came[-7:] == [(when, again) for when in range(123, 1000, 120)][-7:]


def test_a_lost_guest_comes_back_with_an_init_and_an_answer() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(10.0)
    bench.expect(bench.send_init(), [ACK, challenge(4)], due=11.0, owes_answer=True)
    bench.expect(
        bench.at(10.25).answer_challenge(),
        [Heartbeating("back after no answer for 3 s")],
        state=S.HEARTBEATING,
        is_heartbeating=True,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    assert kinds(bench.run(20.0), Lost) == [(13.0, LOSS)]


def test_an_init_alone_brings_no_lost_guest_back_and_is_no_second_loss() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(10.0)
    bench.skip(bench.send_init())
    assert [effect for _, effect in bench.run(100.0)] == [challenge(5), LEFTOVER]
    assert bench.beat.state is S.LOST


def test_a_lost_guest_whose_socket_closes_is_waited_for() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(10.0)
    bench.expect(
        bench.beat.closed("reset"),
        [],
        state=S.WAITING,
        connected=False,
        reason="reset",
        due=math.inf,
    )


def test_a_lost_guest_that_exits_is_waited_for() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(10.0)
    bench.expect(
        bench.send_exit(), [], state=S.WAITING, reason="guest exited: Exiting...", due=130.0
    )


def test_with_reporting_off_silence_only_stops_the_heartbeat() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.beat.situation.reporting = False
    bench.expect((), [], reporting=False)
    came = bench.run(1000.0)
    assert kinds(came, Lost, Stopped) == [(3.0, Stopped("no answer for 3 s; reporting is off"))]
    bench.beat.situation.reporting = True
    assert kinds(bench.run(2000.0), Lost, Stopped) == []


# -- a host that is late; see also test_stalls.py -------------------------------------------------


def test_lateness_takes_back_the_misses_before_it() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(2.0)
    assert bench.beat.missed == 1
    bench.expect(bench.at(3.0).tick(late=True), [challenge(4)], due=4.0)
    bench.expect(bench.at(4.0).tick(), [MISSED, challenge(5)], due=5.0, missed=2)
    assert [effect for _, effect in bench.run(5.0)] == [LOSS]


def test_an_answer_read_after_a_stall_is_late_and_harmless() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(bench.at(40.0).tick(late=True), [challenge(3)], due=41.0)
    late = Note("late answer, 39.250 s after its challenge")
    bench.expect(bench.at(40.25).answer_challenge(2), [late], late_answers=1)
    bench.expect(bench.answer_challenge(3), [], beats=2, owes_answer=False)


def test_a_leftover_is_not_judged_by_a_host_that_is_late() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.send_init())
    for second in (1.0, 2.0, 3.0):
        assert bench.at(second).tick(late=True) == (challenge(int(second) + 1),)
    bench.skip(())
    bench.expect(bench.at(4.0).tick(), [challenge(5)], due=5.0, missed=1)
    bench.expect(bench.at(5.0).tick(), [LEFTOVER], due=120.0, missed=2, owes_answer=False)


# -- init while heartbeating -----------------------------------------------------------------------


def test_an_init_while_heartbeating_starts_over_at_once() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(2.0)
    new = msgspec.structs.replace(PROFILE, name="vm2", interval_s=0.5, restart_s=60)
    bench.expect(
        bench.at(2.5).send_init(invocation_id=7, name="vm2", interval_ms=500, restart_secs=60),
        [SendToGuest(InitAck(7, OFFERED)), challenge(4)],
        due=3.0,
        profile=new,
    )
    # The miss from before does not count against the guest that starts over.
    bench.expect(bench.at(3.0).tick(), [MISSED, challenge(5)], due=3.5, missed=2)
    bench.expect(bench.at(3.25).answer_challenge(), [], beats=2, owes_answer=False)


def test_a_second_init_in_a_row_hears_the_same_challenge_again() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).send_init(interval_ms=10_000))
    bench.expect(bench.at(6.0).send_init(interval_ms=10_000), [ACK, challenge(2)])
    bench.expect(
        bench.at(6.25).answer_challenge(2), [], beats=2, round_trip_s=5.25, owes_answer=False
    )
    # Once answered, the next one starts over again.
    bench.skip(bench.at(11.0).tick())
    bench.expect(bench.at(17.0).send_init(interval_ms=10_000), [ACK, challenge(4)], due=27.0)


def test_a_second_init_may_ask_for_another_interval() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).send_init(interval_ms=10_000))
    bench.skip(bench.at(3.0).send_init(interval_ms=2000))
    assert bench.beat.due == 5.0
    bench.skip(bench.at(4.0).send_init(interval_ms=20_000))
    assert bench.beat.due == 5.0
    bench.skip(bench.at(5.0).tick())
    assert bench.beat.due == 21.0


@pytest.mark.parametrize(("every_s", "interval_ms"), [(5, 10_000), (2, 1000), (5, 60_000)])
def test_a_guest_that_only_ever_greets_is_lost(every_s: int, interval_ms: int) -> None:
    """Its port is broken towards it, so that it hears neither acks nor challenges."""
    bench = HeartbeatBench().heartbeating(interval_ms=interval_ms)
    came: list[tuple[float, Effect]] = []
    for second in range(every_s, 400, every_s):
        came += bench.run(second)
        bench.skip(bench.send_init(interval_ms=interval_ms))
    lost = kinds(came, Lost)
    assert len(lost) == 1
    assert lost[0][0] <= every_s + 2 * interval_ms / 1000


def test_a_guest_lost_after_an_init_is_challenged_no_more() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(0.5).send_init())
    assert bench.run(122.0)[-1] == (2.5, LOSS)
    assert (bench.beat.owes_answer, bench.beat.due) == (False, 122.5)


def test_a_guest_restarted_without_an_exit_is_no_loss() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(2.75)  # killed; two challenges went nowhere, one of them was missed
    bench.skip(bench.send_init())
    bench.expect(
        bench.at(3.0).answer_challenge(), [], beats=2, round_trip_s=0.25, owes_answer=False
    )
    assert kinds(bench.run(60.0, answers=True), Lost, Stopped, Note) == []


# -- exit, close, removal -----------------------------------------------------------------------


def test_an_exit_stops_the_heartbeat_and_is_no_loss() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    why = "guest exited: Exiting..."
    bench.expect(
        bench.at(1.5).send_exit(),
        [Stopped(why)],
        state=S.WAITING,
        is_heartbeating=False,
        reason=why,
        owes_answer=False,
        due=121.5,
    )
    bench.expect(bench.answer_challenge(2), [])
    assert bench.run(121.5) == [(121.5, TOO_LONG)]


def test_an_exit_takes_back_the_init_before_it() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.send_init())
    bench.expect(bench.at(0.5).send_exit(), [], owes_answer=False, due=120.5)
    bench.expect(bench.answer_challenge(1), [])


def test_a_closed_socket_stops_the_heartbeat_and_is_no_loss() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(
        bench.at(1.5).beat.closed("reset by its peer"),
        [Stopped("reset by its peer")],
        state=S.WAITING,
        connected=False,
        is_heartbeating=False,
        reason="reset by its peer",
        owes_answer=False,
        due=math.inf,
    )
    bench.expect(bench.at(500.0).tick(), [])
    bench.expect(bench.open(), [], connected=True, due=620.0)


def test_closing_a_socket_that_nobody_spoke_on_is_no_news() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.send_init())
    bench.expect(
        bench.at(0.5).beat.closed("reset"), [], connected=False, owes_answer=False, due=121.0
    )
    # The init of the old connection proves nothing on the new one.
    bench.expect(bench.open(), [], connected=True, due=120.5)


@pytest.mark.parametrize("heard", ["nothing", "an init", "answers"])
def test_a_removed_socket_is_reported_if_its_guest_was_heard(heard: str) -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    match heard:
        case "nothing":
            bench.run(200.0)  # anything may make sockets and remove them
        case "an init":
            bench.skip(bench.send_init())
            bench.skip(bench.beat.closed("reset"))
        case "answers":
            bench.heartbeating()
    bench.expect(
        bench.beat.removed("its socket is gone"),
        [] if heard == "nothing" else [Stopped("its socket is gone")],
        state=S.GONE,
        connected=False,
        is_heartbeating=False,
        owes_answer=False,
        reason="its socket is gone",
        due=math.inf,
    )


# -- health -------------------------------------------------------------------------------------


def ill(
    bench: HeartbeatBench, action: CorrectiveAction = REBOOT, log_msg: str = "disk"
) -> tuple[Effect, ...]:
    """The next beat, answered as unhealthy."""
    bench.skip(bench.at(bench.beat.due).tick())
    return bench.answer_challenge(health=Health.UNHEALTHY, action=action, log_msg=log_msg)


def test_ill_health_is_reported_at_once_and_once() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(
        bench.at(1.25).answer_challenge(health=Health.UNHEALTHY, action=STOP, log_msg="disk full"),
        [Ill("disk full", STOP)],
        beats=2,
        health=Health.UNHEALTHY,
        health_reason="disk full",
        owes_answer=False,
    )
    for _ in range(50):
        assert ill(bench, STOP) == ()
    assert bench.beat.health is Health.UNHEALTHY


def test_a_deployed_guest_is_reported_first_and_then_every_minute() -> None:
    """It asks for its action, then for none, and for its action again after 60 s."""
    bench = HeartbeatBench().heartbeating()
    reported = []
    for second in range(1, 200):
        asked = REBOOT if second % 60 == 1 else NONE
        if ill(bench, asked):
            reported.append(second)
    assert reported == [1, 61, 121, 181]


def test_the_same_illness_is_news_again_after_55_s() -> None:
    bench = HeartbeatBench().heartbeating()
    assert [second for second in range(1, 130) if ill(bench)] == [1, 56, 111]


def test_another_action_is_news() -> None:
    bench = HeartbeatBench().heartbeating()
    assert ill(bench, LOG) == (Ill("disk", LOG),)
    assert ill(bench, REBOOT) == (Ill("disk", REBOOT),)
    assert ill(bench, REBOOT) == ()


@pytest.mark.parametrize("action", [NONE, UNKNOWN])
def test_ill_health_that_asks_for_nothing_is_only_shown(action: CorrectiveAction) -> None:
    bench = HeartbeatBench().heartbeating()
    assert ill(bench, action) == ()
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNHEALTHY, "disk")


@pytest.mark.parametrize("health", [Health.HEALTHY, Health.UNKNOWN])
def test_only_the_unhealthy_are_acted_upon(health: Health) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    fine = bench.answer_challenge(health=health, action=STOP, log_msg="fine")
    bench.expect(fine, [], beats=2, health=health, round_trip_s=0.0, owes_answer=False)


def test_recovery_is_shown_and_the_next_illness_is_news() -> None:
    bench = HeartbeatBench().heartbeating()
    ill(bench)
    bench.skip(bench.at(2.0).tick())
    bench.skip(bench.answer_challenge())
    assert (bench.beat.health, bench.beat.health_reason) == (Health.HEALTHY, "")
    assert ill(bench) == (Ill("disk", REBOOT),)


def test_flapping_is_reported_six_times_a_minute_at_most() -> None:
    bench = HeartbeatBench().heartbeating()
    reported: list[float] = []
    for _ in range(600):
        if ill(bench):
            reported.append(bench.now)
        bench.skip(bench.at(bench.beat.due).tick())
        bench.skip(bench.answer_challenge())
    assert len(reported) == 120
    assert all(late - early >= 60.0 for early, late in zip(reported, reported[6:], strict=False))


def test_with_reporting_off_ill_health_is_a_note() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.beat.situation.reporting = False
    assert ill(bench) == (Note("unhealthy, but reporting is off"),)
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNHEALTHY, "disk")


def test_the_first_answer_may_be_an_ill_one() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.send_init())
    sick = answer(1, Health.UNHEALTHY, STOP, "disk")
    assert bench.beat.received(sick, 0.25) == (Heartbeating("init answered"), Ill("disk", STOP))


def test_ill_health_is_taken_from_no_answer_that_does_not_count() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(2.0).tick())
    bench.skip(bench.at(2.25).answer_challenge(2, health=Health.UNHEALTHY, action=STOP))
    bench.expect(bench.answer_challenge(1, health=Health.UNHEALTHY, action=STOP), [])
    assert bench.beat.health is Health.HEALTHY


def test_a_later_init_does_not_raise_the_dead() -> None:
    """A whole buffer of leftovers: inits, answers and an exit, and then silence."""
    bench = HeartbeatBench().heartbeating()
    bench.run(5.0)
    for message in (init(3), answer(1), answer(2), init(4), answer(3)):
        assert Heartbeating not in map(type, bench.skip(bench.beat.received(message, 5.0)))
    assert kinds(bench.run(400.0), Heartbeating, Stopped, Lost) == []


def test_the_end_of_an_illness_is_a_note_and_the_reason_of_the_present_state() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(ill(bench, STOP, "disk full"))
    bench.skip(bench.at(bench.beat.due).tick())
    note = Note("healthy again after: disk full")
    well = {"health": Health.HEALTHY, "health_reason": "", "reason": note.text}
    bench.expect(
        bench.answer_challenge(), [note], beats=3, round_trip_s=0.0, owes_answer=False, **well
    )
    # It is said once, and is of the past as soon as it falls ill again, be that news or not.
    bench.skip(bench.at(bench.beat.due).tick())
    assert bench.answer_challenge() == ()
    assert bench.beat.reason == note.text
    bench.skip(ill(bench, NONE, "disk full"))
    assert bench.beat.reason == "answers challenges"
    # Nobody was told of that one, so nobody is told of its end.
    bench.skip(bench.at(bench.beat.due).tick())
    assert bench.answer_challenge() == ()
    assert bench.beat.reason == "answers challenges"


def test_an_illness_may_end_with_a_reboot() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(ill(bench, REBOOT, "disk full"))
    bench.skip(bench.beat.announced.restarts("a command", bench.now))
    bench.skip(bench.at(50.0).send_init())
    note = Note("healthy again after: disk full")
    assert bench.at(50.25).answer_challenge() == (Heartbeating("back after a command"), note)
    assert bench.beat.reason == "answers challenges"  # an action says it of a VM that is back


def test_a_guest_that_changes_its_mind_with_every_beat_is_well_again_six_times_a_minute() -> None:
    bench = HeartbeatBench().heartbeating()
    notes = []
    for beat in range(120):
        bench.skip(bench.at(1.25 + beat).tick())
        health = Health.HEALTHY if beat % 2 else Health.UNHEALTHY
        effects = bench.skip(
            bench.answer_challenge(health=health, action=STOP, log_msg="disk full")
        )
        notes += [beat for effect in effects if isinstance(effect, Note)]
    assert notes == [1, 3, 5, 7, 9, 11, 61, 63, 65, 67, 69, 71]


@pytest.mark.parametrize("end", ["closed", "lost", "exit", "paused", "removed"])
def test_nobody_knows_the_health_of_what_is_not_heartbeating(end: str) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(ill(bench, STOP, "disk full"))
    match end:
        case "closed":
            bench.skip(bench.beat.closed("reset"))
        case "lost":
            bench.run(9.0)
        case "exit":
            bench.skip(bench.send_exit())
        case "removed":
            bench.skip(bench.beat.removed("removed"))
        case _:
            bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
            # Its answers do not count as heartbeats, and neither does what they say.
            bench.skip(bench.at(bench.beat.due).tick())
            bench.skip(
                bench.answer_challenge(health=Health.UNHEALTHY, action=STOP, log_msg="disk full")
            )
    assert bench.beat.state is not S.HEARTBEATING
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNKNOWN, "")
