"""Plans: when their guests are asked, and what becomes of their rejects."""

from __future__ import annotations

import pytest

from hbtrio.simulate.invariants.plans import FORCED_S
from hbtrio.simulate.observations import (
    AGENT,
    CommandEnded,
    Condition,
    Observation,
    Placed,
    ProcessStarted,
    Purpose,
    Struck,
)
from hbtrio.simulate.order_observations import DrainEnded, Planned, PlanStepped
from support.judged import FINE, VIOLATED, command, during, judged

C = Condition
HERE = Placed(1, "vm0", "compute-0")
PLAN = Planned(40, "p1", "vm0", "compute-0", 50, 60)
BY_AGENT = Planned(40, "p1", "vm0", AGENT, 50, 60)
DUE_S = 60 + FORCED_S
OVER = DrainEnded(65, "p1", "drained")


def step(at_s: float, state: str, reason: str = "") -> PlanStepped:
    return PlanStepped(at_s, "p1", state, reason)


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([step(50, "asked"), step(51, "told"), OVER], FINE),
        ([step(49.997, "asked"), OVER], FINE),  # the clocks of both differ by the way
        ([step(49.99, "asked"), OVER], VIOLATED),
        ([step(41, "waiting"), OVER], FINE),
        ([Struck(39, "step-host-clock", "compute-0"), step(49, "asked"), OVER], VIOLATED),
    ],
)
def test_it_asks_from_its_first_time_on(stream: list[Observation], outcome: str) -> None:
    before = [one for one in stream if one.at_s < PLAN.at_s]
    assert judged("plan-kept", HERE, *before, PLAN, *stream[len(before) :]).outcome == outcome


def test_a_clock_that_is_set_moves_its_times() -> None:
    clock = Struck(45, "step-host-clock", "compute-0")
    assert judged("plan-kept", HERE, PLAN, clock, step(46, "asked"), OVER).outcome == "clock-set"
    assert judged("plan-kept", HERE, PLAN, clock).outcome == "clock-set"


@pytest.mark.parametrize("state", ["waiting", "asked", "rejected", "blocked"])
def test_at_its_second_time_it_is_not_put_off_any_more(state: str) -> None:
    asks = step(55, state, "busy")
    assert judged("plan-kept", HERE, PLAN, asks).outcome == VIOLATED
    assert judged("plan-kept", HERE, PLAN, asks, end_s=DUE_S - 0.1).outcome == FINE
    assert judged("plan-kept", HERE, PLAN, asks, step(DUE_S - 0.1, "told")).outcome == FINE
    ended = DrainEnded(DUE_S - 0.1, "p1", "cancelled")
    assert judged("plan-kept", HERE, PLAN, asks, ended).outcome == FINE


def test_it_is_not_given_up_for_a_reject() -> None:
    asks = step(55, "asked")
    given_up = step(61, "skipped", "rejected: busy")
    assert judged("plan-kept", HERE, PLAN, asks, given_up, OVER).outcome == VIOLATED
    blocked = step(61, "skipped", "blocked: its group")
    assert judged("plan-kept", HERE, PLAN, asks, blocked, OVER).outcome == FINE


@pytest.mark.parametrize(
    ("plan", "condition", "who", "outcome"),
    [
        (PLAN, C.STOPPED, "compute-0", "site-away"),
        (PLAN, C.DOWN, "compute-0", "site-away"),
        (PLAN, C.DISK_BAD, "compute-0", "site-away"),
        (PLAN, C.DOWN, "compute-1", VIOLATED),
        (PLAN, C.DOWN, AGENT, VIOLATED),
        (BY_AGENT, C.DOWN, AGENT, "site-away"),
        (BY_AGENT, C.LINK_DOWN, "compute-0", "site-away"),
        (BY_AGENT, C.LINK_DOWN, "compute-1", VIOLATED),
    ],
)
def test_who_carries_it_out_may_be_away(
    plan: Planned, condition: Condition, who: str, outcome: str
) -> None:
    away = during(62, 63, condition, who)
    assert judged("plan-kept", HERE, plan, step(55, "rejected"), *away).outcome == outcome


@pytest.mark.parametrize(("who", "outcome"), [("compute-0", "site-away"), ("compute-1", VIOLATED)])
def test_whoever_ends_in_order_takes_no_turn(who: str, outcome: str) -> None:
    ends = Struck(55.5, "restart-host", who)
    asks = step(55, "blocked")
    assert judged("plan-kept", HERE, PLAN, asks, ends).outcome == outcome
    back = ProcessStarted(57, who)
    assert judged("plan-kept", HERE, PLAN, asks, ends, back).outcome == VIOLATED


def test_it_waits_for_a_corrective_command() -> None:
    asks = step(55, "asked")
    runs = command(58), CommandEnded(61, "c1", "done")
    assert judged("plan-kept", HERE, PLAN, asks, *runs).outcome == "command"
    assert judged("plan-kept", HERE, PLAN, asks, runs[0]).outcome == "command"
    earlier = command(56), CommandEnded(59, "c1", "done")
    assert judged("plan-kept", HERE, PLAN, asks, *earlier).outcome == VIOLATED
    own = command(58, purpose=Purpose.ACTION), CommandEnded(61, "c1", "done")
    assert judged("plan-kept", HERE, PLAN, asks, *own).outcome == VIOLATED
