"""An orchestrator that acts in the deployed VIM's order, over an agent and two hosts, in memory.

An action is a vote, a notice, the VIM's own disable, the action itself, the VIM's enable, and the
end notice: that only once the agent says that the instance is heartbeating again.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import attrs
import trio
from trio.testing import memory_stream_pair

from hbtrio.config.host import AgentLinkSettings
from hbtrio.nursery.agent.audit import Audit
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.host.agent_link import HostLink, Identity
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.vim import Switch, VimRequest
from hbtrio.wire.vim_result import Delivered, SendResult
from hbtrio.wire.vocabulary import Event
from support.agent_world import AgentWorld, agent_world
from support.fake_processes import FakeRun
from support.host_world import HostWorld, host_world
from support.vm_model import OurClient, Vm

SOURCE: Final = "compute-0"
TARGET: Final = "compute-1"

_UUIDS: Final = {
    SOURCE: "11111111-2222-3333-4444-000000000000",
    TARGET: "11111111-2222-3333-4444-000000000001",
}

#: Seconds from a verdict to the VIM's next step, and from one step of its own to the next.
STEP_S: Final = 0.5


#: Seconds between two audits.
AUDIT_S: Final = 10.0


@attrs.define
class Course:
    """When the steps of an action were taken, on trio's clock; infinity if they were not."""

    voted_at: float = math.inf
    proceeds_at: float = math.inf
    disabled_at: float = math.inf
    enabled_at: float = math.inf
    heartbeating_at: float = math.inf
    ended_at: float = math.inf
    #: The timeouts that the agent told for vote, notice and end notice; 0 if nobody was asked.
    seconds: list[int] = attrs.field(factory=list)


class OrderlyVim:
    """The VIM, with one instance.

    Args:
        world: the agent.
        vm: the instance's VM.
        by_audit: whether the agent learns of the VIM's changes from its audits alone.
    """

    def __init__(self, world: AgentWorld, vm: Vm, *, by_audit: bool) -> None:
        self.course = Course()
        self._world = world
        self._uuid = vm.uuid
        self._by_audit = by_audit
        self._record = InstanceRecord(vm.uuid, SOURCE, True)
        #: Whether the agent has said that the instance is heartbeating.
        self._heartbeating = True
        self._services = 0

    # -- what the agent hears ---------------------------------------------------------------

    async def introduce(self) -> None:
        """Registers hosts and instance."""
        for hostname, uuid in _UUIDS.items():
            await self._world.agent.inventory.put_host(HostRecord(uuid, hostname, True))
        await self._world.agent.inventory.put_instance(self._record)

    async def act(
        self,
        event: Event,
        perform: Callable[[], Awaitable[None]],
        end: Event | None,
        *,
        moves: bool = False,
        within_s: float,
    ) -> Course:
        """Takes an action from its vote to its end.

        Args:
            event: what is voted on and announced.
            perform: the action; returns when the VIM takes it for done.
            end: the end notice, if there is one.
            moves: whether the instance is on the other host then.
            within_s: for how long the VIM waits until the instance is heartbeating.
        """
        course = self.course
        assert await self._asks(event, vote=True) == "allow"
        course.voted_at = trio.current_time()
        assert await self._asks(event, vote=False) == "proceed"
        course.proceeds_at = trio.current_time()
        await trio.sleep(STEP_S)
        course.disabled_at = trio.current_time()
        await self._sets(attrs.evolve(self._record, reporting=False))
        await trio.sleep(STEP_S)
        await perform()
        await trio.sleep(STEP_S)
        host = TARGET if moves else SOURCE
        course.enabled_at = trio.current_time()
        await self._sets(attrs.evolve(self._record, hostname=host, reporting=True))
        with trio.move_on_after(within_s):
            await self._world.vim.until(self._is_told_heartbeating)
            course.heartbeating_at = trio.current_time()
        if end is not None and course.heartbeating_at < math.inf:
            assert await self._asks(end, vote=False) == "proceed"
            course.ended_at = trio.current_time()
        return course

    async def _asks(self, event: Event, *, vote: bool) -> str:
        """Asks, and waits for the verdict as long as the agent says."""
        before = len(self._world.vim.verdicts)
        asked = await self._world.ask(event, vote=vote, uuid=self._uuid)
        self.course.seconds.append(asked.seconds)
        with trio.move_on_after(asked.seconds + 3.0):
            await self._world.vim.until(lambda: len(self._world.vim.verdicts) > before)
        verdicts = self._world.vim.verdicts[before:]
        return verdicts[-1][2] if verdicts else "no verdict"

    async def _sets(self, record: InstanceRecord) -> None:
        """Sets the instance's reporting, with a PATCH unless audits have to find it."""
        self._record = record
        if not self._by_audit:
            await self._world.agent.inventory.put_instance(record)
            # The state in the reply, as the VIM's API makes it.
            self._heartbeating = self._world.agent.states.service(record).status is Switch.ENABLED
            self._services = len(self.services)

    # -- what the agent says ----------------------------------------------------------------

    @property
    def services(self) -> list[tuple[float, str]]:
        """When the VIM was told whether the instance is heartbeating."""
        return [(time, service["status"]) for time, service in self._world.vim.received("service")]

    @property
    def alarms(self) -> list[tuple[float, str]]:
        """The losses and ill health that it was told of."""
        return [(time, alarm["state"]) for time, alarm in self._world.vim.received("alarm")]

    def _is_told_heartbeating(self) -> bool:
        for _, status in self.services[self._services :]:
            self._heartbeating = status == "enabled"
        self._services = len(self.services)
        return self._heartbeating

    async def send(self, request: VimRequest) -> SendResult:
        """Answers an audit."""
        await trio.lowlevel.checkpoint()
        if "?host_uuid=" not in request.target:
            about = json.loads(request.body)
            return Delivered(200, json.dumps(about | {"state": "enabled"}).encode())
        record = self._record
        listed: list[dict[str, Any]] = []
        if request.target.endswith(_UUIDS[record.hostname]):
            state = "enabled" if record.reporting else "disabled"
            service = {"service": "heartbeat", "state": state}
            listed = [{"uuid": record.uuid, "hostname": record.hostname, "services": [service]}]
        return Delivered(200, json.dumps({"instances": listed}).encode())


@attrs.frozen
class OrderWorld:
    """The VIM, its agent, two hosts and a VM on the first one."""

    vim: OrderlyVim
    agent: AgentWorld
    source: HostWorld
    target: HostWorld
    vm: Vm

    def told(self, kind: str) -> list[tuple[float | str, ...]]:
        """The reports of this kind from both hosts."""
        both = self.source.reports() + self.target.reports()
        return [report for report in both if report[1] == kind]


@asynccontextmanager
async def order_world(
    folder: Path,
    client: Callable[[int, float], OurClient],
    *,
    restart_s: int = 120,
    by_audit: bool = False,
    runs: Mapping[str, FakeRun] | None = None,
) -> AsyncIterator[OrderWorld]:
    """A world in which the VM has been heartbeating for a while; use it on an autojump clock.

    Args:
        folder: where the agent's store is.
        client: makes the VM's client.
        restart_s: the VM's RESTART.
        by_audit: whether the agent learns of the VIM's changes from its audits alone.
        runs: what the commands of both hosts do.
    """
    settings = AgentLinkSettings(connect="unix:/agent")
    with trio.fail_after(20_000):  # streams have no end of their own
        async with (
            host_world(agent=settings, seed=1, runs=runs) as source,
            host_world(agent=settings, seed=2, runs=runs) as target,
            agent_world(folder) as agent,
        ):
            async with trio.open_nursery() as nursery:
                vm = Vm(nursery, client, restart_s)
                vim = OrderlyVim(agent, vm, by_audit=by_audit)
                for hostname, world in ((SOURCE, source), (TARGET, target)):
                    _link(nursery, agent, world, hostname)
                await vim.introduce()
                if by_audit:
                    audit = Audit(
                        agent.agent.fleet,
                        agent.agent.inventory,
                        agent.agent.states,
                        cast("VimClient", vim),
                        AUDIT_S,
                    )
                    nursery.start_soon(audit.run)
                vm.appear(source)
                vm.boot()
                await source.at(10)
                assert source.host.channel(vm.uuid).heartbeating
                yield OrderWorld(vim, agent, source, target, vm)
                nursery.cancel_scope.cancel()
            await source.stop_host()
            await target.stop_host()


def _link(nursery: trio.Nursery, agent: AgentWorld, world: HostWorld, hostname: str) -> None:
    async def connect() -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        nursery.start_soon(agent.agent.links.serve, theirs)
        return ours

    link = HostLink(world.host, Identity(hostname, _UUIDS[hostname], f"boot-{hostname}"), connect)
    nursery.start_soon(link.run)
