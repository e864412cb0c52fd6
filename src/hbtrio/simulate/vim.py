"""Simulates the VIM: a process of its own, with the lab's VIM in it and users who want something.

Each instance has its own course of events: now and then a user wants it stopped, paused, moved and
so on, and the VIM does that in the order of the deployed one (:mod:`hbtrio.lab.vim`). It goes on
without a verdict that does not come, gives up an action whose vote the agent refuses, and repeats
what has to be told.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from hbtrio.errors import UserError
from hbtrio.lab.received import Received
from hbtrio.lab.vim import LabVim
from hbtrio.lab.vim_request import VimReply, ask_over
from hbtrio.lab.vim_server import Mood, VimServer
from hbtrio.net.connections import ConnectionEnds
from hbtrio.simulate.inbox import Inbox
from hbtrio.simulate.instance import Instance, Place
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import (
    ActionBegan,
    ActionEnded,
    Asked,
    Owner,
    Verdict,
)
from hbtrio.simulate.places import AGENT_VIM, VIM, Stage
from hbtrio.simulate.process import Process
from hbtrio.simulate.scenario import SCENARIO_S, Scenario
from hbtrio.simulate.stream import SimulatedStream
from hbtrio.simulate.vm_changes import Ending
from hbtrio.simulate.wishes import WISHES, Wish

#: Seconds between two wishes of an instance's users, on average.
WISH_S: Final = 27.0

#: Seconds from a verdict to the VIM's next step.
_STEP_S: Final = (0.05, 1.0)

#: Seconds for which an instance is paused, suspended or stopped.
_REST_S: Final = (1.0, 20.0)

#: Seconds between attempts to tell the agent something, and between looks at an instance.
_AGAIN_S: Final = 5.0
_LOOK_S: Final = 2.0

#: Seconds for which the VIM waits until an instance is heartbeating again.
_RETURN_S: Final = 320.0

#: An action, performed once the guest was told of it; returns the host on which the instance is.
Perform = Callable[[Instance], Awaitable[Place | None]]


class Vim:
    """The VIM of a simulated fleet.

    Args:
        stage: what all parts use.
        hosts: the compute hosts, with their uuids.
        instances: the instances, which have been given their first host.
        quiet_s: from when on nobody wishes anything, in seconds.
        scenario: the one thing that happens instead; None: what users want.
    """

    def __init__(
        self,
        stage: Stage,
        hosts: Mapping[str, Place],
        instances: Sequence[Instance],
        quiet_s: float,
        scenario: Scenario | None,
    ) -> None:
        self._scenario = scenario
        self._timeline = timeline = stage.timeline
        self._network = stage.network
        self._trace = trace = stage.trace
        self._hosts = hosts
        self._instances = {instance.uuid: instance for instance in instances}
        self._observe = stage.observe
        self._quiet_s = quiet_s
        self.process = Process(Machine(timeline, "vim"), timeline, trace, "vim")
        self._inbox = Inbox(self.process)
        self.server = VimServer(self._listen, kept=1, reset=_reset)
        self._vim = LabVim(self.server, self._call, self._say, self._repair)
        self.server.on_received = self._hear
        self._busy: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        #: The last vote or notice on each event of each instance.
        self._requests: dict[tuple[str, str, bool], str] = {}
        self._asked = 0
        #: When each open vote or notice ends.
        self._ends: dict[str, float] = {}
        #: The action that an instance's next request belongs to.
        self._actions: dict[str, str] = {}

    def start(self) -> None:
        """Starts the VIM."""
        self.process.start(self._run)

    def go_down(self) -> None:
        """Refuses connections until :meth:`come_up`."""
        self._inbox.put(self.server.go_down)

    def come_up(self) -> None:
        """Accepts connections again."""
        self._inbox.put(self.server.come_up)

    def be(self, mood: Mood) -> None:
        """Treats connections like this from now on."""
        self._inbox.put(partial(setattr, self.server, "mood", mood))

    def next_end(self, after_s: float) -> float:
        """Returns when the next open vote or notice ends for the VIM; infinite if none is open."""
        return min((end for end in self._ends.values() if end > after_s), default=math.inf)

    def request_of(self, uuid: str, event: str, is_vote: bool) -> str:  # noqa: FBT001
        """Returns the last request about an event of an instance; "" if there was none."""
        return self._requests.get((uuid, event, is_vote), "")

    def action_of(self, uuid: str) -> str:
        """Returns the last action on an instance; "" if there was none."""
        return self._actions.get(uuid, "")

    # -- its process -------------------------------------------------------------------------------

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._inbox.run)
            await nursery.start(self._vim.run)
            for uuid, host in self._hosts.items():
                self._vim.add_host(uuid, host.name)
            for instance in self._instances.values():
                nursery.start_soon(self._care_for, instance)

    async def _care_for(self, instance: Instance) -> None:
        draw = self._timeline.random(f"users of {instance.name}")
        assert instance.place is not None
        try:
            await self._vim.add_instance(instance.uuid, instance.name, instance.place.name)
        except UserError as fault:
            self._say(str(fault))  # the next audit tells the agent
        if self._scenario is not None:
            await self._play(instance, self._scenario, draw)
            return
        number = 0
        while self._timeline.now < self._quiet_s:
            await trio.sleep(draw.expovariate(1 / WISH_S))
            async with self._busy[instance.uuid]:
                if instance.guest_lives and self._timeline.now < self._quiet_s:
                    number += 1
                    [wish] = draw.choices(WISHES, [wish.weight for wish in WISHES])
                    await self._fulfil(instance, wish, f"{instance.name}-{number}", draw)

    async def _play(self, instance: Instance, scenario: Scenario, draw: random.Random) -> None:
        """Does what the scenario says to the first instance."""
        if instance is not next(iter(self._instances.values())):
            return
        await trio.sleep(SCENARIO_S - self._timeline.now)
        if scenario is Scenario.MIGRATE:
            [wish] = [wish for wish in WISHES if wish.event == "live_migrate_begin"]
            await self._fulfil(instance, wish, "the-action", draw)
            return
        try:
            await self._vim.vote(instance.uuid, "stop")
        except UserError as fault:
            self._say(str(fault))

    async def _fulfil(
        self, instance: Instance, wish: Wish, action: str, draw: random.Random
    ) -> None:
        """Takes an action from its vote to its end."""
        uuid = instance.uuid
        self._actions[uuid] = action
        try:
            verdict = await self._vim.vote(uuid, wish.event)
        except UserError as fault:
            self._say(str(fault))
            return
        if verdict.response == "reject":
            return
        self._observe(ActionBegan(self._timeline.now, action, instance.name, Owner.VIM))
        try:
            await trio.sleep(draw.uniform(*_STEP_S))
            await self._notify(uuid, wish.event)
            await trio.sleep(draw.uniform(*_STEP_S))
            await self._insist(partial(self._vim.disable, uuid))
            await trio.sleep(draw.uniform(*_STEP_S))
            place = await self._perform(instance, wish, draw)
            await trio.sleep(draw.uniform(*_STEP_S))
            await self._insist(partial(self._vim.enable, uuid, place.name))
            if wish.end and await self._returns(uuid):
                await self._notify(uuid, wish.end)
        finally:
            self._observe(ActionEnded(self._timeline.now, action))

    async def _perform(self, instance: Instance, wish: Wish, draw: random.Random) -> Place:
        """Performs an action; returns the host on which the instance is then."""
        here = instance.place
        others = [host for host in self._hosts.values() if host is not here]
        target = draw.choice(others) if others else here
        rest_s = draw.uniform(*_REST_S)
        hosts = list(self._hosts.values())
        match wish.event:
            case "pause":
                instance.pause()
                await trio.sleep(rest_s)
                instance.resume()
            case "suspend":
                instance.save(rest_s)
                await trio.sleep(rest_s + 6.0)
            case "live_migrate_begin" if target is not None:
                instance.migrate(target)
                await trio.sleep(draw.uniform(1.0, 3.0))
            case "reboot" if draw.random() < 0.5:
                instance.reset()
            case _:  # it is stopped and started
                instance.shut_down()
                await trio.sleep(4.0)
                instance.end(Ending.DESTROYED)
                await trio.sleep(rest_s if wish.event == "stop" else 0.0)
                moves = wish.event == "cold_migrate_begin"
                instance.boot((target if moves else here) or hosts[0])
        return instance.place or here or hosts[0]

    async def _notify(self, uuid: str, event: str) -> None:
        try:
            await self._vim.notify(uuid, event)
        except UserError as fault:
            self._say(str(fault))

    async def _insist(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Tells the agent something, again and again until it takes it."""
        while True:
            try:
                return await tell()
            except UserError as fault:
                self._say(str(fault))
            await trio.sleep(_AGAIN_S)

    async def _returns(self, uuid: str) -> bool:
        """Waits until an instance is heartbeating; returns whether it is."""
        with trio.move_on_after(_RETURN_S):
            while True:
                try:
                    reply = await self._call("GET", f"/v1/instances/{uuid}")
                except UserError:
                    pass
                else:
                    services = reply.members.get("services") or [{}]
                    if services[0].get("status") == "enabled":
                        return True
                await trio.sleep(_LOOK_S)
        return False

    async def _repair(self, uuid: str, action: str) -> None:
        """Carries out the repair action of an instance that is lost or ill."""
        async with self._busy[uuid]:
            instance = self._instances[uuid]
            if action == "reboot":
                instance.reset()
            else:
                place = instance.place
                instance.end(Ending.DESTROYED)
                await trio.sleep(_REST_S[1])
                if place is not None:
                    instance.boot(place)

    # -- what it says and hears --------------------------------------------------------------------

    def _listen(self) -> trio.abc.Listener[trio.abc.Stream]:
        return self._network.listen(self.process, VIM)

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        on_reply: Callable[[VimReply], None] | None = None,
    ) -> VimReply:
        request = self._name_request(path, body) if on_reply is not None and body else ""

        def replied(reply: VimReply) -> None:
            if on_reply is not None:
                self._note(request, path, body or {}, reply)
                on_reply(reply)

        connect = partial(self._network.connect, self.process, AGENT_VIM, ConnectionEnds())
        return await ask_over(connect, "controller:2410", method, path, body, on_reply=replied)

    def _name_request(self, path: str, body: dict[str, Any]) -> str:
        """Names a vote or notice before it is sent: its outcome may be stored before the reply."""
        self._asked += 1
        request = f"vim-{self._asked}"
        self._requests[body["uuid"], body["action"], path.endswith("/vote")] = request
        return request

    def _note(self, request: str, path: str, body: dict[str, Any], reply: VimReply) -> None:
        """Observes that the agent has accepted a vote or notice."""
        seconds = int(reply.members["timeout"]) if reply.status == 200 else 0
        if not seconds:
            return
        uuid, event, now = body["uuid"], body["action"], self._timeline.now
        is_vote = path.endswith("/vote")
        self._ends[request] = now + seconds
        self._observe(
            Asked(
                now,
                request,
                self._instances[uuid].name,
                event,
                self._actions.get(uuid, ""),
                is_vote,
                now + seconds,
            )
        )

    def _hear(self, received: Received) -> None:
        body = received.json
        if isinstance(body, dict) and body.get("event-type") == "action":
            data = body["event-data"]
            is_vote = data["guest-response"] != "proceed"
            request = self._requests.get((body["uuid"], data["action"], is_vote), "unasked")
            self._ends.pop(request, None)
            self._observe(Verdict(self._timeline.now, request, data["guest-response"]))
        self._vim.hear(received)

    def _say(self, text: str) -> None:
        self._trace.event("vim", text)


def _reset(stream: trio.abc.Stream) -> None:
    """Makes the following close of a simulated stream a reset."""
    assert isinstance(stream, SimulatedStream)
    stream.reset()
