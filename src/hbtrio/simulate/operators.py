"""Simulates the operators of hosts without an agent: they act through the hosts' control sockets.

Each instance has an operator who wants something of it now and then, and asks its host as
``hbtrio ctl act`` does. What the host answers line by line is what the operator knows.
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
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import Owner
from hbtrio.simulate.operator_course import OperatorCourse
from hbtrio.simulate.places import Stage
from hbtrio.simulate.process import Process
from hbtrio.simulate.requests import OperatorRequests
from hbtrio.simulate.scenario import SCENARIO_S, Scenario

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
        names = {instance.uuid: instance.name for instance in instances}
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
        async with trio.open_nursery() as nursery:
            for instance in self._instances:
                nursery.start_soon(self._care_for, instance)

    async def _care_for(self, instance: Instance) -> None:
        if self._scenario is not None:
            await self._play(instance)
            return
        draw = self._stage.timeline.random(f"operator of {instance.name}")
        await self._course.care_for(instance.uuid, instance.name, draw)

    async def _play(self, instance: Instance) -> None:
        """Reboots the first instance."""
        await trio.sleep(SCENARIO_S - self._stage.timeline.now)
        if instance is self._instances[0] and self._is_there(instance.uuid):
            await self._course.act(instance.uuid, instance.name, "reboot", force=False)

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
        return self._lines(address, f"/v1/instances/{uuid}/act", body)

    def _now(self) -> float:
        return self._stage.timeline.now

    async def _lines(
        self, address: str, path: str, body: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """Posts a request and yields the lines of the answer."""
        stream = await self._stage.network.connect(self.process, address, _ROOT)
        parser = h11.Connection(h11.CLIENT)
        content = json.dumps(body).encode()
        headers = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Connection": "close",
        }
        request = h11.Request(method="POST", target=path, headers=list(headers.items()))
        events = (request, h11.Data(content), h11.EndOfMessage())
        rest = b""
        async with stream:
            await stream.send_all(b"".join(parser.send(event) or b"" for event in events))
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    parser.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Data):
                    *lines, rest = (rest + bytes(event.data)).split(b"\n")
                    for line in filter(None, lines):
                        yield json.loads(line)
