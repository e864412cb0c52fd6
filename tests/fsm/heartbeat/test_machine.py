"""The heartbeat of one instance: handshake, beats, misses, loss, exit, closing, health.

Times are in seconds. The interval is 1 s unless a test says otherwise; challenges are numbered 1,
2, 3 and so on, and answered a quarter of a second after they were sent.
"""

from __future__ import annotations

import math

import attrs
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
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.profile import Profile, ProfileLimits
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    Challenge,
    Init,
    InitAck,
    Message,
    Nack,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
    WindowKind,
)
from support.heartbeat_bench import Bench, answer, init

S = HeartbeatState
NONE, LOG, REBOOT, STOP, UNKNOWN = (
    CorrectiveAction.NONE,
    CorrectiveAction.LOG,
    CorrectiveAction.REBOOT,
    CorrectiveAction.STOP,
    CorrectiveAction.UNKNOWN,
)

#: What the bench's ``init`` asks for.
PROFILE = Profile(
    name="vm1",
    interval_s=1.0,
    vote_s=9,
    shutdown_notice_s=10,
    suspend_notice_s=11,
    resume_notice_s=14,
    restart_s=121,
    corrective_action=REBOOT,
)
ACK = SendToGuest(InitAck(1804289383))
MISSED = Note("heartbeat missed")
LEFTOVER = Note("ignoring a stale init: no challenge was answered after it")
LOSS = Lost("no answer for 3 s", REBOOT)
TOO_LONG = Reconnect("connected, but no heartbeat for 120 s (waiting)")


def challenge(number: int) -> SendToGuest:
    return SendToGuest(Challenge(number))


def kinds(came: list[tuple[float, Effect]], *wanted: type[Effect]) -> list[tuple[float, Effect]]:
    return [(when, effect) for when, effect in came if isinstance(effect, wanted)]


# -- the handshake ------------------------------------------------------------------------------


def test_from_discovery_to_the_first_beats() -> None:
    bench = Bench()
    bench.expect(bench.open(), [], connected=True, due=120.0)
    bench.expect(
        bench.at(2.0).init(),
        [ACK, challenge(1)],
        due=3.0,
        profile=PROFILE,
        owes_answer=True,
    )
    bench.expect(
        bench.at(2.25).answer(),
        [Heartbeating("init answered")],
        state=S.HEARTBEATING,
        is_heartbeating=True,
        reason="answers challenges",
        beats=1,
        round_trip_s=0.25,
        health=Health.HEALTHY,
        owes_answer=False,
    )
    bench.expect(bench.at(3.0).tick(), [challenge(2)], due=4.0, owes_answer=True)
    bench.expect(bench.at(3.5).answer(), [], beats=2, round_trip_s=0.5, owes_answer=False)
    bench.expect(bench.at(4.0).tick(), [challenge(3)], due=5.0, owes_answer=True)


def test_the_ack_echoes_the_id_whatever_it_is() -> None:
    bench = Bench()
    bench.skip(bench.open())
    assert bench.init(invocation_id=0)[0] == SendToGuest(InitAck(0))
    assert bench.init(invocation_id=2**32 - 1)[0] == SendToGuest(InitAck(2**32 - 1))


def test_an_init_alone_proves_nothing() -> None:
    """It may have waited in a buffer, of a VM that is long gone."""
    bench = Bench()
    bench.skip(bench.open())
    bench.expect(bench.init(), [ACK, challenge(1)], due=1.0, profile=PROFILE, owes_answer=True)
    bench.expect(bench.at(1.0).tick(), [challenge(2)], due=2.0, missed=1)
    bench.expect(bench.at(2.0).tick(), [LEFTOVER], due=120.0, missed=2, owes_answer=False)
    bench.expect(
        bench.at(2.1).answer(), [Note("late answer, 1.100 s after its challenge")], late_answers=1
    )
    assert bench.run(1000.0) == [(when, TOO_LONG) for when in range(120, 1000, 120)]


def test_any_number_of_leftovers_is_no_loss() -> None:
    bench = Bench()
    bench.skip(bench.open())
    came: list[tuple[float, Effect]] = []
    for second in range(0, 600, 5):
        came += bench.run(second)
        bench.skip(bench.init())
    assert kinds(came, Heartbeating, Stopped, Lost) == []
    assert len(kinds(came, Note)) == 119
    assert bench.beat.state is S.WAITING


def test_the_second_challenge_after_an_init_may_be_answered_too() -> None:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.init())
    bench.skip(bench.at(1.0).tick())
    bench.expect(
        bench.at(1.25).answer(),
        [Heartbeating("init answered")],
        state=S.HEARTBEATING,
        is_heartbeating=True,
        reason="answers challenges",
        beats=1,
        round_trip_s=0.25,
        health=Health.HEALTHY,
        owes_answer=False,
    )


@pytest.mark.parametrize(
    ("asked_ms", "interval_s"),
    [
        (-5, 0.4),
        (0, 0.4),
        (399, 0.4),
        (400, 0.4),
        (401, 0.401),
        (1000, 1.0),
        (60_000, 60.0),
        (60_001, 60.0),
        (2**32 - 1, 60.0),
    ],
)
def test_the_interval_is_clamped(asked_ms: int, interval_s: float) -> None:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.init(interval_ms=asked_ms))
    assert (bench.beat.profile.interval_s, bench.beat.due) == (interval_s, interval_s)


def test_windows_are_clamped_and_each_kind_has_its_own() -> None:
    wild = Init(1, "n" * 100, 500, 0, 2**31, -1, 14, 2**32 - 1, UNKNOWN)
    profile = Profile.from_init(wild, ProfileLimits())
    assert profile == Profile("n" * 63, 0.5, 1, 600, 1, 14, 3600, UNKNOWN)
    assert [profile.window_s(kind) for kind in WindowKind] == [1, 600, 1, 14, 3600]
    wild = Init(1, "", 500, 2**31, 0, 601, 600, 0, NONE)
    profile = Profile.from_init(wild, ProfileLimits())
    assert [profile.window_s(kind) for kind in WindowKind] == [600, 1, 600, 600, 1]
    assert [PROFILE.window_s(kind) for kind in WindowKind] == [9, 10, 11, 14, 121]


def test_without_an_init_a_guest_is_taken_for_one_without_a_configuration() -> None:
    assert Profile() == Profile("", 1.0, 11, 11, 11, 11, 121, NONE)


def test_six_inits_in_ten_seconds_are_heard_and_one_refusal_is_told() -> None:
    bench = Bench()
    bench.skip(bench.open())
    for number in range(6):
        assert bench.at(number * 0.1).init()[0] == ACK
    bench.skip(())
    bench.expect(bench.at(0.6).init(), [Note("ignoring inits: more than 6 in 10 s")])
    bench.expect(bench.at(0.7).init(interval_ms=500), [])
    bench.expect(bench.at(9.99).init(interval_ms=500), [])
    assert bench.at(10.0).init()[0] == ACK
    bench.skip(())
    bench.expect(bench.at(10.05).init(), [Note("ignoring inits: more than 6 in 10 s")])


def test_only_the_last_two_probes_of_a_greeting_are_unanswered() -> None:
    """A guest that greets and greets but never answers piles up no backlog in its port."""
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.init())
    assert [effect for _, effect in bench.run(100.0)] == [challenge(2), LEFTOVER]


# -- silence before the first init --------------------------------------------------------------


def test_connected_without_an_init_for_120_s_reconnects() -> None:
    bench = Bench()
    bench.expect(bench.at(5.0).open(), [], connected=True, due=125.0)
    bench.expect(bench.at(124.99).tick(), [], due=125.0)
    bench.expect(bench.at(125.0).tick(), [TOO_LONG], due=245.0)
    bench.expect(
        bench.at(125.5).beat.closed("the host closed it"), [], connected=False, due=math.inf
    )
    bench.expect(bench.at(126.0).open(), [], connected=True, due=246.0)


@pytest.mark.parametrize("opened_at", [8.2, 8.7, 9.2, 0.1, 1234.567, 1e6 + 0.3])
def test_rounding_does_not_make_it_due_for_ever(opened_at: float) -> None:
    """For 8.2 the difference of 128.2 and 8.2 is less than 120, and a fake clock stands still."""
    bench = Bench()
    bench.skip(bench.at(opened_at).open())
    bench.expect(bench.at(bench.beat.due).tick(), [TOO_LONG], due=bench.now + 120.0)


def test_the_time_until_the_reconnect_is_a_setting() -> None:
    bench = Bench(reconnect_silent_s=7.0)
    bench.expect(bench.open(), [], connected=True, due=7.0)
    silent = Reconnect("connected, but no heartbeat for 7 s (waiting)")
    assert bench.run(21.0) == [(7.0, silent), (14.0, silent), (21.0, silent)]


def test_a_guest_that_hears_nothing_gets_its_reconnect() -> None:
    """It says init every 5 s; with an interval of 10 s that must not put it off for ever."""
    bench = Bench()
    bench.skip(bench.open())
    came: list[tuple[float, Effect]] = []
    for second in range(0, 300, 5):
        came += bench.run(second)
        bench.skip(bench.init(interval_ms=10_000))
    assert [when for when, _ in kinds(came, Reconnect)] == [120.0, 240.0]


# -- beats --------------------------------------------------------------------------------------


def test_lateness_does_not_add_up() -> None:
    bench = Bench().heartbeating()
    bench.expect(bench.at(1.25).tick(), [challenge(2)], due=2.0, owes_answer=True)
    bench.expect(bench.at(1.5).answer(), [], beats=2, owes_answer=False)
    bench.expect(bench.at(2.0).tick(), [challenge(3)], due=3.0, owes_answer=True)


def test_a_challenge_that_was_sent_late_has_its_whole_interval() -> None:
    bench = Bench().heartbeating()
    bench.expect(bench.at(1.75).tick(), [challenge(2)], due=2.0, owes_answer=True)
    bench.expect(bench.at(2.0).tick(), [], due=2.75)
    bench.expect(bench.at(2.72).tick(), [], due=2.75)
    bench.expect(bench.at(2.75).tick(), [MISSED, challenge(3)], due=3.75, missed=1)


def test_the_grid_of_the_pacer_is_not_taken_for_lateness() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.015625).tick())
    bench.expect(bench.at(2.0).tick(), [MISSED, challenge(3)], due=3.0, missed=1)


@pytest.mark.parametrize(("ticked_at", "due"), [(1.9375, 2.0), (2.0, 3.0), (2.0625, 3.0625)])
def test_a_whole_interval_late_is_a_stall(ticked_at: float, due: float) -> None:
    bench = Bench().heartbeating()
    bench.expect(bench.at(ticked_at).tick(), [challenge(2)], due=due, owes_answer=True)


def test_after_a_stall_there_is_one_beat() -> None:
    bench = Bench().heartbeating()
    bench.expect(bench.at(500.0).tick(late=True), [challenge(2)], due=501.0, owes_answer=True)
    bench.expect(bench.at(500.25).answer(), [], beats=2, owes_answer=False)


def test_aligned_beats_come_earlier_and_never_later() -> None:
    bench = Bench().heartbeating()
    bench.beat.align(0.75)
    bench.expect((), [], due=0.75)
    bench.beat.align(0.875)
    bench.expect((), [], due=0.75)
    bench.expect(bench.at(0.75).tick(), [challenge(2)], due=1.75, owes_answer=True)
    # Nor does an alignment cut short the time to answer.
    bench.beat.align(1.0)
    bench.expect((), [], due=1.0)
    bench.expect(bench.at(1.0).tick(), [], due=1.75)


def test_a_guest_that_answers_beats_for_ever() -> None:
    bench = Bench().heartbeating()
    assert kinds(bench.run(1000.0, answers=True), Heartbeating, Stopped, Lost, Note) == []
    assert (bench.beat.state, bench.beat.beats, bench.beat.missed) == (S.HEARTBEATING, 1000, 0)


@pytest.mark.parametrize(
    "message",
    [
        InitAck(1),
        Challenge(2),
        ActionNotify(1, Event.STOP, NotificationType.REVOCABLE, 1000),
        ActionResponse(1, Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT, "no"),
        Nack(1, "no"),
    ],
    ids=lambda message: message.TYPE,
)
def test_what_is_not_about_the_heartbeat_changes_nothing(message: Message) -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(bench.beat.received(message, 1.5), [])


# -- wrong and late answers ---------------------------------------------------------------------


def test_a_wrong_echo_does_not_count() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    for wrong in (0, 1, 3, -1, 2**31 - 1):
        bench.expect(bench.at(1.5).answer(wrong), [])
    bench.expect(bench.at(2.0).tick(), [MISSED, challenge(3)], due=3.0, missed=1)


def test_an_echo_counts_once() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(bench.at(1.25).answer(), [], beats=2, owes_answer=False)
    bench.expect(bench.at(1.5).answer(), [])


def test_an_answer_with_nothing_asked_does_not_count() -> None:
    bench = Bench()
    bench.skip(bench.open())
    for number in (0, 1, -1):
        bench.expect(bench.at(1.0).answer(number), [])


def test_a_late_echo_is_noted_and_does_not_count() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(2.0).tick())
    late = Note("late answer, 1.250 s after its challenge")
    bench.expect(bench.at(2.25).answer(2), [late], late_answers=1)
    bench.expect(bench.answer(2), [])
    lost = bench.at(3.0).tick()
    bench.expect(
        lost,
        [LOSS],
        state=S.LOST,
        is_heartbeating=False,
        reason="no answer for 3 s",
        missed=2,
        owes_answer=False,
        due=123.0,
    )


def test_after_a_late_echo_an_answer_in_time_counts() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(2.0).tick())
    bench.skip(bench.at(2.25).answer(2))
    bench.expect(bench.at(2.25).answer(3), [], beats=2, round_trip_s=0.25, owes_answer=False)
    assert kinds(bench.run(4.99), Lost) == []


def test_a_burst_of_old_answers_fools_nobody() -> None:
    """A guest that was stopped answers all it missed at once; only the last of it is news."""
    bench = Bench(failure_threshold=20).heartbeating()
    bench.run(12.0)
    assert (bench.last, bench.beat.missed) == (13, 11)
    bench.at(12.5)
    for old in range(1, 12):
        bench.expect(bench.answer(old), [])
    late = Note("late answer, 1.500 s after its challenge")
    bench.expect(bench.answer(12), [late], late_answers=1)
    bench.expect(bench.answer(13), [], beats=2, round_trip_s=0.5, owes_answer=False)


def test_a_burst_of_old_answers_revives_nobody_who_is_lost() -> None:
    bench = Bench().heartbeating()
    bench.run(12.0)
    assert bench.beat.state is S.LOST
    notes = [effect for number in range(1, 13) for effect in bench.skip(bench.answer(number))]
    assert notes == [Note("late answer, 10.000 s after its challenge")]
    assert bench.beat.state is S.LOST


def test_answers_of_an_earlier_connection_do_not_count() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.beat.closed("reset"))
    bench.skip(bench.open())
    bench.expect(bench.answer(2), [])
    bench.skip(bench.init())
    bench.expect(bench.answer(2), [])


def test_answers_from_before_an_init_do_not_count() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.init())
    bench.expect(bench.answer(2), [])
    bench.expect(bench.answer(3), [], beats=2, round_trip_s=0.0, owes_answer=False)


# -- loss ---------------------------------------------------------------------------------------


def test_loss_comes_three_intervals_after_the_last_answered_challenge_was_sent() -> None:
    bench = Bench().heartbeating()
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
    bench = Bench().heartbeating()
    bench.run(2.0)
    bench.expect(bench.at(3.0).answer(), [], beats=2, round_trip_s=1.0, owes_answer=False)
    bench.expect(bench.tick(), [challenge(4)], due=4.0, owes_answer=True)


@pytest.mark.parametrize("interval_s", [0.4, 0.75, 1.0, 2.5, 60.0])
@pytest.mark.parametrize("threshold", [0, 1, 3, 60])
def test_the_threshold_is_how_many_misses_in_a_row_are_forgiven(
    threshold: int, interval_s: float
) -> None:
    bench = Bench(failure_threshold=threshold).heartbeating(interval_ms=int(interval_s * 1000))
    came = bench.run(10_000.0)
    lost = kinds(came, Lost)
    assert len(lost) == 1
    assert lost[0][0] == pytest.approx((threshold + 2) * interval_s)
    assert len(kinds(came, Note)) == threshold


def test_misses_that_are_not_in_a_row_are_no_loss() -> None:
    bench = Bench().heartbeating()
    for second in range(1, 200, 2):
        bench.skip(bench.at(float(second)).tick())
        assert bench.at(second + 1.0).tick() == (MISSED, challenge(bench.last + 1))
        bench.skip(bench.at(second + 1.25).answer(bench.last + 1))
        bench.last += 1
    assert (bench.beat.state, bench.beat.missed) == (S.HEARTBEATING, 100)


def test_loss_is_reported_once() -> None:
    bench = Bench().heartbeating()
    came = bench.run(1000.0)
    assert kinds(came, Lost, Stopped, Heartbeating) == [(3.0, LOSS)]
    again = Reconnect("connected, but no heartbeat for 120 s (lost)")
    assert came[-7:] == [(when, again) for when in range(123, 1000, 120)][-7:]


def test_a_lost_guest_comes_back_with_an_init_and_an_answer() -> None:
    bench = Bench().heartbeating()
    bench.run(10.0)
    bench.expect(bench.init(), [ACK, challenge(4)], due=11.0, owes_answer=True)
    bench.expect(
        bench.at(10.25).answer(),
        [Heartbeating("after: no answer for 3 s")],
        state=S.HEARTBEATING,
        is_heartbeating=True,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    assert kinds(bench.run(20.0), Lost) == [(13.0, LOSS)]


def test_an_init_alone_brings_no_lost_guest_back_and_is_no_second_loss() -> None:
    bench = Bench().heartbeating()
    bench.run(10.0)
    bench.skip(bench.init())
    assert [effect for _, effect in bench.run(100.0)] == [challenge(5), LEFTOVER]
    assert bench.beat.state is S.LOST


def test_a_lost_guest_whose_socket_closes_is_waited_for() -> None:
    bench = Bench().heartbeating()
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
    bench = Bench().heartbeating()
    bench.run(10.0)
    bench.expect(bench.exit(), [], state=S.WAITING, reason="guest exited: Exiting...", due=130.0)


def test_with_reporting_off_silence_only_stops_the_heartbeat() -> None:
    bench = Bench().heartbeating()
    bench.beat.reporting = False
    bench.expect((), [], reporting=False)
    came = bench.run(1000.0)
    assert kinds(came, Lost, Stopped) == [(3.0, Stopped("no answer for 3 s; reporting is off"))]
    bench.beat.reporting = True
    assert kinds(bench.run(2000.0), Lost, Stopped) == []


# -- a host that is late ------------------------------------------------------------------------


def test_while_the_host_is_late_nothing_is_missed() -> None:
    bench = Bench().heartbeating()
    came = bench.run(1000.0, late=True)
    assert {type(effect) for _, effect in came} == {SendToGuest}
    assert (bench.beat.state, bench.beat.missed) == (S.HEARTBEATING, 0)


def test_lateness_takes_back_the_misses_before_it() -> None:
    bench = Bench().heartbeating()
    bench.run(2.0)
    assert bench.beat.missed == 1
    bench.expect(bench.at(3.0).tick(late=True), [challenge(4)], due=4.0)
    bench.expect(bench.at(4.0).tick(), [MISSED, challenge(5)], due=5.0, missed=2)
    assert [effect for _, effect in bench.run(5.0)] == [LOSS]


def test_an_answer_read_after_a_stall_is_late_and_harmless() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(bench.at(40.0).tick(late=True), [challenge(3)], due=41.0)
    late = Note("late answer, 39.250 s after its challenge")
    bench.expect(bench.at(40.25).answer(2), [late], late_answers=1)
    bench.expect(bench.answer(3), [], beats=2, owes_answer=False)


def test_a_leftover_is_not_judged_by_a_host_that_is_late() -> None:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.init())
    for second in (1.0, 2.0, 3.0):
        assert bench.at(second).tick(late=True) == (challenge(int(second) + 1),)
    bench.skip(())
    bench.expect(bench.at(4.0).tick(), [challenge(5)], due=5.0, missed=1)
    bench.expect(bench.at(5.0).tick(), [LEFTOVER], due=120.0, missed=2, owes_answer=False)


# -- init while heartbeating -----------------------------------------------------------------------


def test_an_init_while_heartbeating_starts_over_at_once() -> None:
    bench = Bench().heartbeating()
    bench.run(2.0)
    new = attrs.evolve(PROFILE, name="vm2", interval_s=0.5, restart_s=60)
    bench.expect(
        bench.at(2.5).init(invocation_id=7, name="vm2", interval_ms=500, restart_secs=60),
        [SendToGuest(InitAck(7)), challenge(4)],
        due=3.0,
        profile=new,
    )
    # The miss from before does not count against the guest that starts over.
    bench.expect(bench.at(3.0).tick(), [MISSED, challenge(5)], due=3.5, missed=2)
    bench.expect(bench.at(3.25).answer(), [], beats=2, owes_answer=False)


def test_a_second_init_in_a_row_hears_the_same_challenge_again() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).init(interval_ms=10_000))
    bench.expect(bench.at(6.0).init(interval_ms=10_000), [ACK, challenge(2)])
    bench.expect(bench.at(6.25).answer(2), [], beats=2, round_trip_s=5.25, owes_answer=False)
    # Once answered, the next one starts over again.
    bench.skip(bench.at(11.0).tick())
    bench.expect(bench.at(17.0).init(interval_ms=10_000), [ACK, challenge(4)], due=27.0)


def test_a_second_init_may_ask_for_another_interval() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).init(interval_ms=10_000))
    bench.skip(bench.at(3.0).init(interval_ms=2000))
    assert bench.beat.due == 5.0
    bench.skip(bench.at(4.0).init(interval_ms=20_000))
    assert bench.beat.due == 5.0
    bench.skip(bench.at(5.0).tick())
    assert bench.beat.due == 21.0


@pytest.mark.parametrize(("every_s", "interval_ms"), [(5, 10_000), (2, 1000), (5, 60_000)])
def test_a_guest_that_only_ever_greets_is_lost(every_s: int, interval_ms: int) -> None:
    """Its port is broken towards it, so that it hears neither acks nor challenges."""
    bench = Bench().heartbeating(interval_ms=interval_ms)
    came: list[tuple[float, Effect]] = []
    for second in range(every_s, 400, every_s):
        came += bench.run(second)
        bench.skip(bench.init(interval_ms=interval_ms))
    lost = kinds(came, Lost)
    assert len(lost) == 1
    assert lost[0][0] <= every_s + 2 * interval_ms / 1000


def test_a_guest_lost_after_an_init_is_challenged_no_more() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(0.5).init())
    assert bench.run(122.0)[-1] == (2.5, LOSS)
    assert (bench.beat.owes_answer, bench.beat.due) == (False, 122.5)


def test_a_guest_restarted_without_an_exit_is_no_loss() -> None:
    bench = Bench().heartbeating()
    bench.run(2.75)  # killed; two challenges went nowhere, one of them was missed
    bench.skip(bench.init())
    bench.expect(bench.at(3.0).answer(), [], beats=2, round_trip_s=0.25, owes_answer=False)
    assert kinds(bench.run(60.0, answers=True), Lost, Stopped, Note) == []


# -- exit, close, removal -----------------------------------------------------------------------


def test_an_exit_stops_the_heartbeat_and_is_no_loss() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    why = "guest exited: Exiting..."
    bench.expect(
        bench.at(1.5).exit(),
        [Stopped(why)],
        state=S.WAITING,
        is_heartbeating=False,
        reason=why,
        owes_answer=False,
        due=121.5,
    )
    bench.expect(bench.answer(2), [])
    assert bench.run(121.5) == [(121.5, TOO_LONG)]


def test_an_exit_takes_back_the_init_before_it() -> None:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.init())
    bench.expect(bench.at(0.5).exit(), [], owes_answer=False, due=120.5)
    bench.expect(bench.answer(1), [])


def test_a_closed_socket_stops_the_heartbeat_and_is_no_loss() -> None:
    bench = Bench().heartbeating()
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
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.init())
    bench.expect(
        bench.at(0.5).beat.closed("reset"), [], connected=False, owes_answer=False, due=math.inf
    )
    # The init of the old connection proves nothing on the new one.
    bench.expect(bench.open(), [], connected=True, due=120.5)


@pytest.mark.parametrize("beats", [True, False])
def test_a_removed_socket_is_always_reported(beats: bool) -> None:
    bench = Bench()
    if beats:
        bench.heartbeating()
    bench.expect(
        bench.beat.removed("its socket is gone"),
        [Stopped("its socket is gone")],
        state=S.GONE,
        connected=False,
        is_heartbeating=False,
        reason="its socket is gone",
        due=math.inf,
    )


# -- health -------------------------------------------------------------------------------------


def ill(
    bench: Bench, action: CorrectiveAction = REBOOT, log_msg: str = "disk"
) -> tuple[Effect, ...]:
    """The next beat, answered as unhealthy."""
    bench.skip(bench.at(bench.beat.due).tick())
    return bench.answer(health=Health.UNHEALTHY, action=action, log_msg=log_msg)


def test_ill_health_is_reported_at_once_and_once() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(
        bench.at(1.25).answer(health=Health.UNHEALTHY, action=STOP, log_msg="disk full"),
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
    bench = Bench().heartbeating()
    reported = []
    for second in range(1, 200):
        asked = REBOOT if second % 60 == 1 else NONE
        if ill(bench, asked):
            reported.append(second)
    assert reported == [1, 61, 121, 181]


def test_the_same_illness_is_news_again_after_55_s() -> None:
    bench = Bench().heartbeating()
    assert [second for second in range(1, 130) if ill(bench)] == [1, 56, 111]


def test_another_action_is_news() -> None:
    bench = Bench().heartbeating()
    assert ill(bench, LOG) == (Ill("disk", LOG),)
    assert ill(bench, REBOOT) == (Ill("disk", REBOOT),)
    assert ill(bench, REBOOT) == ()


@pytest.mark.parametrize("action", [NONE, UNKNOWN])
def test_ill_health_that_asks_for_nothing_is_only_shown(action: CorrectiveAction) -> None:
    bench = Bench().heartbeating()
    assert ill(bench, action) == ()
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNHEALTHY, "disk")


@pytest.mark.parametrize("health", [Health.HEALTHY, Health.UNKNOWN])
def test_only_the_unhealthy_are_acted_upon(health: Health) -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    fine = bench.answer(health=health, action=STOP, log_msg="fine")
    bench.expect(fine, [], beats=2, health=health, round_trip_s=0.0, owes_answer=False)


def test_recovery_is_shown_and_the_next_illness_is_news() -> None:
    bench = Bench().heartbeating()
    ill(bench)
    bench.skip(bench.at(2.0).tick())
    bench.skip(bench.answer())
    assert (bench.beat.health, bench.beat.health_reason) == (Health.HEALTHY, "")
    assert ill(bench) == (Ill("disk", REBOOT),)


def test_flapping_is_reported_six_times_a_minute_at_most() -> None:
    bench = Bench().heartbeating()
    reported: list[float] = []
    for _ in range(600):
        if ill(bench):
            reported.append(bench.now)
        bench.skip(bench.at(bench.beat.due).tick())
        bench.skip(bench.answer())
    assert len(reported) == 120
    assert all(late - early >= 60.0 for early, late in zip(reported, reported[6:], strict=False))


def test_with_reporting_off_ill_health_is_a_note() -> None:
    bench = Bench().heartbeating()
    bench.beat.reporting = False
    assert ill(bench) == (Note("unhealthy, but reporting is off"),)
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNHEALTHY, "disk")


def test_the_first_answer_may_be_an_ill_one() -> None:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.init())
    sick = answer(1, Health.UNHEALTHY, STOP, "disk")
    assert bench.beat.received(sick, 0.25) == (Heartbeating("init answered"), Ill("disk", STOP))


def test_ill_health_is_taken_from_no_answer_that_does_not_count() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(2.0).tick())
    bench.skip(bench.at(2.25).answer(2, health=Health.UNHEALTHY, action=STOP))
    bench.expect(bench.answer(1, health=Health.UNHEALTHY, action=STOP), [])
    assert bench.beat.health is Health.HEALTHY


def test_a_later_init_does_not_raise_the_dead() -> None:
    """A whole buffer of leftovers: inits, answers and an exit, and then silence."""
    bench = Bench().heartbeating()
    bench.run(5.0)
    for message in (init(3), answer(1), answer(2), init(4), answer(3)):
        assert Heartbeating not in map(type, bench.skip(bench.beat.received(message, 5.0)))
    assert kinds(bench.run(400.0), Heartbeating, Stopped, Lost) == []


def test_the_end_of_an_illness_is_a_note_and_the_reason_of_the_present_state() -> None:
    bench = Bench().heartbeating()
    bench.skip(ill(bench, STOP, "disk full"))
    bench.skip(bench.at(bench.beat.due).tick())
    note = Note("healthy again after: disk full")
    well = {"health": Health.HEALTHY, "health_reason": "", "reason": note.text}
    bench.expect(bench.answer(), [note], beats=3, round_trip_s=0.0, owes_answer=False, **well)
    # It is said once, and is of the past as soon as it falls ill again, be that news or not.
    bench.skip(bench.at(bench.beat.due).tick())
    assert bench.answer() == ()
    assert bench.beat.reason == note.text
    bench.skip(ill(bench, NONE, "disk full"))
    assert bench.beat.reason == "answers challenges"
    # Nobody was told of that one, so nobody is told of its end.
    bench.skip(bench.at(bench.beat.due).tick())
    assert bench.answer() == ()
    assert bench.beat.reason == "answers challenges"


def test_an_illness_may_end_with_a_reboot() -> None:
    bench = Bench().heartbeating()
    bench.skip(ill(bench, REBOOT, "disk full"))
    bench.skip(bench.beat.restarts("a command", bench.now))
    bench.skip(bench.at(50.0).init())
    note = Note("healthy again after: disk full")
    assert bench.at(50.25).answer() == (Heartbeating("after: a command"), note)
    assert bench.beat.reason == "answers challenges"  # an action says it of a VM that is back


def test_a_guest_that_changes_its_mind_with_every_beat_is_well_again_six_times_a_minute() -> None:
    bench = Bench().heartbeating()
    notes = []
    for beat in range(120):
        bench.skip(bench.at(1.25 + beat).tick())
        health = Health.HEALTHY if beat % 2 else Health.UNHEALTHY
        effects = bench.skip(bench.answer(health=health, action=STOP, log_msg="disk full"))
        notes += [beat for effect in effects if isinstance(effect, Note)]
    assert notes == [1, 3, 5, 7, 9, 11, 61, 63, 65, 67, 69, 71]


@pytest.mark.parametrize("end", ["closed", "lost", "exit", "paused", "removed"])
def test_nobody_knows_the_health_of_what_is_not_heartbeating(end: str) -> None:
    bench = Bench().heartbeating()
    bench.skip(ill(bench, STOP, "disk full"))
    match end:
        case "closed":
            bench.skip(bench.beat.closed("reset"))
        case "lost":
            bench.run(9.0)
        case "exit":
            bench.skip(bench.exit())
        case "removed":
            bench.skip(bench.beat.removed("removed"))
        case _:
            bench.skip(bench.beat.notice_over(Event.PAUSE, bench.now))
            # Its answers do not count as heartbeats, and neither does what they say.
            bench.skip(bench.at(bench.beat.due).tick())
            bench.skip(bench.answer(health=Health.UNHEALTHY, action=STOP, log_msg="disk full"))
    assert bench.beat.state is not S.HEARTBEATING
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNKNOWN, "")
