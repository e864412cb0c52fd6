"""Operators who act through the agent, beside the VIM."""

from __future__ import annotations

import pytest

from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.observations import (
    AGENT,
    ActionBegan,
    ActionEnded,
    Asked,
    CommandBegan,
    Decided,
    Notified,
    Observation,
    Owner,
    Purpose,
    Recorded,
    Verdict,
)
from hbtrio.simulate.order_observations import (
    DrainBegan,
    DrainEnded,
    HoldEnded,
    HoldSet,
    Planned,
)
from hbtrio.simulate.scenario import Scenario
from hbtrio.simulate.schedule import Schedule

UNTIL_S = 280.0


@pytest.fixture(scope="module")
def seen() -> list[Observation]:
    """What is observed in a quiet fleet with an agent."""
    seen: list[Observation] = []
    Fleet(Schedule(seed=4, minutes=8.0, vms=4, hosts=2), seen.append).run(UNTIL_S)
    return seen


def requests_of(owner: Owner, seen: list[Observation]) -> set[str]:
    return {one.request for one in seen if isinstance(one, Asked) and one.owner is owner}


def test_both_act(seen: list[Observation]) -> None:
    began = [one for one in seen if isinstance(one, ActionBegan)]
    assert {one.owner for one in began} == set(Owner)
    ended = {one.action for one in seen if isinstance(one, ActionEnded)}
    by_operators = {one.action for one in began if one.owner is Owner.OPERATOR}
    assert len(by_operators & ended) > 2
    commands = [one for one in seen if isinstance(one, CommandBegan)]
    assert {one.purpose for one in commands} == {Purpose.ACTION}


def test_who_has_asked_is_told_apart(seen: list[Observation]) -> None:
    """The agent decides for the VIM and about questions, a host about votes of its actions."""
    answered = {one.request for one in seen if isinstance(one, Verdict)}
    recorded = {one.request for one in seen if isinstance(one, Recorded)}
    assert requests_of(Owner.VIM, seen) & requests_of(Owner.OPERATOR, seen) == set()
    for prefix, agent_decides in (("vim-", True), ("ask-", True), ("op-", False)):
        asked = {one for one in answered if one.startswith(prefix)}
        assert len(asked) > 2
        assert asked <= recorded
        deciders = {
            one.process for one in seen if isinstance(one, Decided) and one.request in asked
        }
        assert (AGENT in deciders) == agent_decides
        assert any(one.startswith("compute") for one in deciders)


def test_a_guest_is_told_of_whose_action_it_is(seen: list[Observation]) -> None:
    began = {one.action: one for one in seen if isinstance(one, ActionBegan)}
    all_told = [one for one in seen if isinstance(one, Notified)]
    told = [one for one in all_told if one.action]  # of a drain it may be heard later
    assert len(told) > 0.8 * len(all_told)
    assert {began[one.action].owner for one in told} == set(Owner)
    assert all(began[one.action].instance == one.instance for one in told)


def test_holds_are_set_and_over(seen: list[Observation]) -> None:
    holds = [one for one in seen if isinstance(one, HoldSet)]
    assert len({one.instance for one in holds}) > 1
    assert all(one.stored for one in holds)
    ended = [one for one in seen if isinstance(one, HoldEnded) and one.certain]
    assert 0 < len(ended) < len(holds)


def test_the_agent_drains_its_hosts_and_plans(seen: list[Observation]) -> None:
    drains = {one.drain: one for one in seen if isinstance(one, DrainBegan)}
    plans = {one.plan: one for one in seen if isinstance(one, Planned)}
    assert {one.host for one in drains.values()} >= {AGENT}
    assert {one.site for one in plans.values()} == {AGENT}
    assert plans.keys() < drains.keys()
    ended = {one.drain for one in seen if isinstance(one, DrainEnded)}
    assert ended <= drains.keys()
    assert len(ended) > len(drains) / 2
    acted = {one.action.partition(" ")[0] for one in seen if isinstance(one, ActionBegan)}
    assert acted & plans.keys()
    assert acted & (drains.keys() - plans.keys())


def test_in_a_scenario_one_alone_acts() -> None:
    seen: list[Observation] = []
    schedule = Schedule(seed=1, minutes=4.0, vms=2, hosts=2, scenario=Scenario.MIGRATE)
    Fleet(schedule, seen.append).run(30.0)
    assert [one.owner for one in seen if isinstance(one, ActionBegan)] == [Owner.VIM]
