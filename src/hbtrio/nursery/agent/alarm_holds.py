"""Hosts whose alarms are held back: how a hold is kept, and what becomes of the alarms at its end.

When there is one, and when it ends, is up to :mod:`hbtrio.nursery.agent.mass_failure`. Its store is
slow at times, and things go on happening meanwhile. So a hold holds back from the moment it is
made, before it is kept; and while it is being ended nobody leaves an alarm to it any more, for it
will not look again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from datetime import datetime
from typing import Final

import attrs
import trio

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


@attrs.define(eq=False)
class AlarmHold:
    """A host whose alarms are held back.

    Args:
        record: as it is kept.
        lost: the instances one of which has to be heard of; None: any.
        turn: whose turn it is to change this host's holds in the store.
        kept: whether the store has it.
        ending: whether it is being ended, or over.
        settling: the time that the others have once one was heard of.
    """

    record: HoldRecord
    lost: set[str] | None
    turn: trio.Lock
    kept: bool = False
    ending: bool = False
    settling: trio.CancelScope | None = None

    def wait_on(self) -> None:
        """What was heard of before counts no more."""
        if self.settling is not None:
            self.settling.cancel()
            self.settling = None


class AlarmHolds:
    """The holds in the store, and the alarms that they hold.

    Args:
        held: what is held, and survives.
        wanted: whether an alarm of this host about this instance is still of use.
        wake: told when an alarm is let go or withdrawn.
        publish: told of what is kept in the history.
        wall_clock: the store's.
    """

    def __init__(
        self,
        held: HeldAlarms,
        *,
        wanted: Callable[[str, str], bool],
        wake: Callable[[], None],
        publish: Callable[[HistoryEntry], None],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._held = held
        self._wanted = wanted
        self._wake = wake
        self._publish = publish
        self._wall_clock = wall_clock

    async def keep(self, hold: AlarmHold) -> None:
        """Has the store keep it, however long that takes."""

        async def step() -> None:
            async with hold.turn:
                await self._keep(hold)

        await retry_forever(step)

    async def _keep(self, hold: AlarmHold) -> None:
        if hold.kept:
            return
        record = hold.record
        entry = HistoryEntry(record.since, RAISED, "", record.hostname, record.why)
        await self._held.hold(record, entry)
        hold.kept = True
        self._publish(entry)

    async def end(
        self,
        hold: AlarmHold,
        why: str,
        who: str,
        *,
        send: bool,
        but: Callable[[], Set[str]] = frozenset,
    ) -> Released | None:
        """Ends a hold: its alarms are sent, those that are still of use, or withdrawn.

        Args:
            hold: the hold.
            why: the reason, for the history.
            who: an operator, or "".
            send: whether they are sent.
            but: instances about which others decide.

        Returns:
            what became of them; None: it was over.

        Raises:
            StoreFault: the hold goes on.
        """
        hostname = hold.record.hostname
        async with hold.turn:
            if hold.ending:
                return None
            hold.ending = True
            try:
                await self._keep(hold)
                uuids = await self._held.of(hostname) - but()
                wanted = self._of_use(hostname, uuids) if send else frozenset()
                useless = USELESS if send else why
                withdrawn = await self._held.withdraw(hostname, uuids - wanted, useless)
                entry = HistoryEntry(self._wall_clock(), OVER, "", hostname, why, who=who)
                sent = await self._held.end_hold(hostname, wanted, entry)
            except BaseException:
                hold.ending = False
                raise
        self._wake()
        self._publish(entry)
        text = "%s: alarms are held back no longer: %s: %d sent, %d withdrawn"
        _log.warning(text, hostname, why, sent, len(withdrawn))
        return Released(sent, len(withdrawn))

    async def let_go(self, hostname: str, uuids: Set[str]) -> None:
        """Has the alarms about these instances sent, those that are still of use.

        Raises:
            StoreFault: they are still held.
        """
        wanted = self._of_use(hostname, uuids)
        withdrawn = await self._held.withdraw(hostname, uuids - wanted, USELESS)
        if await self._held.let_go(hostname, wanted) or withdrawn:
            self._wake()

    async def withdraw(self, hostname: str, uuid: str, why: str) -> None:
        """Takes back what is held about an instance.

        Raises:
            StoreFault: it is still held.
        """
        if await self._held.withdraw(hostname, [uuid], why):
            _log.info("%s: alarm withdrawn: %s", uuid, why)
            self._wake()

    def _of_use(self, hostname: str, uuids: Set[str]) -> Set[str]:
        return {uuid for uuid in uuids if self._wanted(hostname, uuid)}
