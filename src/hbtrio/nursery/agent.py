"""The agent: what it knows of the fleet, what it asks of hosts, what it tells the VIM.

    agent
      links         one session for each host that has dialled in
      sender        empties the outbox to the VIM
      audit         asks the VIM what is to be reported
      round         the end of each vote and notice under way, should its host not tell in time
      housekeeping  old history

Everything that must survive goes through the store before anything is said about it. What an
instance is doing comes from its host's session and is kept a grace time beyond it: a link that is
down for a moment says nothing about VMs.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import attrs
import trio

from hbtrio.config.agent import AgentConfig
from hbtrio.nursery.agent_links import AgentLinks, HostSession, HostUnreachable
from hbtrio.nursery.store import Store
from hbtrio.nursery.store_records import (
    HistoryEntry,
    HostRecord,
    InstanceRecord,
    NewEntry,
    OutboxKind,
    RoundRecord,
    RoundResult,
)
from hbtrio.nursery.vim_sender import VimSender
from hbtrio.wire.link_messages import Instance, LinkReport, RoundCommand
from hbtrio.wire.vim import (
    ActionEvent,
    AlarmEvent,
    AlarmState,
    ServiceEvent,
    Switch,
    guest_response,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoteResult,
    WindowKind,
    window_of,
)

_log = logging.getLogger("hbtrio.agent")

#: The VIM's timer is as long as the window. A verdict that comes just after it is taken for the
#: next step's answer, so that a silent guest has agreed this much before.
_MARGIN_S: Final = 0.25

#: A host may wait this long for a round that is open to end: the VIM's timer and ours end together.
_PATIENCE_S: Final = 1.0

#: Rounds under way in the whole fleet.
_ROUNDS: Final = 10_000

#: Reports that a status or a late follower can still see.
_RECENT: Final = 1000

#: The VIM accepts a request by itself after 45 s.
_VOTE_WARNING_S: Final = 40


class Unknown(Exception):
    """No such host or instance."""


@attrs.frozen
class Asked:
    """A vote or notice that was asked for: its id, and its window in seconds, 0 for none."""

    command_id: str
    seconds: int


class Agent:
    """The agent's core, without HTTP: that is ``vim_api`` and ``agent_api``.

    Args:
        config: its configuration.
        store: its memory.
        sender: delivers to the VIM; without a VIM, None.
        new_command_id: makes ids that are unique for ever.
        wall_clock: the store's.
    """

    def __init__(
        self,
        config: AgentConfig,
        store: Store,
        sender: VimSender | None,
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.config = config
        self.store = store
        self.sender = sender
        self.hosts: dict[str, HostRecord] = {}
        self.instances: dict[str, InstanceRecord] = {}
        self.links = AgentLinks(config.name, store, self)
        #: Hosts without a link, and since when on trio's clock.
        self.down: dict[str, float] = {}
        self.recent: deque[LinkReport] = deque(maxlen=_RECENT)
        self.started_at = wall_clock()
        self._live: dict[tuple[str, str], Instance] = {}
        self._boots: dict[str, tuple[str, str]] = {}
        self._told: dict[str, str] = {}
        self._new_command_id = new_command_id
        self._wall_clock = wall_clock
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled.

        Raises:
            StoreFault: the store can't be read at the start.
        """
        self.hosts = {host.uuid: host for host in await self.store.hosts()}
        self.instances = {instance.uuid: instance for instance in await self.store.instances()}
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for left in await self.store.open_rounds():
                nursery.start_soon(self._see_to_the_end, left)
            if self.sender is not None:
                nursery.start_soon(self.sender.run)
            nursery.start_soon(self._keep_house)
            task_status.started()
            await trio.sleep_forever()

    # -- inventory: what the VIM says -------------------------------------------------------

    def host(self, uuid: str) -> HostRecord:
        """A host.

        Raises:
            Unknown: nobody told of it.
        """
        try:
            return self.hosts[uuid]
        except KeyError:
            raise Unknown(f"unknown host {uuid}") from None

    def instance(self, uuid: str) -> InstanceRecord:
        """An instance.

        Raises:
            Unknown: nobody told of it.
        """
        try:
            return self.instances[uuid]
        except KeyError:
            raise Unknown(f"unknown instance {uuid}") from None

    def live(self, uuid: str) -> Instance | None:
        """What the host to which an instance is bound tells of it, or None."""
        bound = self.instances.get(uuid)
        return None if bound is None else self._live.get((bound.hostname, uuid))

    def host_reporting(self, hostname: str) -> bool:
        """Whether a host's losses are reported: without a VIM always, else as it says."""
        if self.sender is None:
            return True
        return any(h.reporting for h in self.hosts.values() if h.hostname == hostname)

    async def put_host(self, host: HostRecord) -> None:
        """Adds or changes a host, and tells it whether to report."""
        before = self.hosts.get(host.uuid)
        if host == before:
            return
        await self.store.put_host(host)
        self.hosts[host.uuid] = host
        session = self.links.sessions.get(host.hostname)
        if session is not None:
            await session.set_reporting("", self.host_reporting(host.hostname))

    async def delete_host(self, uuid: str) -> None:
        """Forgets a host.

        Raises:
            Unknown: nobody told of it.
        """
        host = self.host(uuid)
        del self.hosts[uuid]
        await self.store.delete_host(uuid)
        session = self.links.sessions.get(host.hostname)
        if session is not None:
            await session.set_reporting("", self.host_reporting(host.hostname))

    async def put_instance(self, instance: InstanceRecord) -> None:
        """Adds or changes an instance, or binds it to the host it has moved to."""
        before = self.instances.get(instance.uuid)
        if instance == before:
            return
        await self.store.put_instance(instance)
        self.instances[instance.uuid] = instance
        if before is not None and before.hostname != instance.hostname:
            _log.info("%s: moved from %s to %s", instance.uuid, before.hostname, instance.hostname)
            old = self.links.sessions.get(before.hostname)
            if old is not None:
                await old.set_reporting(instance.uuid, False)
        session = self.links.sessions.get(instance.hostname)
        if session is not None:
            await session.set_reporting(instance.uuid, instance.reporting)
            await self._queue(self._service(instance))

    async def _queue(self, entries: list[NewEntry]) -> None:
        if entries and self.sender is not None:
            await self.store.queue(entries)
            self.sender.wake()

    async def delete_instance(self, uuid: str) -> None:
        """Forgets an instance; its host goes on heartbeating it and reports nothing.

        Raises:
            Unknown: nobody told of it.
        """
        instance = self.instance(uuid)
        del self.instances[uuid]
        self._told.pop(uuid, None)
        await self.store.delete_instance(uuid)
        session = self.links.sessions.get(instance.hostname)
        if session is not None:
            await session.set_reporting(uuid, False)

    # -- votes and notices ------------------------------------------------------------------

    async def ask(self, uuid: str, event: Event, *, vote: bool, who: str) -> Asked:
        """Opens a vote or notice on an instance, if it takes part.

        Its verdict goes to the VIM once :meth:`replied` was called. An instance that does not take
        part, or whose host can't be reached, has nothing to say: the window is then 0 s.

        Raises:
            Unknown: nobody told of the instance.
        """
        bound = self.instance(uuid)
        live = self.live(uuid)
        session = self.links.sessions.get(bound.hostname)
        if live is None or session is None or len(self._boots) >= _ROUNDS:
            return Asked("", 0)
        kind = NotificationType.REVOCABLE if vote else NotificationType.IRREVOCABLE
        window_s = _window_s(live, window_of(event, kind))
        if vote and window_s > _VOTE_WARNING_S:
            _log.warning("%s advertises VOTE %d s; the VIM decides after 45 s", uuid, window_s)
        opened = RoundRecord(
            command_id=self._new_command_id(),
            uuid=uuid,
            hostname=bound.hostname,
            event=event,
            vote=vote,
            asked_by=who,
            asked_at=self._wall_clock(),
            window_s=window_s,
        )
        await self.store.open_round(opened)
        self._boots[opened.command_id] = (bound.hostname, session.hello.boot_id)
        command = RoundCommand(opened.command_id, uuid, event, vote, _PATIENCE_S)
        try:
            reply = await session.command(command)
        except HostUnreachable as fault:
            await self._give_up(opened, str(fault))
            return Asked("", 0)
        if not reply.ok:
            await self._give_up(opened, reply.reason)
            return Asked("", 0)
        if self._nursery is not None:
            self._nursery.start_soon(self._see_to_the_end, opened)
        return Asked(opened.command_id, reply.seconds)

    async def replied(self, command_id: str) -> None:
        """The reply to whoever asked is written whole: the verdict may follow."""
        await self.store.replied(command_id)
        if self.sender is not None:
            self.sender.wake()

    async def _give_up(self, opened: RoundRecord, why: str) -> None:
        self._boots.pop(opened.command_id, None)
        result = RoundResult(opened.command_id, VoteResult.ERROR, why)
        await self.store.close_round(result, self._history_of(opened, result))

    async def _see_to_the_end(self, opened: RoundRecord) -> None:
        """A round whose host does not tell its outcome in time ends here, in agreement."""
        age_s = (self._wall_clock() - opened.asked_at).total_seconds()
        await trio.sleep(max(0.0, opened.window_s - _MARGIN_S - age_s))
        agreed = VoteResult.ACCEPT if opened.vote else VoteResult.COMPLETE
        await self._close(opened, agreed, f"no answer within {opened.window_s:g} s")

    async def _close(self, opened: RoundRecord, result: VoteResult, reason: str) -> None:
        self._boots.pop(opened.command_id, None)
        ended = RoundResult(opened.command_id, result, reason)
        entries = self._verdict(opened, result, reason)
        if await self.store.close_round(ended, self._history_of(opened, ended), entries):
            if self.sender is not None:
                self.sender.wake()

    def _verdict(self, opened: RoundRecord, result: VoteResult, reason: str) -> list[NewEntry]:
        if self.sender is None or opened.asked_by != "vim":
            return []
        kind = NotificationType.REVOCABLE if opened.vote else NotificationType.IRREVOCABLE
        event = ActionEvent(opened.uuid, opened.event, guest_response(kind, result), reason)
        expires_at = opened.asked_at + timedelta(seconds=opened.window_s)
        return [
            NewEntry(OutboxKind.ACTION, opened.uuid, event.body(), opened.command_id, expires_at)
        ]

    def _history_of(self, opened: RoundRecord, ended: RoundResult) -> HistoryEntry:
        return HistoryEntry(
            time=self._wall_clock(),
            kind="vote" if opened.vote else "notice",
            uuid=opened.uuid,
            hostname=opened.hostname,
            reason=ended.reason,
            event=opened.event,
            result=ended.result,
            who=opened.asked_by,
        )

    # -- what hosts tell --------------------------------------------------------------------

    async def host_up(self, session: HostSession) -> None:
        """See :class:`hbtrio.nursery.agent_links.LinkEvents`."""
        hostname = session.hostname
        self.down.pop(hostname, None)
        if session.hello.host_uuid and session.hello.host_uuid not in self.hosts:
            await self.put_host(HostRecord(session.hello.host_uuid, hostname, self.sender is None))
        await session.set_reporting("", self.host_reporting(hostname))
        for instance in tuple(self.instances.values()):
            if instance.hostname == hostname:
                await session.set_reporting(instance.uuid, instance.reporting)
        for command_id, (where, boot_id) in tuple(self._boots.items()):
            if where == hostname and boot_id != session.hello.boot_id:
                # That process took its rounds with it; nobody will tell how they ended.
                opened = await self.store.find_round(command_id)
                if opened is not None:
                    await self._close(opened, VoteResult.ERROR, "the host daemon was restarted")

    async def host_down(self, session: HostSession, why: str) -> None:
        """See :class:`hbtrio.nursery.agent_links.LinkEvents`."""
        hostname = session.hostname
        self.down[hostname] = trio.current_time()
        if self._nursery is not None:
            self._nursery.start_soon(self._forget_later, hostname)

    async def _forget_later(self, hostname: str) -> None:
        since = self.down[hostname]
        await trio.sleep(self.config.link.grace_s)
        if self.down.get(hostname) != since:
            return
        _log.error("%s: no link for %g s", hostname, self.config.link.grace_s)
        entry = HistoryEntry(self._wall_clock(), "host-unreachable", "", hostname, "no link")
        await self.store.record(entry)
        for key in [key for key in self._live if key[0] == hostname]:
            del self._live[key]

    async def instance_told(self, session: HostSession, uuid: str) -> None:
        """See :class:`hbtrio.nursery.agent_links.LinkEvents`."""
        key = (session.hostname, uuid)
        instance = session.instances.get(uuid)
        if instance is None:
            self._live.pop(key, None)
        else:
            self._live[key] = instance
        if self.sender is None and instance is not None and uuid not in self.instances:
            # Without a VIM the hosts' word is the inventory.
            await self.put_instance(InstanceRecord(uuid, session.hostname, True))

    async def snapshot_told(self, session: HostSession) -> None:
        """See :class:`hbtrio.nursery.agent_links.LinkEvents`."""
        hostname = session.hostname
        for key in [key for key in self._live if key[0] == hostname]:
            if key[1] not in session.instances:
                del self._live[key]
        entries = [
            entry
            for bound in tuple(self.instances.values())
            if bound.hostname == hostname
            for entry in self._service(bound)
        ]
        await self._queue(entries)

    async def report_told(self, session: HostSession, report: LinkReport) -> None:
        """See :class:`hbtrio.nursery.agent_links.LinkEvents`."""
        opened = None
        result = None
        entries: list[NewEntry] = []
        bound = self.instances.get(report.uuid)
        if report.command_id and report.result is not None:
            opened = await self.store.find_round(report.command_id)
            result = RoundResult(report.command_id, report.result, report.reason)
            self._boots.pop(report.command_id, None)
            if opened is not None:
                entries = self._verdict(opened, report.result, report.reason)
        elif bound is not None and bound.hostname == session.hostname:
            entries = self._news_of(bound, report)
        taken = await self.store.take_report(
            session.hostname,
            session.hello.boot_id,
            report.number,
            HistoryEntry(
                time=_time_of(report.time, self._wall_clock()),
                kind=report.kind,
                uuid=report.uuid,
                hostname=session.hostname,
                reason=report.reason,
                event=report.event,
                result=report.result,
                who="" if opened is None else opened.asked_by,
                corrective_action=report.corrective_action,
            ),
            entries,
            result,
        )
        if taken:
            self.recent.append(report)
            if self.sender is not None:
                self.sender.wake()

    def _news_of(self, bound: InstanceRecord, report: LinkReport) -> list[NewEntry]:
        """What the VIM is to hear of a report that is no verdict."""
        if self.sender is None:
            return []
        alarm = {"loss": AlarmState.FAILED, "unhealthy": AlarmState.UNHEALTHY}.get(report.kind)
        entries: list[NewEntry] = []
        if alarm is not None and bound.reporting and self.host_reporting(bound.hostname):
            action = report.corrective_action or CorrectiveAction.NONE
            body = AlarmEvent(bound.uuid, bound.hostname, alarm, action).body()
            entries.append(NewEntry(OutboxKind.ALARM, bound.uuid, body))
        if report.kind in ("heartbeating", "stopped", "loss"):
            entries += self._service(bound, heartbeating=report.kind == "heartbeating")
        return entries

    def _service(
        self, bound: InstanceRecord, *, heartbeating: bool | None = None
    ) -> list[NewEntry]:
        if self.sender is None:
            return []
        live = self.live(bound.uuid)
        if heartbeating is None:
            heartbeating = live is not None and live.heartbeating
        body = ServiceEvent(
            uuid=bound.uuid,
            hostname=bound.hostname,
            state=Switch.ENABLED if bound.reporting else Switch.DISABLED,
            status=Switch.ENABLED if heartbeating else Switch.DISABLED,
            restart_timeout_s=live.restart_s if heartbeating and live is not None else 0,
        ).body()
        if self._told.get(bound.uuid) == body:
            return []
        self._told[bound.uuid] = body
        return [NewEntry(OutboxKind.SERVICE, bound.uuid, body)]

    # -- housekeeping -----------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            edge = self._wall_clock() - timedelta(days=self.config.store.history_days)
            while await self.store.prune(edge):
                await trio.sleep(0.1)
            await trio.sleep(3600)


def _window_s(live: Instance, kind: WindowKind) -> int:
    match kind:
        case WindowKind.VOTE:
            return live.vote_s
        case WindowKind.SHUTDOWN_NOTICE:
            return live.shutdown_notice_s
        case WindowKind.SUSPEND_NOTICE:
            return live.suspend_notice_s
        case WindowKind.RESUME_NOTICE:
            return live.resume_notice_s
        case WindowKind.RESTART:
            return live.restart_s


def _time_of(text: str, otherwise: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return found if found.tzinfo is not None else otherwise
