"""A host asks its agent's groups before it acts by itself; without an answer it acts anyhow."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.agent_places import ANSWER_S
from hbtrio.wire.link_messages import ActCommand, Instance, Welcome
from hbtrio.wire.link_places import PlaceAnswer, PlaceOver, PlaceRequest
from hbtrio.wire.vocabulary import ActionName, Event
from support.drain_cases import COMMANDS, over, plan, rejects, states
from support.fake_processes import FakeRun
from support.lines import members
from support.linked_host import Linked, ScriptedAgent, linked
from support.run_order import ORDERS, in_every_order

RUNS = {"virsh": FakeRun(delay_s=5.0), "migrate": FakeRun(delay_s=5.0)}
FULL = "group db: db-2 is restarting, at most 1 of 3 may be unavailable"


def agent_with_groups(denial: str | None = "") -> ScriptedAgent:
    """An agent that answers, or is silent."""
    agent = ScriptedAgent()
    agent.welcome = Welcome(1, "controller-0", 0, places=True)
    agent.denies = lambda _: denial
    return agent


def migrate(on: Linked, uuid: str, **options: Any) -> ActionRun:
    begin = on.world.host.begin_action
    return begin(uuid, ActionName.LIVE_MIGRATE, ("virsh",), force=True, who="uid 0", **options)


async def lines_of(action: ActionRun) -> list[dict[str, Any]]:
    return [members(line) async for line in action.progress()]


def acting(on: Linked) -> list[Event | None]:
    """What the agent was told to be in progress, without repetitions."""
    told = [one.acting for one in on.agent.of(Instance)]
    return [one for at, one in enumerate(told) if at == 0 or told[at - 1] != one]


@pytest.mark.usefixtures("autojump_clock")
class TestAnAction:
    async def test_takes_a_place_and_tells_when_it_is_over(self) -> None:
        async with linked(agent_with_groups(), runs=RUNS) as on:
            guest = await on.world.heartbeating()
            action = migrate(on, guest.uuid)
            assert (await lines_of(action))[-1]["outcome"] == "done"
            await on.world.settle()
            (request,) = on.agent.of(PlaceRequest)
            assert (request.uuid, request.event) == (guest.uuid, Event.LIVE_MIGRATE_BEGIN)
            assert on.agent.of(PlaceOver) == [PlaceOver(guest.uuid)]
            assert acting(on) == [None, Event.LIVE_MIGRATE_BEGIN, None]

    async def test_that_is_denied_is_rejected_and_never_told_to_be_in_progress(self) -> None:
        async with linked(agent_with_groups(FULL), runs=RUNS) as on:
            guest = await on.world.heartbeating()
            lines = await lines_of(migrate(on, guest.uuid))
            assert lines[0] == {"step": "group", "result": "reject", "reason": FULL}
            assert (lines[-1]["outcome"], lines[-1]["reason"]) == ("rejected", FULL)
            assert on.world.processes.started == []
            await on.world.settle()
            assert acting(on) == [None]

    @pytest.mark.parametrize("is_cut", [False, True])
    async def test_without_an_answer_goes_on_and_says_so(self, is_cut: bool) -> None:
        async with linked(agent_with_groups(None), runs=RUNS) as on:
            guest = await on.world.heartbeating()
            began = trio.current_time()
            action = migrate(on, guest.uuid)
            if is_cut:
                await on.world.sleep(1.0)
                on.agent.away = "connection refused"
                await on.agent.cut()
            lines = await lines_of(action)
            why = "the link to the agent was lost"
            why = why if is_cut else f"the agent did not answer within {ANSWER_S:g} s"
            assert lines[0]["skipped"] == f"the agent's were not asked: {why}"
            assert lines[-1]["outcome"] == "done"
            (run,) = on.world.processes.started
            waited_s = 1.0 if is_cut else ANSWER_S
            assert run.time_s - began == pytest.approx(waited_s, abs=0.2)

    async def test_that_has_waited_may_begin_so_much_later(self) -> None:
        async with linked(agent_with_groups(None), runs=RUNS) as on:
            guest = await on.world.heartbeating()
            until_s = on.world.host.clock.now() + 1.0
            bound = on.world.host.clock.begin_by(until_s, on.world.host.clock.boot_id)
            lines = await lines_of(migrate(on, guest.uuid, begin_by=bound))
            assert lines[-1]["outcome"] == "done"

    async def test_of_which_the_agent_has_decided_is_not_asked_about(self) -> None:
        async with linked(agent_with_groups(FULL), runs=RUNS) as on:
            guest = await on.world.heartbeating()
            command = ActCommand(
                "c-1", guest.uuid, "live-migrate", ("virsh",), True, 1.0, who="Kim"
            )
            await on.agent.send(command)
            await on.world.sleep(1)
            assert acting(on) == [None, Event.LIVE_MIGRATE_BEGIN]
            assert on.agent.of(PlaceRequest) == []

    async def test_that_ignores_groups_is_not_asked_about(self) -> None:
        async with linked(agent_with_groups(FULL), runs=RUNS) as on:
            guest = await on.world.heartbeating()
            lines = await lines_of(migrate(on, guest.uuid, ignore_group=True))
            assert lines[-1]["outcome"] == "done"
            assert on.agent.of(PlaceRequest) == []

    async def test_an_agent_without_groups_or_too_old_is_not_asked(self) -> None:
        async with linked(runs=RUNS) as on:
            guest = await on.world.heartbeating()
            lines = await lines_of(migrate(on, guest.uuid))
            assert lines[-1]["outcome"] == "done"
            assert on.agent.of(PlaceRequest) == on.agent.of(PlaceOver) == []


@pytest.mark.usefixtures("autojump_clock")
@pytest.mark.parametrize(
    ("denial", "is_ended"), [(FULL, False), ("", True), (None, True)], ids=["no", "yes", "silent"]
)
async def test_a_corrective_command_is_taken_over_from_once_the_agent_has_decided(
    denial: str | None, *, is_ended: bool
) -> None:
    agent = agent_with_groups(denial)
    corrected = CorrectiveCommands(reboot=("reset", "{uuid}"))
    hung = RUNS | {"reset": FakeRun(delay_s=20.0)}
    async with linked(
        agent, runs=hung, corrective_commands=corrected, brake=BrakeSettings(share=1.0)
    ) as on:
        guest = await on.world.heartbeating()
        await on.report(guest)
        await on.world.sleep(3)
        guest.answers_after_s, guest.sends_init = None, False
        await on.world.sleep(10)
        assert [run.argv[0] for run in on.world.processes.started] == ["reset"]
        denies, agent.denies = agent.denies, lambda _: None
        action = migrate(on, guest.uuid, take_over=True)
        await on.world.settle()
        # Nothing is ended before the agent has answered.
        assert on.world.processes.cancelled == []
        (request,) = agent.of(PlaceRequest)
        if (answer := denies(request)) is not None:
            await agent.send(PlaceAnswer(request.number, answer))
        await lines_of(action)
        cancelled = [run.argv[0] for run in on.world.processes.cancelled]
        assert cancelled == (["reset"] if is_ended else [])


@pytest.mark.usefixtures("autojump_clock")
async def test_a_turn_of_a_drain_that_is_denied_comes_again() -> None:
    agent = agent_with_groups(FULL)
    async with linked(agent, runs=RUNS, actions=COMMANDS) as on:
        guest = await on.world.heartbeating()
        run = on.world.host.drains.start(plan(action=ActionName.LIVE_MIGRATE), "uid 0")
        await on.world.sleep(5)
        assert states(run) == ["blocked"]
        assert run.machine.items[guest.uuid].reason == FULL
        agent.denies = lambda _: ""
        assert await over(run) == "drained"
        assert len(on.world.processes.started) == 1


@pytest.mark.usefixtures("autojump_clock")
async def test_a_veto_is_overridden_by_an_action_that_begins_and_by_no_other() -> None:
    agent = agent_with_groups(FULL)
    async with linked(agent, runs=RUNS, actions=COMMANDS) as on:
        guest = await on.world.heartbeating()
        guest.reply = rejects()
        rules = DrainRules(on_reject=OnReject.FORCE)
        agent.denies = lambda request: "" if request.number == 1 else FULL
        run = on.world.host.drains.start(plan(action=ActionName.LIVE_MIGRATE, rules=rules), "uid 0")
        await on.world.sleep(100)
        assert states(run) == ["blocked"]
        assert "overridden" not in [kind for _, kind, _ in agent.reports]
        agent.denies = lambda _: ""
        assert await over(run) == "drained"
        assert [kind for _, kind, _ in agent.reports].count("overridden") == 1


@pytest.mark.parametrize("stall_s", [0.02, 89.0])
def test_an_answer_that_has_arrived_beats_the_end_of_the_wait(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> str:
        async with linked(agent_with_groups(None), runs=RUNS) as on:
            guest = await on.world.heartbeating()
            action = migrate(on, guest.uuid)
            await on.world.settle()
            (request,) = on.agent.of(PlaceRequest)
            await trio.sleep(ANSWER_S - 0.01)
            await on.agent.post(PlaceAnswer(request.number, FULL))
            clock.jump(stall_s)
            return str((await lines_of(action))[-1]["outcome"])

    assert in_every_order(scenario) == ["rejected"] * ORDERS
