"""A run as a whole: latencies, words, the moments around a violation, and the result as a line."""

from __future__ import annotations

import inspect

import attrs
import pytest

from hbtrio.simulate import observations, order_observations
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.invariant import Bounds, Violation
from hbtrio.simulate.latencies import Latency
from hbtrio.simulate.observation_words import words_of
from hbtrio.simulate.observations import (
    Began,
    CarriedOut,
    CommandEnded,
    Condition,
    Crashed,
    Decided,
    Leftover,
    Measured,
    Notified,
    Observation,
    Over,
    ProcessStarted,
    Recorded,
    RejectArrived,
    Resource,
    Status,
    Struck,
    Verdict,
)
from hbtrio.simulate.order_observations import (
    DrainBegan,
    DrainEnded,
    HoldEnded,
    HoldSet,
    Planned,
    PlanStepped,
    Refused,
)
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.seed_result import Moment, SeedResult, from_line, to_line
from hbtrio.simulate.watch import AFTER_S, BEFORE_S, MOST_MOMENTS, Watch
from support.judged import action, asked, beating, command, during, loss

C = Condition


def watched(*stream: Observation, end_s: float = 400.0) -> SeedResult:
    watch = Watch(Bounds())
    for observation in stream:
        watch.see(observation)
    return watch.finish(end_s, seed=7)


def test_a_run_in_which_all_is_well() -> None:
    result = watched(
        *beating(),
        Struck(20, "hang-vm", "vm0"),
        Began(20, C.VM_HUNG, "vm0"),
        loss(23.5),
        asked(40, 50),
        Recorded(48, "r1", "accept"),
        Verdict(49.9, "r1", "accept"),
    )
    assert result == SeedResult(
        seed=7,
        faults={"hang-vm": 1},
        sightings={"a verdict within the last 250 ms of its window": 1},
        excused={"healthy-not-lost: disturbed": 1},
        detections=(Latency(3.5, 4.5),),
        verdicts=(Latency(pytest.approx(9.9), 10),),
    )
    assert not result.failed


def test_the_bound_of_a_detection_is_the_one_that_was_judged() -> None:
    stop = during(21, 31, C.STOPPED, "compute-0")
    result = watched(*beating(), Began(20, C.VM_HUNG, "vm0"), *stop, loss(40))
    assert result.detections == (Latency(20, 15 + 10),)


def test_a_loss_of_who_did_not_hang_is_no_detection() -> None:
    assert watched(loss(50)).detections == ()


def test_the_moments_are_those_around_the_first_violation() -> None:
    at_s = 200.0
    result = watched(
        *during(at_s - BEFORE_S - 2, at_s - BEFORE_S - 1, C.VM_PAUSED),
        Began(at_s - BEFORE_S - 0.5, C.LINK_DOWN, "compute-0"),
        ProcessStarted(at_s - BEFORE_S - 0.1, "compute-0"),
        ProcessStarted(at_s - BEFORE_S + 0.1, "agent"),
        Over(at_s - 5, C.LINK_DOWN, "compute-0"),
        Began(at_s - 1, C.VM_HUNG, "vm3"),
        loss(at_s),
        ProcessStarted(at_s + AFTER_S - 0.1, "agent"),
        ProcessStarted(at_s + AFTER_S + 0.1, "compute-1"),
    )
    assert result.violations == (
        Violation(at_s, "healthy-not-lost", "vm0 is well and reported lost"),
    )
    assert result.moments == (
        Moment(at_s - BEFORE_S - 0.5, "compute-0", C.LINK_DOWN.value, at_s - 5),
        Moment(at_s - BEFORE_S + 0.1, "agent", "started"),
        Moment(at_s - 1, "vm3", "it hangs for good", at_s + AFTER_S),
        Moment(at_s, "vm0", "compute-0 reports loss"),
        Moment(at_s + AFTER_S - 0.1, "agent", "started"),
    )


def test_the_moments_have_a_bound() -> None:
    many = [ProcessStarted(150 + n / 1000, "agent") for n in range(MOST_MOMENTS + 50)]
    result = watched(*many, loss(160))
    assert len(result.moments) == MOST_MOMENTS
    assert result.moments[-1].who == "vm0"


def test_a_result_is_one_line_and_reads_back_the_same() -> None:
    fault = Fault(at_s=31.25, kind=Kind.STOP_AGENT_AT_WINDOW_END, for_s=0.1, window_end_s=0.2)
    schedule = Schedule(seed=7, minutes=8.0, vms=4, hosts=2, faults=(fault,))
    result = attrs.evolve(watched(loss(50)), digest="ab", cpu_s=0.55, schedule=schedule)
    assert result.failed
    assert to_line(result).count(b"\n") == 1
    assert from_line(to_line(result)) == result


def test_a_result_without_a_run_has_failed() -> None:
    assert SeedResult(seed=1, error="died").failed


EVERY: list[tuple[Observation, str, str]] = [
    (Struck(1, "kill-host", "compute-0"), "compute-0", "fault: kill-host"),
    (Began(1, C.VM_HUNG, "vm0"), "vm0", "it hangs for good"),
    (Over(1, C.VM_HUNG, "vm0"), "vm0", "over: it hangs for good"),
    (beating()[0], "vm0", "runs on compute-0"),
    (ProcessStarted(1, "agent"), "agent", "started"),
    (Crashed(1, "agent", "KeyError"), "agent", "programming error: KeyError"),
    (Leftover(1, "agent", Resource.CHILD, "virsh", 0), "agent", "still there: child process virsh"),
    (Measured(1, "agent", "reports", 3, 9), "agent", "holds 3 reports"),
    (Status(1, "vm0", True), "vm0", "well in the end"),
    (Status(1, "vm0", False, "lost"), "vm0", "not well in the end: lost"),
    (loss(1), "vm0", "compute-0 reports loss"),
    (
        observations.Reported(1, "compute-0", "vm0", "not-acted", "brake"),
        "vm0",
        "compute-0 reports not-acted (brake)",
    ),
    (asked(1, 9), "vm0", "the VIM asks for a vote about stop (r1)"),
    (asked(1, 9, vote=False), "vm0", "the VIM asks for a notice about stop (r1)"),
    (RejectArrived(1, "agent", "r1"), "agent", "a reject of r1 arrives"),
    (Decided(1, "agent", "r1", "accept"), "agent", "decides r1: accept"),
    (Decided(1, "agent", "r1", "accept", True), "agent", "decides r1: accept, overridden"),
    (Verdict(1, "r1", "reject"), "agent", "its verdict about r1 arrives: reject"),
    (Recorded(1, "r1", "reject"), "agent", "history: r1 reject"),
    (Notified(1, "vm0", "stop", "a1"), "vm0", "is told of stop"),
    (action(1), "vm0", "an action of the VIM begins (a1)"),
    (observations.ActionEnded(1, "a1"), "agent", "action a1 is over"),
    (command(1), "vm0", "command reboot to correct a failure begins (c1)"),
    (CommandEnded(1, "c1", "failed"), "agent", "command c1: failed"),
    (CarriedOut(1, "compute-0", "r1", 2), "compute-0", "carries out r1"),
    (
        observations.Grouped(1, "compute-0", 2, 30),
        "compute-0",
        "at most 2 of its instances may be unavailable",
    ),
    (
        observations.Grouped(1, "agent", 1, 30, ("vm0", "vm1")),
        "agent",
        "at most 1 of vm0, vm1 may be unavailable",
    ),
    (HoldSet(1, "vm0", "compute-0", 60), "vm0", "compute-0 holds it until 60.000 s"),
    (
        HoldSet(1, "vm0", "compute-0", 60, stored=False),
        "vm0",
        "compute-0 holds it until 60.000 s, not stored",
    ),
    (HoldEnded(1, "vm0"), "vm0", "its hold is ended"),
    (HoldEnded(1, "vm0", certain=False), "vm0", "is to be held no more"),
    (
        DrainBegan(1, "d1", "compute-0", 2),
        "compute-0",
        "drain d1 begins, at most 2 at once",
    ),
    (DrainEnded(1, "d1", "drained"), "operators", "drain d1 is over: drained"),
    (
        Planned(1, "p1", "vm0", "compute-0", 5, 9),
        "vm0",
        "p1 is planned for 5.000 to 9.000 s",
    ),
    (PlanStepped(1, "p1", "asked"), "operators", "plan p1: asked"),
    (PlanStepped(1, "p1", "skipped", "busy"), "operators", "plan p1: skipped, busy"),
    (Refused(1, "compute-0", "r1"), "compute-0", "refuses r1, which came too late"),
]


@pytest.mark.parametrize(("observation", "who", "text"), EVERY)
def test_an_observation_in_words(observation: Observation, who: str, text: str) -> None:
    words = words_of(observation)
    assert (words.who, words.text) == (who, text)


def test_there_are_words_for_every_class() -> None:
    classes = {
        one
        for module in (observations, order_observations)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, Observation) and one is not Observation
    }
    assert {type(row[0]) for row in EVERY} == classes
    with pytest.raises(TypeError, match="no words for"):
        words_of(Observation(1))
