"""Simulates the operators of hosts without an agent: they act through the hosts' control sockets.

Each instance has an operator who wants something of it now and then, and asks its host as
``hbtrio ctl act`` does. What the host answers line by line is what the operator knows.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import h11
import trio

from hbtrio.net.connections import ConnectionEnds
from hbtrio.net.peer_credentials import PeerCredentials
from hbtrio.simulate.compute import ComputeHost
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import (
    ActionBegan,
    ActionEnded,
    Asked,
    Owner,
    Verdict,
)
from hbtrio.simulate.places import Stage
from hbtrio.simulate.process import Process
from hbtrio.simulate.scenario import SCENARIO_S, Scenario

#: Seconds between two wishes of an operator, on average.
WISH_S: Final = 60.0

#: Seconds until a VM that was stopped is started, and a paused one goes on.
_REST_S: Final = (2.0, 15.0)

#: The share of actions that skip the vote.
_FORCED: Final = 0.2

#: How often an action is wanted, compared with the others.
_ACTIONS: Final = {"reboot": 3, "stop": 2, "pause": 3}

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
        self._quiet_s = quiet_s
        self._numbers = 0
        self._actions: dict[str, str] = {}
        #: The last vote or notice on each event of each instance, and when it ends.
        self._requests: dict[tuple[str, str, bool], str] = {}
        self._ends: dict[str, float] = {}

    def start(self) -> None:
        """Starts them."""
        self.process.start(self._run)

    def request_of(self, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
        """Returns the last request about an event of an instance; "" if there was none."""
        return self._requests.get((uuid, event, is_vote), "")

    def action_of(self, uuid: str) -> str:
        """Returns the last action on an instance; "" if there was none."""
        return self._actions.get(uuid, "")

    def next_end(self, after_s: float) -> float:
        """Returns when the next open vote or notice ends; infinite if none is open."""
        return min((end for end in self._ends.values() if end > after_s), default=math.inf)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            for instance in self._instances:
                nursery.start_soon(self._care_for, instance)

    async def _care_for(self, instance: Instance) -> None:
        if self._scenario is not None:
            await self._play(instance)
            return
        draw = self._stage.timeline.random(f"operator of {instance.name}")
        while self._stage.timeline.now < self._quiet_s:
            await trio.sleep(draw.expovariate(1 / WISH_S))
            place = instance.place
            if place is None or self._stage.timeline.now >= self._quiet_s:
                continue
            [action] = draw.choices(list(_ACTIONS), list(_ACTIONS.values()))
            await self._act(instance, place.name, action, force=draw.random() < _FORCED)
            await self._tidy_up(instance, place.name, action, draw)

    async def _play(self, instance: Instance) -> None:
        """Reboots the first instance."""
        await trio.sleep(SCENARIO_S - self._stage.timeline.now)
        if instance is self._instances[0] and instance.place is not None:
            await self._act(instance, instance.place.name, "reboot", force=False)

    async def _tidy_up(
        self, instance: Instance, host: str, action: str, draw: random.Random
    ) -> None:
        """Starts what was stopped, and lets go on what was paused."""
        await trio.sleep(draw.uniform(*_REST_S))
        if action == "pause":
            await self._act(instance, host, "unpause", force=True)
            instance.resume()  # also where the command failed, or the host is away
        elif action == "stop" and instance.place is None:
            instance.boot(self._hosts[host])

    # -- an action ---------------------------------------------------------------------------------

    async def _act(self, instance: Instance, host: str, action: str, *, force: bool) -> None:
        self._numbers += 1
        name = f"act-{self._numbers}"
        self._actions[instance.uuid] = name
        self._stage.trace.event("operators", "act", action, instance.name, force=force)
        body = {"action": action, "force": force}
        path = f"/v1/instances/{instance.uuid}/act"
        began = False
        try:
            async for line in self._lines(self._hosts[host].control_address, path, body):
                if not began:
                    began = True
                    now = self._stage.timeline.now
                    self._stage.observe(
                        ActionBegan(now, name, instance.name, Owner.OPERATOR, not force)
                    )
                self._hear(instance, name, line)
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as fault:
            self._stage.trace.event("operators", f"{name}: {type(fault).__name__}")
        if began:
            self._stage.observe(ActionEnded(self._stage.timeline.now, name))

    def _hear(self, instance: Instance, action: str, line: dict[str, Any]) -> None:
        """Observes what a line says of a vote or notice."""
        step, now = line.get("step"), self._stage.timeline.now
        if step not in ("vote", "notice") or "event" not in line:
            return
        key = instance.uuid, line["event"], step == "vote"
        if "seconds" in line and "window" in line:
            self._numbers += 1
            request = self._requests[key] = f"op-{self._numbers}"
            end = self._ends[request] = now + line["seconds"]
            self._stage.observe(
                Asked(
                    now,
                    request,
                    instance.name,
                    line["event"],
                    action,
                    step == "vote",
                    end,
                    Owner.OPERATOR,
                )
            )
        elif "result" in line:
            request = self._requests.get(key, "")
            if self._ends.pop(request, None) is not None:
                self._stage.observe(Verdict(now, request, line["result"]))

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
