"""One host, one agent and two guests of the real composition, in the simulated machine room.

Nothing of it is an invariant or a fault: it shows that the daemons run on the simulated clock,
network, channels and disks as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import trio

from hbtrio.api.control import ControlAccess
from hbtrio.config.agent import AgentConfig, VimSettings
from hbtrio.config.guest import GuestConfig
from hbtrio.config.host import AgentLinkSettings, HostConfig, LibvirtSettings
from hbtrio.daemons.agent import AgentWorld, serve_agent
from hbtrio.daemons.guest import GuestWorld, serve_guest
from hbtrio.daemons.host import HostWorld, serve_host
from hbtrio.daemons.serving import ApiEndpoint
from hbtrio.errors import UserError
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.time_guard import GuardRunner, run_guard
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.simulate.commands import Script, SimulatedCommands
from hbtrio.simulate.directory import SimulatedDirectory
from hbtrio.simulate.disk import Disk, SimulatedWorker
from hbtrio.simulate.guard_ticks import GuardTicks
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.network import Network
from hbtrio.simulate.places import NoHeap, QuietLog, never_collecting, no_manager, opening
from hbtrio.simulate.ports import SimulatedDialer
from hbtrio.simulate.process import Process
from hbtrio.simulate.signals import SignalQueue
from hbtrio.simulate.virtio import SimulatedDevice, VirtioPort
from hbtrio.store.daemon_store import DaemonStore
from hbtrio.store.host_records import Moment
from hbtrio.store.host_store import HostStore
from hbtrio.store.migration import migrate
from hbtrio.store.store import Store
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.channel_messages import MAX_ID
from support.simulation import Simulation

#: Configured as an address of the same machine, since others need TLS, which is not simulated.
LINK: Final = "tcp:127.0.0.1:2411"
UUIDS: Final = tuple(f"{number:08d}-0000-4000-8000-000000000000" for number in (1, 2))

T = TypeVar("T")
S = TypeVar("S", bound=DaemonStore)


class SmallFleet:
    """The fleet; its daemons are started by :meth:`start`.

    Args:
        seed: of everything.
        lazy: whether guards tick only after a freeze.
    """

    def __init__(self, seed: int = 1, *, lazy: bool = False) -> None:
        self._lazy = lazy
        self.simulation = Simulation(seed)
        self.timeline, self.trace = self.simulation.timeline, self.simulation.trace
        self.network = Network(self.timeline, self.trace)
        self.host_machine = Machine(self.timeline, "host-1")
        self.controller = Machine(self.timeline, "controller")
        self.host_disk, self.agent_disk = Disk(self.timeline), Disk(self.timeline)
        self.directory = SimulatedDirectory()
        self.ports: dict[str, VirtioPort] = {}
        self.signals: dict[str, SignalQueue] = {}
        self.processes: dict[str, Process] = {}
        self._started = 0
        for number, uuid in enumerate(UUIDS, 1):
            name = f"cgcs.heartbeat.{uuid}.sock"
            self.ports[f"/channels/{name}"] = VirtioPort(self.timeline, self.trace, f"vm-{number}")
            self.directory.put(name)

    def start(self) -> None:
        self.start_agent()
        self.start_host()
        for number in range(len(UUIDS)):
            self.start_guest(number)

    def run(self, until: float) -> None:
        self.simulation.run(until)
        for process in self.processes.values():
            if process.error is not None:
                raise process.error

    # -- the daemons -------------------------------------------------------------------------------

    def start_agent(self) -> Process:
        process = self._process("agent", self.controller)
        config = AgentConfig(name="controller", vim=VimSettings(url=""))
        draw = self.timeline.random(f"ids of {process.name}")
        world = AgentWorld(
            store=partial(self._store, Store, process, self.agent_disk),
            vim=None,
            signals=self.signals["agent"].receive,
            link=self._endpoint(process, LINK),
            vim_api=self._endpoint(process, "tcp:controller:2410"),
            operator=self._endpoint(process, "unix:/run/agent.sock"),
            processes=self._commands(process),
            notifier=partial(self._notifier, process.machine),
            files=FileWatch(process.machine.utc),
            log=QuietLog(),
            manager=no_manager(),
            collecting=never_collecting,
            clock=ProcessClock(process.machine.monotonic, process.name),
            wall_clock=process.machine.utc,
            new_id=lambda: f"{draw.getrandbits(64):016x}",
            run_guard=self._guard(process),
        )
        process.start(partial(serve_agent, config, "agent.toml", world))
        return process

    def start_host(self) -> Process:
        process = self._process("host", self.host_machine)
        machine = process.machine
        config = HostConfig(
            hostname="host-1",
            channel_dir="/channels",
            agent=AgentLinkSettings(connect=LINK),
            libvirt=LibvirtSettings(enabled="off"),
        )
        draw = self.timeline.random(f"ids of {process.name}")

        async def listen_control():
            return self.network.listen(process, "unix:/run/host.sock")

        world = HostWorld(
            watch=self.directory.watch(process),
            dialer=SimulatedDialer(process, self.ports),
            connect=partial(self.network.reach, process, LINK),
            signals=self.signals["host"].receive,
            control=listen_control,
            access=ControlAccess(own_uid=0),
            observe=None,
            processes=self._commands(process),
            notifier=partial(self._notifier, machine),
            memory=MemorySettings(
                open_store=partial(self._store, HostStore, process, self.host_disk),
                moment=lambda: Moment("boot", machine.monotonic(), machine.wall()),
                path="host.db",
                socket_of=lambda path: path,
            ),
            events=None,
            files=FileWatch(machine.utc),
            log=QuietLog(),
            manager=no_manager(),
            collecting=never_collecting,
            clock=ProcessClock(machine.monotonic, process.name),
            wall_clock=machine.utc,
            new_id=lambda: draw.randint(0, MAX_ID),
            heap=NoHeap,
            run_guard=self._guard(process),
        )
        process.start(partial(serve_host, config, "host.toml", world))
        return process

    def start_guest(self, number: int) -> Process:
        name = f"guest-{number + 1}"
        process = self._process(name, Machine(self.timeline, f"vm-{number + 1}"))
        draw = self.timeline.random(f"ids of {process.name}")
        world = GuestWorld(
            device=SimulatedDevice(list(self.ports.values())[number], process),
            signals=self.signals[name].receive,
            app_socket=_no_socket,
            app_socket_required=False,
            app_status=_no_socket,
            processes=self._commands(process),
            reload=GuestConfig,
            run_guard=self._guard(process),
            manager=no_manager(),
            new_id=lambda: draw.randint(0, MAX_ID),
        )
        process.start(partial(serve_guest, f"vm-{number + 1}", GuestConfig(), world))
        return process

    # -- their worlds ------------------------------------------------------------------------------

    def _process(self, name: str, machine: Machine) -> Process:
        self._started += 1
        process = self.simulation.process(f"{name} {self._started}", machine)
        self.processes[name] = process
        self.signals[name] = SignalQueue(process)
        return process

    def _endpoint(self, process: Process, address: str) -> ApiEndpoint:
        async def listen():
            return [self.network.listen(process, address)]

        return ApiEndpoint(address, listen)

    def _guard(self, process: Process) -> GuardRunner:
        return GuardTicks(process).run if self._lazy else run_guard

    def _commands(self, process: Process):
        return opening(
            SimulatedCommands(
                process, self.timeline, lambda argv, env: Script(0.0, fault="missing")
            )
        )

    @asynccontextmanager
    async def _store(self, kind: type[S], process: Process, disk: Disk) -> AsyncIterator[S]:
        migrate(disk.db, kind.schema.migrations)
        for statement in kind.schema.at_start:
            disk.db.execute(statement)
        await trio.lowlevel.checkpoint()
        yield kind(SimulatedWorker(process, self.timeline, disk), process.machine.utc)

    @asynccontextmanager
    async def _notifier(self, machine: Machine, _: ProcessRunner) -> AsyncIterator[Notifier]:
        yield Notifier(
            [], per_minute=6, hostname="", wall_clock=machine.utc, new_id=lambda: "no id"
        )


async def _no_socket(*_: object):
    raise UserError("no sockets in this VM")


def small_fleet_digest(seed: int = 1, seconds: float = 30.0) -> str:
    """The digest of a fleet that heartbeats for some seconds."""
    fleet = SmallFleet(seed)
    fleet.start()
    fleet.run(seconds)
    return fleet.trace.digest
