"""What the tests of link server share."""

from __future__ import annotations

import attrs

from support.agent_world import AgentWorld
from support.scripted_host import (
    INSTANCE,
    OTHER_VM,
)

OTHER = attrs.evolve(INSTANCE, uuid=OTHER_VM)


async def history(world: AgentWorld) -> list[tuple[str, str, str]]:
    found = [record.entry for record in reversed(await world.store.history())]
    return [(one.kind, one.uuid, one.reason) for one in found]


def services(world: AgentWorld) -> list[tuple[float, str, str, str]]:
    """When the VIM was told of heartbeating: the reporting state, the status, the timeout."""
    return [
        (time, one["state"], one["status"], one["restart-timeout"])
        for time, one in world.vim.received("service")
    ]


def alarms(world: AgentWorld) -> list[tuple[str, str]]:
    """What the VIM was told of losses and ill health: state and repair action."""
    return [(one["state"], one["repair-action"]) for _, one in world.vim.received("alarm")]


def kinds(world: AgentWorld) -> list[str]:
    """What the VIM was told, in order."""
    return [body["event-type"] for _, body in world.vim.got]
