"""The events around a VM: what silence means before, during and after each of them.

As in test_heartbeat.py the interval is 1 s, and challenges are numbered; ``Bench.heartbeating``
leaves the bench at 0.25 s, with challenge 1 answered and the next beat due at 1 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Heartbeating,
    Lost,
    Note,
    OpenRestart,
    Reconnect,
    RestartExpired,
    SendToGuest,
    Stopped,
)
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import Challenge, InitAck
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event, ExpectedEffect, Health
from support.heartbeat_bench import Bench

S = HeartbeatState
REBOOT = CorrectiveAction.REBOOT

ACK = SendToGuest(InitAck(1804289383))
LEFTOVER = Note("ignoring a stale init: no challenge was answered after it")

BEGINNINGS = [e for e, rule in EVENT_TABLE.items() if rule.effect is not ExpectedEffect.RETURNS]
ENDS = [event for event, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.RETURNS]
SUSPENDING = [e for e in BEGINNINGS if EVENT_TABLE[e].effect is not ExpectedEffect.RESTARTS]
RESTARTING = [e for e in BEGINNINGS if EVENT_TABLE[e].effect is ExpectedEffect.RESTARTS]


def challenge(number: int) -> SendToGuest:
    return SendToGuest(Challenge(number))


def kinds(came: list[tuple[float, Effect]], *wanted: type[Effect]) -> list[tuple[float, Effect]]:
    return [(when, effect) for when, effect in came if isinstance(effect, wanted)]


def suspended(event: Event = Event.PAUSE) -> Bench:
    bench = Bench().heartbeating()
    bench.expect(
        bench.beat.notice_over(event, bench.now),
        [Stopped(f"{event} is under way")],
        state=S.SUSPENDED,
        reason=f"{event} is under way",
    )
    return bench


def restarting(event: Event = Event.REBOOT, **values: int) -> Bench:
    bench = Bench().heartbeating(**values)
    bench.expect(
        bench.beat.notice_over(event, bench.now),
        [Stopped(f"{event} is under way"), OpenRestart(bench.beat.profile.restart_s)],
        state=S.RESTARTING,
        reason=f"{event} is under way",
    )
    return bench


def returning() -> Bench:
    bench = suspended()
    bench.run(100.0)
    bench.skip(bench.beat.notice_opened(Event.UNPAUSE, 100.0))
    assert bench.beat.state is S.RETURNING
    return bench


# -- while it is under way ----------------------------------------------------------------------


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
    bench = Bench().heartbeating()
    bench.expect(bench.beat.notice_opened(event, bench.now), [])


@pytest.mark.parametrize("event", SUSPENDING)
def test_silence_is_no_loss_while_it_is_under_way(event: Event) -> None:
    bench = suspended(event)
    bench.expect(bench.at(1.0).tick(), [challenge(2)], due=2.0, owes_answer=True)
    bench.expect(bench.at(2.0).tick(), [challenge(3)], due=3.0, missed=1)
    bench.expect(bench.at(3.0).tick(), [], due=math.inf, missed=2, owes_answer=False)
    assert bench.run(1e6) == []
    assert bench.beat.is_heartbeating


def test_a_challenge_on_its_way_is_one_of_the_two_probes() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.beat.notice_over(Event.PAUSE, 1.5))
    assert bench.beat.due == 2.0
    assert bench.run(1000.0) == [(2.0, challenge(3))]
    assert bench.beat.missed == 2


@pytest.mark.parametrize("event", BEGINNINGS)
def test_misses_from_before_do_not_count_and_none_do(event: Event) -> None:
    bench = Bench().heartbeating()
    bench.run(2.0)
    bench.skip(bench.beat.notice_over(event, 2.5))
    assert bench.run(3.0) == [(3.0, challenge(4))]
    assert kinds(bench.run(119.0), Lost, Stopped) == []


@pytest.mark.parametrize("event", BEGINNINGS)
def test_challenges_go_on_while_they_are_answered(event: Event) -> None:
    """A guest that gets none starts over with ``init``, which would end the suspension early."""
    bench = Bench().heartbeating()
    bench.skip(bench.beat.notice_over(event, bench.now))
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
    bench.expect(bench.at(4.5).answer(2), [])
    late = Note("late answer, 2.500 s after its challenge")
    bench.expect(bench.answer(3), [late, challenge(4)], late_answers=1, due=5.5, owes_answer=True)
    came = kinds(bench.run(50.0, answers=True), Heartbeating, Lost, Note)
    if event is Event.STOP:
        assert came == []
        assert bench.beat.state is S.SUSPENDED
    else:
        assert came == [(4.75, Heartbeating(f"after: {event}"))]
        assert bench.beat.state is S.PROVISIONAL
    assert bench.beat.missed == 2


def test_a_late_answer_in_between_keeps_the_beat() -> None:
    bench = suspended()
    bench.run(2.0)
    late = Note("late answer, 1.250 s after its challenge")
    bench.expect(bench.at(2.25).answer(2), [late], late_answers=1)
    bench.expect(bench.at(3.0).tick(), [challenge(4)], due=4.0, missed=2)
    bench.expect(bench.at(4.0).tick(), [], due=math.inf, missed=3, owes_answer=False)


def test_an_answer_allows_two_more_probes() -> None:
    bench = suspended()
    bench.run(2.0)
    bench.skip(bench.at(2.25).answer())
    assert bench.run(100.0) == [(3.0, challenge(4)), (4.0, challenge(5))]


def test_a_host_that_is_late_does_not_give_up_probing() -> None:
    bench = suspended()
    for second in range(1, 10):
        assert bench.at(float(second)).tick(late=True) == (challenge(second + 1),)


@pytest.mark.parametrize("event", BEGINNINGS)
def test_a_guest_that_was_never_heard_of_can_be_told_too(event: Event) -> None:
    bench = Bench()
    bench.skip(bench.open())
    effects = bench.skip(bench.at(5.0).beat.notice_over(event, 5.0))
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
        bench.at(0.5).exit(), [], state=S.WAITING, is_heartbeating=False, reason=why, due=120.5
    )


@pytest.mark.parametrize("event", SUSPENDING)
def test_an_answered_init_ends_it(event: Event) -> None:
    bench = suspended(event)
    bench.run(50.0)
    bench.expect(bench.init(), [ACK, challenge(4)], due=51.0, owes_answer=True)
    bench.expect(
        bench.at(50.25).answer(),
        [Heartbeating(f"after: {event}")],
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
    bench.skip(bench.init())
    assert bench.run(1000.0) == [(51.0, challenge(5)), (52.0, LEFTOVER)]
    assert bench.beat.state is S.SUSPENDED


def test_an_init_just_before_does_not_end_it() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.at(0.5).init())
    bench.skip(bench.beat.notice_over(Event.PAUSE, 0.5))
    bench.expect(bench.at(0.75).answer(), [], beats=2, owes_answer=False)
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
        bench.at(after_s + 0.125).answer(),
        [],
        beats=bench.seen.beats + 1,
        round_trip_s=0.125,
        owes_answer=False,
    )
    bench.skip(bench.at(after_s + 1).tick())
    bench.expect(
        bench.at(after_s + 1.25).answer(),
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
    bench.skip(bench.at(after_s + 0.25).answer())
    assert bench.beat.state is S.HEARTBEATING


def test_a_frozen_vm_is_not_called_off_by_time_alone() -> None:
    bench = suspended()
    bench.run(100_000.0)
    assert bench.beat.state is S.SUSPENDED


def test_a_stop_by_command_can_be_called_off_too() -> None:
    bench = Bench().heartbeating()
    bench.expect(
        bench.beat.stops("a command", 0.25),
        [Stopped("a command is under way")],
        state=S.SUSPENDED,
        reason="a command is under way",
    )
    bench.run(301.0, answers=True)
    assert bench.beat.state is S.HEARTBEATING


def test_an_earlier_event_does_not_call_off_a_later_one() -> None:
    bench = suspended()
    bench.run(290.0, answers=True)
    bench.skip(bench.beat.restarts("rebooted", 290.0))
    assert kinds(bench.run(589.0, answers=True), Heartbeating) == []
    assert bench.beat.state is S.RESTARTING


def test_told_that_it_did_not_happen_the_guest_is_challenged() -> None:
    bench = suspended()
    why = "pause did not happen: it failed"
    bench.expect(
        bench.at(0.5).beat.called_off("pause", "it failed", 0.5),
        [challenge(2)],
        state=S.RETURNING,
        reason=why,
        due=1.5,
        owes_answer=True,
    )
    bench.expect(
        bench.at(0.75).answer(),
        [Heartbeating(why)],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )


@pytest.mark.parametrize("state", [S.WAITING, S.HEARTBEATING, S.LOST])
def test_with_nothing_under_way_there_is_nothing_to_call_off(state: HeartbeatState) -> None:
    bench = suspended(Event.STOP)
    bench.skip(bench.exit() if state is S.WAITING else bench.init())
    bench.run(2.0 if state is S.LOST else bench.now)
    if state is not S.WAITING:
        bench.skip(bench.answer())
    if state is S.LOST:
        bench.run(10.0)
    assert bench.beat.state is state
    bench.expect(bench.beat.called_off("stop", "it failed", bench.now), [])


@pytest.mark.parametrize("restarts", [False, True])
def test_only_what_is_under_way_can_be_called_off(restarts: bool) -> None:
    bench = suspended()
    if restarts:
        bench.skip(bench.beat.restarts("corrective action reboot", bench.now))
    bench.expect(bench.beat.called_off("reboot", "it failed", bench.now), [])


# -- back again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ENDS)
def test_an_end_notice_challenges_at_once_and_an_answer_proves_it(event: Event) -> None:
    bench = suspended()
    bench.run(100.0)
    bench.expect(
        bench.beat.notice_opened(event, 100.0),
        [challenge(4)],
        state=S.RETURNING,
        reason=f"{event} was sent",
        due=101.0,
        owes_answer=True,
    )
    bench.expect(
        bench.at(100.25).answer(),
        [Heartbeating(f"after: {event} was sent")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    bench.expect(bench.beat.notice_over(event, 101.0), [])
    assert [when for when, _ in kinds(bench.run(200.0), Lost)] == [103.0]


@pytest.mark.parametrize("event", ENDS)
def test_an_end_notice_to_a_heartbeating_guest_changes_nothing(event: Event) -> None:
    bench = Bench().heartbeating()
    bench.expect(bench.beat.notice_opened(event, bench.now), [])
    bench.expect(bench.beat.notice_over(event, bench.now), [])


def test_a_second_end_notice_does_not_start_over() -> None:
    bench = returning()
    bench.expect(bench.at(100.5).beat.notice_opened(Event.RESUME, 100.5), [])
    bench.expect(bench.beat.notice_over(Event.RESUME, 100.5), [])
    bench.expect(bench.beat.called_off("pause", "again", 100.5), [])


def test_an_answer_from_before_the_freeze_proves_nothing() -> None:
    bench = returning()
    late = Note("late answer, 98.500 s after its challenge")
    bench.expect(bench.at(100.5).answer(3), [late], late_answers=1)
    for old in (1, 2, 3):
        bench.expect(bench.answer(old), [])
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
    bench.skip(bench.answer())
    bench.skip(bench.beat.notice_over(Event.PAUSE, 226.0))
    bench.skip(bench.at(300.0).beat.notice_opened(Event.UNPAUSE, 300.0))
    assert [when for when, _ in kinds(bench.run(310.0), Reconnect)] == [305.0]


def test_inits_that_hear_nothing_do_not_put_off_the_reconnect() -> None:
    bench = returning()
    bench.skip(bench.at(103.5).init())
    assert [when for when, _ in kinds(bench.run(110.0), Reconnect)] == [105.5]


def test_an_answered_init_while_returning_proves_it_too() -> None:
    bench = returning()
    bench.skip(bench.at(100.5).init())
    assert bench.at(100.75).answer() == (Heartbeating("after: unpause was sent"),)


def test_an_exit_while_returning_is_waited_for() -> None:
    bench = returning()
    bench.expect(
        bench.at(100.5).exit(),
        [],
        state=S.WAITING,
        is_heartbeating=False,
        due=220.5,
        reason="guest exited: Exiting...",
        owes_answer=False,
    )


def test_a_live_migration_arrives_at_a_host_that_never_saw_an_init() -> None:
    bench = Bench()
    bench.skip(bench.open())
    bench.run(60.0)
    bench.expect(
        bench.beat.notice_opened(Event.LIVE_MIGRATE_END, 60.0),
        [challenge(1)],
        state=S.RETURNING,
        is_heartbeating=True,
        reason="live_migrate_end was sent",
        due=61.0,
        owes_answer=True,
    )
    bench.expect(
        bench.at(60.25).answer(),
        [Heartbeating("after: live_migrate_end was sent")],
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
    bench = Bench()
    bench.expect(
        bench.beat.notice_opened(Event.LIVE_MIGRATE_END, 0.0),
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
    assert bench.at(5.25).answer() == (Heartbeating("after: live_migrate_end was sent"),)


def test_the_source_of_a_live_migration_stays_quiet_until_its_socket_goes() -> None:
    bench = suspended(Event.LIVE_MIGRATE_BEGIN)
    came = bench.run(90.0, answers=True)
    came += bench.run(300.0)
    assert kinds(came, Heartbeating, Stopped, Lost, Note) == []
    bench.skip(bench.beat.closed("closed by the peer"))
    assert bench.beat.removed("its socket is gone") == (Stopped("its socket is gone"),)


def test_an_end_notice_to_a_lost_guest_challenges_it() -> None:
    bench = Bench().heartbeating()
    bench.run(50.0)
    bench.expect(
        bench.beat.notice_opened(Event.RESUME, 50.0),
        [challenge(4)],
        state=S.RETURNING,
        reason="resume was sent",
        is_heartbeating=True,
        due=51.0,
        owes_answer=True,
    )
    assert bench.at(50.25).answer() == (Heartbeating("after: resume was sent"),)


# -- restarting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("event", RESTARTING)
def test_a_restart_by_the_book(event: Event) -> None:
    bench = restarting(event)
    bench.expect(bench.at(0.5).exit(), [], due=120.5)
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
    bench.skip(bench.init())
    bench.expect(
        bench.at(60.25).answer(),
        [Heartbeating(f"after: {event}")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    bench.expect(bench.at(121.25).beat.restart_expired(121.25), [])


@pytest.mark.parametrize("had_one", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_without_a_guest_before_it_none_is_lost_in_a_restart(had_one: bool, times: int) -> None:
    bench = Bench()
    bench.skip(bench.open())
    if had_one:
        bench.skip(bench.init())
        bench.skip(bench.answer())
        bench.skip(bench.exit())
    for _ in range(times):
        bench.skip(bench.beat.restarts("reboot", bench.now))
        bench.run(bench.now + 10.0)
    bench.skip(bench.init())  # a leftover
    bench.run(60.0)
    why = f"not back within {bench.beat.profile.restart_s} s"
    bench.expect(
        bench.beat.restart_expired(60.0),
        [RestartExpired(why)],
        state=S.WAITING,
        is_heartbeating=False,
        reason=why,
    )
    # Its return is that of any new guest.
    bench.skip(bench.at(70.0).init())
    assert bench.answer() == (Heartbeating("init answered"),)


def returning_without_a_guest() -> Bench:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.beat.notice_opened(Event.UNPAUSE, 0.0))
    return bench


def suspended_without_a_guest() -> Bench:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.beat.stops("a command", 0.0))
    return bench


@pytest.mark.parametrize("reach", [returning_without_a_guest, suspended_without_a_guest])
def test_what_was_announced_makes_no_guest(reach: Callable[[], Bench]) -> None:
    bench = reach()
    bench.skip(bench.beat.notice_opened(Event.REBOOT, 0.0))
    bench.skip(bench.beat.notice_over(Event.REBOOT, 1.0))
    bench.run(200.0)
    assert bench.beat.restart_expired(200.0) == (RestartExpired("not back within 121 s"),)
    assert bench.beat.state is S.WAITING


def test_a_guest_that_exits_on_its_notice_is_expected_back() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.beat.notice_opened(Event.REBOOT, bench.now))
    bench.skip(bench.at(1.0).exit())
    bench.skip(bench.at(10.0).beat.notice_over(Event.REBOOT, 10.0))
    bench.run(131.0)
    why = "not back within 121 s"
    assert bench.beat.restart_expired(131.0) == (RestartExpired(why), Lost(why, REBOOT))


def test_a_guest_whose_connection_broke_is_expected_back() -> None:
    bench = Bench().heartbeating()
    bench.skip(bench.beat.closed("reset"))
    bench.skip(bench.beat.restarts("reboot", bench.now))
    why = "not back within 121 s"
    assert bench.beat.restart_expired(131.0) == (RestartExpired(why), Lost(why, REBOOT))


@pytest.mark.parametrize("greeted", [False, True])
def test_called_off_without_a_guest_it_goes_on_waiting(greeted: bool) -> None:
    bench = Bench()
    bench.skip(bench.open())
    bench.skip(bench.beat.restarts("reboot", 0.0))
    bench.run(1.0)
    if greeted:
        bench.skip(bench.init())
    bench.expect(
        bench.at(1.25).beat.called_off("reboot", "it failed", 1.25),
        [],
        state=S.WAITING,
        is_heartbeating=False,
        reason="reboot did not happen: it failed",
        due=2.0 if greeted else 120.0,
        owes_answer=greeted,
    )
    # A probe's answer says nothing any more; that to an init does.
    came = bench.answer()
    assert came == ((Heartbeating("init answered"),) if greeted else ())


@pytest.mark.parametrize("event", RESTARTING)
def test_not_back_within_restart_is_a_loss(event: Event) -> None:
    bench = restarting(event)
    assert bench.run(119.0) == [(1.0, challenge(2)), (2.0, challenge(3))]
    why = "not back within 121 s"
    bench.expect(
        bench.at(121.25).beat.restart_expired(121.25),
        [RestartExpired(why), Lost(why, REBOOT)],
        state=S.LOST,
        is_heartbeating=False,
        reason=why,
        due=120.25,
    )
    bench.expect(bench.beat.restart_expired(121.25), [])
    # The reconnect that was due is made up for, and nothing is lost a second time.
    again = Reconnect("connected, but no heartbeat for 120 s (lost)")
    assert bench.run(300.0) == [(121.25, again), (241.25, again)]


def test_with_reporting_off_only_the_window_is_reported() -> None:
    bench = restarting()
    bench.beat.reporting = False
    why = "not back within 121 s"
    assert bench.beat.restart_expired(121.25) == (RestartExpired(why),)
    assert bench.beat.state is S.LOST


def test_not_back_without_a_connection_is_a_loss_too() -> None:
    bench = restarting()
    bench.skip(bench.at(0.75).answer())
    bench.skip(bench.beat.closed("reset"))
    why = "not back within 121 s"
    bench.expect(
        bench.at(1.0).beat.restart_expired(1.0),
        [RestartExpired(why), Lost(why, REBOOT)],
        state=S.LOST,
        reason=why,
    )
    bench.expect(bench.at(500.0).open(), [], connected=True, due=620.0)
    bench.skip(bench.init())
    assert bench.at(500.25).answer() == (Heartbeating(f"after: {why}"),)


def test_one_that_goes_on_answering_never_went_away() -> None:
    bench = restarting()
    bench.run(121.0, answers=True)
    bench.expect(
        bench.at(121.25).beat.restart_expired(121.25),
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
    bench.skip(bench.at(1.984375).answer())
    for now in (2.0, 2.984375, 3.96875):
        bench.beat.align(now)
        bench.skip(bench.at(now).tick())
    assert (bench.beat.missed, bench.beat.owes_answer) == (2, False)
    assert Heartbeating in map(type, bench.at(3.975).beat.restart_expired(3.975))
    assert bench.beat.due == 4.975


def test_a_challenge_on_its_way_at_the_end_of_the_window_is_forgotten() -> None:
    bench = restarting()
    bench.skip(bench.at(1.0).tick())
    bench.skip(bench.at(1.5).beat.restart_expired(1.5))
    assert (bench.beat.state, bench.beat.owes_answer, bench.beat.due) == (S.LOST, False, 120.25)
    bench.expect(bench.at(1.75).answer(), [])


@pytest.mark.parametrize(("answered_at", "lost"), [(119.26, False), (119.25, True)])
def test_going_on_means_an_answer_within_two_intervals(answered_at: float, lost: bool) -> None:
    bench = restarting()
    bench.run(119.0, answers=True)
    bench.skip(bench.at(answered_at).answer())
    bench.run(121.24)
    effects = bench.at(121.25).beat.restart_expired(121.25)
    assert (Lost in map(type, effects)) is lost
    assert math.isinf(bench.beat.due) is False


def test_answers_from_before_the_notice_are_no_going_on() -> None:
    bench = Bench().heartbeating(interval_ms=60_000, restart_secs=61)
    bench.skip(bench.beat.notice_over(Event.REBOOT, 0.25))
    bench.run(61.0)
    assert Lost in map(type, bench.at(61.25).beat.restart_expired(61.25))


def test_an_exit_is_no_going_on() -> None:
    bench = restarting()
    bench.run(120.5, answers=True)
    bench.skip(bench.exit())
    assert Lost in map(type, bench.at(121.25).beat.restart_expired(121.25))


def test_an_init_in_the_last_moment_is_given_time_to_prove_itself() -> None:
    bench = restarting()
    bench.run(121.0)
    bench.skip(bench.init())
    bench.expect(bench.at(121.25).beat.restart_expired(121.25), [OpenRestart(3.0)])
    bench.skip(bench.at(121.5).answer())
    assert bench.beat.state is S.HEARTBEATING
    bench.expect(bench.at(124.25).beat.restart_expired(124.25), [])


def test_an_init_in_the_last_moment_that_is_a_leftover_does_not_help() -> None:
    bench = restarting()
    bench.run(121.0)
    bench.skip(bench.init())
    bench.skip(bench.at(121.25).beat.restart_expired(121.25))
    assert bench.run(124.0)[-1] == (123.0, LEFTOVER)
    assert Lost in map(type, bench.at(124.25).beat.restart_expired(124.25))


def test_greeting_again_does_not_put_off_the_loss_for_ever() -> None:
    bench = restarting()
    bench.run(121.0)
    bench.skip(bench.init())
    bench.skip(bench.at(121.25).beat.restart_expired(121.25))
    bench.run(124.0)
    bench.skip(bench.init())
    assert Lost in map(type, bench.at(124.25).beat.restart_expired(124.25))


def test_each_restart_has_a_last_moment_of_its_own() -> None:
    bench = restarting()
    bench.skip(bench.at(121.0).init())
    bench.skip(bench.at(121.25).beat.restart_expired(121.25))
    bench.skip(bench.at(121.5).beat.restarts("rebooted", 121.5))
    bench.skip(bench.at(240.0).init())
    assert bench.at(242.0).beat.restart_expired(242.0) == (OpenRestart(3.0),)


def test_an_old_init_brings_no_restarting_vm_back() -> None:
    bench = restarting()
    bench.run(30.0)
    bench.skip(bench.init())
    for old in (1, 2, 3):
        assert Heartbeating not in map(type, bench.skip(bench.answer(old)))
    assert kinds(bench.run(119.0), Heartbeating, Lost) == []
    assert bench.beat.state is S.RESTARTING


def test_a_slow_shutdown_is_probed_on() -> None:
    """A stall of some seconds must not make the guest say init and go down as one that beats."""
    bench = restarting()
    bench.run(4.0)
    bench.skip(bench.answer(3))
    assert bench.beat.due == 5.0
    assert kinds(bench.run(60.0, answers=True), Heartbeating, Lost) == []


def test_a_silent_restart_is_reconnected_every_120_s() -> None:
    bench = restarting()
    slow = Reconnect("connected, but no heartbeat for 120 s (restarting)")
    assert bench.run(400.0)[2:] == [(120.25, slow), (240.25, slow), (360.25, slow)]


def test_a_restart_after_a_long_freeze_is_not_reconnected_at_once() -> None:
    bench = suspended()
    bench.run(5000.0)
    bench.skip(bench.beat.notice_over(Event.REBOOT, 5000.0))
    assert kinds(bench.run(5119.9), Reconnect) == []


# -- two in a row -------------------------------------------------------------------------------


def test_reboot_and_cold_migrate_end_while_it_is_down() -> None:
    """The notice goes out when the agent's patience is over: the RESTART window goes on."""
    bench = restarting(Event.COLD_MIGRATE_BEGIN)
    bench.run(100.0)
    bench.expect(bench.beat.notice_opened(Event.COLD_MIGRATE_END, 100.0), [])
    bench.expect(bench.beat.notice_over(Event.COLD_MIGRATE_END, 100.0), [])
    assert Lost in map(type, bench.at(121.25).beat.restart_expired(121.25))


@pytest.mark.parametrize("event", [Event.COLD_MIGRATE_END, Event.RESIZE_END])
def test_an_end_notice_after_the_vm_has_come_back_changes_nothing(event: Event) -> None:
    bench = restarting(Event.COLD_MIGRATE_BEGIN)
    bench.run(60.0)
    bench.skip(bench.init())
    bench.skip(bench.at(60.25).answer())
    bench.expect(bench.beat.notice_opened(event, 60.5), [])
    bench.expect(bench.beat.notice_over(event, 61.0), [])


def test_an_end_notice_after_the_window_challenges_once_more() -> None:
    bench = restarting(Event.COLD_MIGRATE_BEGIN)
    bench.run(119.0)
    bench.skip(bench.at(121.25).beat.restart_expired(121.25))
    assert bench.beat.notice_opened(Event.COLD_MIGRATE_END, 121.25) == (challenge(4),)
    assert bench.beat.state is S.RETURNING


def test_a_pause_and_then_a_reboot() -> None:
    bench = suspended()
    bench.run(50.0)
    bench.expect(
        bench.beat.notice_over(Event.REBOOT, 50.0),
        [OpenRestart(121)],
        state=S.RESTARTING,
        reason="reboot is under way",
        due=51.0,
    )
    bench.expect(bench.at(51.0).tick(), [challenge(4)], due=52.0, owes_answer=True)


def test_a_reboot_and_then_a_stop() -> None:
    bench = restarting()
    bench.run(50.0)
    bench.expect(
        bench.beat.notice_over(Event.STOP, 50.0),
        [],
        state=S.SUSPENDED,
        reason="stop is under way",
        due=51.0,
    )
    bench.expect(bench.at(121.25).beat.restart_expired(121.25), [])


def test_the_same_event_twice() -> None:
    bench = restarting()
    bench.expect(
        bench.at(0.5).beat.restarts("a command", 0.5),
        [OpenRestart(121)],
        reason="a command is under way",
    )
    bench.expect(
        bench.at(0.75).beat.notice_over(Event.PAUSE, 0.75),
        [],
        state=S.SUSPENDED,
        reason="pause is under way",
    )
    bench.expect(bench.beat.notice_over(Event.SUSPEND, 0.75), [], reason="suspend is under way")


def test_a_loss_is_answered_with_a_reboot_that_helps() -> None:
    bench = Bench().heartbeating()
    bench.run(5.0)
    bench.expect(
        bench.beat.restarts("a command", 5.0),
        [OpenRestart(121)],
        state=S.RESTARTING,
        is_heartbeating=True,
        reason="a command is under way",
        due=6.0,
    )
    bench.run(60.0)
    bench.skip(bench.init())
    assert bench.at(60.25).answer() == (Heartbeating("after: a command"),)


def test_a_loss_is_answered_with_a_reboot_that_does_not_help() -> None:
    bench = Bench().heartbeating()
    came = bench.run(5.0)
    bench.skip(bench.beat.restarts("rebooted: lost", 5.0))
    came += bench.run(125.0)
    came += [(126.0, effect) for effect in bench.at(126.0).beat.restart_expired(126.0)]
    assert kinds(came, Lost) == [
        (3.0, Lost("no answer for 3 s", REBOOT)),
        (126.0, Lost("not back within 121 s", REBOOT)),
    ]
