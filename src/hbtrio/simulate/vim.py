"""Simulates the VIM: a process of its own, with the lab's VIM in it and users who want something.

Each instance has its own course of events: now and then a user wants it stopped, paused, moved and
so on, see :mod:`hbtrio.simulate.vim_course`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

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
from hbtrio.simulate.observations import Owner
from hbtrio.simulate.places import AGENT_VIM, VIM, Stage
from hbtrio.simulate.process import Process
from hbtrio.simulate.scenario import SCENARIO_S, Scenario
from hbtrio.simulate.stream import SimulatedStream
from hbtrio.simulate.vim_course import REST_S, VimCourse, VimRequests
from hbtrio.simulate.vm_changes import Ending
from hbtrio.simulate.wishes import WISHES, Wish


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
        self.process = Process(Machine(timeline, "vim"), timeline, trace, "vim")
        self._inbox = Inbox(self.process)
        self.server = VimServer(self._listen, kept=1, reset=_reset)
        self._vim = LabVim(self.server, self._call, self._say, self._repair)
        self.server.on_received = self._hear
        names = {instance.uuid: instance.name for instance in instances}
        #: The votes and notices that it asks for.
        self.requests = VimRequests("vim", Owner.VIM, names, self._now, stage.observe)
        self._course = VimCourse(
            self._vim,
            self._call,
            self.requests,
            perform=self._perform,
            lives=lambda uuid: self._instances[uuid].guest_lives,
            now=self._now,
            observe=stage.observe,
            say=self._say,
            quiet_s=quiet_s,
        )

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
        await self._course.introduce(instance.uuid, instance.name, instance.place.name)
        if self._scenario is not None:
            await self._play(instance, self._scenario, draw)
        else:
            await self._course.care_for(instance.uuid, instance.name, draw)

    async def _play(self, instance: Instance, scenario: Scenario, draw: random.Random) -> None:
        """Does what the scenario says to the first instance."""
        if scenario.by_operator or instance is not next(iter(self._instances.values())):
            return
        await trio.sleep(SCENARIO_S - self._timeline.now)
        if scenario is Scenario.MIGRATE:
            [wish] = [wish for wish in WISHES if wish.event == "live_migrate_begin"]
            await self._course.fulfil(instance.uuid, instance.name, wish, "the-action", draw)
            return
        try:
            await self._vim.vote(instance.uuid, "stop")
        except UserError as fault:
            self._say(str(fault))

    async def _perform(self, uuid: str, wish: Wish, draw: random.Random) -> str:
        """Performs an action; returns the host on which the instance is then."""
        instance = self._instances[uuid]
        here = instance.place
        others = [host for host in self._hosts.values() if host is not here]
        target = draw.choice(others) if others else here
        rest_s = draw.uniform(*REST_S)
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
        return (instance.place or here or hosts[0]).name

    async def _repair(self, uuid: str, action: str) -> None:
        """Carries out the repair action of an instance that is lost or ill."""
        async with self._course.busy[uuid]:
            instance = self._instances[uuid]
            if action == "reboot":
                instance.reset()
            else:
                place = instance.place
                instance.end(Ending.DESTROYED)
                await trio.sleep(REST_S[1])
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
        replied = self.requests.named(path, body, on_reply)
        connect = partial(self._network.connect, self.process, AGENT_VIM, ConnectionEnds())
        return await ask_over(connect, "controller:2410", method, path, body, on_reply=replied)

    def _hear(self, received: Received) -> None:
        self.requests.heard(received.json)
        self._vim.hear(received)

    def _now(self) -> float:
        return self._timeline.now

    def _say(self, text: str) -> None:
        self._trace.event("vim", text)


def _reset(stream: trio.abc.Stream) -> None:
    """Makes the following close of a simulated stream a reset."""
    assert isinstance(stream, SimulatedStream)
    stream.reset()
