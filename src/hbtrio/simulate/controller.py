"""Simulates the controller: its machine, its disk and its agent daemon."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Final

from hbtrio.config.agent import AgentConfig, LinkSettings, StoreSettings, VimSettings
from hbtrio.config.notify import NotifySettings
from hbtrio.daemons.agent import AgentWorld, serve_agent
from hbtrio.daemons.machine.notify import open_notifier
from hbtrio.daemons.serving import ApiEndpoint
from hbtrio.net.connections import Listener
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.simulate.commands import Script, SimulatedCommands
from hbtrio.simulate.disk import Disk, SimulatedWorker
from hbtrio.simulate.guard_ticks import GuardTicks
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import AGENT, Crashed, ProcessStarted
from hbtrio.simulate.places import (
    AGENT_LINK,
    AGENT_OPERATOR,
    AGENT_VIM,
    VIM,
    QuietLog,
    Stage,
    never_collecting,
    no_manager,
    opening,
)
from hbtrio.simulate.process import Process
from hbtrio.simulate.signals import SignalQueue
from hbtrio.store.migration import migrate
from hbtrio.store.store import Store

_FILE: Final = "agent.toml"


class Controller:
    """The controller.

    Args:
        stage: what all parts use.
    """

    def __init__(self, stage: Stage) -> None:
        self.machine = Machine(stage.timeline, "controller")
        self.disk = Disk(stage.timeline)
        migrate(self.disk.db, Store.schema.migrations)
        for statement in Store.schema.at_start:
            self.disk.db.execute(statement)
        self.process: Process | None = None
        self.signals: SignalQueue | None = None
        self._stage = stage
        self._starts = 0

    def start(self) -> None:
        """Starts the agent; it must not run."""
        self._starts += 1
        timeline = self._stage.timeline
        name = f"{AGENT}#{self._starts}"
        self.process = process = Process(self.machine, timeline, self._stage.trace, name)
        self.signals = SignalQueue(process)
        ids = count(1)

        store = Store(SimulatedWorker(process, timeline, self.disk), self.machine.utc)
        commands = SimulatedCommands(process, timeline, lambda _argv, _env: Script(0.1))

        files = FileWatch(self.machine.utc)
        world = AgentWorld(
            store=opening(store),
            vim=VimClient(
                "http://controller:30002",
                connect=partial(self._stage.network.reach, process, VIM),
            ),
            signals=self.signals.receive,
            link=self._endpoint(AGENT_LINK, process),
            vim_api=self._endpoint(AGENT_VIM, process),
            operator=self._endpoint(AGENT_OPERATOR, process),
            processes=opening(commands),
            notifier=partial(
                open_notifier,
                NotifySettings(),
                _FILE,
                hostname="controller",
                files=files,
                wall_clock=self.machine.utc,
            ),
            files=files,
            log=QuietLog(),
            manager=no_manager(),
            collecting=never_collecting,
            clock=ProcessClock(self.machine.monotonic, name),
            wall_clock=self.machine.utc,
            run_guard=GuardTicks(process).run,
            new_id=lambda: f"{name}-{next(ids)}",
        )
        process.at_death.append(partial(self._died, process))
        self._stage.observe(ProcessStarted(timeline.now, AGENT))
        process.start(partial(serve_agent, self._config(), _FILE, world))

    def _died(self, process: Process) -> None:
        if process.error is not None:
            now = self._stage.timeline.now
            self._stage.observe(Crashed(now, AGENT, repr(process.error)))

    def _endpoint(self, address: str, process: Process) -> ApiEndpoint:
        async def listen() -> Sequence[Listener]:
            return [self._stage.network.listen(process, address)]

        return ApiEndpoint(address, listen)

    def _config(self) -> AgentConfig:
        return AgentConfig(
            name="controller",
            vim=VimSettings(url="http://controller:30002"),
            link=LinkSettings(),
            store=StoreSettings(file="/agent.db"),
        )
