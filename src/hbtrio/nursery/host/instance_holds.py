"""Keeps the holds that operators set on a host's instances, over restarts of the host.

:mod:`hbtrio.policy.instance_hold` has the rules. The end of a hold decides nothing itself: a
correction that waited for it challenges the instance for some seconds before it decides anew, so a
longer hold that an operator has asked for by then still counts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, NoReturn

import trio

from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.memory import STEP_S, HostMemory
from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.instance_hold import InstanceHold, InstanceHolds
from hbtrio.store.host_records import HoldRecord, Moment

_log = logging.getLogger("hbtrio.corrective")

#: The kind of the holds that remember it.
KIND: Final = "operator"

#: So long after its start, in seconds, a host does nothing to an instance while its store has not
#: told what is on hold. One that can't be read for longer must not keep failed VMs down for ever.
UNKNOWN_S: Final = 30.0

#: Why nothing is done to any instance until then.
NOT_READ: Final = "the holds that operators set before the host's restart were not read yet"

#: How a hold ends by itself.
TIME_OVER: Final = "its time is over"


class HostHolds:
    """The holds on a host's instances.

    Args:
        memory: remembers them.
        reports: reports each beginning and end.
        channel_of: returns the channel of an instance, if it has one.
        changed: called with an instance whose hold begins or ends.
    """

    def __init__(
        self,
        memory: HostMemory,
        reports: Reports,
        channel_of: Callable[[str], Channel | None],
        changed: Callable[[str], None],
    ) -> None:
        self._memory = memory
        self._reports = reports
        self._channel_of = channel_of
        self._changed = changed
        self._holds = InstanceHolds()
        #: Each word of this host's operators, for its agent.
        self.words: Broadcast[InstanceHold] = Broadcast()
        self._over: dict[str, trio.Event] = {}
        self._wake = WakeUp()
        self._unread_until = trio.current_time() + (UNKNOWN_S if memory.is_kept else 0.0)
        self._read = trio.Event()

    def __iter__(self) -> Iterator[InstanceHold]:
        """Iterates over the holds in force."""
        return iter(self._holds)

    def of(self, uuid: str) -> InstanceHold | None:
        """Returns the hold on an instance; None: it is not on hold.

        Its ``words`` say until when, by whom and why.
        """
        return self._holds.of(uuid)

    def all_words(self) -> tuple[InstanceHold, ...]:
        """Returns the last word about each instance, for the agent."""
        return self._holds.words()

    def hindrance(self, uuid: str) -> str:
        """Returns why nothing corrective may be done to an instance; "" if no hold forbids it."""
        if (hold := self.of(uuid)) is not None:
            return hold.words
        return "" if self._is_read else NOT_READ

    async def hold(self, uuid: str, seconds: float, reason: str, who: str) -> bool:
        """Sets a hold, in place of one that is in force; waits a second at most for the disk.

        Args:
            uuid: the instance.
            seconds: for how long.
            reason: why.
            who: who asks for it.

        Returns:
            Whether it is stored; if not, a restart of the host may forget it.

        Raises:
            HoldRefused: see :func:`~hbtrio.policy.instance_hold.checked`.
        """
        now = trio.current_time()
        wall = self._reports.now()
        word = self._holds.begin(uuid, seconds, reason, who, now=now, wall=wall)
        return await self._said(word)

    async def unhold(self, uuid: str, who: str) -> bool:
        """Ends a hold; waits and returns as :meth:`hold` does.

        Raises:
            HoldRefused: the instance is not on hold.
        """
        return await self._said(self._holds.end(uuid, who, wall=self._reports.now()))

    def take(self, word: InstanceHold) -> None:
        """Takes what the agent says about an instance; an older word changes nothing."""
        if self._holds.take(word, trio.current_time()):
            self._note(word)

    async def _said(self, word: InstanceHold) -> bool:
        written = self._note(word)
        self.words.publish(word)
        with trio.move_on_after(STEP_S):
            await written.wait()
        return written.is_set()

    def _note(self, word: InstanceHold) -> trio.Event:
        written = self._memory.hold(self._record(word))
        if not word.is_ended:
            self._over.setdefault(word.uuid, trio.Event())
            self._report(ReportKind.HOLD, word, "")
        elif word.uuid in self._over:
            self._report(ReportKind.HOLD_OVER, word, f"{word.who} has ended it")
            self._end_wait(word.uuid)
        self._wake.set()
        self._changed(word.uuid)
        return written

    def _report(self, kind: ReportKind, word: InstanceHold, how: str) -> None:
        channel = self._channel_of(word.uuid)
        self._reports.publish(
            Report(
                time=self._reports.now(),
                kind=kind,
                uuid=word.uuid,
                reason=f"{how}: {word.reason}" if how else word.words,
                name="" if channel is None else channel.heartbeat.profile.name,
                who="" if how == TIME_OVER else word.who,
            )
        )

    def _end_wait(self, uuid: str) -> None:
        if (over := self._over.pop(uuid, None)) is not None:
            over.set()

    async def until_ended(self, uuid: str) -> None:
        """Waits until no hold forbids to act on an instance. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self.hindrance(uuid):
            if (over := self._over.get(uuid)) is not None:
                await over.wait()
            else:
                with trio.move_on_at(self._unread_until):
                    await self._read.wait()

    # -- its task, and the store ------------------------------------------------------------

    def recall(self, records: Iterable[HoldRecord]) -> None:
        """Takes what an earlier run of the host has left."""
        now, moment = trio.current_time(), self._memory.moment
        for record in records:
            if record.kind != KIND:
                continue
            word = _word(record, now, moment)
            if self._holds.take(word, now):
                if not word.is_ended:
                    self._over.setdefault(word.uuid, trio.Event())
                    _log.info("%s: %s, as before the host's restart", word.uuid, word.words)
                    self._changed(word.uuid)
            elif word.forget_at <= now:
                self._memory.release(KIND, word.uuid)
        self._read.set()
        self._wake.set()

    async def run(self) -> NoReturn:
        """Ends each hold when its time is over, until cancelled."""
        while True:
            over, forgotten = self._holds.expire(trio.current_time())
            for hold in over:
                word = self._holds.word(hold.uuid)
                if word is not None:
                    self._memory.hold(self._record(word))
                self._report(ReportKind.HOLD_OVER, hold, TIME_OVER)
                self._end_wait(hold.uuid)
                self._changed(hold.uuid)
            for uuid in forgotten:
                self._memory.release(KIND, uuid)
            with trio.move_on_at(self._holds.due_at):
                await self._wake.wait()

    @property
    def _is_read(self) -> bool:
        return self._read.is_set() or trio.current_time() >= self._unread_until

    def _record(self, word: InstanceHold) -> HoldRecord:
        moment = self._memory.moment
        left_s = word.ends_at - trio.current_time()
        return HoldRecord(
            KIND,
            word.uuid,
            word.reason,
            word.since.timestamp(),
            word.who,
            word.number,
            word.is_ended,
            Moment(moment.boot_id, moment.boot_s + left_s, word.until.timestamp()),
        )


def _word(record: HoldRecord, now: float, moment: Moment) -> InstanceHold:
    until_s = math.inf if record.ends is None else record.ends.epoch_s
    return InstanceHold(
        uuid=record.uuid,
        number=record.number,
        since=datetime.fromtimestamp(record.since, UTC),
        until=datetime.fromtimestamp(until_s, UTC),
        ends_at=now + record.left_s(moment),
        who=record.who,
        reason=record.why,
        is_ended=record.is_ended,
    )
