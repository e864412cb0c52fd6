"""The fleet: an agent with its hosts and a VIM, hosts without an agent with their operators, VMs.

::

    VIM <--HTTP-- agent <--LinkRelay-- hosts --Bridge-- guests --Bridge-- hosts without an agent

All daemons are real processes. The VIM, libvirt, the operators and QEMU are this process.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from chaos.host import ChaosHost
from chaos.lateness import Lateness, run_canary, watch_waits
from chaos.operators import LEARNS_S, RealOperators
from chaos.records import Records
from chaos.taps import ChannelTap, Feed, LinkRelay, nothing
from chaos.translation import Sayings
from chaos.victim import Victim
from chaos.vm import ChaosVm
from hbtrio.lab.agent import LabAgent
from hbtrio.lab.fake_vim import FakeVim
from hbtrio.lab.feed import Feed as LineFeed
from hbtrio.lab.launcher import Launcher
from hbtrio.lab.received import Received
from hbtrio.lab.scene import Scene
from hbtrio.lab.vim import LabVim
from hbtrio.lab.vim_request import VimReply, ask_agent
from hbtrio.simulate.begin_watch import BeginWatch
from hbtrio.simulate.fault_words import host_name, instance_name
from hbtrio.simulate.observations import AGENT, Notified, Owner
from hbtrio.simulate.reject_watch import RejectWatch
from hbtrio.simulate.requests import OperatorRequests, drain_action
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.vim_course import REST_S, VimCourse, VimRequests
from hbtrio.simulate.wishes import Wish
from hbtrio.system.boot_clock import boot_clock

#: The guests' own windows, in seconds; with RESTART and the heartbeat's period as in a simulation.
WINDOW_S: Final = 10

#: How often a guest's health script runs, in seconds.
HEALTH_S: Final = 2

_CONF: Final = {
    "HB_INTERVAL": 1000,
    "HB_INIT_RETRY": 5000,
    "VOTE": WINDOW_S,
    "SHUTDOWN_NOTICE": WINDOW_S,
    "SUSPEND_NOTICE": WINDOW_S,
    "RESUME_NOTICE": WINDOW_S,
    "RESTART": 120,
    "HEALTH_CHECK_INTERVAL": HEALTH_S,
}

#: How often the agent audits the VIM, in seconds, as in a simulation.
_AUDIT_S: Final = 10.0


class ChaosFleet:
    """The fleet; :meth:`run` starts it.

    Args:
        schedule: how large it is, and its seed. The last host has no agent if there are three.
        directory: for all files of the daemons; its name is short.
        kept: for what is written down.
        records: takes in what happens.
        nursery: runs the tasks of the processes.
        launcher: starts the processes.
        resources: frees its ports in the end.
    """

    def __init__(
        self,
        schedule: Schedule,
        directory: Path,
        kept: Path,
        records: Records,
        nursery: trio.Nursery,
        launcher: Launcher,
        resources: ExitStack,
    ) -> None:
        self.records = records
        self.now = records.clock.now
        self.lateness = Lateness()
        self._schedule = schedule
        self._kept = kept
        self._nursery = nursery
        self._said = (kept / "said.log").open("w", encoding="utf-8", buffering=1)
        resources.callback(self._said.close)
        self.agent = resources.enter_context(LabAgent(directory, launcher, _AUDIT_S))
        self.store = directory / "agent.db"
        self.vim_server = FakeVim(kept=100)
        self.vms: dict[str, ChaosVm] = {}
        self._names: dict[str, str] = {}
        #: The drain by the agent that has a VM in turn, by uuid.
        self._drains: dict[str, str] = {}
        observe = records.observe
        self.vim_requests = VimRequests("vim", Owner.VIM, self._names, self.now, observe)
        self.operators = RealOperators(
            self.vms, self._names, records, partial(self.say, "operators"), schedule
        )
        self.rejects = RejectWatch(
            self.now,
            observe,
            lambda uuid, event, _: self._find(uuid, event, is_vote=True),
            lambda uuid, event, is_vote, *_: self._find(uuid, event, is_vote),
        )
        self.begins = BeginWatch(self.now, observe, self._when)
        self.sayings = Sayings(records, self._names, self._find_at, self.rejects.commands)
        self.vim = LabVim(self.vim_server, self._call, partial(self.say, "VIM"), self._repair)
        self.vim_server.on_received = self._hear
        self.victim = Victim(
            AGENT,
            records,
            daemon=lambda: self.agent.daemon,
            launch=partial(self.agent.start, self.vim_server.url),
            say=self.say,
        )
        self._lines: LineFeed[list[str]] = LineFeed()
        lone = schedule.hosts - 1 if schedule.hosts > 2 else -1
        self.hosts = [
            self._host(number, directory, launcher, linked=number != lone)
            for number in range(schedule.hosts)
        ]
        self._by_name = {host.name: host for host in self.hosts}
        self._course = VimCourse(
            self.vim,
            self._call,
            self.vim_requests,
            perform=self._perform,
            lives=lambda uuid: self.vms[uuid].daemon is not None,
            now=self.now,
            observe=observe,
            say=partial(self.say, "VIM"),
            quiet_s=schedule.quiet_s,
        )

    def say(self, who: str, text: str) -> None:
        """Writes down what is no observation."""
        print(f"{self.now():9.3f} {who}: {text}", file=self._said)

    def _host(self, number: int, directory: Path, launcher: Launcher, *, linked: bool) -> ChaosHost:
        name = host_name(number)
        place = directory / name
        place.mkdir()
        scene = Scene(place, self._nursery, launcher, name=name, script_lines=self._lines)
        relay = None
        if linked:
            agent_path = Path(self.agent.link.removeprefix("unix:"))
            feeds = partial(self._link_feeds, name)
            relay = LinkRelay(directory / f"link-{number}", agent_path, feeds)
        host_uuid = str(uuid.UUID(int=number + 1))
        return ChaosHost(
            name, host_uuid, scene, self.records, self.sayings, relay, self.vms, self.say
        )

    def _link_feeds(self, host: str) -> tuple[Feed, Feed]:
        rejects, begins = self.rejects.link_to_host(), self.begins.link_to_host(host)

        def commanded(data: bytes) -> None:
            # Before the host has it, which may be quicker to begin than this process.
            rejects(data)
            begins(data)

        return self.rejects.link_to_agent(), commanded

    def _when(self, _host: str, _boot_id: str, clock_s: float) -> float:
        """All hosts are on this machine, so that their processes have one clock."""
        return self.now() + clock_s - boot_clock()

    @property
    def linked_hosts(self) -> list[ChaosHost]:
        """Those with an agent."""
        return [host for host in self.hosts if host.relay is not None]

    def vm(self, number: int) -> ChaosVm:
        """Returns a VM by its number."""
        return list(self.vms.values())[number % len(self.vms)]

    def next_end(self, after_s: float) -> float:
        """Returns when the next open vote or notice ends; infinite if none is open."""
        each = (self.vim_requests, self.operators.requests)
        return min(requests.next_end(after_s) for requests in each)

    # -- its life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts everything, and what observes it; returns when all daemons serve."""
        nursery = self._nursery
        await nursery.start(self.vim.run)
        nursery.start_soon(run_canary, self.lateness, self.now)
        nursery.start_soon(watch_waits, self.lateness, self.records, self.pids)
        for host in self.linked_hosts:
            assert host.relay is not None
            self.vim.add_host(host.uuid, host.name)
            await nursery.start(host.relay.run)
        for host in self.hosts:
            await nursery.start(host.scene.listen)
            nursery.start_soon(host.follow, self._kept / f"{host.name}.events")
        nursery.start_soon(self._follow_lines)
        async with trio.open_nursery() as starters:
            for victim in self.victims:
                starters.start_soon(victim.start)
        for number in range(self._schedule.vms):
            vm = await self._add_vm(number)
            nursery.start_soon(vm.start)

    def is_well(self) -> bool:
        """Whether all VMs heartbeat and all hosts are linked, as far as is known here."""
        linked = all(host.relay is not None and host.relay.joined for host in self.linked_hosts)
        return linked and all(map(self.heartbeats, self.vms.values()))

    def heartbeats(self, vm: ChaosVm) -> bool:
        """Whether the host of a VM has last said that it heartbeats."""
        return (vm.name, vm.last.name) in self.sayings.heartbeating

    async def until(self, at_s: float) -> None:
        """Waits until a time of the run."""
        await trio.sleep(max(0.0, at_s - self.now()))

    def begin(self) -> None:
        """Lets the VIM's users and the operators want something from now on."""
        seed = self._schedule.seed
        for vm in self.vms.values():
            place = self._by_name[vm.last.name]
            if place.relay is not None:
                draw = random.Random(f"{seed}/users of {vm.name}")
                self._nursery.start_soon(self._care_for, vm, draw)
        for host in self.hosts:
            if host.relay is None:
                self._nursery.start_soon(self.operators.run, host)
        self._nursery.start_soon(
            self.operators.drain_by_agent, self.agent.client, self.linked_hosts, self._drained
        )

    async def _care_for(self, vm: ChaosVm, draw: random.Random) -> None:
        await self._course.introduce(vm.uuid, vm.name, vm.last.name)
        await self._course.care_for(vm.uuid, vm.name, draw)

    @property
    def victims(self) -> list[Victim]:
        """The daemons of the agent and of the hosts."""
        return [self.victim, *(host.victim for host in self.hosts)]

    async def end(self) -> None:
        """Ends every process, the guests first; what was stopped goes on before."""
        async with trio.open_nursery() as nursery:
            for vm in self.vms.values():
                nursery.start_soon(vm.guest.stop)
        async with trio.open_nursery() as nursery:
            for host in self.hosts:
                nursery.start_soon(host.scene.end)
        await self.agent.stop()

    def pids(self) -> Iterator[tuple[str, int, bool]]:
        for victim in self.victims:
            if victim.daemon is not None:
                yield victim.name, victim.daemon.pid, False
        for vm in self.vms.values():
            if vm.daemon is not None:
                yield vm.name, vm.daemon.pid, True

    async def _add_vm(self, number: int) -> ChaosVm:
        name, host = instance_name(number), self.hosts[number % len(self.hosts)]
        tap = ChannelTap()
        guest = await host.scene.add_guest(name, tap)
        del host.scene.guests[guest.uuid]  # who is here is not the scene's matter
        guest.configure(**_CONF)
        draw = random.Random(f"{self._schedule.seed}/vm {name}")
        vm = ChaosVm(name, guest, tap, host, self.records, draw, WINDOW_S)
        self.vms[vm.uuid] = vm
        self._names[vm.uuid] = name
        to_host = {one.name: self.rejects.channel_to_host(vm.uuid, one.name) for one in self.hosts}
        from_host = {
            one.name: self.begins.channel_from_host(vm.uuid, one.name) for one in self.hosts
        }
        to_guest = self.rejects.channel_to_guest(vm.uuid)
        asked = self.operators.asked(vm.uuid) if host.relay is None else nothing

        def written(data: bytes) -> None:
            # Before the guest has it: its answer may be quicker than this process.
            asked(data)
            to_guest(data)
            from_host[vm.last.name](data)

        tap.from_host_feed = written
        tap.at_host_feed = lambda data: to_host[vm.last.name](data)
        return vm

    # -- what is heard ----------------------------------------------------------------------

    async def _follow_lines(self) -> None:
        """Takes in what scripts report."""
        async for words in self._lines.follow():
            match words:
                case ["act", host, *rest]:
                    self._by_name[host].heard(rest, self._nursery)
                case ["handler", name, "irrevocable", event, *_]:
                    [vm] = [one for one in self.vms.values() if one.name == name]
                    self._nursery.start_soon(self._notified, vm, event, self.now())

    async def _notified(self, vm: ChaosVm, event: str, at_s: float) -> None:
        """Takes in a notice that has reached a guest, of the action that it is about by then."""
        await trio.sleep(LEARNS_S)
        action = self._requests_of(vm.uuid).action_of(vm.uuid)
        if vm.uuid in self._drains and not self._course.busy[vm.uuid].locked():
            action = drain_action(self._drains[vm.uuid], vm.name)
        self.records.observe(Notified(at_s, vm.name, event, action))

    def _drained(self, uuid: str, drain: str, *, has_turn: bool, acts: bool) -> None:
        """Takes that a drain by the agent has a VM in turn, or no longer."""
        if has_turn:
            self._drains[uuid] = drain
        else:
            self._drains.pop(uuid, None)

    def _requests_of(self, uuid: str) -> VimRequests | OperatorRequests:
        return self.vim_requests if self._is_linked(uuid) else self.operators.requests

    def _is_linked(self, uuid: str) -> bool:
        return self._by_name[self.vms[uuid].last.name].relay is not None

    def _find(self, uuid: str, event: str, is_vote: bool) -> str:
        return self._requests_of(uuid).request_of(uuid, event, is_vote)

    def _find_at(self, uuid: str, event: str, is_vote: bool, at_s: float) -> str:
        return self._requests_of(uuid).request_at(uuid, event, is_vote, at_s)

    def _hear(self, received: Received) -> None:
        self.vim_requests.heard(received.json)
        self.vim.hear(received)

    # -- what the VIM does ------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        on_reply: Callable[[VimReply], None] | None = None,
    ) -> VimReply:
        if on_reply is not None and body:
            kind = "revocable" if path.endswith("/vote") else "irrevocable"
            self.vms[body["uuid"]].answers(kind, body["action"])
        replied = self.vim_requests.named(path, body, on_reply)
        return await ask_agent(self.agent.vim_port, method, path, body, on_reply=replied)

    async def _perform(self, uuid: str, wish: Wish, draw: random.Random) -> str:
        vm, hosts = self.vms[uuid], self.linked_hosts
        here = self._by_name[vm.last.name]
        others = [host for host in hosts if host is not here]
        target = draw.choice(others) if others else here
        rest_s = draw.uniform(*REST_S)
        match wish.event:
            case "pause" | "suspend":
                vm.pause()
                await trio.sleep(rest_s)
                vm.resume()
            case "live_migrate_begin":
                await vm.migrate(target)
                await trio.sleep(draw.uniform(1.0, 3.0))
            case "reboot" if draw.random() < 0.5:
                await vm.reset()
            case _:  # it is stopped and started
                await vm.shut_down()
                await trio.sleep(rest_s if wish.event == "stop" else 0.0)
                await vm.boot(target if wish.event == "cold_migrate_begin" else here)
        return vm.last.name

    async def _repair(self, uuid: str, action: str) -> None:
        async with self._course.busy[uuid]:
            vm = self.vms[uuid]
            if action == "reboot":
                await vm.reset()
            else:
                await vm.end()
                await trio.sleep(REST_S[1])
                await vm.boot(vm.last)
