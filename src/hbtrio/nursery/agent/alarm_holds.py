"""Stores holds on alarms, and sends or withdraws the held alarms at the end of a hold.

:mod:`hbtrio.fsm.host_alarms` decides when a hold begins and ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from datetime import datetime
from typing import Final

import attrs
import trio

from hbtrio.fsm.alarm_hold import AlarmHold
from hbtrio.fsm.host_alarms import HostAlarms
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.keyed_lock import KeyedLock
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.begin_by import BeginBy
from hbtrio.policy.instance_hold import InstanceHolds
from hbtrio.store.held_alarms import HeldAlarms, HoldRecord
from hbtrio.store.records import HistoryEntry
from hbtrio.store.retry import retry_forever

_log = logging.getLogger("hbtrio.brake")

#: The kinds of history entries.
RAISED: Final = "host-alarm"
OVER: Final = "host-alarm-over"

#: Why an outdated alarm is withdrawn.
USELESS: Final = "it is of no use any more"


@attrs.frozen
class Released:
    """How many alarms of a host were sent and how many withdrawn."""

    sent: int
    withdrawn: int


def record_of(hold: AlarmHold) -> HoldRecord:
    """Converts a hold to its record in the store."""
    return HoldRecord(hold.hostname, hold.since, hold.reason)


class AlarmHolds:
    """Keeps the holds and their alarms in the store.

    Args:
        held: the held alarms and the holds in the store.
        fleet: knows which alarms are still wanted.
        outbox: woken when an alarm is released or withdrawn.
        history: publishes the history entries.
        on_hold: the instances that operators have put on hold, whose alarms stay held.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        held: HeldAlarms,
        fleet: Fleet,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        on_hold: InstanceHolds,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._held = held
        self._fleet = fleet
        self._outbox = outbox
        self._history = history
        self._on_hold = on_hold
        self._wall_clock = wall_clock
        #: Serializes changes of a host's holds in the store.
        self._locks = KeyedLock()
        #: The holds that are in the store.
        self._kept: set[AlarmHold] = set()

    def found(self, hold: AlarmHold) -> None:
        """Notes a hold that was found in the store."""
        self._kept.add(hold)

    async def keep(self, hold: AlarmHold) -> None:
        """Stores a hold, and retries until the store takes it or the hold has ended."""

        async def step() -> None:
            async with self._locks.of(hold.hostname):
                if hold.in_force:
                    await self._keep(hold)

        await retry_forever(step)

    async def _keep(self, hold: AlarmHold) -> None:
        if hold in self._kept:
            return
        entry = HistoryEntry(hold.since, RAISED, "", hold.hostname, hold.reason)
        await self._held.hold(record_of(hold), entry)
        self._kept.add(hold)
        self._history.publish(entry)

    async def settle(self, host: HostAlarms, hold: AlarmHold) -> None:
        """Ends a hold that is due and sends its alarms, except those in question.

        Does nothing if the hold is no longer due.

        Raises:
            StoreFault: the store failed; the hold goes on.
        """
        async with self._locks.of(hold.hostname):
            if hold.settled():
                await self._end(host, hold, hold.settle_reason, "", send=True, but=host.in_question)

    async def release(
        self,
        host: HostAlarms,
        hold: AlarmHold,
        reason: str,
        who: str,
        *,
        send: bool,
        begin_by: BeginBy,
    ) -> Released | None:
        """Ends a hold; sends the alarms that are still wanted, or withdraws all.

        Args:
            host: the host of the hold.
            hold: the hold.
            reason: the reason, for the history.
            who: the operator, or "".
            send: whether to send the alarms.
            begin_by: until when it may begin.

        Returns:
            How many alarms were sent and withdrawn; None if the hold had ended.

        Raises:
            StoreFault: the store failed; the hold goes on.
        """
        async with self._locks.of(hold.hostname):
            begin_by.check()
            if not hold.released():
                return None
            return await self._end(host, hold, reason, who, send=send)

    async def _end(
        self,
        host: HostAlarms,
        hold: AlarmHold,
        reason: str,
        who: str,
        *,
        send: bool,
        but: Set[str] = frozenset(),
    ) -> Released:
        hostname = hold.hostname
        try:
            await self._keep(hold)
            uuids = self._free(await self._held.of(hostname) - but)
            wanted = self._wanted(hostname, uuids) if send else frozenset()
            withdrawal = USELESS if send else reason
            withdrawn = await self._held.withdraw(hostname, uuids - wanted, withdrawal)
            entry = HistoryEntry(self._wall_clock(), OVER, "", hostname, reason, who=who)
            sent = await self._held.end_hold(hostname, wanted, entry)
        except BaseException:
            host.end_failed(hold, trio.current_time())
            if not hold.in_force:
                self._kept.discard(hold)  # it was replaced meanwhile
            raise
        host.ended(hold)
        self._kept.discard(hold)
        self._outbox.set()
        self._history.publish(entry)
        text = "%s: alarms released: %s: %d sent, %d withdrawn"
        _log.warning(text, hostname, reason, sent, len(withdrawn))
        return Released(sent, len(withdrawn))

    async def let_go(self, hostname: str, uuids: Set[str]) -> None:
        """Releases the alarms about these instances; withdraws those that are no longer wanted.

        Those of instances that operators have put on hold stay held.

        Raises:
            StoreFault: the store failed; the alarms are still held.
        """
        uuids = self._free(uuids)
        wanted = self._wanted(hostname, uuids)
        withdrawn = await self._held.withdraw(hostname, uuids - wanted, USELESS)
        if await self._held.let_go(hostname, wanted) or withdrawn:
            self._outbox.set()

    async def withdraw(self, hostname: str, uuids: Set[str], reason: str) -> None:
        """Withdraws the held alarms about these instances.

        Raises:
            StoreFault: the store failed; the alarms are still held.
        """
        withdrawn = await self._held.withdraw(hostname, uuids, reason)
        for uuid in sorted({entry.uuid for entry in withdrawn}):
            _log.info("%s: alarm withdrawn: %s", uuid, reason)
        if withdrawn:
            self._outbox.set()

    def _free(self, uuids: Set[str]) -> Set[str]:
        return {uuid for uuid in uuids if self._on_hold.of(uuid) is None}

    def _wanted(self, hostname: str, uuids: Set[str]) -> Set[str]:
        return {uuid for uuid in uuids if self._fleet.alarm_wanted(hostname, uuid)}
