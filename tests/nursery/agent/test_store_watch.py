"""Files of the store that are deleted, replaced or made read-only while the agent runs."""

from __future__ import annotations

import pytest

from hbtrio.nursery.store_watch import LOOK_S
from support.agent_world import AgentWorld

pytestmark = pytest.mark.usefixtures("autojump_clock")

GONE = "/agent.db was deleted or moved: what is stored from now on is lost"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("store: ")]


async def test_it_is_noticed_within_a_minute(world: AgentWorld) -> None:
    await world.sleep(100)
    assert world.agent.store_watch.fault == ""
    world.worker.fault_of_files = GONE
    await world.sleep(LOOK_S)
    assert LOOK_S < 60
    assert world.agent.store_watch.fault == GONE


async def test_it_costs_a_line_a_minute(
    world: AgentWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.worker.fault_of_files = GONE
    await world.sleep(LOOK_S + 600)
    assert 10 <= len(lines(caplog)) <= 11
    assert set(lines(caplog)) == {f"store: {GONE}"}


async def test_another_fault_is_another_line(
    world: AgentWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.worker.fault_of_files = GONE
    await world.sleep(LOOK_S)
    world.worker.fault_of_files = "replaced"
    await world.sleep(LOOK_S)
    world.worker.fault_of_files = ""
    await world.sleep(2 * LOOK_S)
    assert lines(caplog) == [
        f"store: {GONE}",
        "store: replaced",
        "store: its files are again those that were opened",
    ]
    assert world.agent.store_watch.fault == ""
