"""Handles what hosts report: links, states of instances, and reports.

A report is stored with all its consequences in one transaction before it is published. The states
of instances stay valid for a grace time after the link of their host has ended: a short loss of the
link says nothing about the instances.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import trio

from hbtrio.log.subject import fields
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.instance_states import ALARMS, InstanceStates, warn_of_vote
from hbtrio.nursery.agent.inventory import AgentInventory
from hbtrio.nursery.agent.mass_failure import MassFailureGuard
from hbtrio.nursery.agent.round_ends import RoundEnds
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.time_guard import sleep_on_time
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import (
    HistoryEntry,
    HostRecord,
    InstanceRecord,
    NewEntry,
    RoundRecord,
    RoundResult,
)
from hbtrio.store.retry import retry_forever
from hbtrio.store.store import Store
from hbtrio.wire.link_messages import STOPPING, FromHost, Instance, LinkReport
from hbtrio.wire.vim import ServiceEvent

_log = logging.getLogger("hbtrio.agent")

#: Largest accepted difference of a host's clock to ours; its reports may have waited for long.
_SKEW: Final = timedelta(days=366)


class HostEvents:
    """Handles what hosts send over their links.

    Every method that changes the store raises ``StoreFault`` if the store fails: the link ends, and
    the host sends the report again.

    Args:
        nursery: runs tasks that outlive a link; it ends after the last link.
        fleet: the hosts and instances.
        inventory: changes their records.
        store: keeps the reports.
        states: notifies the VIM of the instances' states.
        groups: remembers their members.
        guard: holds back alarms.
        rounds: the open votes and notices.
        outbox: woken when an entry was queued for the VIM.
        history: publishes the history entries.
        time_guard: the process's on-time guard.
        grace_s: how long states stay valid without a link, in seconds in which this process ran.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        fleet: Fleet,
        inventory: AgentInventory,
        store: Store,
        states: InstanceStates,
        groups: FleetGroups,
        guard: MassFailureGuard,
        rounds: RoundEnds,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        time_guard: OnTimeGuard,
        *,
        grace_s: float,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._nursery = nursery
        self._fleet = fleet
        self._inventory = inventory
        self._store = store
        self._states = states
        self._groups = groups
        self._guard = guard
        self._rounds = rounds
        self._outbox = outbox
        self._history = history
        self._time_guard = time_guard
        self._sleep = sleep_on_time(time_guard)
        self._grace_s = grace_s
        self._wall_clock = wall_clock
        #: Hosts with a task that waits for their link.
        self._waited_for: set[str] = set()
        #: What the guard had counted as stalled time when each of those hosts lost its link.
        self._stalled_s: dict[str, float] = {}
        #: Reports whose link ended before the store had answered, as hostname, boot id and number.
        self._unsettled: set[tuple[str, str, int]] = set()

    async def await_hosts(self) -> None:
        """Starts to wait for the hosts that had a link before this agent was started.

        Raises:
            StoreFault: the store can't be read.
        """
        known = {host.hostname for host in self._fleet.hosts.values()}
        known |= {bound.hostname for bound in self._fleet.instances.values()}
        for hostname in sorted(await self._store.links.linked() & known):
            self._fleet.awaited.add(hostname)
            self._miss(hostname)

    @property
    def is_waiting(self) -> bool:
        """Whether a host may become unreachable at its time."""
        return bool(self._waited_for)

    async def host_up(self, session: HostSession) -> None:
        """Handles a new link, after hello and before the snapshot."""
        hostname = session.hostname
        self._fleet.down.pop(hostname, None)
        self._rounds.host_restarted(hostname, session.hello.boot_id)
        record = HostRecord(session.hello.host_uuid, hostname, reporting=not self._fleet.has_vim)
        is_new = record.uuid not in self._fleet.hosts
        if self._fleet.has_vim and self._fleet.others_named(record):
            is_new = False  # the VIM decides which of its uuids is right
        if record.uuid and is_new:
            await self._inventory.take_in(record)
        self._inventory.send_host_reporting(hostname)
        for instance in self._fleet.bound_to(hostname):
            self._inventory.send_reporting(instance)

    async def host_down(self, session: HostSession, reason: str, *, ours: bool) -> None:
        """Handles the end of a host's link that no newer link has replaced.

        Args:
            session: the host's last session.
            reason: why it ended, for operators.
            ours: whether the fault was on this side, and says nothing about the host.
        """
        self._miss(session.hostname)
        if not ours and session.link.goodbye != STOPPING:
            await self._guard.link_dropped(session.hostname, reason)

    async def instance_reported(self, session: HostSession, uuid: str) -> None:
        """Handles a host's report about an instance, or that the instance is gone."""
        hostname = session.hostname
        before, instance = self._fleet.live_on(hostname, uuid), session.instances.get(uuid)
        self._fleet.note(hostname, uuid, instance)
        await self._groups.changed(uuid)
        await self._guard.instance_reported(
            hostname, uuid, instance, in_snapshot=not session.complete
        )
        if not self._fleet.has_vim:
            await self._update_inventory(hostname, uuid, instance)
            return
        bound = self._fleet.instances.get(uuid)
        if bound is None or bound.hostname != hostname or instance is None:
            return
        warn_of_vote(instance, before)
        if instance.heartbeating:
            self._states.heartbeating(uuid)
        if before is not None and instance.heartbeating:
            # That it stopped heartbeating is sent with the report, after the alarm.
            await self._states.notify([bound])

    async def snapshot_received(self, session: HostSession) -> None:
        """Handles the end of a snapshot: the host has reported all its instances."""
        self._fleet.forget_reports(session.hostname, but=session.instances)
        self._fleet.awaited.discard(session.hostname)
        await self._guard.all_reported(session.hostname, session.instances.keys())
        bound = self._fleet.bound_to(session.hostname)
        if self._fleet.has_vim:
            await self._states.notify(bound)
        else:
            for one in bound:
                if self._fleet.instances.get(one.uuid) == one and one.uuid not in session.instances:
                    await self._inventory.delete_instance(one.uuid, on=one.hostname)
        # Reporting may have been enabled for instances that were deleted or moved while the link
        # was down.
        for uuid in session.instances:
            known = self._fleet.instances.get(uuid)
            if known is None or known.hostname != session.hostname:
                session.set_reporting(uuid, enabled=False)

    async def report_received(self, session: HostSession, report: LinkReport) -> None:
        """Stores a report and its consequences; acknowledge it after the next sync of the store."""
        asked: RoundRecord | None = None
        result: RoundResult | None = None
        entries: list[NewEntry] = []
        services: list[ServiceEvent] = []
        bound = self._fleet.instances.get(report.uuid)
        live = self._fleet.live_on(session.hostname, report.uuid)
        at = _time_of(report.time, self._wall_clock())
        failure = None
        if report.kind in ALARMS:
            failure = self._guard.failed(session.hostname, report.uuid, live, at)
        if report.command_id:
            asked, result, entries = await self._rounds.reported(session.hostname, report)
        elif bound is not None and bound.hostname == session.hostname and self._fleet.has_vim:
            if bound.reporting and self._fleet.host_reporting(bound.hostname):
                held = failure is not None or self._guard.is_on_hold(report.uuid)
                entries = self._states.alarm(bound, report, held=held)
            services = [self._states.service(bound)]
            entries += self._states.changes(services)
        history = HistoryEntry(
            time=at,
            kind=report.kind,
            uuid=report.uuid,
            hostname=session.hostname,
            reason=report.reason,
            event=report.event,
            result=report.result,
            who=report.who if asked is None else asked.asked_by,
            corrective_action=report.corrective_action,
            asked_at=None if asked is None else asked.asked_at,
            command_id="" if asked is None else asked.command_id,
        )
        if not self._rounds.awaits_reply(report.command_id):
            # Woken early, so that the delivery's query mostly joins the same transaction.
            self._outbox.set()
        key = (session.hostname, session.hello.boot_id, report.number)
        try:
            taken = await self._store.take_report(
                session.hostname, session.hello.boot_id, report.number, history, entries, result
            )
        except trio.Cancelled:
            self._unsettled.add(key)
            self._nursery.start_soon(self._look_again, key, history, result)
            raise
        finally:
            # Even if cancelled with the link: the store may have taken the report.
            if failure is not None:
                self._guard.consider(session.hostname, failure, live)
        if result is not None:
            self._rounds.settled(result)
        if taken:
            self._unsettled.discard(key)
            self._states.notified(services)
            if taken.history is not None:
                self._history.publish(taken.history)

    def unstored(self, session: HostSession, message: FromHost) -> None:
        """Takes in what comes behind a message that could not be stored; the host says it again.

        An outcome counts for its round, which may be over before that: a reject is no agreement.
        """
        if isinstance(message, LinkReport):
            self._rounds.heard(session.hostname, message)

    # ----------------------------------------------------------------------------------------------

    async def _look_again(
        self, key: tuple[str, str, int], history: HistoryEntry, result: RoundResult | None
    ) -> None:
        """Publishes a report whose link ended while the store took it, if the store took it."""
        hostname, boot_id, number = key
        try:
            links = self._store.links
            last = await retry_forever(lambda: links.acknowledged(hostname, boot_id))
            # The report may have come again meanwhile, and been taken only then.
            taken = last >= number and key in self._unsettled
        finally:
            self._unsettled.discard(key)
        if taken:
            if result is not None:
                self._rounds.settled(result)
            self._history.publish(history)

    def _miss(self, hostname: str) -> None:
        now = trio.current_time()
        self._fleet.down[hostname] = now
        self._stalled_s[hostname] = self._time_guard.stalled_s(now)
        if hostname not in self._waited_for:
            self._waited_for.add(hostname)
            self._nursery.start_soon(self._wait_for_link, hostname)

    async def _wait_for_link(self, hostname: str) -> None:
        """Waits for a host's link and reports the host as unreachable after the grace time.

        One task per host, even while its link comes and goes. While this process did not run, a
        host that dialled was not answered: that time does not count.
        """
        missed: float | None = None
        try:
            while True:
                since = self._fleet.down.get(hostname)
                if since is None or since == missed or hostname in self._fleet.sessions:
                    return
                now = trio.current_time()
                stalled_s = self._time_guard.stalled_s(now) - self._stalled_s[hostname]
                if now < since + self._grace_s + stalled_s:
                    await self._sleep(
                        since + self._grace_s + stalled_s, partial(self._fleet.take_in, hostname)
                    )
                else:
                    missed = since
                    await self._lose(hostname)
        finally:
            self._waited_for.discard(hostname)
            del self._stalled_s[hostname]

    async def _lose(self, hostname: str) -> None:
        reason = f"no link for {self._grace_s:g} s"
        _log.error("%s: %s", hostname, reason, extra=fields("host-unreachable"))
        self._fleet.lose_host(hostname)
        self._guard.forget(hostname)
        entry = HistoryEntry(self._wall_clock(), "host-unreachable", "", hostname, reason)
        self._history.publish(entry)
        await retry_forever(lambda: self._store.record(entry))
        # It is unknown whether the instances are heartbeating; that makes them not heartbeating,
        # not lost.
        await retry_forever(lambda: self._states.notify(self._fleet.bound_to(hostname)))

    async def _update_inventory(self, hostname: str, uuid: str, instance: Instance | None) -> None:
        """Updates the inventory from a host's report, without a VIM."""
        bound = self._fleet.instances.get(uuid)
        if bound is None:
            if instance is not None:
                await self._inventory.take_in(InstanceRecord(uuid, hostname, True))
        elif bound.hostname != hostname:
            if instance is not None and instance.heartbeating:
                await self._inventory.take_in(InstanceRecord(uuid, hostname, True))
        elif instance is None:
            await self._inventory.delete_instance(uuid, on=hostname)


def _time_of(text: str, now: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return now
    return found if found.tzinfo is not None and abs(found - now) < _SKEW else now
