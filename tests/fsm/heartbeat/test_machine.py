"""The heartbeat of one instance: handshake, beats, misses, loss, exit, closing, health.

Times are in seconds. The interval is 1 s unless a test says otherwise; challenges are numbered 1,
2, 3 and so on, and answered a quarter of a second after they were sent.
"""

from __future__ import annotations

import pytest

from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Heartbeating,
    Lost,
    Note,
    Reconnect,
    SendToGuest,
    Stopped,
)
from hbtrio.policy.profile import Profile, ProfileLimits
from hbtrio.wire.channel_messages import (
    OFFERED,
    ActionNotify,
    ActionResponse,
    Challenge,
    Init,
    InitAck,
    Message,
    Nack,
)
from hbtrio.wire.vocabulary import (
    Event,
    Health,
    NotificationType,
    VoteResult,
    WindowKind,
)
from support.heartbeat_bench import HeartbeatBench
from support.heartbeat_cases import (
    ACK,
    LEFTOVER,
    LOSS,
    MISSED,
    NONE,
    PROFILE,
    TOO_LONG,
    UNKNOWN,
    S,
    challenge,
    kinds,
)

# -- the handshake ------------------------------------------------------------------------------


def test_from_discovery_to_the_first_beats() -> None:
    bench = HeartbeatBench()
    bench.expect(bench.open(), [], connected=True, due=120.0)
    bench.expect(
        bench.at(2.0).send_init(),
        [ACK, challenge(1)],
        due=3.0,
        profile=PROFILE,
        owes_answer=True,
    )
    bench.expect(
        bench.at(2.25).answer_challenge(),
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
    bench.expect(bench.at(3.5).answer_challenge(), [], beats=2, round_trip_s=0.5, owes_answer=False)
    bench.expect(bench.at(4.0).tick(), [challenge(3)], due=5.0, owes_answer=True)


def test_the_ack_echoes_the_id_whatever_it_is() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    assert bench.send_init(invocation_id=0)[0] == SendToGuest(InitAck(0, OFFERED))
    assert bench.send_init(invocation_id=2**32 - 1)[0] == SendToGuest(InitAck(2**32 - 1, OFFERED))


def test_an_init_alone_proves_nothing() -> None:
    """It may have waited in a buffer, of a VM that is long gone."""
    bench = HeartbeatBench(absent_after_s=9999.0)
    bench.skip(bench.open())
    bench.expect(bench.send_init(), [ACK, challenge(1)], due=1.0, profile=PROFILE, owes_answer=True)
    bench.expect(bench.at(1.0).tick(), [challenge(2)], due=2.0, missed=1)
    bench.expect(bench.at(2.0).tick(), [LEFTOVER], due=120.0, missed=2, owes_answer=False)
    bench.expect(
        bench.at(2.1).answer_challenge(),
        [Note("late answer, 1.100 s after its challenge")],
        late_answers=1,
    )
    assert bench.run(1000.0) == [(when, TOO_LONG) for when in range(120, 1000, 120)]


def test_any_number_of_leftovers_is_no_loss() -> None:
    bench = HeartbeatBench(absent_after_s=9999.0)
    bench.skip(bench.open())
    came: list[tuple[float, Effect]] = []
    for second in range(0, 600, 5):
        came += bench.run(second)
        bench.skip(bench.send_init())
    assert kinds(came, Heartbeating, Stopped, Lost) == []
    assert len(kinds(came, Note)) == 119
    assert bench.beat.state is S.WAITING


def test_the_second_challenge_after_an_init_may_be_answered_too() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.send_init())
    bench.skip(bench.at(1.0).tick())
    bench.expect(
        bench.at(1.25).answer_challenge(),
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
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.send_init(interval_ms=asked_ms))
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
    bench = HeartbeatBench()
    bench.skip(bench.open())
    for number in range(6):
        assert bench.at(number * 0.1).send_init()[0] == ACK
    bench.skip(())
    bench.expect(bench.at(0.6).send_init(), [Note("ignoring inits: more than 6 in 10 s")])
    bench.expect(bench.at(0.7).send_init(interval_ms=500), [])
    bench.expect(bench.at(9.99).send_init(interval_ms=500), [])
    assert bench.at(10.0).send_init()[0] == ACK
    bench.skip(())
    bench.expect(bench.at(10.05).send_init(), [Note("ignoring inits: more than 6 in 10 s")])


def test_only_the_last_two_probes_of_a_greeting_are_unanswered() -> None:
    """A guest that greets and greets but never answers piles up no backlog in its port."""
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.skip(bench.send_init())
    assert [effect for _, effect in bench.run(100.0)] == [challenge(2), LEFTOVER]


# -- silence before the first init --------------------------------------------------------------


def test_connected_without_an_init_for_120_s_reconnects() -> None:
    bench = HeartbeatBench(absent_after_s=9999.0)
    bench.expect(bench.at(5.0).open(), [], connected=True, due=125.0)
    bench.expect(bench.at(124.99).tick(), [], due=125.0)
    bench.expect(bench.at(125.0).tick(), [TOO_LONG], due=245.0)
    bench.expect(
        # It may be without a guest, if libvirt says that it runs.
        bench.at(125.5).beat.closed("the host closed it"),
        [],
        connected=False,
        due=10_004.0,
    )
    bench.expect(bench.at(126.0).open(), [], connected=True, due=246.0)


@pytest.mark.parametrize("opened_at", [8.2, 8.7, 9.2, 0.1, 1234.567, 1e6 + 0.3])
def test_rounding_does_not_make_it_due_for_ever(opened_at: float) -> None:
    """For 8.2 the difference of 128.2 and 8.2 is less than 120, and a fake clock stands still."""
    bench = HeartbeatBench(absent_after_s=9999.0)
    bench.skip(bench.at(opened_at).open())
    bench.expect(bench.at(bench.beat.due).tick(), [TOO_LONG], due=bench.now + 120.0)


def test_the_time_until_the_reconnect_is_a_setting() -> None:
    bench = HeartbeatBench(reconnect_silent_s=7.0)
    bench.expect(bench.open(), [], connected=True, due=7.0)
    silent = Reconnect("connected, but no heartbeat for 7 s (waiting)")
    assert bench.run(21.0) == [(7.0, silent), (14.0, silent), (21.0, silent)]


def test_a_guest_that_hears_nothing_gets_its_reconnect() -> None:
    """It says init every 5 s; with an interval of 10 s that must not put it off for ever."""
    bench = HeartbeatBench()
    bench.skip(bench.open())
    came: list[tuple[float, Effect]] = []
    for second in range(0, 300, 5):
        came += bench.run(second)
        bench.skip(bench.send_init(interval_ms=10_000))
    assert [when for when, _ in kinds(came, Reconnect)] == [120.0, 240.0]


# -- beats --------------------------------------------------------------------------------------


def test_lateness_does_not_add_up() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(bench.at(1.25).tick(), [challenge(2)], due=2.0, owes_answer=True)
    bench.expect(bench.at(1.5).answer_challenge(), [], beats=2, owes_answer=False)
    bench.expect(bench.at(2.0).tick(), [challenge(3)], due=3.0, owes_answer=True)


def test_a_challenge_that_was_sent_late_has_its_whole_interval() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(bench.at(1.75).tick(), [challenge(2)], due=2.0, owes_answer=True)
    bench.expect(bench.at(2.0).tick(), [], due=2.75)
    bench.expect(bench.at(2.72).tick(), [], due=2.75)
    bench.expect(bench.at(2.75).tick(), [MISSED, challenge(3)], due=3.75, missed=1)


def test_the_grid_of_the_pacer_is_not_taken_for_lateness() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.015625).tick())
    bench.expect(bench.at(2.0).tick(), [MISSED, challenge(3)], due=3.0, missed=1)


@pytest.mark.parametrize(("ticked_at", "due"), [(1.9375, 2.0), (2.0, 3.0), (2.0625, 3.0625)])
def test_a_whole_interval_late_is_a_stall(ticked_at: float, due: float) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(bench.at(ticked_at).tick(), [challenge(2)], due=due, owes_answer=True)


def test_after_a_stall_there_is_one_beat() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(bench.at(500.0).tick(late=True), [challenge(2)], due=501.0, owes_answer=True)
    bench.expect(bench.at(500.25).answer_challenge(), [], beats=2, owes_answer=False)


def test_aligned_beats_come_earlier_and_never_later() -> None:
    bench = HeartbeatBench().heartbeating()
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
    bench = HeartbeatBench().heartbeating()
    assert kinds(bench.run(1000.0, answers=True), Heartbeating, Stopped, Lost, Note) == []
    assert (bench.beat.state, bench.beat.beats, bench.beat.missed) == (S.HEARTBEATING, 1000, 0)


@pytest.mark.parametrize(
    "message",
    [
        InitAck(1, OFFERED),
        Challenge(2),
        ActionNotify(1, Event.STOP, NotificationType.REVOCABLE, 1000),
        ActionResponse(1, Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT, "no"),
        Nack(1, "no"),
    ],
    ids=lambda message: message.TYPE,
)
def test_what_is_not_about_the_heartbeat_changes_nothing(message: Message) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(bench.beat.received(message, 1.5), [])


# -- wrong and late answers ---------------------------------------------------------------------


def test_a_wrong_echo_does_not_count() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    for wrong in (0, 1, 3, -1, 2**31 - 1):
        bench.expect(bench.at(1.5).answer_challenge(wrong), [])
    bench.expect(bench.at(2.0).tick(), [MISSED, challenge(3)], due=3.0, missed=1)


def test_an_echo_counts_once() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.expect(bench.at(1.25).answer_challenge(), [], beats=2, owes_answer=False)
    bench.expect(bench.at(1.5).answer_challenge(), [])


def test_an_answer_with_nothing_asked_does_not_count() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    for number in (0, 1, -1):
        bench.expect(bench.at(1.0).answer_challenge(number), [])


def test_a_late_echo_is_noted_and_does_not_count() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(2.0).tick())
    late = Note("late answer, 1.250 s after its challenge")
    bench.expect(bench.at(2.25).answer_challenge(2), [late], late_answers=1)
    bench.expect(bench.answer_challenge(2), [])
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
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(2.0).tick())
    bench.skip(bench.at(2.25).answer_challenge(2))
    bench.expect(
        bench.at(2.25).answer_challenge(3), [], beats=2, round_trip_s=0.25, owes_answer=False
    )
    assert kinds(bench.run(4.99), Lost) == []


def test_a_burst_of_old_answers_fools_nobody() -> None:
    """A guest that was stopped answers all it missed at once; only the last of it is news."""
    bench = HeartbeatBench(failure_threshold=20).heartbeating()
    bench.run(12.0)
    assert (bench.last, bench.beat.missed) == (13, 11)
    bench.at(12.5)
    for old in range(1, 12):
        bench.expect(bench.answer_challenge(old), [])
    late = Note("late answer, 1.500 s after its challenge")
    bench.expect(bench.answer_challenge(12), [late], late_answers=1)
    bench.expect(bench.answer_challenge(13), [], beats=2, round_trip_s=0.5, owes_answer=False)


def test_a_burst_of_old_answers_revives_nobody_who_is_lost() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(12.0)
    assert bench.beat.state is S.LOST
    notes = [
        effect for number in range(1, 13) for effect in bench.skip(bench.answer_challenge(number))
    ]
    assert notes == [Note("late answer, 10.000 s after its challenge")]
    assert bench.beat.state is S.LOST


def test_answers_of_an_earlier_connection_do_not_count() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.beat.closed("reset"))
    bench.skip(bench.open())
    bench.expect(bench.answer_challenge(2), [])
    bench.skip(bench.send_init())
    bench.expect(bench.answer_challenge(2), [])


def test_answers_from_before_an_init_do_not_count() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.send_init())
    bench.expect(bench.answer_challenge(2), [])
    bench.expect(bench.answer_challenge(3), [], beats=2, round_trip_s=0.0, owes_answer=False)
