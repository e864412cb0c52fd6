"""A simulated fleet: controller, compute hosts, instances, the VIM and its users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Final, NoReturn, TextIO

from hbtrio.config.guest import GuestConfig
from hbtrio.daemons.guest import GuestWorld, serve_guest
from hbtrio.errors import ExitStatus, UserError
from hbtrio.simulate.askers import Askers, Said
from hbtrio.simulate.begin_watch import BeginWatch
from hbtrio.simulate.commands import Script, SimulatedCommands
from hbtrio.simulate.compute import ComputeHost
from hbtrio.simulate.connection import Connection
from hbtrio.simulate.controller import Controller
from hbtrio.simulate.daemon import SimulatedDaemon
from hbtrio.simulate.fault_words import host_name, instance_name
from hbtrio.simulate.footprints import LOOK_S, Footprints, Looked
from hbtrio.simulate.guard_ticks import GuardTicks
from hbtrio.simulate.histories import HistoryReader
from hbtrio.simulate.instance import Guest, Instance
from hbtrio.simulate.machine_faults import Targets
from hbtrio.simulate.network import Network
from hbtrio.simulate.observations import AGENT, Notified, Observation, ProcessStarted
from hbtrio.simulate.operators import Operators
from hbtrio.simulate.places import AGENT_LINK, Stage, no_manager, opening
from hbtrio.simulate.process import Process
from hbtrio.simulate.reject_watch import RejectWatch, both
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.signals import SignalQueue
from hbtrio.simulate.strikes import Strikes
from hbtrio.simulate.tenant import Tenant
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace
from hbtrio.simulate.vim import Vim
from hbtrio.simulate.virtio import SimulatedDevice, VirtioPort
from hbtrio.wire.channel_messages import MAX_ID

#: When the parts are started, in seconds: the controller, the hosts, the VMs, and who acts on them.
_HOSTS_S: Final = 0.1
_VMS_S: Final = 1.0
_USERS_S: Final = 2.0

#: Between the starts of two hosts or VMs, in seconds.
_APART_S: Final = 0.05


class Fleet:
    """A fleet that runs on one timeline.

    Args:
        schedule: how large it is, and its seed.
        observe: called with what is observed.
        trace_file: gets the whole trace.
    """

    def __init__(
        self,
        schedule: Schedule,
        observe: Callable[[Observation], None],
        trace_file: TextIO | None = None,
    ) -> None:
        self.timeline = timeline = Timeline(schedule.seed)
        self.trace = trace = Trace(timeline, trace_file)
        self.network = Network(timeline, trace)
        self._scenario = schedule.scenario
        self.stage = stage = Stage(timeline, trace, self.network, observe)
        self._by_uuid: dict[str, Instance] = {}
        self._names: dict[str, str] = {}
        self.hosts = [
            ComputeHost(
                stage,
                host_name(number),
                f"{number:08x}-aaaa-4bbb-8ccc-0123456789ef",
                self._by_uuid,
                self._names,
                has_agent=schedule.has_agent,
            )
            for number in range(schedule.hosts)
        ]
        self.instances = [
            self._instance(instance_name(number), number) for number in range(schedule.vms)
        ]
        for instance in self.instances:
            self._by_uuid[instance.uuid] = instance
            self._names[instance.uuid] = instance.name
        self.controller: Controller | None = None
        self.vim: Vim | None = None
        if schedule.has_agent:
            has_groups = schedule.scenario is None
            self.controller = Controller(stage, self._names, has_groups=has_groups)
            hosts = {host.uuid: host for host in self.hosts}
            self.vim = Vim(stage, hosts, self.instances, schedule.quiet_s, schedule.scenario)
        self.operators = Operators(
            stage,
            {host.name: host for host in self.hosts},
            self.instances,
            schedule.quiet_s,
            schedule.scenario,
            controller=None if self.controller is None else self.controller.machine,
        )
        self._users: list[Vim | Operators] = [] if self.vim is None else [self.vim]
        if schedule.scenario is None or schedule.scenario.by_operator:
            self._users.append(self.operators)
        asked = None if self.vim is None else self.vim.requests
        questions = None if self.vim is None else self.operators.questions
        self._askers = askers = Askers(self.operators.requests, asked, questions)
        for host in self.hosts:
            host.find_request = self._reported
        if self.controller is not None:
            reader = HistoryReader(stage, self.controller.disk, askers.recorded, decides=AGENT)
            self.controller.history_cut = reader.restart
        else:
            for host in self.hosts:
                host.history_cut = HistoryReader(stage, host.disk, askers.recorded).restart
        self._rejects = RejectWatch(
            lambda: timeline.now,
            observe,
            askers.invoked,
            askers.commanded,
        )
        self._begins = BeginWatch(lambda: timeline.now, observe, self._when, askers.written)
        self.network.on_connection = self._linked
        self._footprints = Footprints(stage, self._looked(), schedule.vms)
        self._plan()
        targets = Targets(
            stage,
            self.controller,
            self.hosts,
            self.instances,
            self.vim,
            askers.next_end,
        )
        Strikes(targets, schedule).plan()

    def run(self, until_s: float) -> None:
        """Runs until a time, in seconds from the start.

        Raises:
            Exception: the simulation itself is at fault: a process of the users has ended.
        """
        # Between two runs of the timeline, so that looking changes nothing of what happens.
        while (look_s := LOOK_S * (self.timeline.now // LOOK_S + 1)) <= until_s:
            self.timeline.run(look_s)
            self._footprints.look()
        self.timeline.run(until_s)
        for users in self._users:
            if users.process.error is not None:
                raise users.process.error

    def look_again(self) -> None:
        """Observes what outlives its scope, in the end of a run."""
        self._footprints.look_again()

    def _plan(self) -> None:
        at = self.timeline.at
        if self.controller is not None:
            at(0.0, self.controller.daemon.start)
        for number, host in enumerate(self.hosts):
            at(_HOSTS_S + number * _APART_S, host.daemon.start)
        for number, instance in enumerate(self.instances):
            host = self.hosts[number % len(self.hosts)]
            at(_VMS_S + number * _APART_S, partial(instance.boot, host))
        for users in self._users:
            at(_USERS_S, users.start)

    # -- who reads along ---------------------------------------------------------------------------

    def _linked(self, connection: Connection, address: str, machine: str) -> None:
        if address == AGENT_LINK:
            connection.read_along(
                to_server=both(self._rejects.link_to_agent(), self._begins.link_to_agent(machine)),
                to_client=both(self._rejects.link_to_host(), self._begins.link_to_host(machine)),
            )

    def _plugged(self, uuid: str, connection: Connection, host: str) -> None:
        connection.read_along(
            to_server=self._rejects.channel_to_guest(uuid),
            to_client=self._rejects.channel_to_host(uuid, host),
            from_client=self._begins.channel_from_host(uuid, host),
        )

    def _reported(self, said: Said) -> str:
        self._begins.concluded(said.command_id)
        return self._askers.reported(said)

    def _when(self, name: str, boot_id: str, clock_s: float) -> float:
        """When the clock of a host's process shows a time; see :class:`BeginWatch`."""
        [host] = [host for host in self.hosts if host.name == name]
        process = host.daemon.process
        if process is None or process.name != boot_id:
            return 0.0
        return host.machine.when(clock_s)

    def _looked(self) -> Iterator[Looked]:
        if self.controller is not None:
            daemon = self.controller.daemon
            yield Looked(daemon.name, partial(_process_of, daemon), self.controller.disk)
        for host in self.hosts:
            yield Looked(host.name, partial(_process_of, host.daemon))
        for instance in self.instances:
            yield Looked(instance.name, partial(_guest_of, instance))

    # -- instances ---------------------------------------------------------------------------------

    def _instance(self, name: str, number: int) -> Instance:
        uuid = f"{number:08x}-1111-4222-8bcd-0123456789ef"
        starts = count(1)

        def make_port() -> VirtioPort:
            port = VirtioPort(self.timeline, self.trace, name)
            port.on_connection = partial(self._plugged, uuid)
            return port

        def start_guest(instance: Instance) -> Guest:
            return self._start_guest(instance, next(starts))

        return Instance(self.timeline, name, uuid, make_port, start_guest, self.stage.observe)

    def _start_guest(self, instance: Instance, start: int) -> Guest:
        timeline = self.timeline
        name = f"{instance.name}#{start}"
        process = Process(instance.machine, timeline, self.trace, name)
        signals = SignalQueue(process)
        draw = timeline.random(f"ids of {name}")

        def told(event: str) -> None:
            action = self._askers.action_of(instance.uuid, event)
            self.stage.observe(Notified(timeline.now, instance.name, event, action))

        tenant = Tenant(
            instance.name,
            process,
            is_ill=lambda: instance.ill,
            told=told,
            request_of=partial(self._askers.invoked, instance.uuid),
            observe=self.stage.observe,
            scenario=self._scenario,
        )
        config = GuestConfig()
        world = GuestWorld(
            device=SimulatedDevice(instance.port, process),
            signals=signals.receive,
            app_socket=_no_app_socket,
            app_socket_required=False,
            app_status=_no_status_socket,
            voters=(tenant,),
            processes=opening(SimulatedCommands(process, timeline, _no_scripts)),
            reload=lambda: config,
            manager=no_manager(),
            run_guard=GuardTicks(process).run,
            new_id=lambda: draw.randint(0, MAX_ID),
        )
        self.stage.observe(ProcessStarted(timeline.now, instance.name))
        process.start(partial(serve_guest, instance.name, config, world))
        return Guest(process, signals)


def _no_scripts(_argv: object, _env: object) -> Script:
    return Script(0.01)


async def _no_app_socket(_mode: int, _group: str) -> NoReturn:
    raise UserError("no applications here", ExitStatus.FAILED)


async def _no_status_socket() -> NoReturn:
    raise UserError("no applications here", ExitStatus.FAILED)


def _process_of(daemon: SimulatedDaemon) -> Process | None:
    return daemon.process


def _guest_of(instance: Instance) -> Process | None:
    return None if instance.guest is None else instance.guest.process
