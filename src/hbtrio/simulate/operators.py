"""Simulates the operators of hosts without an agent: they act through the hosts' control sockets.

Each instance has an operator who wants something of it now and then, and asks its host as
``hbtrio ctl act`` does; another puts it on hold, one plans an action on it, and each host has one
who drains it. What the host answers line by line is what the operator knows.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import h11
import trio

from hbtrio.net.connections import ConnectionEnds
from hbtrio.net.peer_credentials import PeerCredentials
from hbtrio.simulate.compute import ComputeHost
from hbtrio.simulate.drain_course import DrainCourse
from hbtrio.simulate.hold_course import HoldCourse
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import Owner
from hbtrio.simulate.operator_course import OperatorCourse
from hbtrio.simulate.places import Stage
from hbtrio.simulate.plan_course import PlanCourse
from hbtrio.simulate.process import Process
from hbtrio.simulate.requests import OperatorRequests
from hbtrio.simulate.scenario import SCENARIO_S, Scenario

_OK: Final = 200

_ROOT: Final = ConnectionEnds(credentials=PeerCredentials(1, 0, 0))


class Operators:
    """All operators; a process of their own.

    Args:
        stage: what all parts use.
        hosts: the hosts by name.
        instances: the instances.
        quiet_s: from when on nobody wants anything, in seconds.
        scenario: the one thing that happens instead; None: what they want.
    """

    def __init__(
        self,
        stage: Stage,
        hosts: Mapping[str, ComputeHost],
        instances: Sequence[Instance],
        quiet_s: float,
        scenario: Scenario | None,
    ) -> None:
        self._scenario = scenario
        self.process = Process(
            Machine(stage.timeline, "desk"), stage.timeline, stage.trace, "operators"
        )
        self._stage = stage
        self._hosts = hosts
        self._instances = instances
        self._by_uuid = {instance.uuid: instance for instance in instances}
        #: The host that each instance was last seen on.
        self._last: dict[str, str] = {}
        self._quiet_s = quiet_s
        self._names = names = {instance.uuid: instance.name for instance in instances}
        #: The votes and notices that they ask for.
        self.requests = OperatorRequests("op", Owner.OPERATOR, names, self._now, stage.observe)
        self._course = OperatorCourse(
            self.requests,
            ask=self._ask,
            is_there=self._is_there,
            restore=self._restore,
            now=self._now,
            observe=stage.observe,
            say=partial(stage.trace.event, "operators"),
            quiet_s=quiet_s,
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
            for name in self._hosts:
                nursery.start_soon(self._drain_course(name).run, random(f"drains of {name}"))
            for instance in self._instances:
                draw = random(f"plans for {instance.name}")
                nursery.start_soon(self._plan_course(instance).run, draw)

    async def _play(self, scenario: Scenario) -> None:
        """Reboots the first instance, or those of the first host, one by one."""
        await trio.sleep(SCENARIO_S - self._stage.timeline.now)
        if scenario is Scenario.DRAIN:
            wish = {"action": "reboot", "retry_for_s": 31.0}
            await self._drain_course(next(iter(self._hosts))).drain(wish)
        elif self._is_there(self._instances[0].uuid):
            first = self._instances[0]
            await self._course.act(first.uuid, first.name, "reboot", force=False)

    def _hold_course(self, instance: Instance) -> HoldCourse:
        def ask(word: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
            address = self._hosts[self._last[instance.uuid]].control_address
            return self._lines(address, "POST", f"/v1/instances/{instance.uuid}/{word}", body)

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
        host = self._hosts[name]

        async def restore(uuid: str) -> None:
            await trio.lowlevel.checkpoint()
            self._by_uuid[uuid].boot(host)

        return DrainCourse(
            name,
            self._names,
            drained=self.requests.drained,
            ask=partial(self._lines, host.control_address),
            restore=restore,
            now=self._now,
            observe=self._stage.observe,
            say=partial(self._stage.trace.event, "operators"),
            quiet_s=self._quiet_s,
        )

    def _plan_course(self, instance: Instance) -> PlanCourse:
        """The plans for an instance, which stays on its host."""
        self._is_there(instance.uuid)
        name = self._last[instance.uuid]
        return PlanCourse(
            instance.uuid,
            self._drain_course(name),
            utc=lambda: self._hosts[name].machine.utc() if instance.place is not None else None,
            now=self._now,
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
        address = self._hosts[self._last[uuid]].control_address
        return self._lines(address, "POST", f"/v1/instances/{uuid}/act", body)

    def _now(self) -> float:
        return self._stage.timeline.now

    async def _lines(
        self, address: str, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Sends a request and yields the lines of the answer; none of a refusal."""
        stream = await self._stage.network.connect(self.process, address, _ROOT)
        parser = h11.Connection(h11.CLIENT)
        content = b"" if body is None else json.dumps(body).encode()
        headers = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Connection": "close",
        }
        request = h11.Request(method=method, target=path, headers=list(headers.items()))
        events = (request, h11.Data(content), h11.EndOfMessage())
        rest, status = b"", 0
        async with stream:
            await stream.send_all(b"".join(parser.send(event) or b"" for event in events))
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    parser.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    *lines, rest = (rest + bytes(event.data)).split(b"\n")
                    for line in filter(None, lines):
                        yield json.loads(line)
        if rest and status == _OK:
            yield json.loads(rest)
