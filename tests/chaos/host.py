"""A host of the fleet: its daemon, its commands, and what its events file says."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from chaos.records import Records
from chaos.taps import LinkRelay
from chaos.translation import Sayings
from chaos.victim import Victim
from chaos.vm import ChaosVm
from hbtrio.lab.guest import write_script
from hbtrio.lab.scene import Scene
from hbtrio.simulate.observations import CommandBegan, CommandEnded, Grouped, Purpose
from support.real_processes import is_gone

#: Reports its begin, takes its time, and reports what is to be done; it may fail or hang.
_ACT: Final = """\
#!/bin/sh
cd {directory} || exit 1
say() {{ echo "act {name} $$ $*" 1<>{fifo}; }}
say begins "$1" "$2"
[ ! -e commands-hang ] || exec sleep 3600
sleep 0.{tenths}
if [ -e commands-fail ]; then
    say fails
    exit 1
fi
say does "$1" "$2"
"""

#: What is done to correct a failure, and what for an operator.
_CORRECTIVE: Final = {"reboot": "reset", "stop": "destroy"}
_ACTIONS: Final = {
    "reboot": "reboot",
    "stop": "shutdown",
    "pause": "suspend",
    "unpause": "resume",
}

#: The group of all VMs of a host without an agent: as in a simulation.
_GROUP: Final = {"max_unavailable": 1, "max_delay_s": 30}


#: What another command that begins at a time is later than the end of those before it, in seconds.
_JUST_S: Final = 0.0001


class ChaosHost:
    """A host.

    Args:
        name: its name.
        uuid: its uuid.
        scene: runs its daemon.
        records: takes in what it does.
        sayings: understand its events.
        relay: its way to the agent; None: it acts itself.
        vms: all VMs by uuid; filled later.
        say: called with what is no observation.
    """

    def __init__(
        self,
        name: str,
        uuid: str,
        scene: Scene,
        records: Records,
        sayings: Sayings,
        relay: LinkRelay | None,
        vms: Mapping[str, ChaosVm],
        say: Any,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.scene = scene
        self.relay = relay
        self.store = scene.directory / "state" / "host.db"
        self._records = records
        self._sayings = sayings
        self._vms = vms
        self._commands = itertools.count(1)
        #: The commands that run, by their process.
        self._running: dict[int, CommandBegan] = {}
        #: Before when those of them were gone that have not said how they ended.
        self._gone_s: dict[int, float] = {}
        self.victim = Victim(
            name, records, daemon=lambda: scene.host, launch=scene.start_host, say=say
        )
        self._configure()

    def _configure(self) -> None:
        directory = self.scene.directory
        act = directory / "act"
        fifo = shlex.quote(str(directory / "script_lines"))
        quoted = shlex.quote(str(directory))
        write_script(act, _ACT.format(directory=quoted, name=self.name, fifo=fifo, tenths=5))
        settings = self.scene.settings
        self.scene.has_libvirt = True
        state = directory / "state"
        state.mkdir(mode=0o700)
        settings |= {
            "hostname": self.name,
            "state_dir": str(state),
            "corrective-commands": {},
            # As in a simulation: with the default, a command that hangs outlives the run.
            "actions": {"timeout_s": 60}
            | {key: [str(act), word, "{uuid}"] for key, word in _ACTIONS.items()},
        }
        if self.relay is None:
            settings["corrective-commands"] = {
                key: [str(act), word, "{uuid}"] for key, word in _CORRECTIVE.items()
            }
            settings["groups"] = {"all": {"members": ["*"], **_GROUP}}
            most, delay_s = _GROUP["max_unavailable"], _GROUP["max_delay_s"]
            self._records.observe(Grouped(0.0, self.name, most, delay_s))
        else:
            settings["agent"] = {"connect": f"unix:{self.relay.path}", "host_uuid": self.uuid}

    def file(self, name: str) -> Path:
        """Returns the path of a file that its commands look for."""
        return self.scene.directory / name

    # -- its commands -----------------------------------------------------------------------

    def heard(self, words: list[str], nursery: trio.Nursery) -> None:
        """Takes in what one of its commands reports."""
        pid = int(words[0])
        now = self._records.clock.now()
        match words[1:]:
            case ["begins", what, uuid]:
                for other in filter(is_gone, self._running):
                    self._gone_s.setdefault(other, now)
                command = f"{self.name}-{next(self._commands)}"
                corrective = what in _CORRECTIVE.values()
                purpose = Purpose.CORRECTIVE if corrective else Purpose.ACTION
                vm = self._vms[uuid].name
                began = CommandBegan(now, command, vm, self.name, what, purpose)
                self._running[pid] = began
                self._records.observe(began)
                nursery.start_soon(self._watch, pid)
            case ["fails"]:
                self._ended(pid, "failed")
            case ["does", what, uuid]:
                self._ended(pid, "done")
                nursery.start_soon(self._act, what, self._vms[uuid])

    async def _act(self, what: str, vm: ChaosVm) -> None:
        match what:
            case "reset" | "reboot":
                await vm.reset()
            case "destroy":
                await vm.end()
            case "shutdown":
                await vm.shut_down()
            case "suspend":
                vm.pause()
            case "resume":
                vm.resume()

    async def _watch(self, pid: int) -> None:
        """A command that was ended reports nothing."""
        while not is_gone(pid):  # noqa: ASYNC110 - another process sets no event
            await trio.sleep(0.05)
        gone_s = self._gone_s.setdefault(pid, self._records.clock.now())
        await trio.sleep(0.5)  # what it has reported may be on its way
        self._ended(pid, "killed", gone_s - _JUST_S)
        del self._gone_s[pid]

    def _ended(self, pid: int, outcome: str, at_s: float = math.inf) -> None:
        began = self._running.pop(pid, None)
        if began is not None:
            at_s = max(began.at_s, min(at_s, self._records.clock.now()))
            self._records.observe(CommandEnded(at_s, began.command, outcome))

    # -- its events -------------------------------------------------------------------------

    async def follow(self, file: Path) -> None:
        """Takes in its events, and keeps them in a file, until cancelled."""
        with file.open("w", encoding="utf-8", buffering=1) as kept:
            async for event in self.scene.events.follow():
                print(event, file=kept)
                self._sayings.event(self.name, event)
