"""Many failures at once are the host's: one alarm, no action."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.policy.mass_failure import Failure, FailureVerdict, MassFailures

ACT, HOLD, ALARM = FailureVerdict.ACT, FailureVerdict.HOLD, FailureVerdict.HOLD_AND_ALARM


def verdicts(rule: MassFailures, failures: list[Failure]) -> list[FailureVerdict]:
    """Notes all, then judges each in the order in which its interval of reflection ends."""
    due = [(rule.note(failure), number) for number, failure in enumerate(failures)]
    return [rule.judge(failures[number]) for _, number in sorted(due)]


def burst(times: list[float], *, total: int, interval_s: float = 1.0) -> list[Failure]:
    """One failure of another instance at each of the times; ``total`` were heartbeating before."""
    return [Failure(f"vm{n}", at, interval_s, total - n) for n, at in enumerate(times)]


def test_a_failure_is_judged_one_interval_later() -> None:
    rule = MassFailures(0.5, 3)
    assert rule.note(Failure("vm1", 10.0, 0.5, 9)) == 10.5


def test_a_single_failure_is_acted_upon() -> None:
    rule = MassFailures(0.5, 3)
    assert verdicts(rule, [Failure("vm1", 10.0, 1.0, 10)]) == [ACT]
    assert (rule.held, rule.alarms) == (0, 0)


@pytest.mark.parametrize(
    ("failed", "expected"),
    [(5, [ACT] * 5), (6, [ALARM] + [HOLD] * 5), (10, [ALARM] + [HOLD] * 9)],
)
def test_up_to_the_share_is_acted_upon_and_above_it_nobody_is(
    failed: int, expected: list[FailureVerdict]
) -> None:
    rule = MassFailures(0.5, 3)
    assert verdicts(rule, burst([100.0] * failed, total=10)) == expected
    assert rule.held == len(expected) - expected.count(ACT)
    assert rule.alarms == expected.count(ALARM)


@pytest.mark.parametrize(("total", "held"), [(2, 0), (3, 3)])
def test_with_few_instances_nothing_is_held_back(total: int, held: int) -> None:
    rule = MassFailures(0.5, 3)
    verdicts(rule, burst([1.0] * total, total=total))
    assert rule.held == held


def test_one_instance_that_fails_again_and_again_counts_once() -> None:
    rule = MassFailures(0.5, 3)
    again = [Failure("vm1", 1.0 + n / 10, 1.0, 4) for n in range(8)]
    assert verdicts(rule, again) == [ACT] * 8


@pytest.mark.parametrize(("gap", "expected"), [(1.0, [ALARM, HOLD, HOLD]), (1.25, [ACT, ACT, ACT])])
def test_failures_one_interval_apart_belong_together_and_further_apart_do_not(
    gap: float, expected: list[FailureVerdict]
) -> None:
    rule = MassFailures(0.5, 3)
    times = [10.0, 10.0 + gap, 10.0 + gap]
    assert verdicts(rule, burst(times, total=5)) == expected


def test_the_longer_of_two_intervals_says_what_is_near() -> None:
    rule = MassFailures(0.5, 3)
    slow = Failure("slow", 10.0, 30.0, 4)
    quick = [Failure("a", 20.0, 1.0, 3), Failure("b", 35.0, 1.0, 2)]
    # a and b are near to slow, not to each other: two of four each. Near to slow are all three.
    assert verdicts(rule, [slow, *quick]) == [ACT, ACT, ALARM]
    assert (rule.held, rule.alarms) == (1, 1)


def test_slow_instances_that_failed_before_count_against_a_quick_one() -> None:
    rule = MassFailures(0.5, 3)
    slow = [Failure("slow1", 10.0, 30.0, 4), Failure("slow2", 15.0, 30.0, 3)]
    assert verdicts(rule, [*slow, Failure("quick", 30.0, 1.0, 2)]) == [ALARM, HOLD, HOLD]


def test_the_first_of_a_burst_knows_how_many_there_were() -> None:
    # Each later one sees fewer heartbeating instances, as the earlier ones have left them.
    rule = MassFailures(0.5, 3)
    late = [Failure("a", 1.0, 1.0, 100), Failure("b", 1.0, 1.0, 4), Failure("c", 1.0, 1.0, 3)]
    assert verdicts(rule, late) == [ACT, ACT, ACT]


def test_stragglers_belong_to_the_incident_and_a_new_incident_alarms_again() -> None:
    rule = MassFailures(0.5, 3)
    first = burst([10.0, 10.0, 10.25, 10.5], total=6)
    straggler = Failure("late", 11.0, 1.0, 2)
    assert verdicts(rule, [*first, straggler]) == [ALARM, HOLD, HOLD, HOLD, HOLD]
    assert (rule.held, rule.alarms) == (5, 1)
    assert verdicts(rule, [Failure("vm1", 60.0, 1.0, 6)]) == [ACT]
    assert verdicts(rule, burst([90.0] * 4, total=6)) == [ALARM, HOLD, HOLD, HOLD]
    assert (rule.held, rule.alarms) == (9, 2)


def test_judged_in_any_order_one_incident_stays_one() -> None:
    rule = MassFailures(0.5, 3)
    early = [Failure(f"a{n}", at, 1.0, 6) for n, at in enumerate([48.5, 48.5, 48.5, 49.5])]
    later = [Failure(f"b{n}", at, 1.0, 6) for n, at in enumerate([50.0, 50.0, 51.0, 51.0])]
    for failure in (*early, *later):
        rule.note(failure)
    judged = (later[3], early[0], later[2], early[1])
    assert [rule.judge(failure) for failure in judged] == [ALARM, HOLD, HOLD, HOLD]
    assert (rule.held, rule.alarms) == (4, 1)


def test_what_is_long_past_is_forgotten() -> None:
    rule = MassFailures(0.5, 3)
    rule.note(Failure("old", 0.0, 700.0, 3))
    rule.note(Failure("older", 0.0, 700.0, 3))
    rule.note(Failure("new", 600.5, 700.0, 3))
    assert rule.judge(Failure("new", 600.5, 700.0, 3)) is ACT


@settings(deadline=None)  # a shared machine may be slow
@given(
    st.lists(st.integers(0, 80), min_size=1, max_size=30).map(sorted),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.integers(1, 60),
)
def test_no_more_than_the_share_is_ever_acted_upon_within_an_interval(
    quarters: list[int], share: float, total: int
) -> None:
    rule = MassFailures(share, 3)
    failures = [Failure(f"vm{n}", q / 4, 1.0, total) for n, q in enumerate(quarters)]
    found = verdicts(rule, failures)
    acted = [failure.at for failure, verdict in zip(failures, found, strict=True) if verdict is ACT]
    assert rule.held == len(found) - len(acted)
    assert rule.alarms == found.count(ALARM)
    if total >= 3:
        for at in acted:
            assert sum(at <= other <= at + 1.0 for other in acted) <= share * total
    else:
        assert len(acted) == len(failures)
