"""Simulates operators, who act through the control sockets of hosts or, beside a VIM, of the agent.

Each instance has an operator who wants something of it now and then, and asks its host or the agent
as ``hbtrio ctl act`` does; others put it on hold, and plan an action on it. Each host has
one who drains it, and an agent one who has it drain its hosts, and one who asks many instances
whether an event may happen. What is answered line by line is what the operator knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final

import trio

from hbtrio.simulate.compute import ComputeHost
from hbtrio.simulate.desk import Desk
from hbtrio.simulate.drain_course import DRAIN_S, DrainCourse
from hbtrio.simulate.hold_course import HoldCourse
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import AGENT, Owner
from hbtrio.simulate.operator_course import WISH_S, OperatorCourse
from hbtrio.simulate.places import AGENT_OPERATOR, Stage
from hbtrio.simulate.plan_course import PlanCourse
from hbtrio.simulate.requests import FleetOperatorRequests, OperatorRequests, Questions
from hbtrio.simulate.scenario import SCENARIO_S, Scenario
from hbtrio.simulate.survey_course import SurveyCourse

#: Seconds between two wishes of an operator beside a VIM, on average: most is the VIM's matter.
_WISH_BESIDE_VIM_S: Final = 150.0

#: Seconds between two drains of a host through its own socket, on average, beside an agent.
_DRAIN_BESIDE_AGENT_S: Final = 240.0


class Operators:
    """All operators; a process of their own.

    Args:
        stage: what all parts use.
        hosts: the hosts by name.
        instances: the instances.
        quiet_s: from when on nobody wants anything, in seconds.
        scenario: the one thing that happens instead; None: what they want.
        controller: the machine of the agent that they ask, beside a VIM; None: they ask the hosts.
    """

    def __init__(
        self,
        stage: Stage,
        hosts: Mapping[str, ComputeHost],
        instances: Sequence[Instance],
        quiet_s: float,
        scenario: Scenario | None,
        *,
        controller: Machine | None,
    ) -> None:
        self._scenario = scenario
        self._has_agent = has_agent = controller is not None
        #: The machines by whose clocks actions are planned.
        self._clocks = {name: host.machine for name, host in hosts.items()}
        if controller is not None:
            self._clocks[AGENT] = controller
        self._desk = Desk(stage)
        self.process = self._desk.process
        self._stage = stage
        self._hosts = hosts
        self._instances = instances
        self._by_uuid = {instance.uuid: instance for instance in instances}
        #: The host that each instance was last seen on.
        self._last: dict[str, str] = {}
        self._quiet_s = quiet_s
        self._names = names = {instance.uuid: instance.name for instance in instances}
        #: The votes and notices that they ask for.
        kind = FleetOperatorRequests if has_agent else OperatorRequests
        self.requests = kind("op", Owner.OPERATOR, names, self._now, stage.observe)
        #: The votes that they ask an agent for without an action.
        self.questions = Questions("ask", Owner.OPERATOR, names, self._now, stage.observe)
        self._course = OperatorCourse(
            self.requests,
            ask=self._ask,
            is_there=self._is_there,
            restore=self._restore,
            now=self._now,
            observe=stage.observe,
            say=partial(stage.trace.event, "operators"),
            quiet_s=quiet_s,
            wish_s=_WISH_BESIDE_VIM_S if has_agent else WISH_S,
        )

    def start(self) -> None:
        """Starts them."""
        self.process.start(self._run)

    async def _run(self) -> None:
        if self._scenario is not None:
            await self._play(self._scenario)
            return
        random = self._stage.timeline.random
        async with trio.open_nursery() as nursery:
            for instance in self._instances:
                draw = random(f"operator of {instance.name}")
                nursery.start_soon(self._course.care_for, instance.uuid, instance.name, draw)
            for instance in self._instances:
                draw = random(f"holds on {instance.name}")
                nursery.start_soon(self._hold_course(instance).run, draw)
            for name in [*([AGENT] if self._has_agent else []), *self._hosts]:
                nursery.start_soon(self._drain_course(name).run, random(f"drains of {name}"))
            for instance in self._instances:
                draw = random(f"plans for {instance.name}")
                nursery.start_soon(self._plan_course(instance).run, draw)
            if self._has_agent:
                nursery.start_soon(self._survey_course().run, random("surveys"))

    async def _play(self, scenario: Scenario) -> None:
        """Reboots the first instance, or those of the first host, or of all, one by one."""
        await trio.sleep(SCENARIO_S - self._stage.timeline.now)
        wish: dict[str, Any] = {"action": "reboot", "retry_for_s": 31.0}
        if scenario is Scenario.DRAIN:
            await self._drain_course(next(iter(self._hosts))).drain(wish)
        elif scenario is Scenario.FLEET_DRAIN:
            await self._drain_course(AGENT).drain(wish | {"hosts": list(self._hosts)})
        elif self._is_there(self._instances[0].uuid):
            first = self._instances[0]
            await self._course.act(first.uuid, first.name, "reboot", force=False)

    def _hold_course(self, instance: Instance) -> HoldCourse:
        def ask(word: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
            return self._post(instance.uuid, word, body)

        return HoldCourse(
            instance.uuid,
            instance.name,
            host=lambda: self._last[instance.uuid] if self._is_there(instance.uuid) else "",
            ask=ask,
            now=self._now,
            observe=self._stage.observe,
            say=partial(self._stage.trace.event, "operators"),
            quiet_s=self._quiet_s,
        )

    def _drain_course(self, name: str) -> DrainCourse:
        """The drains and plans of a host, or of the agent, which drains some of its hosts."""
        is_agent = name == AGENT
        address = AGENT_OPERATOR if is_agent else self._hosts[name].control_address

        async def restore(uuid: str) -> None:
            await trio.lowlevel.checkpoint()
            self._is_there(uuid)
            self._by_uuid[uuid].boot(self._hosts[self._last[uuid]])

        return DrainCourse(
            name,
            self._names,
            drained=self.requests.drained,
            ask=partial(self._desk.ask, address),
            hosts=tuple(self._hosts) if is_agent else (),
            restore=restore,
            now=self._now,
            observe=self._stage.observe,
            say=partial(self._stage.trace.event, "operators"),
            quiet_s=self._quiet_s,
            drain_s=DRAIN_S if is_agent or not self._has_agent else _DRAIN_BESIDE_AGENT_S,
        )

    def _plan_course(self, instance: Instance) -> PlanCourse:
        """The plans for an instance: at the agent, or at its host, on which it stays."""
        self._is_there(instance.uuid)
        name = AGENT if self._has_agent else self._last[instance.uuid]
        machine = self._clocks[name]
        return PlanCourse(
            instance.uuid,
            self._drain_course(name),
            utc=lambda: machine.utc() if instance.place is not None else None,
            now=self._now,
            quiet_s=self._quiet_s,
        )

    def _survey_course(self) -> SurveyCourse:
        """Questions to all instances, or to those of a host."""

        def select(draw: Random) -> list[str]:
            host = draw.choice(["", *self._hosts])
            there = [uuid for uuid in self._by_uuid if self._is_there(uuid)]
            return [uuid for uuid in there if host in ("", self._last[uuid])]

        return SurveyCourse(
            self.questions,
            select=select,
            ask=lambda uuid, body: self._post(uuid, "vote", body),
            now=self._now,
            say=partial(self._stage.trace.event, "operators"),
            quiet_s=self._quiet_s,
        )

    def _is_there(self, uuid: str) -> bool:
        place = self._by_uuid[uuid].place
        if place is not None:
            self._last[uuid] = place.name
        return place is not None

    async def _restore(self, uuid: str, action: str) -> None:
        """Starts what was stopped, and lets go on what was paused."""
        await trio.lowlevel.checkpoint()
        instance = self._by_uuid[uuid]
        if action == "pause":
            instance.resume()
        else:
            instance.boot(self._hosts[self._last[uuid]])

    def _ask(self, uuid: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        return self._post(uuid, "act", body)

    def _post(self, uuid: str, word: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        host = self._hosts[self._last[uuid]]
        address = AGENT_OPERATOR if self._has_agent else host.control_address
        return self._desk.ask(address, "POST", f"/v1/instances/{uuid}/{word}", body)

    def _now(self) -> float:
        return self._stage.timeline.now
