"""Delivers the outbox to the VIM: in order per instance, concurrently across instances.

:mod:`hbtrio.fsm.delivery` decides about each entry, :mod:`hbtrio.policy.vim_attempts` how many may
be in progress at once, and the store which entry is next in its instance's order. This task carries
it out.

A verdict is never sent twice: :meth:`VimDelivery._send` has the store mark it as being sent before
its first byte, and a marked entry goes back to the queue only if the VIM can't have received all of
it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import attrs
import trio

from hbtrio.fsm.delivery import (
    Delivery,
    DeliveryEffect,
    EndRest,
    MarkDone,
    OutboxKind,
    OutboxState,
    QueueAgain,
    ReportStateGivenUp,
    RestInstance,
)
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.policy.vim_attempts import Reach, VimAttempts
from hbtrio.policy.vim_pace import LEAST
from hbtrio.store.records import Entry, HistoryEntry
from hbtrio.store.retry import retry_forever
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vim import VimRequest, patch_instance
from hbtrio.wire.vim_result import NotSent, SendResult, fault_of

_log = logging.getLogger("hbtrio.vim")

#: Seconds between two queries of the queue at most, even without a wake-up: what other parts have
#: given up is counted and logged by then.
_LOOK_S: Final = 30.0

#: Refusals before a stop of this process for longer than this, in seconds, do not count: how long
#: the VIM refuses an entry is known only from attempts.
_STOPPED_S: Final = 60.0


class VimTransport(Protocol):
    """Sends requests; see :class:`~hbtrio.nursery.agent.vim_client.VimClient`."""

    async def send(
        self, request: VimRequest, on_sending: Callable[[], Awaitable[None]]
    ) -> SendResult:
        """Sends one request in bounded time."""


class GivenUp(Protocol):
    """Handles undelivered entries. Called in the delivery's task; must not block."""

    def undelivered(self, entry: HistoryEntry) -> None:
        """Handles an undelivered entry; the argument is its history entry."""

    def state_given_up(self, uuid: str, *, for_good: bool) -> None:
        """Handles an undelivered state; ``for_good``: the VIM has refused it."""


@attrs.frozen
class DeliveryStatus:
    """The status of the delivery, for operators.

    Args:
        reachable: whether the last request got through to the VIM.
        fault: the last fault; "" if there was none since the VIM was reached.
        waiting: entries queued or being sent at the last query.
        in_flight: requests in progress.
        delivered, unconfirmed, undelivered: entries with that result since the start.
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


class _Withdrawn(Exception):
    """The entry was replaced, held back or given up while the connection was being made."""


class VimDelivery:
    """Sends the entries of the outbox.

    Args:
        store: holds the outbox.
        transport: sends one request.
        outbox: set when an entry was queued or released, or when a round was replied to.
        guard: the process's on-time guard.
        at_once: the most states and alarms that are sent at once.
    """

    def __init__(
        self,
        store: Store,
        transport: VimTransport,
        outbox: WakeUp,
        guard: OnTimeGuard,
        at_once: int = LEAST,
    ) -> None:
        self._store = store
        self._transport = transport
        self._outbox = outbox
        self._guard = guard
        #: What the guard had counted as stalled time at the last look.
        self._stalled_s = 0.0
        self._attempts = VimAttempts(at_once)
        self._fault = ""
        self._waiting = 0
        self._ended: Counter[OutboxState] = Counter()
        self._retries = 0
        #: The newest history entry that was checked for undelivered entries.
        self._newest: int | None = None

    @property
    def status(self) -> DeliveryStatus:
        """The present status."""
        return DeliveryStatus(
            reachable=self._attempts.reachable,
            fault=self._fault,
            waiting=self._waiting,
            in_flight=len(self._attempts),
            delivered=self._ended[OutboxState.DELIVERED],
            unconfirmed=self._ended[OutboxState.UNCONFIRMED],
            undelivered=self._ended[OutboxState.UNDELIVERED],
            retries=self._retries,
        )

    def vim_spoke(self) -> None:
        """Notes a request from the VIM: it is up, so entries waiting for it are sent at once."""
        if self._attempts.vim_spoke():
            self._outbox.set()

    async def run(self, given_up: GivenUp) -> None:
        """Sends until cancelled.

        Requests in progress then stay marked as being sent; the next run, in this process or the
        next one, settles them as after a crash.

        Args:
            given_up: handles undelivered entries.
        """
        self._attempts.forget_all()
        await retry_forever(self._store.settle_interrupted)
        async with trio.open_nursery() as nursery:
            while True:
                # A delivery whose turn it is to try a failed store again leaves that to this query.
                wait_s = await retry_forever(
                    lambda: self._start_ready(nursery, given_up), self._outbox.wait
                )
                with trio.move_on_after(wait_s):
                    await self._outbox.wait()

    async def _start_ready(self, nursery: trio.Nursery, given_up: GivenUp) -> float:
        """Starts to send the ready entries; returns the seconds until the next query."""
        now = trio.current_time()
        self._note_stop(now)
        turn = self._attempts.turn(now)
        ready = await self._store.ready(
            turn.limit, turn.busy, turn.resting, self._newest, others=turn.others
        )
        self._waiting = ready.waiting
        for entry in ready.entries:
            is_verdict = entry.kind is OutboxKind.ACTION
            began = trio.current_time()
            self._attempts.begin(entry.id, entry.uuid, is_verdict=is_verdict, now=began)
            nursery.start_soon(self._deliver, entry, given_up)
        self._newest = ready.newest
        self._report_undelivered(ready.undelivered, given_up)
        wait_s = min(_LOOK_S, self._attempts.wait_s(now))
        return max(0.0, wait_s if ready.next_expiry_s is None else min(wait_s, ready.next_expiry_s))

    async def _deliver(self, entry: Entry, given_up: GivenUp) -> None:
        delivery = Delivery(entry.kind, entry.refused_since)
        try:
            result = await self._send(entry, delivery)
        except _Withdrawn:
            pass
        except StoreFault as fault:
            # Nothing was sent. The instance must not rest, because the entry may be a verdict.
            _log.error("store: %s", fault)
            await fault.recovery.wait()
        else:
            now = trio.current_time()
            self._note_stop(now)
            self._log_reach(self._attempts.learn(entry.id, result, now), result)
            for effect in delivery.tried(result, now, self._attempts.reachable_since):
                await self._carry_out(entry, effect, given_up)
        self._attempts.end(entry.id)
        self._outbox.set()

    def _note_stop(self, now: float) -> None:
        stalled_s = self._guard.stalled_s(now)
        if stalled_s - self._stalled_s > _STOPPED_S:
            self._attempts.process_resumed(now)
        self._stalled_s = stalled_s

    async def _send(self, entry: Entry, delivery: Delivery) -> SendResult:
        async def on_sending() -> None:
            if not await self._store.mark_sending(entry.id):
                raise _Withdrawn
            delivery.sending_began()

        return await self._transport.send(patch_instance(entry.uuid, entry.body), on_sending)

    async def _carry_out(self, entry: Entry, effect: DeliveryEffect, given_up: GivenUp) -> None:
        match effect:
            case RestInstance():
                self._attempts.rest(entry.uuid, trio.current_time())
            case EndRest():
                self._attempts.end_rest(entry.uuid)
            case QueueAgain(fault, reached, refused):
                self._retries += 1
                self._fault = fault
                await retry_forever(
                    lambda: self._store.back_to_queue(
                        entry.id, fault, reached=reached, refused=refused
                    )
                )
            case MarkDone(state, fault):
                await retry_forever(lambda: self._store.mark_done(entry.id, state, fault))
                # Undelivered entries are counted when they are found in the history.
                if state is not OutboxState.UNDELIVERED:
                    self._ended[state] += 1
            case ReportStateGivenUp(for_good):
                given_up.state_given_up(entry.uuid, for_good=for_good)

    def _report_undelivered(self, found: Sequence[HistoryEntry], given_up: GivenUp) -> None:
        # Read from the store, because other parts give up entries, too: an alarm may have been
        # displaced by newer ones, or held back and withdrawn.
        self._ended[OutboxState.UNDELIVERED] += len(found)
        for entry in found:
            _log.warning("%s: not delivered: %s", entry.uuid, entry.reason)
            given_up.undelivered(entry)

    def _log_reach(self, change: Reach, result: SendResult) -> None:
        if not isinstance(result, NotSent):
            self._fault = ""
        if change is Reach.GAINED:
            _log.info("the VIM can be reached again")
        elif change is Reach.LOST:
            _log.warning("the VIM can't be reached: %s", fault_of(result))
