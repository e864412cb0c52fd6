"""Short scenarios, with each daemon killed before each of its task steps and at each effect."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from hbtrio.simulate.every_step import cases, schedule_of
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.observations import (
    AGENT,
    REJECT,
    ActionEnded,
    CommandBegan,
    CommandEnded,
    Observation,
    Placed,
    Verdict,
)
from hbtrio.simulate.order_observations import DrainBegan, DrainEnded
from hbtrio.simulate.run import run_schedule
from hbtrio.simulate.scenario import SCENARIO_S, Scenario
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.schedule_file import from_text, to_text

#: Tests among which the kills of a scenario are divided, so that workers share them.
PARTS = 8

#: A migration has five times as many as a vote, and those of a drain take longer: all are in
#: `hbtrio simulate --every-step migrate`, `--every-step drain` and `--every-step fleet-drain`.
EACH = {
    Scenario.VOTE: 1,
    Scenario.ACT: 1,
    Scenario.MIGRATE: 12,
    Scenario.DRAIN: 20,
    Scenario.FLEET_DRAIN: 60,
}

cases_of = cache(cases)


def seen_in(scenario: Scenario) -> list[Observation]:
    """What is observed of it without a kill."""
    seen: list[Observation] = []
    Fleet(schedule_of(scenario), seen.append).run(60.0)
    return [one for one in seen if one.at_s >= SCENARIO_S]


def test_in_a_vote_the_vm_rejects() -> None:
    [verdict] = [one for one in seen_in(Scenario.VOTE) if isinstance(one, Verdict)]
    assert verdict.result == REJECT


def test_in_an_act_the_vm_is_rebooted() -> None:
    seen = seen_in(Scenario.ACT)
    assert [one.outcome for one in seen if isinstance(one, CommandEnded)] == ["done"]
    assert len([one for one in seen if isinstance(one, ActionEnded)]) == 1


def test_in_a_migration_the_vm_moves() -> None:
    seen = seen_in(Scenario.MIGRATE)
    assert [one.host for one in seen if isinstance(one, Placed)] == ["compute-1"]
    assert [one.result for one in seen if isinstance(one, Verdict)] == [
        "allow",
        "proceed",
        "proceed",
    ]


def test_in_a_drain_one_vm_after_the_other_is_rebooted() -> None:
    seen = seen_in(Scenario.DRAIN)
    commands = [one for one in seen if isinstance(one, CommandBegan | CommandEnded)]
    assert [getattr(one, "instance", "") for one in commands] == ["vm0", "", "vm1", ""]
    assert [one.outcome for one in commands if isinstance(one, CommandEnded)] == ["done"] * 2
    [began] = [one for one in seen if isinstance(one, DrainBegan)]
    assert began.most == 1
    assert [one.outcome for one in seen if isinstance(one, DrainEnded)] == ["drained"]


def test_in_a_drain_by_an_agent_the_vm_of_one_host_is_rebooted_after_that_of_the_other() -> None:
    seen = seen_in(Scenario.FLEET_DRAIN)
    commands = [one for one in seen if isinstance(one, CommandBegan | CommandEnded)]
    assert [getattr(one, "host", "") for one in commands] == ["compute-0", "", "compute-1", ""]
    [began] = [one for one in seen if isinstance(one, DrainBegan)]
    assert began.host == AGENT
    assert [one.outcome for one in seen if isinstance(one, DrainEnded)] == ["drained"]


@pytest.mark.parametrize("scenario", list(Scenario))
def test_every_step_and_effect_of_every_daemon_has_its_kill(scenario: Scenario) -> None:
    numbers: dict[tuple[Kind, int], list[int]] = {}
    for case in cases_of(scenario):
        [fault] = case.faults
        assert fault.at_s == SCENARIO_S
        number = fault.step if fault.effect is None else fault.effect
        assert number is not None
        numbers.setdefault((fault.kind, fault.who), []).append(number)
    for found in numbers.values():
        assert found == list(range(1, len(found) + 1))
    kinds = Counter(kind for kind, _ in numbers)
    agent = {Kind.KILL_AGENT_AT_STEP: 1, Kind.KILL_AGENT_AT_EFFECT: 1}
    assert kinds == {
        Kind.KILL_GUEST_AT_STEP: scenario.vms,
        Kind.KILL_HOST_AT_STEP: scenario.hosts,
        Kind.KILL_HOST_AT_EFFECT: scenario.hosts,
        **(agent if scenario.has_agent else {}),
    }


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scenario", list(Scenario))
def test_a_kill_at_any_step_violates_nothing(scenario: Scenario, part: int) -> None:
    mine = cases_of(scenario)[:: EACH[scenario]][part::PARTS]
    assert mine
    struck = 0
    for case in mine:
        result = run_schedule(case)
        assert (result.violations, case.faults) == ((), case.faults)
        struck += sum(result.faults.values())
    # The first steps come at other times than in the run without a kill only if it is another run.
    assert struck == len(mine)


def test_a_scenario_is_part_of_its_file() -> None:
    case = cases_of(Scenario.VOTE)[0]
    assert from_text(to_text(case), "f") == case
    plain = Schedule(seed=1, minutes=1.0, vms=1, hosts=1)
    assert "scenario" not in to_text(plain)
