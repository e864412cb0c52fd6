"""Guards the fleet against mass failures: holds back the alarms of a host that fails as a whole.

A VIM that is notified of a hundred lost instances reboots all of them, even if only their host had
a problem and they are well. So a host with many failing instances raises an alarm of its own: a
critical log line, an entry in the history, and the host's status. The alarms of its instances are
held back until they are judged, settled or released; an operator may send or withdraw them at once.
The rules are in :mod:`hbtrio.fsm.host_alarms` and :mod:`hbtrio.fsm.alarm_hold`.

Alarms of hosts with fewer heartbeating instances than ``[brake] minimum`` are not held. Held alarms
and holds survive a restart of the agent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Set
from datetime import datetime
from functools import partial
from typing import Final

import trio

from hbtrio.config.host import BrakeSettings
from hbtrio.fsm.alarm_hold import SETTLE_S
from hbtrio.fsm.host_alarms import (
    EndHold,
    HostAlarmEffect,
    HostAlarms,
    LetGo,
    RaiseHostAlarm,
    ReportReturn,
    ReportSettling,
    WithdrawAlarm,
    is_well,
)
from hbtrio.log.subject import fields
from hbtrio.nursery.agent.alarm_holds import AlarmHolds, Released, record_of
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.time_guard import sleep_on_time
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.begin_by import ANY_TIME, BeginBy
from hbtrio.policy.instance_hold import InstanceHolds
from hbtrio.policy.mass_failure import Failure
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.held_alarms import HeldAlarms, HoldRecord
from hbtrio.store.records import HistoryEntry
from hbtrio.store.retry import retry_forever
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Instance

_log = logging.getLogger("hbtrio.brake")


#: Why the alarm about an instance that is well again is withdrawn.
RECOVERED: Final = "instance recovered"


class NotHeld(Exception):
    """The host's alarms are not held back."""


class MassFailureGuard:
    """Holds back the alarms of hosts that fail as a whole.

    Args:
        settings: ``[brake]`` of the configuration.
        held: the held alarms and the holds in the store.
        fleet: knows which alarms are still wanted.
        outbox: woken when an alarm is released or withdrawn.
        history: publishes the history entries.
        on_hold: the instances that operators have put on hold.
        guard: the process's on-time guard.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        settings: BrakeSettings,
        held: HeldAlarms,
        fleet: Fleet,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        on_hold: InstanceHolds,
        guard: OnTimeGuard,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._held = held
        self._fleet = fleet
        self._wall_clock = wall_clock
        self._holds = AlarmHolds(held, fleet, outbox, history, on_hold, wall_clock)
        self._on_hold = on_hold
        self._sleep = sleep_on_time(guard)
        self._hosts: dict[str, HostAlarms] = {}
        #: When each host is due, by hostname; a task waits for each time.
        self._due: dict[str, float] = {}
        #: Instances that hosts have reported to be well, in snapshots that have not ended yet.
        self._recovered: dict[str, set[str]] = {}
        #: Set when a host may be due earlier than expected.
        self._wake_up = WakeUp()
        #: Host alarms raised since the start.
        self.alarms = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Judges failures and ends holds until cancelled; held alarms then stay held.

        Failures reported after that are judged by the next process.

        Raises:
            StoreFault: the held alarms can't be read at the start.
        """
        due = await self._restore()
        async with trio.open_nursery() as nursery:
            # A disk that takes nothing at the moment delays them, and not the start.
            for host, effect in due:
                nursery.start_soon(self._carry_out_due, host, effect)
            task_status.started()
            while True:
                for host in self._hosts.values():
                    at, expected = host.due_at, self._due.get(host.hostname)
                    if at is not None and (expected is None or at < expected):
                        self._due[host.hostname] = at
                        nursery.start_soon(self._judge, nursery, host, at)
                await self._wake_up.wait()

    @property
    def is_waiting(self) -> bool:
        """Whether a failure is to be judged or a hold to be ended at its time."""
        return bool(self._due)

    def hold(self, hostname: str) -> HoldRecord | None:
        """Returns the hold on a host's alarms, or None."""
        host = self._hosts.get(hostname)
        return None if host is None or host.hold is None else record_of(host.hold)

    # -- reports of hosts -------------------------------------------------------------------

    async def instance_reported(
        self, hostname: str, uuid: str, instance: Instance | None, *, in_snapshot: bool
    ) -> None:
        """Handles a host's report about an instance; None: the instance is gone.

        Args:
            hostname: the host.
            uuid: the instance.
            instance: what it is like.
            in_snapshot: whether the host reports all its instances. The outdated alarms about them
                are withdrawn together, by :meth:`all_reported`; until then they are not sent, as
                nobody wants them.

        Raises:
            StoreFault: the store failed; an outdated alarm is still held.
        """
        host = self._host(hostname)
        effects = host.instance_reported(uuid, instance, trio.current_time())
        others = [one for one in effects if not isinstance(one, WithdrawAlarm)]
        is_well_again = instance is not None and is_well(instance)
        outdated = is_well_again and (len(others) < len(effects) or self.is_on_hold(uuid))
        await self._carry_out(host, others)
        if in_snapshot:
            recovered = self._recovered.setdefault(hostname, set())
            (recovered.add if outdated else recovered.discard)(uuid)
        elif outdated:
            await self._holds.withdraw(hostname, {uuid}, RECOVERED)

    async def all_reported(self, hostname: str, uuids: Set[str]) -> None:
        """Handles the end of a host's snapshot: it has no other instances.

        Raises:
            StoreFault: the store failed; outdated alarms are still held.
        """
        self._host(hostname).all_reported(uuids)
        if recovered := self._recovered.pop(hostname, None):
            await self._holds.withdraw(hostname, recovered, RECOVERED)

    async def link_dropped(self, hostname: str, reason: str) -> None:
        """Handles the end of a host's link."""
        host = self._host(hostname)
        await self._carry_out(host, host.link_dropped(reason, self._wall_clock()))

    def failed(
        self, hostname: str, uuid: str, instance: Instance | None, at: datetime
    ) -> Failure | None:
        """Notes a failed instance; returns None if its alarm need not be held.

        Args:
            hostname: its host.
            uuid: the instance.
            instance: the host's last report about it.
            at: the time by the host's clock: reports may come late, and many at once.
        """
        interval_s = 0.0 if instance is None else instance.interval_ms / 1000
        return self._host(hostname).failed(uuid, at, interval_s, trio.current_time())

    def consider(self, hostname: str, failure: Failure, instance: Instance | None) -> None:
        """Schedules a failure with a held alarm to be judged after its interval."""
        well = instance is not None and is_well(instance)
        self._host(hostname).consider(failure, well=well, now=trio.current_time())
        self._wake_up.set()

    # -- holds of operators -----------------------------------------------------------------

    def is_on_hold(self, uuid: str) -> bool:
        """Returns whether an operator has put an instance on hold: its alarms are held, too."""
        return self._on_hold.of(uuid) is not None

    async def hold_ended(self, hostname: str, uuid: str) -> None:
        """Handles the end of an operator's hold: the alarm is sent if it is wanted now.

        Unless the host's alarms are held, or its failure is not judged yet: that decides then.

        Raises:
            StoreFault: the store failed; the alarm is still held.
        """
        host = self._hosts.get(hostname)
        if host is None or (host.hold is None and uuid not in host.in_question):
            await self._holds.let_go(hostname, {uuid})

    # -- other ends of a hold ---------------------------------------------------------------

    async def release(
        self, hostname: str, who: str, *, send: bool, begin_by: BeginBy = ANY_TIME
    ) -> Released:
        """Ends a host's hold; sends the alarms that are still wanted, or withdraws all.

        Raises:
            Expired: it may not begin any more.
            NotHeld: the host has no hold.
            StoreFault: the store failed; the hold goes on.
        """
        begin_by.check()
        reason = f"an operator {'released' if send else 'withdrew'} them"
        released = await self._release(hostname, reason, who, send=send, begin_by=begin_by)
        if released is None:
            raise NotHeld(f"no alarms of {hostname} are held back")
        return released

    async def deleted(self, hostname: str) -> None:
        """Withdraws the held alarms of a host that the VIM has deleted.

        Raises:
            StoreFault: the store failed; the alarms are still held.
        """
        await self._release(hostname, "the VIM has deleted it", "", send=False)

    async def left(self, hostname: str, uuid: str, reason: str) -> None:
        """Withdraws the held alarm about an instance that has left the host.

        Raises:
            StoreFault: the store failed; the alarm is still held.
        """
        await self._holds.withdraw(hostname, {uuid}, reason)
        host = self._hosts.get(hostname)
        if host is not None:
            wanted = partial(self._fleet.alarm_wanted, hostname)
            await self._carry_out(host, host.left(uuid, trio.current_time(), wanted))

    def forget(self, hostname: str) -> None:
        """Forgets an idle host without a link; held alarms stay."""
        host = self._hosts.get(hostname)
        if host is not None and host.is_idle:
            del self._hosts[hostname]
            self._recovered.pop(hostname, None)

    async def _judge(self, nursery: trio.Nursery, host: HostAlarms, at: float) -> None:
        """Does what is due at a time, once all that the host has sent by then is handled."""
        await self._sleep(at, partial(self._fleet.take_in, host.hostname))
        if self._due.get(host.hostname) == at:
            del self._due[host.hostname]
        wanted = partial(self._fleet.alarm_wanted, host.hostname)
        for effect in host.due(trio.current_time(), self._wall_clock(), wanted):
            nursery.start_soon(self._carry_out_due, host, effect)
        self._wake_up.set()

    # -- effects ----------------------------------------------------------------------------

    def _host(self, hostname: str) -> HostAlarms:
        if hostname not in self._hosts:
            self._hosts[hostname] = HostAlarms(
                hostname, self._settings.share, self._settings.minimum
            )
        return self._hosts[hostname]

    async def _restore(self) -> list[tuple[HostAlarms, HostAlarmEffect]]:
        """Takes up what is held; returns what is due of alarms that waited without a hold."""
        due: list[tuple[HostAlarms, HostAlarmEffect]] = []
        found = await self._held.all()
        for record in found.holds:
            host = self._host(record.hostname)
            lost = found.alarms.get(record.hostname)
            self._holds.found(host.raise_alarm(record.reason, record.since, lost).hold)
        for hostname, held in found.alarms.items():
            uuids = {uuid for uuid in held if not self.is_on_hold(uuid)}
            if not uuids:
                continue
            # The agent ended during the interval in which it waits for further failures.
            if self.hold(hostname) is None:
                host = self._host(hostname)
                total = max(len(self._fleet.bound_to(hostname)), len(uuids))
                if total >= self._settings.minimum and len(uuids) > self._settings.share * total:
                    reason = f"{len(uuids)} of {total} instances had failed when the agent ended"
                    due.append((host, host.raise_alarm(reason, self._wall_clock(), uuids)))
                else:
                    due += [(host, LetGo(uuid)) for uuid in sorted(uuids)]
        return due

    async def _carry_out(self, host: HostAlarms, effects: Iterable[HostAlarmEffect]) -> None:
        hostname = host.hostname
        for effect in effects:
            match effect:
                case RaiseHostAlarm(hold):
                    self.alarms += 1
                    text = "ALARM: %s: %s: alarms of its instances are held back"
                    _log.critical(text, hostname, hold.reason, extra=fields("mass-failure"))
                    await self._holds.keep(hold)
                case ReportReturn():
                    _log.warning("%s: recovered", hostname, extra=fields("mass-failure"))
                case ReportSettling():
                    text = "%s: instances not back within %g s will raise alarms"
                    _log.warning(text, hostname, SETTLE_S)
                    self._wake_up.set()
                case LetGo(uuid):
                    await self._holds.let_go(hostname, {uuid})
                case EndHold(hold):
                    await self._holds.settle(host, hold)

    async def _carry_out_due(self, host: HostAlarms, effect: HostAlarmEffect) -> None:
        if not isinstance(effect, EndHold):
            await retry_forever(lambda: self._carry_out(host, [effect]))
            return
        try:
            await self._carry_out(host, [effect])
        except StoreFault as fault:
            # The hold is settling again, and due again later.
            _log.error("store: %s; the alarms of %s are still held back", fault, host.hostname)
            self._wake_up.set()

    async def _release(
        self, hostname: str, reason: str, who: str, *, send: bool, begin_by: BeginBy = ANY_TIME
    ) -> Released | None:
        host = self._hosts.get(hostname)
        if host is None or host.hold is None:
            return None
        try:
            return await self._holds.release(
                host, host.hold, reason, who, send=send, begin_by=begin_by
            )
        finally:
            self._wake_up.set()  # a hold that could not be ended may settle again
