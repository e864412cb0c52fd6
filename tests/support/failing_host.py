"""A host whose instances fail together, and what the VIM hears of it."""

from __future__ import annotations

from datetime import timedelta

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from support.agent_world import AgentWorld
from support.inline_store import EPOCH
from support.scripted_host import INSTANCE, ScriptedHost


def names(count: int) -> list[str]:
    return [f"{n:08x}-1111-4111-8111-111111111111" for n in range(count)]


class FailingHost(ScriptedHost):
    """A host with so many instances, whose clock goes with trio's."""

    def __init__(self, count: int) -> None:
        uuids = names(count)
        super().__init__(instances=tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in uuids))

    def be_well(self, uuid: str) -> None:
        """The instance is well from now on, which the next snapshot says."""
        self.instances[uuid] = attrs.evolve(
            self.instances[uuid], heartbeating=True, state="heartbeating"
        )

    async def report_lost(self, uuid: str = "", action: str = "reboot") -> None:
        self.clock = (EPOCH + timedelta(seconds=trio.current_time())).isoformat()
        await super().report_lost(uuid, action)

    async def loses_at_once(self, *uuids: str) -> None:
        """As the daemon does it: first what has changed, then the reports."""
        for uuid in uuids:
            await self.send_instance(uuid, heartbeating=False, state="lost")
        for uuid in uuids:
            await self.report_lost(uuid)
        await wait_all_tasks_blocked()


def alarmed(world: AgentWorld) -> list[tuple[float, str]]:
    """When the VIM heard of a loss or an illness, and of whose; several go side by side."""
    return sorted(
        (time, body["uuid"]) for time, body in world.vim.got if body["event-type"] == "alarm"
    )
