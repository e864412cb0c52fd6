"""A hold on a host's alarms, and what is decided for the host: whole states after every step."""

from __future__ import annotations

from collections.abc import Set
from datetime import UTC, datetime, timedelta
from itertools import product

import attrs
import pytest

from hbtrio.fsm.alarm_hold import HOLD_TABLE, SETTLE_S, AlarmHold, HoldEvent, HoldState
from hbtrio.fsm.host_alarms import (
    EndHold,
    HostAlarms,
    LetGo,
    RaiseHostAlarm,
    ReportReturn,
    ReportSettling,
    WithdrawAlarm,
)
from hbtrio.fsm.table import IllegalEvent
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vocabulary import Health
from support.scripted_host import INSTANCE

HOST = "compute-0"
T0 = datetime(2025, 1, 1, tzinfo=UTC)
WAITING, SETTLING, DUE, ENDING, OVER = HoldState
A, B, C, D = "abcd"
WELL = INSTANCE
LOST = attrs.evolve(INSTANCE, heartbeating=False, state="lost")
ILL = attrs.evolve(INSTANCE, health=Health.UNHEALTHY)


def whole(hold: AlarmHold) -> tuple[HoldState, Set[str] | None, float | None, str]:
    return hold.state, hold.lost, hold.due_at, hold.settle_reason


def hold(*lost: str) -> AlarmHold:
    return AlarmHold(HOST, T0, "3 of 3 instances failed at once", set(lost) or None)


# -- one hold -------------------------------------------------------------------------------------


def test_from_the_alarm_to_the_release() -> None:
    one = hold(A, B)
    assert whole(one) == (WAITING, {A, B}, None, "")
    assert one.recovered("back", 100.0)
    assert whole(one) == (SETTLING, {A, B}, 100.0 + SETTLE_S, "back")
    # Others that are back change nothing: their time is counted from the first.
    assert not one.recovered("left", 105.0)
    assert whole(one) == (SETTLING, {A, B}, 100.0 + SETTLE_S, "back")
    one.time_over()
    assert (whole(one), one.in_force) == ((DUE, {A, B}, None, "back"), True)
    assert not one.recovered("back", 111.0)
    assert whole(one) == (DUE, {A, B}, None, "back")
    assert one.settled()
    assert (whole(one), one.in_force) == ((ENDING, {A, B}, None, "back"), False)
    one.ended()
    assert (whole(one), one.in_force) == ((OVER, {A, B}, None, "back"), False)
    assert not one.settled()
    assert not one.released()


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["waiting", "settling", "due"])
def test_a_link_that_drops_is_waited_for(steps: int) -> None:
    one = hold(A)
    if steps > 0:
        one.recovered("back", 0.0)
    if steps > 1:
        one.time_over()
    one.link_dropped()
    assert whole(one) == (WAITING, {A}, None, "")
    # The end that had begun finds that it is not due any more.
    assert not one.settled()
    assert one.recovered("back", 50.0)
    assert whole(one) == (SETTLING, {A}, 50.0 + SETTLE_S, "back")


def test_failures_behind_a_link_that_dropped_are_waited_for() -> None:
    one = hold()
    assert (one.concerns(A), one.concerns(C)) == (True, True)
    one.recovered("back", 0.0)
    one.more_failed({A, B})
    assert whole(one) == (WAITING, {A, B}, None, "")
    assert (one.concerns(A), one.concerns(C)) == (True, False)
    # Later ones join them, and what was heard of then stands.
    one.recovered("back", 1.0)
    one.more_failed({C})
    assert whole(one) == (SETTLING, {A, B, C}, 1.0 + SETTLE_S, "back")


def test_an_operator_need_not_wait() -> None:
    for steps in range(3):
        one = hold(A)
        if steps > 0:
            one.recovered("back", 0.0)
        if steps > 1:
            one.time_over()
        assert one.released()
        assert one.state is ENDING
        assert not one.released()
        assert one.state is ENDING


def test_a_store_that_fails() -> None:
    one = hold(A)
    assert one.released()
    one.end_failed(5.0, replaced=False)
    assert whole(one) == (WAITING, {A}, None, "")
    # An operator's try does not cost the others their time.
    one.recovered("back", 10.0)
    assert one.released()
    one.end_failed(11.0, replaced=False)
    assert whole(one) == (SETTLING, {A}, 10.0 + SETTLE_S, "back")
    # One that was due is again after a while, each time a longer one.
    for now, again in [(20.0, 21.0), (21.5, 23.5), (23.5, 27.5)]:
        one.time_over()
        assert one.settled()
        one.end_failed(now, replaced=False)
        assert whole(one) == (SETTLING, {A}, again, "back")
    # And begins anew behind a link that dropped.
    one.link_dropped()
    one.recovered("back", 30.0)
    one.time_over()
    assert one.settled()
    one.end_failed(30.0 + SETTLE_S, replaced=False)
    assert whole(one) == (SETTLING, {A}, 31.0 + SETTLE_S, "back")


def test_one_that_was_replaced_does_not_go_on() -> None:
    one = hold(A)
    assert one.released()
    one.end_failed(0.0, replaced=True)
    assert one.state is OVER


def test_nothing_is_left_to_one_that_is_being_ended() -> None:
    one = hold(A)
    one.released()
    for step in (one.link_dropped, one.time_over, lambda: one.recovered("back", 0.0)):
        with pytest.raises(IllegalEvent):
            step()
        assert whole(one) == (ENDING, {A}, None, "")


def test_only_the_store_ends_a_hold() -> None:
    over = {
        (state, event)
        for state, event in product(HoldState, HoldEvent)
        if HOLD_TABLE.rows[state].get(event) is OVER
    }
    assert over == {(ENDING, HoldEvent.ENDED), (ENDING, HoldEvent.END_FAILED_REPLACED)}


# -- a host ---------------------------------------------------------------------------------------


def host_with(*uuids: str, minimum: int = 3) -> HostAlarms:
    host = HostAlarms(HOST, 0.5, minimum)
    for uuid in uuids:
        assert host.instance_reported(uuid, WELL, 0.0) == ()
    return host


def fail(host: HostAlarms, *uuids: str, now: float, instance: Instance = LOST) -> None:
    """As a host daemon does it: first what has changed, then the reports."""
    for uuid in uuids:
        assert host.instance_reported(uuid, instance, now) == ()
    for uuid in uuids:
        failure = host.failed(uuid, T0 + timedelta(seconds=now), 1.0, now)
        assert failure is not None
        host.consider(failure, well=False, now=now)


def state(host: HostAlarms) -> tuple[HoldState | None, Set[str], float | None]:
    """Of its hold, whose failures are in question, and when it is to be looked at."""
    return host.hold and host.hold.state, set(host.in_question), host.due_at


def always(uuid: str) -> bool:
    return True


def held_back(*lost: str) -> tuple[HostAlarms, AlarmHold]:
    """A host of which all those failed at once, at the time 10."""
    host = host_with(*lost)
    fail(host, *lost, now=10.0)
    effects = host.due(11.0, T0, always)
    assert host.hold is not None
    assert effects == (RaiseHostAlarm(host.hold),)
    return host, host.hold


def test_a_single_failure_is_let_go_an_interval_later() -> None:
    host = host_with(A, B, C, D)
    assert state(host) == (None, set(), None)
    fail(host, A, now=10.0)
    assert state(host) == (None, {A}, 11.0)
    assert host.due(10.9, T0, always) == ()
    assert state(host) == (None, {A}, 11.0)
    assert host.due(11.0, T0, always) == (LetGo(A),)
    assert (state(host), host.is_idle) == ((None, set(), None), True)


def test_of_two_failures_of_an_instance_the_later_one_decides() -> None:
    host = host_with(A, B, C)
    fail(host, A, now=10.0)
    fail(host, A, now=10.5)
    assert host.due(11.0, T0, always) == ()
    assert state(host) == (None, {A}, 11.5)
    assert host.due(11.5, T0, always) == (LetGo(A),)


def test_too_many_at_once_are_the_hosts() -> None:
    host, hold = held_back(A, B, C)
    assert (hold.hostname, hold.since, hold.reason) == (HOST, T0, "3 of 3 instances failed at once")
    assert whole(hold) == (WAITING, {A, B, C}, None, "")
    assert state(host) == (WAITING, set(), None)


@pytest.mark.parametrize(("count", "held"), [(2, False), (3, True)])
def test_hosts_below_the_minimum_are_left_alone(count: int, held: bool) -> None:
    host = host_with(*"abc"[:count])
    assert host.instance_reported(A, LOST, 1.0) == ()
    failure = host.failed(A, T0, 1.0, 1.0)
    assert (failure is not None) is held
    host = host_with(*"abc"[:count])
    assert (host.link_dropped("reset", T0) != ()) is held


def test_those_of_which_no_alarm_is_wanted_do_not_count() -> None:
    host = host_with(A, B, C)
    fail(host, A, B, C, now=10.0)
    effects = host.due(11.0, T0, lambda uuid: uuid != B)
    assert host.hold is not None
    assert effects == (RaiseHostAlarm(host.hold),)
    assert (host.hold.lost, host.hold.reason) == ({A, C}, "2 of 3 instances failed at once")
    host = host_with(A, B, C)
    fail(host, A, B, C, now=10.0)
    assert host.due(11.0, T0, lambda uuid: False) == (LetGo(A), LetGo(B), LetGo(C))
    assert state(host) == (None, set(), None)


def test_one_that_is_back_in_time_takes_back_its_alarm() -> None:
    host = host_with(A, B, C)
    fail(host, A, B, C, now=10.0)
    for uuid in (A, B, C):
        assert host.instance_reported(uuid, WELL, 10.5) == (WithdrawAlarm(uuid),)
    assert host.due(11.0, T0, always) == (LetGo(A), LetGo(B), LetGo(C))
    assert state(host) == (None, set(), None)


def test_ill_health_is_not_being_back() -> None:
    host, hold = held_back(A, B, C)
    assert host.instance_reported(A, ILL, 50.0) == ()
    assert whole(hold) == (WAITING, {A, B, C}, None, "")


def test_the_first_that_is_back_begins_the_release() -> None:
    host, hold = held_back(A, B, C)
    assert host.instance_reported(D, WELL, 40.0) == (WithdrawAlarm(D),)
    assert state(host) == (WAITING, set(), None)
    withdrawn = WithdrawAlarm(A)
    assert host.instance_reported(A, WELL, 50.0) == (ReportReturn(), ReportSettling(), withdrawn)
    assert state(host) == (SETTLING, set(), 50.0 + SETTLE_S)
    assert host.instance_reported(A, WELL, 51.0) == (withdrawn,)
    assert host.due(50.0 + SETTLE_S - 0.1, T0, always) == ()
    assert host.due(50.0 + SETTLE_S, T0, always) == (EndHold(hold),)
    assert state(host) == (DUE, set(), None)
    assert host.due(99.0, T0, always) == ()
    assert hold.settled()
    host.ended(hold)
    assert state(host) == (None, set(), None)


def test_what_fails_meanwhile_is_held_and_waited_for() -> None:
    host, hold = held_back(A, B, C)
    # Below the minimum by now, which does not matter while alarms are held back.
    fail(host, D, now=60.0)
    assert state(host) == (WAITING, {D}, 61.0)
    assert host.due(61.0, T0, always) == ()
    assert whole(hold) == (WAITING, {A, B, C, D}, None, "")


def test_when_the_last_of_them_has_left_nobody_is_waited_for() -> None:
    host, hold = held_back(A, B, C)
    gone: set[str] = set()
    for uuid in (A, B):
        gone.add(uuid)
        assert host.left(uuid, 50.0, lambda one: one not in gone) == ()
    assert whole(hold) == (WAITING, {C}, None, "")
    assert host.left(C, 50.0, always) == (ReportSettling(),)
    assert whole(hold) == (
        SETTLING,
        None,
        50.0 + SETTLE_S,
        "the failed instances were moved or deleted",
    )
    assert host.left(D, 51.0, always) == ()


def test_a_link_that_drops() -> None:
    host = host_with(A, B, C)
    effects = host.link_dropped("reset", T0)
    hold = host.hold
    assert hold is not None
    assert effects == (RaiseHostAlarm(hold),)
    assert hold.reason == "its link dropped while 3 instances were heartbeating: reset"
    assert whole(hold) == (WAITING, None, None, "")
    # Any instance will do; and a second drop is the same alarm.
    assert host.instance_reported(C, WELL, 5.0)[:2] == (ReportReturn(), ReportSettling())
    assert host.link_dropped("reset", T0) == ()
    assert (host.hold, whole(hold)) == (hold, (WAITING, None, None, ""))


def test_a_mass_failure_behind_a_link_that_dropped_needs_one_of_the_failed() -> None:
    host = host_with(A, B, C, D)
    host.link_dropped("reset", T0)
    hold = host.hold
    assert hold is not None
    host.instance_reported(D, WELL, 20.0)
    assert hold.state is SETTLING
    fail(host, A, B, C, now=20.0)
    assert host.due(21.0, T0, always) == ()
    assert whole(hold) == (WAITING, {A, B, C}, None, "")
    host.instance_reported(D, WELL, 22.0)
    assert hold.state is WAITING


def test_a_host_that_is_held_anew_while_its_hold_is_being_ended() -> None:
    host, former = held_back(A, B, C)
    for uuid in (A, B, C):
        host.instance_reported(uuid, WELL, 50.0)
    assert former.released()
    effects = host.link_dropped("reset", T0)
    assert host.hold is not None
    assert host.hold is not former
    assert effects == (RaiseHostAlarm(host.hold),)
    host.end_failed(former, 51.0)
    assert (former.state, host.hold.state) == (OVER, WAITING)


def test_the_end_of_a_former_hold_leaves_the_new_one() -> None:
    host, former = held_back(A, B, C)
    for uuid in (A, B, C):
        host.instance_reported(uuid, WELL, 50.0)
    assert former.released()
    host.link_dropped("reset", T0)
    new = host.hold
    host.ended(former)
    assert (former.state, host.hold) == (OVER, new)


def test_instances_that_are_gone_do_not_count() -> None:
    host = host_with(A, B, C)
    assert host.instance_reported(C, None, 1.0) == ()
    assert host.link_dropped("reset", T0) == ()
    host = host_with(A, B, C)
    host.all_reported({A, B})
    assert host.link_dropped("reset", T0) == ()
    host = host_with(A, B, C)
    fail(host, A, B, C, now=10.0)
    host.all_reported(set())
    assert host.due(11.0, T0, always) == (LetGo(A), LetGo(B), LetGo(C))
