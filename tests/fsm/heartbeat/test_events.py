"""The events around a VM: what silence means before, during and after each of them.

As in test_machine.py the interval is 1 s, and challenges are numbered. The verb
``HeartbeatBench.heartbeating`` leaves the bench at 0.25 s, with challenge 1 answered and the next
beat due at 1 s.
"""

from __future__ import annotations

import math

import pytest

from hbtrio.fsm.heartbeat.effects import (
    Heartbeating,
    Lost,
    Note,
    OpenRestart,
    Reconnect,
    SendToGuest,
    Stopped,
)
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.profile import Profile
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health
from support.events_cases import (
    ACK,
    BEGINNINGS,
    ENDS,
    LEFTOVER,
    RESTARTING,
    SUSPENDING,
    S,
    challenge,
    kinds,
    returning,
    suspended,
)
from support.heartbeat_bench import HeartbeatBench

# -- while it is in progress ----------------------------------------------------------------------


def test_the_table_has_the_events_that_these_tests_are_about() -> None:
    assert set(SUSPENDING) == {Event.STOP, Event.PAUSE, Event.SUSPEND, Event.LIVE_MIGRATE_BEGIN}
    assert set(RESTARTING) == {Event.REBOOT, Event.RESIZE_BEGIN, Event.COLD_MIGRATE_BEGIN}
    assert set(ENDS) == {
        Event.UNPAUSE,
        Event.RESUME,
        Event.RESIZE_END,
        Event.LIVE_MIGRATE_END,
        Event.COLD_MIGRATE_END,
    }


@pytest.mark.parametrize("event", BEGINNINGS)
def test_while_a_notice_is_open_nothing_changes(event: Event) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(bench.beat.announced.notice_opened(event, bench.now), [])


@pytest.mark.parametrize("event", SUSPENDING)
def test_silence_is_no_loss_while_it_is_under_way(event: Event) -> None:
    bench = suspended(event)
    bench.expect(bench.at(1.0).tick(), [challenge(2)], due=2.0, owes_answer=True)
    bench.expect(bench.at(2.0).tick(), [challenge(3)], due=3.0, missed=1)
    bench.expect(bench.at(3.0).tick(), [], due=math.inf, missed=2, owes_answer=False)
    assert bench.run(1e6) == []
    assert bench.beat.is_heartbeating


def test_a_challenge_on_its_way_is_one_of_the_two_probes() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, 1.5))
    assert bench.beat.due == 2.0
    assert bench.run(1000.0) == [(2.0, challenge(3))]
    assert bench.beat.missed == 2


@pytest.mark.parametrize("event", BEGINNINGS)
def test_misses_from_before_do_not_count_and_none_do(event: Event) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(2.0)
    bench.skip(bench.beat.announced.notice_over(event, 2.5))
    assert bench.run(3.0) == [(3.0, challenge(4))]
    assert kinds(bench.run(119.0), Lost, Stopped) == []


@pytest.mark.parametrize("event", BEGINNINGS)
def test_challenges_go_on_while_they_are_answered(event: Event) -> None:
    """A guest that gets none starts over with ``init``, which would end the suspension early."""
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(event, bench.now))
    came = bench.run(100.0, answers=True)
    assert came == [(float(second), challenge(second + 1)) for second in range(1, 101)]
    assert bench.beat.beats == 100
    assert kinds(bench.run(1000.0), SendToGuest, Lost) == [(101.0, challenge(102))]


@pytest.mark.parametrize("event", SUSPENDING)
def test_a_late_answer_shows_that_it_is_slow_and_not_frozen(event: Event) -> None:
    """As VMs are that move: left alone it would say init, and be lost when it has moved."""
    bench = suspended(event)
    bench.run(4.0)
    assert bench.beat.due == math.inf
    bench.expect(bench.at(4.5).answer_challenge(2), [])
    late = Note("late answer, 2.500 s after its challenge")
    bench.expect(
        bench.answer_challenge(3), [late, challenge(4)], late_answers=1, due=5.5, owes_answer=True
    )
    came = kinds(bench.run(50.0, answers=True), Heartbeating, Lost, Note)
    if event is Event.STOP:
        assert came == []
        assert bench.beat.state is S.SUSPENDED
    else:
        assert came == [(4.75, Heartbeating(f"back after {event}"))]
        assert bench.beat.state is S.PROVISIONAL
    assert bench.beat.missed == 2


def test_a_late_answer_in_between_keeps_the_beat() -> None:
    bench = suspended()
    bench.run(2.0)
    late = Note("late answer, 1.250 s after its challenge")
    bench.expect(bench.at(2.25).answer_challenge(2), [late], late_answers=1)
    bench.expect(bench.at(3.0).tick(), [challenge(4)], due=4.0, missed=2)
    bench.expect(bench.at(4.0).tick(), [], due=math.inf, missed=3, owes_answer=False)


def test_an_answer_allows_two_more_probes() -> None:
    bench = suspended()
    bench.run(2.0)
    bench.skip(bench.at(2.25).answer_challenge())
    assert bench.run(100.0) == [(3.0, challenge(4)), (4.0, challenge(5))]


def test_a_host_that_is_late_does_not_give_up_probing() -> None:
    bench = suspended()
    for second in range(1, 10):
        assert bench.at(float(second)).tick(late=True) == (challenge(second + 1),)


@pytest.mark.parametrize("event", BEGINNINGS)
def test_a_guest_that_was_never_heard_of_can_be_told_too(event: Event) -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    effects = bench.skip(bench.at(5.0).beat.announced.notice_over(event, 5.0))
    assert effects == ((OpenRestart(121),) if event in RESTARTING else ())
    assert bench.run(20.0) == [(6.0, challenge(1)), (7.0, challenge(2))]


def test_a_closed_socket_keeps_it_suspended_and_a_new_one_is_probed() -> None:
    bench = suspended()
    bench.run(10.0)
    bench.expect(bench.beat.closed("reset"), [], connected=False, is_heartbeating=False)
    bench.expect(
        bench.at(20.0).open(),
        [challenge(4)],
        connected=True,
        is_heartbeating=True,
        due=21.0,
        owes_answer=True,
    )
    assert bench.run(1000.0) == [(21.0, challenge(5))]


def test_an_exit_while_suspended_ends_it() -> None:
    bench = suspended(Event.STOP)
    why = "guest exited: Exiting..."
    bench.expect(
        bench.at(0.5).send_exit(), [], state=S.WAITING, is_heartbeating=False, reason=why, due=120.5
    )


@pytest.mark.parametrize("event", SUSPENDING)
def test_an_answered_init_ends_it(event: Event) -> None:
    bench = suspended(event)
    bench.run(50.0)
    bench.expect(bench.send_init(), [ACK, challenge(4)], due=51.0, owes_answer=True)
    bench.expect(
        bench.at(50.25).answer_challenge(),
        [Heartbeating(f"back after {event}")],
        state=S.HEARTBEATING if event is Event.STOP else S.PROVISIONAL,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    silent = Lost if event is Event.STOP else Stopped
    ends = kinds(bench.run(60.0), Lost, Stopped)
    assert [(when, type(effect)) for when, effect in ends] == [(53.0, silent)]


def test_an_init_that_is_a_leftover_does_not_end_it() -> None:
    bench = suspended()
    bench.run(50.0)
    bench.skip(bench.send_init())
    assert bench.run(1000.0) == [(51.0, challenge(5)), (52.0, LEFTOVER)]
    assert bench.beat.state is S.SUSPENDED


def test_an_init_just_before_does_not_end_it() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(0.5).send_init())
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, 0.5))
    bench.expect(bench.at(0.75).answer_challenge(), [], beats=2, owes_answer=False)
    assert bench.beat.state is S.SUSPENDED


# -- called off ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "after_s"),
    [
        (Event.PAUSE, 300.0),
        (Event.SUSPEND, 300.0),
        (Event.STOP, 300.0),
        (Event.LIVE_MIGRATE_BEGIN, 3600.0),
    ],
)
def test_who_goes_on_answering_was_called_off(event: Event, after_s: float) -> None:
    bench = suspended(event)
    bench.run(after_s, answers=True)
    bench.expect(
        bench.at(after_s + 0.125).answer_challenge(),
        [],
        beats=bench.seen.beats + 1,
        round_trip_s=0.125,
        owes_answer=False,
    )
    bench.skip(bench.at(after_s + 1).tick())
    bench.expect(
        bench.at(after_s + 1.25).answer_challenge(),
        [Heartbeating(f"{event} did not happen: the guest kept answering")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=bench.seen.beats + 1,
        round_trip_s=0.25,
        owes_answer=False,
    )
    # It is heartbeating again in earnest: silence counts.
    assert [when for when, _ in kinds(bench.run(5000.0), Lost)] == [after_s + 4]


@pytest.mark.parametrize(
    ("event", "after_s"), [(Event.PAUSE, 300.0), (Event.LIVE_MIGRATE_BEGIN, 3600.0)]
)
def test_it_is_called_off_at_the_very_time(event: Event, after_s: float) -> None:
    bench = suspended(event)
    bench.run(after_s, answers=True)
    bench.skip(bench.at(after_s + 0.25).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING


def test_a_frozen_vm_is_not_called_off_by_time_alone() -> None:
    bench = suspended()
    bench.run(100_000.0)
    assert bench.beat.state is S.SUSPENDED


def test_a_stop_by_command_can_be_called_off_too() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(
        bench.beat.announced.stops("a command", 0.25),
        [Stopped("a command is in progress")],
        state=S.SUSPENDED,
        reason="a command is in progress",
    )
    bench.run(301.0, answers=True)
    assert bench.beat.state is S.HEARTBEATING


def test_an_earlier_event_does_not_call_off_a_later_one() -> None:
    bench = suspended()
    bench.run(290.0, answers=True)
    bench.skip(bench.beat.announced.restarts("rebooted", 290.0))
    assert kinds(bench.run(589.0, answers=True), Heartbeating) == []
    assert bench.beat.state is S.RESTARTING


def test_told_that_it_did_not_happen_the_guest_is_challenged() -> None:
    bench = suspended()
    why = "pause did not happen: it failed"
    bench.expect(
        bench.at(0.5).beat.announced.called_off("pause", "it failed", 0.5),
        [challenge(2)],
        state=S.RETURNING,
        reason=why,
        due=1.5,
        owes_answer=True,
    )
    bench.expect(
        bench.at(0.75).answer_challenge(),
        [Heartbeating(why)],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )


@pytest.mark.parametrize("state", [S.WAITING, S.HEARTBEATING, S.LOST])
def test_with_nothing_under_way_there_is_nothing_to_call_off(state: HeartbeatState) -> None:
    bench = suspended(Event.STOP)
    bench.skip(bench.send_exit() if state is S.WAITING else bench.send_init())
    bench.run(2.0 if state is S.LOST else bench.now)
    if state is not S.WAITING:
        bench.skip(bench.answer_challenge())
    if state is S.LOST:
        bench.run(10.0)
    assert bench.beat.state is state
    bench.expect(bench.beat.announced.called_off("stop", "it failed", bench.now), [])


@pytest.mark.parametrize("restarts", [False, True])
def test_only_what_is_under_way_can_be_called_off(restarts: bool) -> None:
    bench = suspended()
    if restarts:
        bench.skip(bench.beat.announced.restarts("corrective action reboot", bench.now))
    bench.expect(bench.beat.announced.called_off("reboot", "it failed", bench.now), [])


# -- back again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ENDS)
def test_an_end_notice_challenges_at_once_and_an_answer_proves_it(event: Event) -> None:
    bench = suspended()
    bench.run(100.0)
    bench.expect(
        bench.beat.announced.notice_opened(event, 100.0),
        [challenge(4), OpenRestart(121.0)],
        state=S.RETURNING,
        reason=f"{event} was sent",
        due=101.0,
        owes_answer=True,
    )
    bench.expect(
        bench.at(100.25).answer_challenge(),
        [Heartbeating(f"back after {event} was sent")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    bench.expect(bench.beat.announced.notice_over(event, 101.0), [])
    assert [when for when, _ in kinds(bench.run(200.0), Lost)] == [103.0]


@pytest.mark.parametrize("event", ENDS)
def test_an_end_notice_to_a_heartbeating_guest_changes_nothing(event: Event) -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(bench.beat.announced.notice_opened(event, bench.now), [])
    bench.expect(bench.beat.announced.notice_over(event, bench.now), [])


def test_a_second_end_notice_does_not_start_over() -> None:
    bench = returning()
    bench.expect(bench.at(100.5).beat.announced.notice_opened(Event.RESUME, 100.5), [])
    bench.expect(bench.beat.announced.notice_over(Event.RESUME, 100.5), [])
    bench.expect(bench.beat.announced.called_off("pause", "again", 100.5), [])


def test_an_answer_from_before_the_freeze_proves_nothing() -> None:
    bench = returning()
    late = Note("late answer, 98.500 s after its challenge")
    bench.expect(bench.at(100.5).answer_challenge(3), [late], late_answers=1)
    for old in (1, 2, 3):
        bench.expect(bench.answer_challenge(old), [])
    assert bench.beat.state is S.RETURNING


def test_a_returning_vm_may_take_its_time() -> None:
    """It gets one reconnect after five intervals, which mends a wedged port, then every 120 s."""
    bench = returning()
    came = bench.run(500.0)
    assert kinds(came, Lost, Stopped, Heartbeating, Note) == []
    slow = Reconnect("connected, but no heartbeat for 120 s (returning)")
    assert kinds(came, Reconnect) == [
        (105.0, Reconnect("no answer to 5 challenges after its return")),
        (220.0, slow),
        (340.0, slow),
        (460.0, slow),
    ]
    assert bench.beat.state is S.RETURNING


def test_the_reconnect_of_a_wedged_port() -> None:
    bench = returning()
    assert bench.run(104.99)[-1] == (104.0, challenge(8))
    bench.expect(
        bench.at(105.0).tick(),
        [Reconnect("no answer to 5 challenges after its return")],
        due=106.0,
        missed=7,
        owes_answer=False,
    )
    bench.expect(
        bench.beat.closed("the host closed it"),
        [],
        connected=False,
        due=math.inf,
        is_heartbeating=False,
    )
    bench.expect(
        bench.at(105.5).open(),
        [challenge(9)],
        connected=True,
        is_heartbeating=True,
        due=106.5,
        owes_answer=True,
    )
    # It is done once for each return.
    assert kinds(bench.run(225.0), Reconnect) == []
    assert [when for when, _ in kinds(bench.run(226.0), Reconnect)] == [225.5]
    bench.skip(bench.answer_challenge())
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, 226.0))
    bench.skip(bench.at(300.0).beat.announced.notice_opened(Event.UNPAUSE, 300.0))
    assert [when for when, _ in kinds(bench.run(310.0), Reconnect)] == [305.0]


def test_inits_that_hear_nothing_do_not_put_off_the_reconnect() -> None:
    bench = returning()
    bench.skip(bench.at(103.5).send_init())
    assert [when for when, _ in kinds(bench.run(110.0), Reconnect)] == [105.5]


def test_an_answered_init_while_returning_proves_it_too() -> None:
    bench = returning()
    bench.skip(bench.at(100.5).send_init())
    assert bench.at(100.75).answer_challenge() == (Heartbeating("back after unpause was sent"),)


def test_an_exit_while_returning_is_waited_for() -> None:
    bench = returning()
    bench.expect(
        bench.at(100.5).send_exit(),
        [],
        state=S.WAITING,
        is_heartbeating=False,
        due=220.5,
        reason="guest exited: Exiting...",
        owes_answer=False,
    )


def test_a_live_migration_arrives_at_a_host_that_never_saw_an_init() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.run(60.0)
    bench.expect(
        bench.beat.announced.notice_opened(Event.LIVE_MIGRATE_END, 60.0),
        [challenge(1)],
        state=S.RETURNING,
        is_heartbeating=True,
        reason="live_migrate_end was sent",
        due=61.0,
        owes_answer=True,
    )
    bench.expect(
        bench.at(60.25).answer_challenge(),
        [Heartbeating("back after live_migrate_end was sent")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=1,
        round_trip_s=0.25,
        health=Health.HEALTHY,
        owes_answer=False,
    )
    assert bench.beat.profile == Profile()
    # It is lost like any other, but nobody knows what to do with it.
    lost = (63.0, Lost("no answer for 3 s", CorrectiveAction.NONE))
    assert kinds(bench.run(100.0), Lost) == [lost]


def test_a_live_migration_arrives_before_its_socket_does() -> None:
    bench = HeartbeatBench()
    bench.expect(
        bench.beat.announced.notice_opened(Event.LIVE_MIGRATE_END, 0.0),
        [],
        state=S.RETURNING,
        reason="live_migrate_end was sent",
    )
    bench.expect(
        bench.at(5.0).open(),
        [challenge(1)],
        connected=True,
        is_heartbeating=True,
        due=6.0,
        owes_answer=True,
    )
    assert bench.at(5.25).answer_challenge() == (
        Heartbeating("back after live_migrate_end was sent"),
    )


def test_the_source_of_a_live_migration_stays_quiet_until_its_socket_goes() -> None:
    bench = suspended(Event.LIVE_MIGRATE_BEGIN)
    came = bench.run(90.0, answers=True)
    came += bench.run(300.0)
    assert kinds(came, Heartbeating, Stopped, Lost, Note) == []
    bench.skip(bench.beat.closed("closed by the peer"))
    assert bench.beat.removed("its socket is gone") == (Stopped("its socket is gone"),)


def test_an_end_notice_to_a_lost_guest_challenges_it() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(50.0)
    bench.expect(
        bench.beat.announced.notice_opened(Event.RESUME, 50.0),
        [challenge(4), OpenRestart(121.0)],
        state=S.RETURNING,
        reason="resume was sent",
        is_heartbeating=True,
        due=51.0,
        owes_answer=True,
    )
    assert bench.at(50.25).answer_challenge() == (Heartbeating("back after resume was sent"),)
