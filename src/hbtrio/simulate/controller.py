"""Simulates the controller: its machine, its disk and its agent daemon."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

import attrs

from hbtrio.config.agent import AgentConfig, LinkSettings, StoreSettings, VimSettings
from hbtrio.config.groups import GroupSettings
from hbtrio.config.notify import NotifySettings
from hbtrio.daemons.agent import AgentWorld, serve_agent
from hbtrio.daemons.machine.notify import open_notifier
from hbtrio.daemons.serving import ApiEndpoint
from hbtrio.net.connections import Listener
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.policy.group_rule import Group
from hbtrio.simulate.commands import Script, SimulatedCommands
from hbtrio.simulate.daemon import SimulatedDaemon
from hbtrio.simulate.disk import Disk, SimulatedWorker
from hbtrio.simulate.guard_ticks import GuardTicks
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.observations import AGENT, Grouped
from hbtrio.simulate.places import (
    AGENT_LINK,
    AGENT_OPERATOR,
    AGENT_VIM,
    SPREAD,
    VIM,
    QuietLog,
    Stage,
    never_collecting,
    no_manager,
    opening,
)
from hbtrio.simulate.process import Process
from hbtrio.simulate.signals import SignalQueue
from hbtrio.store.store import Store

_FILE: Final = "agent.toml"

#: Drawn: no group, or one with members on several hosts.
_GROUPS: Final[tuple[GroupSettings | None, ...]] = (
    None,
    None,
    GroupSettings(members=("vm0", "vm1"), max_unavailable=1),
    GroupSettings(members=("*",), max_unavailable=2),
)


class Controller:
    """The controller.

    Args:
        stage: what all parts use.
        names: the instances' names by uuid; filled later.
        has_groups: whether a group may be drawn.
    """

    def __init__(self, stage: Stage, names: Mapping[str, str], *, has_groups: bool) -> None:
        self.machine = Machine(stage.timeline, "controller")
        self.disk = Disk(stage.timeline)
        self.disk.prepare(Store.schema)
        #: Called after a power cut, which may have taken history away.
        self.history_cut: Callable[[], None] = _nothing
        self.daemon = SimulatedDaemon(stage, AGENT, self.machine, self._compose)
        self._stage = stage
        self._names = names
        draw = stage.timeline.random("groups of the agent")
        self._group = draw.choice(_GROUPS) if has_groups else None

    def _compose(
        self, process: Process, signals: SignalQueue
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        timeline, name = self._stage.timeline, process.name
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
            signals=signals.receive,
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
        self._observe_group()
        return partial(serve_agent, self._config(), _FILE, world)

    def _observe_group(self) -> None:
        settings = self._group
        if settings is not None and isinstance(settings.max_unavailable, int):
            group = Group.configured(SPREAD, **attrs.asdict(settings))
            members = tuple(name for uuid, name in self._names.items() if group.has(uuid, name))
            most, delay_s = settings.max_unavailable, settings.max_delay_s
            now = self._stage.timeline.now
            self._stage.observe(Grouped(now, AGENT, most, delay_s, members))

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
            groups={} if self._group is None else {SPREAD: self._group},
        )


def _nothing() -> None:
    pass
