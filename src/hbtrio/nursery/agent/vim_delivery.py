"""Delivers the outbox to the VIM: in order for each instance, side by side over instances.

The rules are those of PROTOCOL.md, section 3. What was not written whole may be sent again, and is.
What was written whole is done with if it is a verdict, however it ended: a second ``allow`` would
complete the VIM's next step. States and alarms are done with when the VIM answered or closed in
order, which is its way of saying yes; after a reset or silence they are sent again.

Two kinds of trouble, two kinds of waiting. The VIM can't be reached: nothing is sent for a while,
then one entry tries for all, so that a thousand entries do not hammer at a VIM that is starting.
One request fails on a VIM that can be reached: its instance rests, the others go on.

A verdict waits for none of that: it has a window. Some of the requests under way are kept for
verdicts, and a state or alarm that hangs holds up not even the verdict of its own instance.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import attrs
import trio

from hbtrio.nursery.agent.vim_client import (
    Delivered,
    Delivery,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    Unconfirmed,
    fault_of,
)
from hbtrio.policy.backoff import Backoff
from hbtrio.store.records import Entry, HistoryEntry, OutboxKind, OutboxState
from hbtrio.store.retry import retry_forever
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vim import VimRequest, patch_instance

_log = logging.getLogger("hbtrio.vim")

#: Requests under way at once, and how many of them states and alarms leave to verdicts: each of
#: theirs may hang for as long as a vote's whole window.
SLOTS: Final = 8
FOR_VERDICTS: Final = 2

#: A state or alarm under way for so long, in seconds, hangs: a verdict of its instance need not
#: come behind it. A VIM that is well answers in a few milliseconds; the verdict of a silent guest
#: has a quarter of a second.
_HANGS_S: Final = 0.1

#: For how long, in seconds, a state or alarm is sent again that the VIM refuses or resets each
#: time. Most likely that is not the entry's fault: a proxy answers for a VIM that is being upgraded
#: or moved to the other controller, which takes minutes. After an hour a loss is no news. Silence
#: does not count: a VIM that hangs gets its alarms when it is back, as one that can't be reached.
GIVE_UP_S: Final = 3600.0

#: The queue is looked at this often, in seconds, whether or not anybody says that it has changed:
#: the wall clock, which verdicts that a former process has left expire by, may be set.
_LOOK_S: Final = 30.0

#: How long an entry waits that could not be marked, in seconds: the disk is full.
_STORE_S: Final = 1.0

#: Statuses that a VIM, or what stands before it, gives for troubles that pass.
_PASSING: Final = frozenset((408, 425, 429))


#: An instance that rested and has had nothing to send for so long, in seconds, is forgotten.
_FORGET_S: Final = 300.0


class VimTransport(Protocol):
    """What a sender sends with: :class:`~hbtrio.nursery.agent.vim_client.VimClient`."""

    async def send(
        self, request: VimRequest, on_sending: Callable[[], Awaitable[None]]
    ) -> Delivery:
        """Sends one request in bounded time."""


@attrs.frozen
class SenderStatus:
    """What an operator is told.

    Args:
        reachable: whether the last request got through to the VIM.
        fault: why the last one that failed did; "" if none did since it was reached.
        waiting: entries queued or being sent when last looked at.
        in_flight: requests under way.
        delivered, unconfirmed, undelivered: how many ended so since the start.
        retries: attempts that failed and were or will be repeated.
    """

    reachable: bool
    fault: str
    waiting: int
    in_flight: int
    delivered: int
    unconfirmed: int
    undelivered: int
    retries: int


@attrs.define
class _Rest:
    """An instance whose last request failed on a VIM that could be reached."""

    until: float = -math.inf
    backoff: Backoff = attrs.field(factory=Backoff)


@attrs.frozen
class _UnderWay:
    """A request under way, and since when."""

    uuid: str
    is_verdict: bool
    since: float
    spell: int


class StateGivenUp(Protocol):
    """Is told of a state that the VIM did not take."""

    def __call__(self, uuid: str, *, for_good: bool) -> None:
        """Of this instance; ``for_good``: the VIM said that it does not want it."""


def _nobody(_: HistoryEntry) -> None:
    pass


def _nothing(uuid: str, *, for_good: bool) -> None:
    pass


class _Withdrawn(Exception):
    """The entry was replaced, or its time ran out, while its connection was made."""


class VimSender:
    """The task that empties the outbox.

    Args:
        store: holds the outbox.
        transport: sends one request.
    """

    def __init__(self, store: Store, transport: VimTransport) -> None:
        self._store = store
        self._transport = transport
        self._news = trio.Event()
        #: By entry. Of one instance one, or a verdict beside a state or alarm that hangs.
        self._under_way: dict[int, _UnderWay] = {}
        self._rests: dict[str, _Rest] = {}
        # The wait for a VIM that can't be reached: attempts that began before it was entered do not
        # lengthen it, or the eight that fail together would.
        self._backoff = Backoff()
        self._held_until = -math.inf
        self._spell = 0
        self._reachable = True
        self._fault = ""
        self._waiting = 0
        self._ended: Counter[OutboxState] = Counter()
        self._retries = 0
        #: Told of each entry that is given up, as the history keeps it.
        self.on_undelivered: Callable[[HistoryEntry], None] = _nobody
        #: Told of each state that is given up, too.
        self.on_state_given_up: StateGivenUp = _nothing
        #: Up to where in the history it was told.
        self._newest: int | None = None
        #: Since when, on trio's clock, the VIM can be reached.
        self._since = -math.inf

    @property
    def status(self) -> SenderStatus:
        """How it stands."""
        return SenderStatus(
            reachable=self._reachable,
            fault=self._fault,
            waiting=self._waiting,
            in_flight=len(self._under_way),
            delivered=self._ended[OutboxState.DELIVERED],
            unconfirmed=self._ended[OutboxState.UNCONFIRMED],
            undelivered=self._ended[OutboxState.UNDELIVERED],
            retries=self._retries,
        )

    def wake(self) -> None:
        """Something was queued, or a round was replied to."""
        self._news.set()

    def vim_spoke(self) -> None:
        """The VIM has made a request just now, so it is up: what waits for that is sent at once.

        Without this the verdict of a VIM's first vote after an outage could wait for up to a
        minute, and be too late.
        """
        if not self._reachable:
            self._held_until = -math.inf
            self._backoff.reset()
            self.wake()

    async def run(self) -> None:
        """Sends until cancelled.

        What was under way then stays marked as being sent; the next run, in this process or the
        next, settles it as after a crash.
        """
        self._under_way.clear()
        await retry_forever(self._store.settle_interrupted)
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                wait_s = await retry_forever(lambda: self._start_ready(nursery))
                with trio.move_on_after(wait_s):
                    await self._news.wait()

    async def _start_ready(self, nursery: trio.Nursery) -> float:
        """Starts what can be sent; returns how long there is nothing else to do."""
        now = trio.current_time()
        under_way = self._under_way.values()
        instances = {one.uuid for one in under_way}
        for uuid in [uuid for uuid, rest in self._rests.items() if rest.until < now - _FORGET_S]:
            if uuid not in instances:
                del self._rests[uuid]
        resting = {uuid for uuid, rest in self._rests.items() if rest.until > now}
        hanging_at = [one.since + _HANGS_S for one in under_way if not one.is_verdict]
        busy = {one.uuid for one in under_way if one.is_verdict or one.since + _HANGS_S > now}
        limit, others = self._room(now)
        ready = await self._store.ready(
            limit, busy, resting | instances, self._newest, others=others
        )
        self._waiting = ready.waiting
        began = trio.current_time()
        for entry in ready.entries:
            is_verdict = entry.kind is OutboxKind.ACTION
            self._under_way[entry.id] = _UnderWay(entry.uuid, is_verdict, began, self._spell)
            nursery.start_soon(self._deliver, entry, self._spell)
            if not is_verdict:
                hanging_at.append(began + _HANGS_S)
        self._newest = ready.newest
        self._tell_undelivered(ready.undelivered)
        waits = [_LOOK_S, *(self._rests[uuid].until - now for uuid in resting)]
        waits += [at - now for at in hanging_at if at > now]
        if self._held_until > now:
            waits.append(self._held_until - now)
        if ready.next_expiry_s is not None:
            waits.append(ready.next_expiry_s)
        return max(0.0, min(waits))

    def _room(self, now: float) -> tuple[int, int]:
        """How many requests may be begun, and how many of them may be no verdicts."""
        if self._held_until > now:
            return 0, 0
        # A VIM that could not be reached is tried with one entry for all, and one verdict beside it
        # if there is one: the VIM may be back while that one still waits to be connected.
        # What hangs since it could be reached may do so for 20 s more: only its tries count.
        if not self._reachable:
            tries = [one.is_verdict for one in self._under_way.values() if one.spell == self._spell]
            room = max(0, 2 * SLOTS - len(self._under_way))
            others = min(room, int(False not in tries))
            return min(room, others + int(True not in tries)), others
        others = sum(not one.is_verdict for one in self._under_way.values())
        limit = max(0, SLOTS - len(self._under_way))
        return limit, max(0, min(limit, SLOTS - FOR_VERDICTS - others))

    async def _deliver(self, entry: Entry, spell: int) -> None:
        async def on_sending() -> None:
            if not await self._store.mark_sending(entry.id):
                raise _Withdrawn

        try:
            delivery = await self._transport.send(
                patch_instance(entry.uuid, entry.body), on_sending
            )
        except _Withdrawn:
            pass
        except StoreFault as fault:
            # Nothing was written to the VIM. To let its instance rest would not do, for a verdict.
            _log.error("store: %s", fault)
            await trio.sleep(_STORE_S)
        else:
            await self._settle(entry, delivery, spell)
        del self._under_way[entry.id]
        self.wake()

    async def _settle(self, entry: Entry, delivery: Delivery, spell: int) -> None:
        if isinstance(delivery, NotSent):
            self._not_reached(delivery.reason, spell)
            await self._again(entry, delivery.reason)
            return
        self._reached()
        fault = fault_of(delivery)
        is_verdict = entry.kind is OutboxKind.ACTION
        match delivery:
            case Delivered():
                await self._end(entry, OutboxState.DELIVERED, "")
            case Unconfirmed(MissingAnswer.STALLED) if not is_verdict:
                self._let_rest(entry)
                await self._again(entry, fault, reached=True)
            case Unconfirmed(MissingAnswer.RESET) if not is_verdict:
                await self._again_for_a_while(entry, fault)
            case Unconfirmed():
                await self._end(entry, OutboxState.UNCONFIRMED, fault)
            case ErrorStatus(status) if not is_verdict and (status >= 500 or status in _PASSING):
                await self._again_for_a_while(entry, fault)
            case ErrorStatus():
                await self._give_up(entry, fault, for_good=True)

    async def _again_for_a_while(self, entry: Entry, fault: str) -> None:
        since = entry.refused_since
        # While it could not be reached it refused nothing.
        if since is None or trio.current_time() - max(since, self._since) < GIVE_UP_S:
            self._let_rest(entry)
            await self._again(entry, fault, reached=True, refused=True)
        else:
            why = f"{fault}, again and again for {GIVE_UP_S / 3600:g} h"
            await self._give_up(entry, why, for_good=False)

    async def _give_up(self, entry: Entry, fault: str, *, for_good: bool) -> None:
        await self._end(entry, OutboxState.UNDELIVERED, fault)
        if entry.kind is OutboxKind.SERVICE:
            self.on_state_given_up(entry.uuid, for_good=for_good)

    async def _end(self, entry: Entry, state: OutboxState, fault: str) -> None:
        # A verdict that got through says nothing of the alarm that it passed.
        if entry.kind is not OutboxKind.ACTION:
            self._rests.pop(entry.uuid, None)
        await retry_forever(lambda: self._store.mark_done(entry.id, state, fault))
        if state is not OutboxState.UNDELIVERED:
            self._ended[state] += 1

    def _tell_undelivered(self, found: Sequence[HistoryEntry]) -> None:
        # From the store, as this task is not alone in giving up: an alarm may have had to make room
        # for newer ones, or have been held back and withdrawn.
        self._ended[OutboxState.UNDELIVERED] += len(found)
        for entry in found:
            _log.warning("%s: not delivered: %s", entry.uuid, entry.reason)
            self.on_undelivered(entry)

    async def _again(
        self, entry: Entry, fault: str, *, reached: bool = False, refused: bool = False
    ) -> None:
        self._retries += 1
        self._fault = fault
        await retry_forever(
            lambda: self._store.back_to_queue(entry.id, fault, reached=reached, refused=refused)
        )

    def _let_rest(self, entry: Entry) -> None:
        rest = self._rests.setdefault(entry.uuid, _Rest())
        rest.until = trio.current_time() + rest.backoff.next_delay_s()

    def _reached(self) -> None:
        if not self._reachable:
            _log.info("the VIM can be reached again")
            self._since = trio.current_time()
        self._reachable = True
        self._fault = ""
        self._held_until = -math.inf
        self._backoff.reset()

    def _not_reached(self, fault: str, spell: int) -> None:
        if spell != self._spell:
            return
        self._spell += 1
        delay_s = self._backoff.next_delay_s()
        self._held_until = trio.current_time() + delay_s
        if self._reachable:
            _log.warning("the VIM can't be reached: %s", fault)
        self._reachable = False
