"""Actions, drains, the VIM, losses, links and restarts in any order, under a group of an agent.

The agent never lets an action go that makes one more member unavailable than the group permits,
counting all that it was told: what other actions do, at whichever host and whoever asked, and
members that are lost, stopped, gone, or on a host without a link, also over restarts of the agent.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hbtrio.config.groups import GroupSettings
from hbtrio.fsm.drain_rules import DrainRules
from hbtrio.fsm.ownership import NEXT_STEP_S
from hbtrio.nursery.agent.fleet import Unknown
from hbtrio.nursery.agent.fleet_actions import FleetActionRefused
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.inventory import Linked
from hbtrio.nursery.drains import DrainPlan, DrainRefused
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.link_messages import ActCommand, Gone, Reply
from hbtrio.wire.link_places import PlaceAnswer, PlaceOver, PlaceRequest
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName, Event, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.scripted_host import HOST_UUID, INSTANCE, OTHER_HOST_UUID, ScriptedHost
from support.stepped_world import SteppedWorld

GROUPS: Final = {"db": GroupSettings(members=("db-*",), max_unavailable=1)}

VMS: Final = 4
HOST_UUIDS: Final = (HOST_UUID, OTHER_HOST_UUID)
HOSTS: Final = len(HOST_UUIDS)

#: Whatever an agent waits for is over after this: an action that was called off, in seconds.
SETTLES_S: Final = 1000.0

one_vm = st.integers(0, VMS - 1)
one_host = st.integers(0, HOSTS - 1)
taking_down = st.sampled_from([ActionName.STOP, ActionName.REBOOT, ActionName.LIVE_MIGRATE])


@attrs.define(eq=False)
class Vm:
    """A member, as it is.

    Args:
        uuid: its uuid.
        at: its host, or the last one that it was on.
        is_there: whether its host reports it.
        is_member: whether somebody would miss it: it was reported, and not forgotten since.
        is_well: whether it heartbeats.
        event: what an action on it is doing, at its host.
        command: the agent's, if the action is one of the agent.
        has_asked: whether its host has asked the agent for its place.
        voted_until: until when the VIM may go on after its vote.
    """

    uuid: str
    at: int
    is_there: bool = True
    is_member: bool = True
    is_well: bool = True
    event: Event | None = None
    command: ActCommand | None = None
    has_asked: bool = False
    voted_until: float = 0.0


class Agents(RuleBasedStateMachine):
    """An agent, two hosts, and all that happens to their VMs."""

    has_vim = False

    def __init__(self) -> None:
        super().__init__()
        self._opened = ExitStack()
        self.folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        self.starts = 0
        self.requests = 0
        self.broken: list[str] = []
        self.vms = [Vm(f"{n}1111111-1111-4111-8111-111111111111", n % HOSTS) for n in range(VMS)]
        self.stepped = SteppedWorld(self._open)

    # -- the world ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self.hosts = [self._host(number) for number in range(HOSTS)]
        await self._start()
        for number in range(HOSTS):
            await self._dial(number)
        yield
        await self._running.aclose()

    def _host(self, number: int) -> ScriptedHost:
        told = tuple(
            attrs.evolve(INSTANCE, uuid=vm.uuid, domain=f"db-{n}")
            for n, vm in enumerate(self.vms)
            if vm.at == number
        )
        host = ScriptedHost(f"compute-{number}", HOST_UUIDS[number], instances=told)
        host.on_act = self._takes
        return host

    async def _start(self) -> None:
        self.starts += 1
        self._running = AsyncExitStack()
        self.world: AgentWorld = await self._running.enter_async_context(
            agent_world(self.folder, vim=self.has_vim, number=self.starts, groups=GROUPS)
        )

    async def _dial(self, number: int) -> None:
        host = self.hosts[number]
        if host.up:
            return
        if self.has_vim:
            inventory = self.world.agent.inventory
            await inventory.put_host(HostRecord(host.hello.host_uuid, host.hello.hostname, True))
            for vm in self._on(number):
                await self._bind(vm)
        await host.dial(self.world.agent.links, self.world.nursery)
        for vm in self._on(number):
            vm.is_member = True

    async def _bind(self, vm: Vm) -> None:
        record = InstanceRecord(vm.uuid, f"compute-{vm.at}", True)
        await self.world.agent.inventory.put_instance(record)

    def _on(self, number: int) -> list[Vm]:
        return [vm for vm in self.vms if vm.is_there and vm.at == number]

    async def _takes(self, command: ActCommand) -> None:
        """A host begins an action, which ends when it is told to, with the agent or without."""
        vm = next(vm for vm in self.vms if vm.uuid == command.uuid)
        host = self.hosts[vm.at]
        if vm.event is not None or not vm.is_there:
            await host.send(Reply(command.command_id, False, "gone, or acted upon"))
            return
        event = ACTION_TABLE[ActionName(command.action)].before
        assert event is not None
        self._judge(vm, command.action)
        vm.event, vm.command = event, command
        await host.begins(command, {"step": "command", "argv": ["x"], "seconds": 60})
        await host.send_instance(vm.uuid, acting=event)

    def _judge(self, target: Vm, what: str) -> None:
        """Takes that the agent has let something go that takes a member down."""
        others = [vm for vm in self.vms if vm is not target and vm.is_member]
        if self._is_available(target):
            counted = [vm.uuid for vm in others if not self._is_available(vm)]
        else:
            # Of a host without a link the agent does not know what goes on there.
            counted = [vm.uuid for vm in others if vm.event and self.hosts[vm.at].up]
        if target.is_member and counted:
            self.broken.append(f"{what} of {target.uuid} while {counted} are unavailable")

    def _is_available(self, vm: Vm) -> bool:
        idle = vm.event is None and vm.voted_until <= trio.current_time()
        return idle and vm.is_there and vm.is_well and self.hosts[vm.at].up

    def take(self, step: Callable[[], Awaitable[None]]) -> None:
        """Takes a step, and lets a moment pass."""

        async def moment_later(_: None) -> None:
            await step()
            await trio.sleep(0.5)

        self.stepped.take(moment_later)

    async def _told(self, vm: Vm, **changes: Any) -> None:
        host = self.hosts[vm.at]
        await host.send_instance(vm.uuid, **changes)
        if host.up:
            await host.settle()

    # -- what operators do --------------------------------------------------------------------

    @rule(at=one_vm, name=taking_down)
    def act_at_the_agent(self, at: int, name: ActionName) -> None:
        async def step() -> None:
            with suppress(FleetActionRefused, Unknown):
                await self.world.agent.actions.begin(
                    self.vms[at].uuid, name, (), force=True, who="operator"
                )

        self.take(step)

    @rule(at=one_vm, name=taking_down)
    def act_at_its_host(self, at: int, name: ActionName) -> None:
        async def step() -> None:
            vm = self.vms[at]
            if vm.is_there and vm.event is None:
                event = ACTION_TABLE[name].before
                assert event is not None
                vm.event = event
                await self._told(vm, acting=event)

        self.take(step)

    @rule(at=one_vm, name=taking_down)
    def its_host_asks_and_acts(self, at: int, name: ActionName) -> None:
        async def step() -> None:
            vm = self.vms[at]
            host, event = self.hosts[vm.at], ACTION_TABLE[name].before
            if not (vm.is_there and vm.event is None and host.up):
                return
            assert event is not None
            self.requests += 1
            await host.send(PlaceRequest(self.requests, vm.uuid, event))
            await host.settle()
            answers = [one for one in host.received if isinstance(one, PlaceAnswer)]
            assert answers[-1].number == self.requests
            if not answers[-1].denial:
                self._judge(vm, f"{name} of its host")
                vm.event, vm.has_asked = event, True
                await self._told(vm, acting=event)

        self.take(step)

    @rule(at=one_vm)
    def an_action_ends(self, at: int) -> None:
        async def step() -> None:
            if self.vms[at].event is not None:
                await self._ends(self.vms[at])

        self.take(step)

    async def _ends(self, vm: Vm) -> None:
        command, vm.event, vm.command = vm.command, None, None
        if command is not None:
            await self.hosts[vm.at].performs(command)
        if vm.has_asked and self.hosts[vm.at].up:
            await self.hosts[vm.at].send(PlaceOver(vm.uuid))
        vm.has_asked = False
        await self._told(vm, acting=None)

    @rule(at=one_host, parallel=st.integers(1, 3))
    def drain(self, at: int, parallel: int) -> None:
        async def step() -> None:
            rules = DrainRules(parallel=parallel, retry_for_s=120.0)
            plan = DrainPlan(action=ActionName.STOP, hosts=(f"compute-{at}",), rules=rules)
            with suppress(DrainRefused):
                self.world.agent.drains.start(plan, "operator")

        self.take(step)

    @rule()
    def cancel_drains(self) -> None:
        async def step() -> None:
            runs = self.world.agent.drains.runs
            for run in runs.in_progress:
                runs.cancel(run.record.id, "operator")

        self.take(step)

    @rule(at=one_vm)
    def forget_a_vm(self, at: int) -> None:
        async def step() -> None:
            vm, agent = self.vms[at], self.world.agent
            if vm.is_there:
                return
            if not self.has_vim:
                if await agent.actions.forget_member(vm.uuid, "operator"):
                    vm.is_member = False
                return
            with suppress(Unknown):
                await agent.inventory.delete_instance(vm.uuid)
            vm.is_member = False

        self.take(step)

    @rule(at=one_host)
    def forget_a_host(self, at: int) -> None:
        async def step() -> None:
            with suppress(Linked, Unknown):
                await self.world.agent.inventory.forget(f"compute-{at}", "operator")
                for vm in self.vms:
                    if vm.at == at:
                        vm.is_member = False

        self.take(step)

    # -- what the VIM does --------------------------------------------------------------------

    @rule(at=one_vm, goes_on=st.booleans())
    @precondition(lambda self: self.has_vim)
    def the_vim_reboots(self, at: int, goes_on: bool) -> None:
        async def step() -> None:
            vm = self.vms[at]
            is_there = vm.is_there and vm.is_member and self.hosts[vm.at].up
            if not (is_there and vm.is_well and vm.event is None):
                return
            asked = await self.world.ask(Event.REBOOT, vote=True, uuid=vm.uuid)
            assert asked.outcome is not None
            if (await asked.outcome.wait()).result is VoteResult.REJECT:
                return
            self._judge(vm, "a vote of the VIM")
            if not goes_on:
                vm.voted_until = trio.current_time() + NEXT_STEP_S - 1
                return
            await self.world.ask(Event.REBOOT, vote=False, uuid=vm.uuid)
            vm.is_well = False
            await self._told(vm, heartbeating=False, state="restarting")

        self.take(step)

    # -- what VMs and hosts do ----------------------------------------------------------------

    @rule(at=one_vm, is_well=st.booleans())
    def is_lost_or_back(self, at: int, is_well: bool) -> None:
        async def step() -> None:
            vm = self.vms[at]
            if vm.is_there:
                vm.is_well = is_well
                state = "heartbeating" if is_well else "lost"
                await self._told(vm, heartbeating=is_well, state=state)

        self.take(step)

    @rule(at=one_vm)
    def is_shut_off(self, at: int) -> None:
        async def step() -> None:
            vm = self.vms[at]
            if vm.is_there and vm.event is None:
                vm.is_there = False
                host = self.hosts[vm.at]
                del host.instances[vm.uuid]
                await host.send(Gone(vm.uuid, "its channel was removed"))

        self.take(step)

    @rule(at=one_vm, to=one_host)
    def is_started(self, at: int, to: int) -> None:
        self.take(lambda: self._comes(at, to))

    async def _comes(self, at: int, to: int) -> None:
        vm = self.vms[at]
        if vm.is_there:
            return
        vm.at, vm.is_there, vm.is_well = to, True, True
        told = attrs.evolve(INSTANCE, uuid=vm.uuid, domain=f"db-{at}")
        self.hosts[to].instances[vm.uuid] = told
        if self.hosts[to].up:
            if self.has_vim:
                await self._bind(vm)
            await self._told(vm)
            vm.is_member = True

    @rule(at=one_host)
    def a_link_is_lost(self, at: int) -> None:
        async def step() -> None:
            if self.hosts[at].up:
                await self.hosts[at].cut()

        self.take(step)

    @rule(at=one_host)
    def a_host_dials(self, at: int) -> None:
        self.take(lambda: self._dial(at))

    # -- the agent, and the time --------------------------------------------------------------

    @rule(off=one_vm, acted=one_vm)
    def it_restarts_without_a_vm_and_acts(self, off: int, acted: int) -> None:
        self.is_shut_off(off)
        self.the_agent_restarts(set(range(HOSTS)))
        self.act_at_the_agent(acted, ActionName.STOP)

    @rule(dials=st.sets(one_host))
    def the_agent_restarts(self, dials: set[int]) -> None:
        async def step() -> None:
            await self._running.aclose()
            for host in self.hosts:
                host.up = False
            for vm in self.vms:
                vm.voted_until = 0.0  # see docs/groups.md
            await self._start()
            for number in sorted(dials):
                await self._dial(number)

        self.take(step)

    @rule(seconds=st.sampled_from([1.0, 10.0, 40.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.take(partial(trio.sleep, seconds))

    # -- what must hold -----------------------------------------------------------------------

    @invariant()
    def the_rule_is_kept(self) -> None:
        assert self.broken == []

    def teardown(self) -> None:
        """All is well in the end: no place is held for ever."""
        with self._opened:
            try:
                if not self.broken:
                    self.cancel_drains()
                    self.take(self._settles)
            finally:
                self.stepped.close()

    async def _settles(self) -> None:
        for at in range(HOSTS):
            await self._dial(at)
        for at, vm in enumerate(self.vms):
            vm.is_well = True
            await self._comes(at, vm.at)
            await self._ends(vm)
            await self._told(vm, heartbeating=True, state="heartbeating")
        await trio.sleep(SETTLES_S)
        assert self.broken == []
        groups = self.world.agent.groups
        assert [groups.refusal(vm.uuid, Event.STOP) for vm in self.vms] == [""] * VMS
        (picture,) = groups.rule.pictures()
        assert (picture.total, picture.available) == (VMS, VMS)


class AgentsWithVim(Agents):
    """The same with a VIM, which says which instances exist."""

    has_vim = True


# What fails is shown as it is: to shrink it takes minutes.
_SETTINGS: Final = settings(
    max_examples=15, stateful_step_count=30, phases=[Phase.explicit, Phase.generate], deadline=None
)

TestAgents = Agents.TestCase
TestAgents.settings = _SETTINGS
TestAgents.pytestmark = [pytest.mark.slow]
TestAgentsWithVim = AgentsWithVim.TestCase
TestAgentsWithVim.settings = _SETTINGS
TestAgentsWithVim.pytestmark = [pytest.mark.slow]


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Agents, AgentsWithVim])
def test_without_the_check_it_is_found(
    machine: type[Agents], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FleetGroups, "refusal", lambda *_: "")
    with pytest.raises(AssertionError, match="are unavailable"):
        run_state_machine_as_test(machine, settings=_SETTINGS)
