"""The return of a VM that stood still: how it is noticed, and when silence counts again.

As in test_heartbeat.py the interval is 1 s, and challenges are numbered. The notice is over at
0.25 s, when challenge 1 is answered; the VM is frozen from there on, and challenges 2 and 3 wait in
its port.
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
    SendToGuest,
    Stopped,
    Unwatched,
)
from hbtrio.fsm.heartbeat.outage import CALL_OFF_MIGRATION_S, CALL_OFF_S
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.channel_messages import OFFERED, Challenge, InitAck
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    CorrectiveAction,
    Event,
    ExpectedEffect,
    Health,
)
from support.heartbeat_bench import HeartbeatBench

S = HeartbeatState

FREEZING = [e for e, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.FREEZES]
OTHERS = [
    e
    for e, rule in EVENT_TABLE.items()
    if rule.effect in (ExpectedEffect.STOPS, ExpectedEffect.RESTARTS)
]
ENDS = [e for e, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.RETURNS]

#: When the notice of these tests is over, and when it is called off.
OVER = 0.25
CALLED_OFF = OVER + CALL_OFF_S

AGAIN = "silent again after pause, which should be over by now"


def challenge(number: int) -> SendToGuest:
    return SendToGuest(Challenge(number))


def reports(came: list[tuple[float, Effect]]) -> list[tuple[float, Effect]]:
    wanted = (Heartbeating, Stopped, Lost, Unwatched)
    return [(when, effect) for when, effect in came if isinstance(effect, wanted)]


def suspended(event: Event = Event.PAUSE, **settings: int) -> HeartbeatBench:
    bench = HeartbeatBench(**settings).heartbeating()
    bench.skip(bench.beat.announced.notice_over(event, OVER))
    return bench


def frozen(event: Event = Event.PAUSE, until: float = 10.0) -> HeartbeatBench:
    bench = suspended(event)
    bench.run(until)
    assert bench.beat.state is S.SUSPENDED
    assert bench.beat.due == math.inf
    return bench


def thawed(event: Event = Event.PAUSE) -> HeartbeatBench:
    """The burst of answers that waited; the fresh challenge is on its way."""
    bench = frozen(event)
    for waited in (2, 3):
        bench.skip(bench.answer_challenge(waited))
    assert bench.last == 4
    return bench


def provisional(event: Event = Event.PAUSE) -> HeartbeatBench:
    bench = thawed(event)
    bench.skip(bench.at(10.25).answer_challenge())
    assert bench.beat.state is S.PROVISIONAL
    return bench


def silent_again(event: Event = Event.PAUSE) -> HeartbeatBench:
    bench = provisional(event)
    bench.run(20.0)
    assert bench.beat.state is S.SUSPENDED
    return bench


def lost_at(bench: HeartbeatBench, until: float) -> list[tuple[float, type[Effect]]]:
    return [(when, type(effect)) for when, effect in reports(bench.run(until))]


def test_the_events_that_freeze() -> None:
    assert FREEZING == [Event.PAUSE, Event.SUSPEND, Event.LIVE_MIGRATE_BEGIN]


# -- how it is noticed --------------------------------------------------------------------------


@pytest.mark.parametrize("event", FREEZING)
def test_the_probes_that_waited_bring_a_fresh_challenge_at_once(event: Event) -> None:
    bench = frozen(event)
    bench.expect(bench.answer_challenge(2), [])
    bench.expect(
        bench.answer_challenge(3),
        [Note("late answer, 8.000 s after its challenge"), challenge(4)],
        late_answers=1,
        due=11.0,
        owes_answer=True,
    )
    bench.expect(
        bench.at(10.25).answer_challenge(),
        [Heartbeating(f"back after {event}")],
        state=S.PROVISIONAL,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    bench.expect(bench.at(11.0).tick(), [challenge(5)], due=12.0, owes_answer=True)
    bench.expect(
        bench.at(11.25).answer_challenge(), [], beats=3, owes_answer=False, health=Health.HEALTHY
    )


@pytest.mark.parametrize("frozen_s", [60.0, 86_400.0])
def test_nothing_more_than_the_probes_waits_in_a_frozen_port(frozen_s: float) -> None:
    bench = suspended()
    came = bench.run(frozen_s)
    assert came == [(1.0, challenge(2)), (2.0, challenge(3))]


def test_an_old_answer_proves_nothing() -> None:
    bench = thawed()
    for old in (1, 2, 3):
        bench.expect(bench.answer_challenge(old), [])
    assert bench.beat.state is S.SUSPENDED


def test_one_missed_challenge_is_no_silence() -> None:
    bench = suspended()
    bench.run(2.0)
    bench.expect(bench.at(2.25).answer_challenge(), [], beats=2, owes_answer=False)
    bench.run(3.0)
    bench.expect(bench.at(3.25).answer_challenge(), [], beats=3, owes_answer=False)
    assert bench.beat.state is S.SUSPENDED


def test_two_that_are_not_in_a_row_are_none_either() -> None:
    bench = suspended()
    bench.run(2.0)
    bench.skip(bench.at(2.25).answer_challenge())
    bench.run(4.0)
    bench.expect(bench.at(4.25).answer_challenge(), [], beats=3, owes_answer=False)
    assert bench.beat.state is S.SUSPENDED


def test_a_miss_from_before_the_event_does_not_count() -> None:
    bench = HeartbeatBench(failure_threshold=3).heartbeating()
    bench.run(3.0)
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, 3.0))
    bench.run(4.0)
    bench.skip(bench.at(4.25).answer_challenge())
    assert bench.beat.state is S.SUSPENDED


def test_one_that_is_slow_and_then_in_time_is_back_too() -> None:
    """Each challenge is answered late, and then one is not."""
    bench = suspended()
    for second in (2.0, 3.0, 4.0):
        bench.run(second)
        bench.skip(bench.at(second + 0.25).answer_challenge(bench.last - 1))
    assert bench.beat.state is S.SUSPENDED
    bench.expect(
        bench.at(4.5).answer_challenge(),
        [Heartbeating("back after pause")],
        state=S.PROVISIONAL,
        reason="answers challenges",
        beats=2,
        round_trip_s=0.5,
        owes_answer=False,
    )


@pytest.mark.parametrize("event", OTHERS)
def test_stops_and_restarts_are_not_over_with_an_answer(event: Event) -> None:
    bench = suspended(event)
    before = bench.beat.state
    bench.run(10.0)
    bench.skip(bench.answer_challenge(3))
    assert reports(bench.run(60.0, answers=True)) == []
    assert bench.beat.state is before


@pytest.mark.parametrize("event", FREEZING)
def test_an_init_before_the_freeze_is_a_return_like_any_other(event: Event) -> None:
    """A guest daemon that is restarted between the notice and the freeze."""
    bench = suspended(event)
    bench.expect(
        bench.at(0.5).send_init(),
        [SendToGuest(InitAck(1804289383, OFFERED)), challenge(2)],
        due=1.5,
        owes_answer=True,
    )
    bench.skip(bench.at(0.75).answer_challenge())
    assert bench.beat.state is S.PROVISIONAL
    assert lost_at(bench, 60.0) == [(3.5, Stopped)]


# -- a new silence ------------------------------------------------------------------------------


@pytest.mark.parametrize("event", FREEZING)
def test_silence_of_a_provisional_return_suspends_again(event: Event) -> None:
    bench = provisional(event)
    bench.expect(bench.at(11.0).tick(), [challenge(5)], due=12.0, owes_answer=True)
    bench.expect(
        bench.at(12.0).tick(),
        [Note("heartbeat missed"), challenge(6)],
        missed=3,
        due=13.0,
    )
    why = f"no answer for 3 s, {event} is in progress"
    bench.expect(
        bench.at(13.0).tick(),
        [Stopped(why)],
        state=S.SUSPENDED,
        reason=why,
        missed=4,
        due=OVER + (CALL_OFF_MIGRATION_S if event is Event.LIVE_MIGRATE_BEGIN else CALL_OFF_S),
        owes_answer=False,
    )
    assert bench.beat.is_heartbeating
    bench.skip(bench.at(60.0).answer_challenge(6))
    bench.expect(
        bench.at(60.25).answer_challenge(),
        [Heartbeating(f"back after {event}")],
        state=S.PROVISIONAL,
        reason="answers challenges",
        beats=3,
        owes_answer=False,
    )


@pytest.mark.parametrize(
    ("threshold", "silent_at", "waiting"), [(0, 12.0, 2), (1, 13.0, 2), (3, 15.0, 4)]
)
def test_what_was_missed_already_counts_as_probes(
    threshold: int, silent_at: float, waiting: int
) -> None:
    bench = suspended(failure_threshold=threshold)
    bench.run(10.0)
    bench.skip(bench.answer_challenge(3))
    bench.skip(bench.at(10.25).answer_challenge())
    came = bench.run(200.0)
    assert [(when, type(effect)) for when, effect in reports(came)] == [(silent_at, Stopped)]
    assert len([effect for _, effect in came if isinstance(effect, SendToGuest)]) == waiting


def test_hiccups_before_a_long_freeze_are_no_loss() -> None:
    bench = suspended()
    came = []
    for start in (0.0, 5.0, 10.0):
        came += bench.run(start + 4.0)
        came += [(bench.now, effect) for effect in bench.skip(bench.answer_challenge(bench.last))]
        came += bench.run(start + 4.5, answers=True)
    came += bench.run(250.0)
    kinds = [type(effect) for _, effect in reports(came)]
    assert Lost not in kinds
    assert kinds == [Heartbeating, Stopped] * (len(kinds) // 2)
    assert len(kinds) >= 2


def test_reporting_that_is_off_changes_nothing_about_it() -> None:
    bench = provisional()
    bench.beat.situation.reporting = False
    assert lost_at(bench, 60.0) == [(13.0, Stopped)]
    assert bench.beat.state is S.SUSPENDED


def test_a_socket_that_closes_suspends_again_and_an_answer_on_the_next_is_a_return() -> None:
    bench = provisional()
    bench.expect(
        bench.beat.closed("reset"),
        [Stopped("reset")],
        state=S.SUSPENDED,
        connected=False,
        is_heartbeating=False,
        reason="reset",
        due=CALLED_OFF,
    )
    bench.skip(bench.at(30.0).open())
    bench.expect(
        bench.at(30.25).answer_challenge(),
        [Heartbeating("back after pause")],
        state=S.PROVISIONAL,
        reason="answers challenges",
        beats=3,
        owes_answer=False,
    )


def test_the_silence_before_a_socket_closes_is_not_forgotten() -> None:
    bench = frozen()
    bench.skip(bench.beat.closed("reset"))
    bench.skip(bench.at(30.0).open())
    bench.skip(bench.at(30.25).answer_challenge())
    assert bench.beat.state is S.PROVISIONAL


def test_an_exit_ends_a_provisional_return() -> None:
    bench = provisional()
    why = "guest exited: Exiting..."
    bench.expect(
        bench.send_exit(),
        [Stopped(why)],
        state=S.WAITING,
        is_heartbeating=False,
        reason=why,
        due=130.25,
    )


def test_illness_is_heard_of_during_a_provisional_return() -> None:
    bench = provisional()
    bench.skip(bench.at(11.0).tick())
    effects = bench.at(11.25).answer_challenge(
        health=Health.UNHEALTHY, action=CorrectiveAction.LOG, log_msg="load"
    )
    assert [type(effect).__name__ for effect in effects] == ["Ill"]
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNHEALTHY, "load")
    bench.beat.announced.notice_opened(Event.UNPAUSE, 11.5)
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNHEALTHY, "load")


@pytest.mark.parametrize(
    ("event", "state", "effects"),
    [
        (Event.PAUSE, S.SUSPENDED, [Stopped("pause is in progress")]),
        (Event.STOP, S.SUSPENDED, [Stopped("stop is in progress")]),
        (Event.REBOOT, S.RESTARTING, [Stopped("reboot is in progress"), OpenRestart(121)]),
    ],
)
def test_the_next_event_begins_anew(
    event: Event, state: HeartbeatState, effects: list[Effect]
) -> None:
    bench = provisional()
    assert list(bench.skip(bench.beat.announced.notice_over(event, bench.now))) == effects
    assert bench.beat.state is state
    bench.run(11.0)
    bench.skip(bench.at(11.25).answer_challenge())
    assert bench.beat.state is state


# -- final --------------------------------------------------------------------------------------


def end_notice(bench: HeartbeatBench) -> object:
    return bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now)


def enabled(bench: HeartbeatBench) -> object:
    return bench.beat.announced.runs_again("the instance was enabled", bench.now)


def called_off(bench: HeartbeatBench) -> object:
    return bench.beat.announced.called_off("pause", "it failed", bench.now)


@pytest.mark.parametrize("ends", [end_notice, enabled, called_off])
def test_final_at_once_where_it_is_said_to_run(ends: Callable[[HeartbeatBench], object]) -> None:
    bench = provisional()
    assert ends(bench) == ()
    assert bench.beat.state is S.HEARTBEATING
    assert bench.beat.health is Health.HEALTHY
    assert lost_at(bench, 60.0) == [(13.0, Lost)]


@pytest.mark.parametrize("event", ENDS)
def test_every_end_notice_makes_it_final(event: Event) -> None:
    bench = provisional()
    bench.expect(
        bench.beat.announced.notice_opened(event, bench.now),
        [],
        state=S.HEARTBEATING,
        health=Health.HEALTHY,
    )


@pytest.mark.parametrize("ends", [end_notice, enabled, called_off])
def test_said_while_it_is_silent_the_first_answer_is_final(
    ends: Callable[[HeartbeatBench], object],
) -> None:
    bench = frozen()
    bench.skip(ends(bench))  # type: ignore[arg-type]
    assert bench.beat.state is S.RETURNING
    bench.skip(bench.at(10.25).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING
    assert lost_at(bench, 60.0) == [(13.0, Lost)]


def test_enabled_while_it_answers_on_the_next_answer_ends_it() -> None:
    """As in a migration that stays on its host and stops the VM for a moment only."""
    bench = suspended(Event.LIVE_MIGRATE_BEGIN)
    bench.run(5.5, answers=True)
    bench.expect(
        bench.beat.announced.runs_again("the instance was enabled", 5.5),
        [challenge(7), OpenRestart(121.0)],
        state=S.RETURNING,
        reason="the instance was enabled",
        due=6.5,
        owes_answer=True,
    )
    bench.skip(bench.at(5.75).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING


def test_enabled_without_a_connection_it_is_challenged_on_the_next() -> None:
    bench = provisional()
    bench.skip(bench.beat.closed("reset"))
    bench.expect(
        bench.beat.announced.runs_again("the instance was enabled", bench.now),
        [OpenRestart(121.0)],
        state=S.RETURNING,
        reason="the instance was enabled",
        due=math.inf,
    )
    bench.skip(bench.at(30.0).open())
    bench.skip(bench.at(30.25).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING


@pytest.mark.parametrize("event", OTHERS)
def test_enabled_says_nothing_of_a_stop_or_restart(event: Event) -> None:
    bench = suspended(event)
    bench.run(10.0)
    bench.expect(bench.beat.announced.runs_again("the instance was enabled", 10.0), [])


@pytest.mark.parametrize("state", [S.WAITING, S.HEARTBEATING, S.LOST, S.RETURNING])
def test_enabled_says_nothing_where_nothing_is_under_way(state: HeartbeatState) -> None:
    bench = provisional()
    if state is S.WAITING:
        bench.skip(bench.send_exit())
    else:
        bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now))
    if state is S.LOST:
        bench.run(20.0)
    if state is S.RETURNING:
        bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
        bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now))
    assert bench.beat.state is state
    bench.expect(bench.beat.announced.runs_again("the instance was enabled", bench.now), [])


# -- the action's own command -------------------------------------------------------------------


def test_after_its_command_the_first_answer_makes_it_final() -> None:
    bench = provisional()
    bench.beat.announced.carried_out("pause", 10.5)
    assert bench.beat.state is S.PROVISIONAL
    bench.skip(bench.at(11.0).tick())
    bench.expect(
        bench.at(11.25).answer_challenge(), [], state=S.HEARTBEATING, beats=3, owes_answer=False
    )
    assert lost_at(bench, 60.0) == [(14.0, Lost)]


def test_an_answer_to_a_challenge_from_before_its_end_does_not() -> None:
    """It may have been given just before the command froze the VM."""
    bench = provisional()
    bench.skip(bench.at(11.0).tick())
    bench.beat.announced.carried_out("pause", 11.125)
    bench.expect(bench.at(11.25).answer_challenge(), [], beats=3, owes_answer=False)
    assert bench.beat.state is S.PROVISIONAL
    assert lost_at(bench, 1000.0) == [(14.0, Stopped)]


def test_hiccup_command_and_then_frozen_is_no_loss_and_no_alarm() -> None:
    """A pause by command: when that ends the VM stands still, and may do so for days."""
    bench = provisional()
    bench.beat.announced.carried_out("pause", 10.5)
    assert lost_at(bench, 86_400.0) == [(13.0, Stopped)]
    assert bench.beat.state is S.SUSPENDED
    assert bench.beat.due == math.inf


@pytest.mark.parametrize("event", FREEZING)
def test_its_command_ended_before_the_return_which_is_final_then(event: Event) -> None:
    bench = frozen(event)
    bench.beat.announced.carried_out(event, 10.0)
    bench.skip(bench.at(60.0).answer_challenge(3))
    bench.expect(
        bench.at(60.25).answer_challenge(),
        [Heartbeating(f"back after {event}")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )
    assert lost_at(bench, 100.0) == [(63.0, Lost)]


def test_an_init_after_its_command_is_final_too() -> None:
    bench = frozen()
    bench.beat.announced.carried_out("pause", 10.0)
    bench.skip(bench.at(60.0).send_init())
    bench.skip(bench.at(60.25).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING


def test_the_end_of_another_command_says_nothing() -> None:
    bench = frozen()
    bench.beat.announced.carried_out("suspend", 10.0)
    bench.skip(bench.answer_challenge(3))
    bench.skip(bench.at(10.25).answer_challenge())
    assert bench.beat.state is S.PROVISIONAL


def test_the_command_of_an_earlier_event_says_nothing_of_the_next() -> None:
    bench = frozen()
    bench.beat.announced.carried_out("pause", 10.0)
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, 11.0))
    bench.run(20.0)
    bench.skip(bench.answer_challenge(bench.last))
    bench.skip(bench.at(20.25).answer_challenge())
    assert bench.beat.state is S.PROVISIONAL


# -- the call-off time --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "call_off_s"),
    [
        (Event.PAUSE, CALL_OFF_S),
        (Event.SUSPEND, CALL_OFF_S),
        (Event.LIVE_MIGRATE_BEGIN, CALL_OFF_MIGRATION_S),
    ],
)
def test_the_first_answer_after_the_call_off_time_makes_it_final(
    event: Event, call_off_s: float
) -> None:
    bench = provisional(event)
    bench.run(OVER + call_off_s - 0.5, answers=True)
    assert bench.beat.state is S.PROVISIONAL
    at = OVER + call_off_s
    assert lost_at(bench, at) == []
    bench.skip(bench.at(at).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING
    assert [kind for _, kind in lost_at(bench, at + 10.0)] == [Lost]


def test_back_for_the_first_time_after_the_call_off_time_it_is_final() -> None:
    bench = frozen(until=1000.0)
    bench.skip(bench.answer_challenge(3))
    bench.expect(
        bench.at(1000.25).answer_challenge(),
        [Heartbeating("back after pause")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )


@pytest.mark.parametrize(
    ("event", "call_off_s"),
    [
        (Event.PAUSE, CALL_OFF_S),
        (Event.SUSPEND, CALL_OFF_S),
        (Event.LIVE_MIGRATE_BEGIN, CALL_OFF_MIGRATION_S),
    ],
)
def test_silent_again_at_the_call_off_time_is_an_alarm(event: Event, call_off_s: float) -> None:
    bench = silent_again(event)
    at = OVER + call_off_s
    assert bench.run(at - 0.001) == []
    why = f"silent again after {event}, which should be over by now"
    bench.expect(
        bench.at(at).tick(),
        [Unwatched(why), challenge(7)],
        state=S.UNWATCHED,
        reason=why,
        is_heartbeating=False,
        due=at + 1,
        owes_answer=True,
    )


def test_unwatched_it_is_asked_again_after_each_reconnect_only() -> None:
    bench = silent_again()
    bench.run(CALLED_OFF)
    came = bench.run(CALLED_OFF + 130.0)
    reconnect = Reconnect("connected, but no heartbeat for 120 s (unwatched)")
    assert came[:2] == [
        (CALLED_OFF + 1.0, challenge(8)),
        (CALLED_OFF + 120.0, reconnect),
    ]
    bench = silent_again()
    bench.run(CALLED_OFF + 120.0)
    bench.expect(bench.beat.closed("the host closed it"), [], connected=False, due=math.inf)
    bench.skip(bench.at(430.0).open())
    assert bench.run(540.0) == [(431.0, challenge(10))]
    assert bench.beat.state is S.UNWATCHED


@pytest.mark.parametrize("by", ["an answer", "a late answer", "an init", "a new connection"])
def test_whatever_is_heard_of_an_unwatched_one_brings_it_back(by: str) -> None:
    bench = silent_again()
    bench.run(CALLED_OFF + (0.5 if by == "an answer" else 50.0))
    match by:
        case "a late answer":
            bench.skip(bench.answer_challenge(8))
        case "an init":
            bench.skip(bench.send_init())
        case "a new connection":
            bench.skip(bench.beat.closed("reset"))
            bench.skip(bench.open())
    bench.skip(bench.at(bench.now + 0.25).tick() if bench.beat.due <= bench.now else ())
    effects = bench.skip(bench.answer_challenge())
    assert bench.beat.state is S.HEARTBEATING
    assert [type(effect) for effect in effects] == [Heartbeating]
    assert [kind for _, kind in lost_at(bench, 600.0)] == [Lost]


@pytest.mark.parametrize("ends", [end_notice, enabled, called_off])
def test_said_to_run_an_unwatched_one_is_challenged(
    ends: Callable[[HeartbeatBench], object],
) -> None:
    bench = silent_again()
    bench.run(350.0)
    assert bench.beat.state is S.UNWATCHED
    # What did not happen says nothing of how long the VM may be silent now.
    window = () if ends is called_off else (OpenRestart(121.0),)
    assert ends(bench) == (challenge(9), *window)
    assert bench.beat.state is S.RETURNING


def test_falling_silent_around_the_call_off_time_is_an_alarm_at_once() -> None:
    """It was answering shortly before, and has not since: neither suspended nor lost."""
    bench = provisional()
    bench.run(CALLED_OFF - 2.0, answers=True)
    came = reports(bench.run(CALLED_OFF + 60.0))
    assert [type(effect) for _, effect in came] == [Stopped, Unwatched]
    assert came[1][1] == Unwatched(AGAIN)
    assert bench.beat.state is S.UNWATCHED


def test_the_challenge_on_its_way_at_the_call_off_time_has_its_time() -> None:
    bench = silent_again()
    bench.run(CALLED_OFF - 0.5)
    bench.skip(bench.answer_challenge(6))
    assert bench.beat.owes_answer
    assert lost_at(bench, CALLED_OFF + 0.4) == []
    bench.skip(bench.answer_challenge())
    assert bench.beat.state is S.HEARTBEATING


def test_one_that_is_always_late_is_unwatched_too() -> None:
    bench = silent_again()
    bench.run(CALLED_OFF - 2.5)
    for _ in range(4):
        missed = bench.last - bench.beat.owes_answer
        assert Note in map(type, bench.skip(bench.answer_challenge(missed)))
        bench.run(bench.now + 1.0)
    assert bench.beat.state is S.UNWATCHED


def test_a_host_that_is_late_raises_no_alarm() -> None:
    bench = silent_again()
    bench.at(CALLED_OFF + 5.0)
    bench.expect(bench.tick(late=True), [], due=CALLED_OFF + 6.0)
    bench.at(CALLED_OFF + 6.0)
    assert [type(effect) for effect in bench.tick()] == [Unwatched, SendToGuest]


def test_without_a_connection_it_is_an_alarm_too() -> None:
    bench = provisional()
    bench.skip(bench.beat.closed("reset"))
    bench.expect(
        bench.at(CALLED_OFF).tick(),
        [Unwatched(AGAIN)],
        state=S.UNWATCHED,
        reason=AGAIN,
        due=math.inf,
    )


def test_one_that_never_came_back_is_no_alarm() -> None:
    bench = suspended()
    assert reports(bench.run(86_400.0)) == []
    assert bench.beat.state is S.SUSPENDED
