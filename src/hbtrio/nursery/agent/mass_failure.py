"""Guards the fleet against alarms that are their host's: it carries what is decided for each host.

A VIM that hears of a hundred lost instances reboots a hundred that are well as soon as their host
is. So a host whose instances fail in numbers is alarmed itself: a critical line in the log, an
entry in the history, and the host's status. Its instances' alarms are held back until they are
judged, settled or released; an operator may have them sent or withdrawn at once. The rules are in
:mod:`hbtrio.fsm.host_alarms` and :mod:`hbtrio.fsm.alarm_hold`.

Hosts with fewer heartbeating instances than ``[brake] minimum`` are left alone. A held alarm
survives a restart of the agent, and so does the hold.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Set
from datetime import datetime
from functools import partial

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
from hbtrio.nursery.agent.alarm_holds import AlarmHolds, Released, record_of
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.mass_failure import Failure
from hbtrio.store.held_alarms import HeldAlarms, HoldRecord
from hbtrio.store.records import HistoryEntry
from hbtrio.store.retry import retry_forever
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Instance

_log = logging.getLogger("hbtrio.brake")


class NotHeld(Exception):
    """The host's alarms are not held back."""


class MassFailureGuard:
    """Holds back the alarms of hosts that fail as a whole.

    Args:
        settings: ``[brake]`` of the configuration.
        held: what is held, and survives.
        fleet: knows which alarms are still of use.
        outbox: woken when an alarm is let go or withdrawn.
        history: what is kept in the history is published there.
        wall_clock: the store's.
    """

    def __init__(
        self,
        settings: BrakeSettings,
        held: HeldAlarms,
        fleet: Fleet,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._held = held
        self._fleet = fleet
        self._wall_clock = wall_clock
        self._holds = AlarmHolds(held, fleet, outbox, history, wall_clock)
        self._hosts: dict[str, HostAlarms] = {}
        #: Some host is to be looked at earlier than was known.
        self._wake_up = WakeUp()
        #: Host alarms raised since the start.
        self.alarms = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Judges failures and ends holds until cancelled; what is held stays held.

        What links that are being ended still tell after that is for the next process to judge.

        Raises:
            StoreFault: what is held can't be read at the start.
        """
        await self._remember()
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                for host in self._hosts.values():
                    wanted = partial(self._fleet.alarm_wanted, host.hostname)
                    for effect in host.due(trio.current_time(), self._wall_clock(), wanted):
                        nursery.start_soon(self._carry_out_due, host, effect)
                due = [host.due_at for host in self._hosts.values() if host.due_at is not None]
                with trio.move_on_at(min(due, default=math.inf)):
                    await self._wake_up.wait()

    def hold(self, hostname: str) -> HoldRecord | None:
        """Since when and why a host's alarms are held back, or None."""
        host = self._hosts.get(hostname)
        return None if host is None or host.hold is None else record_of(host.hold)

    # -- what hosts tell --------------------------------------------------------------------

    async def told(self, hostname: str, uuid: str, instance: Instance | None) -> None:
        """A host told of an instance, or with None that it is gone.

        Raises:
            StoreFault: an alarm that is outdated now is still held.
        """
        host = self._host(hostname)
        await self._carry_out(host, host.instance_reported(uuid, instance, trio.current_time()))

    def told_all(self, hostname: str, uuids: Set[str]) -> None:
        """A host told of all its instances: it has no others."""
        self._host(hostname).all_reported(uuids)

    async def link_dropped(self, hostname: str, reason: str) -> None:
        """The link of a host has ended."""
        host = self._host(hostname)
        await self._carry_out(host, host.link_dropped(reason, self._wall_clock()))

    def failed(
        self, hostname: str, uuid: str, instance: Instance | None, at: datetime
    ) -> Failure | None:
        """An instance failed; None if its alarm is not to be held.

        Args:
            hostname: its host.
            uuid: the instance.
            instance: what the host told of it last.
            at: when, by the host's clock: reports may come late, and many at once.
        """
        interval_s = 0.0 if instance is None else instance.interval_ms / 1000
        return self._host(hostname).failed(uuid, at, interval_s, trio.current_time())

    def consider(self, hostname: str, failure: Failure, instance: Instance | None) -> None:
        """Has a failure judged, whose alarm is held by now, once its interval is over."""
        well = instance is not None and is_well(instance)
        self._host(hostname).consider(failure, well=well, now=trio.current_time())
        self._wake_up.set()

    # -- who else may let go ----------------------------------------------------------------

    async def release(self, hostname: str, who: str, *, send: bool) -> Released:
        """Ends a host's hold: its alarms are sent, those that are still of use, or withdrawn.

        Raises:
            NotHeld: there is none.
            StoreFault: the hold goes on.
        """
        reason = f"an operator {'released' if send else 'withdrew'} them"
        released = await self._release(hostname, reason, who, send=send)
        if released is None:
            raise NotHeld(f"no alarms of {hostname} are held back")
        return released

    async def deleted(self, hostname: str) -> None:
        """The VIM has deleted the host, and wants to hear nothing of it.

        Raises:
            StoreFault: what is held of it is still held.
        """
        await self._release(hostname, "the VIM has deleted it", "", send=False)

    async def left(self, hostname: str, uuid: str, reason: str) -> None:
        """The VIM has an instance on that host no longer: it is elsewhere, or nowhere.

        Raises:
            StoreFault: what is held about it is still held.
        """
        await self._holds.withdraw(hostname, uuid, reason)
        host = self._hosts.get(hostname)
        if host is not None:
            wanted = partial(self._fleet.alarm_wanted, hostname)
            await self._carry_out(host, host.left(uuid, trio.current_time(), wanted))

    def forget(self, hostname: str) -> None:
        """The host has been without a link for long; what is held of it stays."""
        host = self._hosts.get(hostname)
        if host is not None and host.is_idle:
            del self._hosts[hostname]

    # -- carrying ---------------------------------------------------------------------------

    def _host(self, hostname: str) -> HostAlarms:
        if hostname not in self._hosts:
            self._hosts[hostname] = HostAlarms(
                hostname, self._settings.share, self._settings.minimum
            )
        return self._hosts[hostname]

    async def _remember(self) -> None:
        found = await self._held.all()
        for record in found.holds:
            host = self._host(record.hostname)
            lost = found.alarms.get(record.hostname)
            self._holds.found(host.raise_alarm(record.reason, record.since, lost).hold)
        for hostname, uuids in found.alarms.items():
            # The agent ended within the interval in which it looked whether more follow.
            if self.hold(hostname) is None:
                total = max(len(self._fleet.bound_to(hostname)), len(uuids))
                if total >= self._settings.minimum and len(uuids) > self._settings.share * total:
                    reason = f"{len(uuids)} of {total} instances had failed when the agent ended"
                    host = self._host(hostname)
                    alarm = host.raise_alarm(reason, self._wall_clock(), uuids)
                    await self._carry_out(host, [alarm])
                else:
                    await self._holds.let_go(hostname, uuids)

    async def _carry_out(self, host: HostAlarms, effects: Iterable[HostAlarmEffect]) -> None:
        hostname = host.hostname
        for effect in effects:
            match effect:
                case RaiseHostAlarm(hold):
                    self.alarms += 1
                    text = "ALARM: %s: %s: alarms of its instances are held back"
                    _log.critical(text, hostname, hold.reason)
                    await self._holds.keep(hold)
                case ReportReturn():
                    _log.warning("%s: is heard of again", hostname)
                case ReportSettling():
                    text = "%s: what is not back within %g s is alarmed"
                    _log.warning(text, hostname, SETTLE_S)
                    self._wake_up.set()
                case WithdrawAlarm(uuid, reason):
                    await self._holds.withdraw(hostname, uuid, reason)
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
            # It is settling again, and due a while later.
            _log.error("store: %s; the alarms of %s are still held back", fault, host.hostname)
            self._wake_up.set()

    async def _release(
        self, hostname: str, reason: str, who: str, *, send: bool
    ) -> Released | None:
        host = self._hosts.get(hostname)
        if host is None or host.hold is None:
            return None
        try:
            return await self._holds.release(host, host.hold, reason, who, send=send)
        finally:
            self._wake_up.set()  # one that could not be ended may be settling on
