"""Simulates a compute host: its machine, libvirt, disk and commands, and its host daemon."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from hbtrio.api.control import ControlAccess
from hbtrio.config.groups import GroupSettings
from hbtrio.config.host import (
    ActionCommands,
    AgentLinkSettings,
    BrakeSettings,
    CorrectiveCommands,
    HostConfig,
)
from hbtrio.config.notify import NotifySettings
from hbtrio.config.windows import VetoSettings
from hbtrio.daemons.host import HostWorld, serve_host
from hbtrio.daemons.machine.notify import open_notifier
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.simulate.askers import Said
from hbtrio.simulate.commands import Script, SimulatedCommands
from hbtrio.simulate.daemon import SimulatedDaemon
from hbtrio.simulate.directory import SimulatedDirectory
from hbtrio.simulate.disk import Disk, SimulatedWorker
from hbtrio.simulate.events import ObservedEvents
from hbtrio.simulate.guard_ticks import GuardTicks
from hbtrio.simulate.histories import FindRequest
from hbtrio.simulate.instance import Instance
from hbtrio.simulate.libvirt import Libvirt, Virsh
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import (
    CommandBegan,
    CommandEnded,
    Grouped,
    Purpose,
)
from hbtrio.simulate.places import (
    AGENT_LINK,
    NoHeap,
    QuietLog,
    Stage,
    never_collecting,
    no_manager,
    opening,
)
from hbtrio.simulate.ports import SimulatedDialer
from hbtrio.simulate.process import Process
from hbtrio.simulate.signals import SignalQueue
from hbtrio.simulate.virtio import VirtioPort
from hbtrio.simulate.vm_changes import Ending
from hbtrio.store.host_records import Moment
from hbtrio.store.host_store import HostStore
from hbtrio.system.runner import ProcessResult
from hbtrio.system.side_pipe import SidePipe
from hbtrio.wire.channel_messages import MAX_ID

CHANNEL_DIR: Final = "/vms"

#: Seconds that a command takes, and the share of commands that fail.
_COMMAND_S: Final = (0.5, 2.0, 6.0)
_FAILS: Final = 0.2

#: Drawn for each host: no group, or one of all its instances.
_GROUPS: Final[tuple[GroupSettings | None, ...]] = (
    None,
    GroupSettings(members=("*",), max_unavailable=1, max_delay_s=30.0),
    GroupSettings(members=("*",), max_unavailable=1),
    GroupSettings(members=("*",), max_unavailable=2),
)

#: Drawn for each host without an agent: how many rejects of an event stand, and from how many VMs
#: on the brake closes when most of them fail at once.
_VETOES: Final = (VetoSettings(), VetoSettings(max_rejects=1), VetoSettings(max_rejects=2))
_BRAKES: Final = (BrakeSettings(), BrakeSettings(minimum=2))

_FILE: Final = "host.toml"


class ComputeHost:
    """A compute host.

    Args:
        stage: what all parts use.
        name: its name.
        uuid: its uuid.
        instances: all instances of the fleet by uuid; filled later.
        names: their names by uuid; filled later.
        has_agent: whether it is linked to an agent; else it acts itself.
    """

    def __init__(
        self,
        stage: Stage,
        name: str,
        uuid: str,
        instances: Mapping[str, Instance],
        names: Mapping[str, str],
        *,
        has_agent: bool,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.machine = Machine(stage.timeline, name)
        self.libvirt = Libvirt(stage.timeline, name)
        self.disk = Disk(stage.timeline)
        self.disk.prepare(HostStore.schema)
        self.daemon = SimulatedDaemon(stage, name, self.machine, self._compose)
        #: Why commands don't do what they should: "fail" or "hang"; "" if they do.
        self.commands_fault = ""
        #: Called after a power cut, which may have taken history away.
        self.history_cut: Callable[[], None] = _nothing
        #: Finds the requests that its votes and notices are about.
        self.find_request: FindRequest = _no_request
        self._stage = stage
        self._instances = instances
        self._names = names
        self._has_agent = has_agent
        draw = stage.timeline.random(f"groups of {name}")
        #: How many of its instances may be unavailable at once, and how long a command waits.
        self._group = draw.choice(_GROUPS)
        draw = stage.timeline.random(f"settings of {name}")
        self._veto, self._brake = draw.choice(_VETOES), draw.choice(_BRAKES)
        self._directory = SimulatedDirectory()
        self._ports: dict[str, VirtioPort] = {}
        self._random = stage.timeline.random(f"commands of {name}")
        self._commands = 0
        self._boots = 1

    @property
    def control_address(self) -> str:
        """Where its operators connect."""
        return f"unix:/run/{self.name}.sock"

    # -- its VMs -----------------------------------------------------------------------------------

    def plug(self, instance: Instance) -> str:
        """See :class:`~hbtrio.simulate.instance.Place`."""
        name = f"cgcs.heartbeat.{instance.uuid}.sock"
        path = f"{CHANNEL_DIR}/{name}"
        self._ports[path] = instance.port
        self._directory.put(name)
        return path

    def unplug(self, instance: Instance) -> None:
        """See :class:`~hbtrio.simulate.instance.Place`."""
        name = f"cgcs.heartbeat.{instance.uuid}.sock"
        del self._ports[f"{CHANNEL_DIR}/{name}"]
        self._directory.remove(name)

    # -- its daemon --------------------------------------------------------------------------------

    def reboot(self) -> None:
        """Gives the machine another boot, as after a power cut."""
        self._boots += 1

    def _compose(
        self, process: Process, signals: SignalQueue
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        timeline, name = self._stage.timeline, process.name
        draw = timeline.random(f"ids of {name}")
        commands = _Runner(
            Virsh(self.libvirt, process), SimulatedCommands(process, timeline, self._script)
        )

        store = HostStore(SimulatedWorker(process, timeline, self.disk), self.machine.utc)

        async def control() -> trio.abc.Listener[trio.abc.Stream]:
            return self._stage.network.listen(process, self.control_address)

        files = FileWatch(self.machine.utc)
        world = HostWorld(
            watch=self._directory.watch(process),
            dialer=SimulatedDialer(process, self._ports),
            connect=partial(self._stage.network.reach, process, AGENT_LINK),
            signals=signals.receive,
            control=control,  # type: ignore[arg-type]
            access=ControlAccess(own_uid=0),
            observe=None,
            processes=opening(commands),
            notifier=partial(
                open_notifier,
                NotifySettings(),
                _FILE,
                hostname=self.name,
                files=files,
                wall_clock=self.machine.utc,
            ),
            memory=MemorySettings(
                open_store=opening(store),
                moment=self._moment,
                path="host.db",
                socket_of=self._socket_of,
            ),
            events=ObservedEvents(
                self._stage, self.name, process, self._names, lambda: self.find_request
            ),
            files=files,
            log=QuietLog(),
            manager=no_manager(),
            collecting=never_collecting,
            clock=ProcessClock(self.machine.monotonic, name),
            wall_clock=self.machine.utc,
            heap=NoHeap,
            run_guard=GuardTicks(process).run,
            new_id=partial(draw.getrandbits, MAX_ID.bit_length()),
        )
        if (group := self._group) is not None and isinstance(group.max_unavailable, int):
            most, delay_s = group.max_unavailable, group.max_delay_s
            self._stage.observe(Grouped(timeline.now, self.name, most, delay_s))
        return partial(serve_host, self._config(), _FILE, world)

    def _config(self) -> HostConfig:
        uuid = ("{uuid}",)
        link = AgentLinkSettings()
        corrective = CorrectiveCommands()
        if self._has_agent:
            link = AgentLinkSettings(connect="unix:/agent.link", host_uuid=self.uuid)
        else:
            corrective = CorrectiveCommands(reboot=("reset", *uuid), stop=("destroy", *uuid))
        return HostConfig(
            channel_dir=CHANNEL_DIR,
            hostname=self.name,
            state_dir="/state",
            corrective_commands=corrective,
            actions=ActionCommands(
                stop=("shutdown", *uuid),
                reboot=("reboot", *uuid),
                pause=("suspend", *uuid),
                unpause=("resume", *uuid),
                timeout_s=60.0,
            ),
            agent=link,
            veto=self._veto,
            brake=self._brake,
            groups={} if self._group is None else {"all": self._group},
        )

    def _moment(self) -> Moment:
        return Moment(f"boot {self._boots}", self.machine.monotonic(), self.machine.wall())

    def _socket_of(self, path: str) -> str:
        return str(self._directory.names.get(path.rpartition("/")[2], ""))

    # -- its commands ------------------------------------------------------------------------------

    def _script(self, argv: Sequence[str], _env: Mapping[str, str] | None) -> Script:
        """What a command does to its instance."""
        what, instance = argv[0], self._instances[argv[1]]
        self._commands += 1
        command = f"{self.name}-{self._commands}"
        corrective = what in ("reset", "destroy")
        purpose = Purpose.CORRECTIVE if corrective else Purpose.ACTION
        now = self._stage.timeline.now
        self._stage.observe(CommandBegan(now, command, instance.name, self.name, what, purpose))
        over = False

        def ended(outcome: str) -> None:
            nonlocal over
            if not over:  # it may be killed after it has done its work
                over = True
                self._stage.observe(CommandEnded(self._stage.timeline.now, command, outcome))

        if self.commands_fault == "hang":
            return Script(math.inf, at_kill=partial(ended, "timed-out"))
        fails = self.commands_fault == "fail" or self._random.random() < _FAILS
        takes_s = self._random.choice(_COMMAND_S) * (0.5 + self._random.random())

        def act() -> None:
            if not fails:
                self._act(what, instance)
            ended("failed" if fails else "done")

        return Script(
            takes_s,
            exit_code=1 if fails else 0,
            effect=act,
            effect_s=takes_s * 0.99,
            at_kill=partial(ended, "killed"),
        )

    def _act(self, what: str, instance: Instance) -> None:
        match what:
            case "reset" | "reboot":
                instance.reset()
            case "destroy":
                instance.end(Ending.DESTROYED)
            case "shutdown":
                instance.shut_down()
            case "suspend":
                instance.pause()
            case "resume":
                instance.resume()


class _Runner:
    """Runs ``virsh``, and other commands."""

    reaper_restarts = 0

    def __init__(self, virsh: Virsh, commands: SimulatedCommands) -> None:
        self._virsh = virsh
        self._commands = commands

    async def run(
        self,
        argv: Sequence[str],
        *,
        max_output: int = 4096,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
        side: SidePipe | None = None,
    ) -> ProcessResult:
        """See :class:`~hbtrio.system.runner.ProcessRunner`."""
        if argv[0] == "virsh":
            return await self._virsh.run(argv, max_output=max_output, env=env, on_output=on_output)
        return await self._commands.run(
            argv, max_output=max_output, env=env, on_output=on_output, side=side
        )


def _no_request(_said: Said) -> str:
    return ""


def _nothing() -> None:
    pass
