"""Holds on alarms in the store: how one is kept, and what becomes of its alarms at its end.

When there is one, and when it ends, is decided in :mod:`hbtrio.fsm.host_alarms`.
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
from hbtrio.store.held_alarms import HeldAlarms, HoldRecord
from hbtrio.store.records import HistoryEntry
from hbtrio.store.retry import retry_forever

_log = logging.getLogger("hbtrio.brake")

#: The kinds of history entries.
RAISED: Final = "host-alarm"
OVER: Final = "host-alarm-over"

USELESS: Final = "it is of no use any more"


@attrs.frozen
class Released:
    """What became of a host's alarms: how many are sent, how many withdrawn."""

    sent: int
    withdrawn: int


def record_of(hold: AlarmHold) -> HoldRecord:
    """A hold as the store keeps it."""
    return HoldRecord(hold.hostname, hold.since, hold.reason)


class AlarmHolds:
    """The holds in the store, and the alarms that they hold.

    Args:
        held: what is held, and survives.
        fleet: knows which alarms are still of use.
        outbox: woken when an alarm is let go or withdrawn.
        history: what is kept in the history is published there.
        wall_clock: the store's.
    """

    def __init__(
        self,
        held: HeldAlarms,
        fleet: Fleet,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._held = held
        self._fleet = fleet
        self._outbox = outbox
        self._history = history
        self._wall_clock = wall_clock
        #: Whose turn it is to change a host's holds in the store.
        self._turns = KeyedLock()
        #: The holds that the store has.
        self._kept: set[AlarmHold] = set()

    def found(self, hold: AlarmHold) -> None:
        """This hold was found in the store."""
        self._kept.add(hold)

    async def keep(self, hold: AlarmHold) -> None:
        """Has the store keep a hold, however long that takes; one that is over by then is not."""

        async def step() -> None:
            async with self._turns.of(hold.hostname):
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
        """Ends a hold that is due: its alarms are sent, but those that are in question.

        Nothing happens if it is not due any more when it is its turn.

        Raises:
            StoreFault: the hold goes on.
        """
        async with self._turns.of(hold.hostname):
            if hold.settled():
                await self._end(host, hold, hold.settle_reason, "", send=True, but=host.in_question)

    async def release(
        self, host: HostAlarms, hold: AlarmHold, reason: str, who: str, *, send: bool
    ) -> Released | None:
        """Ends a hold: its alarms are sent, those that are still of use, or withdrawn.

        Args:
            host: its host.
            hold: the hold.
            reason: why, for the history.
            who: an operator, or "".
            send: whether they are sent.

        Returns:
            what became of them; None: it was over.

        Raises:
            StoreFault: the hold goes on.
        """
        async with self._turns.of(hold.hostname):
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
            uuids = await self._held.of(hostname) - but
            wanted = self._of_use(hostname, uuids) if send else frozenset()
            useless = USELESS if send else reason
            withdrawn = await self._held.withdraw(hostname, uuids - wanted, useless)
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
        text = "%s: alarms are held back no longer: %s: %d sent, %d withdrawn"
        _log.warning(text, hostname, reason, sent, len(withdrawn))
        return Released(sent, len(withdrawn))

    async def let_go(self, hostname: str, uuids: Set[str]) -> None:
        """Has the alarms about these instances sent, those that are still of use.

        Raises:
            StoreFault: they are still held.
        """
        wanted = self._of_use(hostname, uuids)
        withdrawn = await self._held.withdraw(hostname, uuids - wanted, USELESS)
        if await self._held.let_go(hostname, wanted) or withdrawn:
            self._outbox.set()

    async def withdraw(self, hostname: str, uuid: str, reason: str) -> None:
        """Takes back what is held about an instance.

        Raises:
            StoreFault: it is still held.
        """
        if await self._held.withdraw(hostname, [uuid], reason):
            _log.info("%s: alarm withdrawn: %s", uuid, reason)
            self._outbox.set()

    def _of_use(self, hostname: str, uuids: Set[str]) -> Set[str]:
        return {uuid for uuid in uuids if self._fleet.alarm_wanted(hostname, uuid)}
