"""What the drains and planned actions of a host need of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hbtrio.config.host import HostConfig
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.domains import Domains
from hbtrio.nursery.host.instance_groups import HostGroups
from hbtrio.nursery.host.instance_holds import HostHolds
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.remembering import Remembering
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.host.round import Round
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType


class DrainedHost(Protocol):
    """What a drain needs of its host."""

    config: HostConfig
    channels: dict[str, Channel]
    domains: Domains
    groups: HostGroups
    holds: HostHolds
    guard: OnTimeGuard
    memory: HostMemory
    remembering: Remembering
    reports: Reports
    supervisor: Supervisor

    @property
    def actions(self) -> Mapping[str, ActionRun]:
        """The actions in progress, by their instance's uuid."""

    def open_round(
        self, uuid: str, event: Event, notification: NotificationType, *, who: str
    ) -> Round:
        """Opens a vote; see :meth:`~hbtrio.nursery.host.daemon.Host.open_round`."""

    def begin_action(
        self,
        uuid: str,
        name: ActionName,
        command: tuple[str, ...],
        *,
        force: bool,
        ignore_hold: bool,
        who: str,
        drain: str,
        overridden: str,
    ) -> ActionRun:
        """Starts an action; see :meth:`~hbtrio.nursery.host.daemon.Host.begin_action`."""
