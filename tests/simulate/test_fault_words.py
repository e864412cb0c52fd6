"""Faults in plain words: whom each strikes, when, for how long and what triggers it."""

from __future__ import annotations

import pytest

from hbtrio.simulate.fault_kinds import KIND_RULES, Kind
from hbtrio.simulate.fault_words import describe, ordinal
from hbtrio.simulate.schedule import Fault, Schedule

FLEET = Schedule(seed=1, minutes=8.0, vms=4, hosts=2)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            Fault(at_s=31.25, kind=Kind.STOP_HOST, who=3, for_s=2.5),
            "31.25 s: the daemon of compute-1 is stopped (SIGSTOP) for 2.5 s",
        ),
        (
            Fault(at_s=40, kind=Kind.KILL_AGENT_AT_EFFECT, for_s=3, effect=12),
            "40 s: the daemon of the agent is killed (SIGKILL) for 3 s, right after its 12th "
            "effect from then on",
        ),
        (
            Fault(at_s=40, kind=Kind.KILL_GUEST_AT_STEP, who=6, for_s=3, step=1),
            "40 s: the daemon of vm2 is killed (SIGKILL) for 3 s, before its 1st task step from "
            "then on",
        ),
        (
            Fault(at_s=40, kind=Kind.STOP_AGENT_AT_WINDOW_END, for_s=1, window_end_s=0.2),
            "40 s: the daemon of the agent is stopped (SIGSTOP) for 1 s, until 0.2 s before the "
            "end of the next window",
        ),
        (
            Fault(at_s=40, kind=Kind.STEP_HOST_CLOCK, who=1, by_s=-60),
            "40 s: the wall clock of compute-1 is set 60 s back",
        ),
        (Fault(at_s=40, kind=Kind.HANG_VM, who=999), "40 s: vm3 hangs for good"),
        (
            Fault(at_s=40, kind=Kind.VIM_SILENT, for_s=5),
            "40 s: the VIM takes requests and never answers for 5 s",
        ),
    ],
)
def test_a_fault_says_what_happens(fault: Fault, words: str) -> None:
    assert describe(fault, FLEET) == words


def test_all_that_a_seed_draws_can_be_described() -> None:
    for seed in range(40):
        schedule = Schedule(seed=seed, minutes=8.0, vms=4, hosts=2).drawn()
        for fault in schedule.faults:
            assert "{" not in describe(fault, schedule)


def test_no_two_kinds_of_the_same_trigger_have_the_same_words() -> None:
    rows = [(rule.words, rule.trigger, rule.target) for rule in KIND_RULES.values()]
    orderly = [Kind.RESTART_GUEST, Kind.RESTART_HOST, Kind.RESTART_AGENT]
    assert len(set(rows)) == len(rows)
    assert {KIND_RULES[kind].words for kind in orderly} == {
        "the daemon of {who} is ended in order (SIGTERM)"
    }


def test_ordinals() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 22, 100, 111, 113)
    assert " ".join(map(ordinal, numbers)) == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 100th 111th 113th"
    )
