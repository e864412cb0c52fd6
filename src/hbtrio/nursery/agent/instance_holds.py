"""Keeps the holds that operators set on a fleet's instances, at the agent or at their hosts.

While an instance is on hold its alarms stay with the agent, as the VIM would act on them; states
and verdicts are sent as ever. When the hold is over, the instance's present state decides: its
alarm is sent if it is still wanted, else withdrawn. A hold belongs to the uuid: it goes with an
instance that moves, and outlives the link of its host and this process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, NoReturn

import trio

from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.nursery.agent.mass_failure import MassFailureGuard
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.time_guard import sleep_on_time
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.hold_messages import message_of, word_of
from hbtrio.policy.instance_hold import InstanceHold, InstanceHolds
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.instance_holds import StoredHolds
from hbtrio.store.records import HistoryEntry
from hbtrio.store.retry import retry_forever
from hbtrio.wire.link_holds import HoldWord
from hbtrio.wire.vocabulary import Health

_log = logging.getLogger("hbtrio.agent")

#: The kinds of history entries.
HOLD: Final = "hold"
OVER: Final = "hold-over"


class AgentHolds:
    """The holds on a fleet's instances.

    Args:
        holds: the holds in force; the mass failure guard has them, too.
        stored: keeps them in the store.
        fleet: knows the host of each instance.
        alarms: has the alarms of instances on hold.
        history: publishes the history entries.
        guard: the process's on-time guard.
        wall_clock: the wall clock of the store.
    """

    def __init__(
        self,
        holds: InstanceHolds,
        stored: StoredHolds,
        fleet: Fleet,
        alarms: MassFailureGuard,
        history: Broadcast[HistoryEntry],
        guard: OnTimeGuard,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._holds = holds
        self._stored = stored
        self._fleet = fleet
        self._alarms = alarms
        self._history = history
        self._sleep = sleep_on_time(guard)
        self._wall_clock = wall_clock
        self._wake = WakeUp()
        #: Instances whose hold has ended, and whose alarms are still here.
        self._ended: dict[str, None] = {}

    async def load(self) -> None:
        """Reads the holds from the store; called once, before hosts may report.

        Raises:
            StoreFault: the store can't be read.
        """
        now = trio.current_time()
        for word in await self._stored.all(now):
            self._holds.take(word, now)

    def of(self, uuid: str) -> InstanceHold | None:
        """Returns the hold on an instance; None: it is not on hold.

        Its ``words`` say until when, by whom and why.
        """
        return self._holds.of(uuid)

    @property
    def count(self) -> int:
        """How many instances are on hold."""
        return sum(1 for _ in self._holds)

    @property
    def next_of_failed(self) -> datetime | None:
        """When the next hold ends of an instance that has failed; None without one.

        Its alarm is sent then.
        """
        ends = (
            hold.until
            for hold in self._holds
            if (live := self._fleet.live(hold.uuid)) is not None
            and (live.state == HeartbeatState.LOST.shown or live.health is Health.UNHEALTHY)
        )
        return min(ends, default=None)

    async def hold(self, uuid: str, seconds: float, reason: str, who: str) -> None:
        """Sets a hold, in place of one that is in force.

        Args:
            uuid: the instance.
            seconds: for how long.
            reason: why.
            who: who asks for it.

        Raises:
            HoldRefused: see :func:`~hbtrio.policy.instance_hold.checked`.
            StoreFault: the store failed; nothing was changed.
        """
        before, now = self._holds.word(uuid), trio.current_time()
        word = self._holds.begin(uuid, seconds, reason, who, now=now, wall=self._wall_clock())
        await self._keep(word, before)

    async def unhold(self, uuid: str, who: str) -> None:
        """Ends a hold.

        Raises:
            HoldRefused: the instance is not on hold.
            StoreFault: the store failed; nothing was changed.
        """
        before = self._holds.word(uuid)
        word = self._holds.end(uuid, who, wall=self._wall_clock())
        await self._keep(word, before)
        self._end(uuid)

    async def _keep(self, word: InstanceHold, before: InstanceHold | None) -> None:
        entry = self._entry(word)
        try:
            await self._stored.put(word, entry)
        except BaseException:
            self._holds.restore(word, before)
            raise
        self._history.publish(entry)
        for session in tuple(self._fleet.sessions.values()):
            self.instance_reported(session, word.uuid)
        self._wake.set()

    # -- hosts ------------------------------------------------------------------------------

    def instance_reported(self, session: HostSession, uuid: str) -> None:
        """Tells a host that reports an instance the last word about it, once."""
        word = self._holds.word(uuid)
        if word is not None and uuid in session.instances:
            session.send_hold(message_of(word, trio.current_time()))

    async def said(self, session: HostSession, message: HoldWord) -> None:
        """Takes the word of a host's operator; an older word changes nothing.

        Nor does one about an instance of another host: it may have been there, and moved.
        """
        now, uuid = trio.current_time(), message.uuid.lower()
        if self._fleet.host_of(uuid) not in (None, session.hostname):
            return
        word, before = word_of(message, now), self._holds.of(uuid)
        session.knows_hold(message)
        if not self._holds.take(word, now):
            self.instance_reported(session, uuid)
            return
        if word.is_ended and before is None:
            await retry_forever(lambda: self._stored.note(word))
            return
        entry = self._entry(word, hostname=session.hostname)
        await retry_forever(lambda: self._stored.put(word, entry))
        self._history.publish(entry)
        for other in tuple(self._fleet.sessions.values()):
            self.instance_reported(other, uuid)
        if word.is_ended:
            self._end(uuid)
        self._wake.set()

    # -- their ends -------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Ends each hold when its time is over, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                over, forgotten = self._holds.expire(trio.current_time())
                for hold in over:
                    nursery.start_soon(self._expire, hold)
                for uuid in forgotten:
                    nursery.start_soon(retry_forever, partial(self._stored.forget, uuid))
                for uuid in self._ended:
                    nursery.start_soon(self._decide, uuid)
                self._ended.clear()
                with trio.move_on_at(self._holds.due_at):
                    await self._wake.wait()

    def _end(self, uuid: str) -> None:
        self._ended[uuid] = None
        self._wake.set()

    async def _expire(self, hold: InstanceHold) -> None:
        entry = self._entry(hold, is_expired=True)
        word = self._holds.word(hold.uuid)
        if word is not None and word.number == hold.number:
            await retry_forever(partial(self._stored.put, word, entry))
        self._history.publish(entry)
        self._end(hold.uuid)

    async def _decide(self, uuid: str) -> None:
        """Sends or withdraws the alarms of an instance, once all its host has sent is handled."""
        hostname = self._fleet.host_of(uuid)
        if hostname is None:
            return  # its alarms were withdrawn with it
        await self._sleep(trio.current_time(), partial(self._fleet.take_in, hostname))
        await retry_forever(partial(self._alarms.hold_ended, hostname, uuid))

    def _entry(
        self, word: InstanceHold, *, is_expired: bool = False, hostname: str = ""
    ) -> HistoryEntry:
        over = "its time is over" if is_expired else ""
        if word.is_ended and not over:
            over = f"{word.who} has ended it"
        entry = HistoryEntry(
            time=self._wall_clock(),
            kind=OVER if over else HOLD,
            uuid=word.uuid,
            hostname=hostname or self._fleet.host_of(word.uuid) or "",
            reason=f"{over}: {word.reason}" if over else word.words,
            who="" if is_expired else word.who,
        )
        _log.info("%s: %s: %s", entry.uuid, entry.kind, entry.reason)
        return entry
