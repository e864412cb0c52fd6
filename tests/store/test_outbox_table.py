"""The steps that the store makes in SQL are those of the delivery's table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import attrs
import pytest
import trio

from hbtrio.fsm.delivery import DELIVERY_TABLE, DeliveryEvent, OutboxKind, OutboxState
from hbtrio.store.held_alarms import HoldRecord
from hbtrio.store.records import HistoryEntry, NewEntry
from hbtrio.store.sql import Connection
from hbtrio.store.store import Store
from support.inline_store import inline_store, wall_clock

pytestmark = pytest.mark.usefixtures("autojump_clock")

HOST, UUID, COMMAND = "compute-0", "aaaa", "c1"
STATES = [state for state in OutboxState if state is not OutboxState.REPLACED]
ENDED = {OutboxState.DELIVERED, OutboxState.UNCONFIRMED, OutboxState.UNDELIVERED}
SERVICE, ALARM, ACTION = OutboxKind

Step = Callable[[Store], Awaitable[object]]


def done(state: OutboxState) -> Step:
    return lambda store: store.mark_done(1, state, "fault")


async def expire(store: Store) -> None:
    await trio.sleep(10)
    await store.ready(0)


async def hold(store: Store) -> None:
    told = HistoryEntry(wall_clock(), "host-alarm", "", HOST, "why")
    await store.held.hold(HoldRecord(HOST, wall_clock(), "why"), told)


def begin(store: Store) -> Awaitable[object]:
    return store.mark_sending(1)


def not_sent(store: Store) -> Awaitable[object]:
    return store.back_to_queue(1, "")


#: How the store is told of each event, and for which kinds of entries there is such an event.
STEPS: dict[DeliveryEvent, list[tuple[OutboxKind, Step]]] = {
    DeliveryEvent.SENDING_BEGAN: [
        (kind, lambda store: store.mark_sending(1)) for kind in OutboxKind
    ],
    DeliveryEvent.NOT_SENT: [
        (kind, lambda store: store.back_to_queue(1, "")) for kind in OutboxKind
    ],
    DeliveryEvent.ANSWERED: [(kind, done(OutboxState.DELIVERED)) for kind in OutboxKind],
    DeliveryEvent.UNANSWERED: [
        *((kind, done(OutboxState.UNCONFIRMED)) for kind in OutboxKind),
        # The agent ended while it was being sent: a verdict that may be out is not repeated.
        (ACTION, lambda store: store.settle_interrupted()),
    ],
    DeliveryEvent.FAILED: [
        *(
            (kind, lambda store: store.back_to_queue(1, "", reached=True, refused=True))
            for kind in (SERVICE, ALARM)
        ),
        *((kind, lambda store: store.settle_interrupted()) for kind in (SERVICE, ALARM)),
    ],
    DeliveryEvent.REFUSED: [(kind, done(OutboxState.UNDELIVERED)) for kind in OutboxKind],
    DeliveryEvent.REFUSED_TOO_LONG: [(k, done(OutboxState.UNDELIVERED)) for k in (SERVICE, ALARM)],
    DeliveryEvent.EXPIRED: [(ACTION, expire)],
    DeliveryEvent.HELD_BACK: [(ALARM, hold)],
    DeliveryEvent.LET_GO: [(ALARM, lambda store: store.held.let_go(HOST, {UUID}))],
    DeliveryEvent.WITHDRAWN: [
        (ALARM, lambda store: store.held.withdraw(HOST, {UUID}, "why")),
        (ACTION, lambda store: store.withdraw(COMMAND, "why")),
    ],
    DeliveryEvent.SUPERSEDED: [
        (SERVICE, lambda store: store.queue([NewEntry(SERVICE, UUID, "newer")]))
    ],
}

#: Pairs that the store leaves to others: an alarm that waits is held back before it is withdrawn;
#: of a verdict whose window the disk takes up, the store has a test of its own.
ELSEWHERE = {
    (ALARM, OutboxState.QUEUED, DeliveryEvent.WITHDRAWN),
    (ACTION, OutboxState.HELD, DeliveryEvent.WITHDRAWN),
    (ACTION, OutboxState.SENDING, DeliveryEvent.EXPIRED),
}


async def state_after(place: str, kind: OutboxKind, before: OutboxState, step: Step) -> OutboxState:
    with inline_store(place) as (store, worker):
        entry = NewEntry(kind, UUID, "body", hostname=HOST if kind is ALARM else "")
        if kind is ACTION:
            times = wall_clock() + timedelta(seconds=5), trio.current_time() + 5
            entry = attrs.evolve(entry, command_id=COMMAND, expires_at=times[0], deadline=times[1])
        if before is OutboxState.HELD:
            await hold(store)
        await store.queue([entry])
        done_at = 0.0 if before in ENDED else None

        def put(db: Connection) -> None:
            db.execute("UPDATE outbox SET state = ?, done_at = ?", (before, done_at))

        await worker.run(put)
        await step(store)
        found = [one.state for one in await store.outbox() if one.id == 1]
        return found[0] if found else OutboxState.REPLACED


CASES = [
    pytest.param(kind, state, event, step, id=f"{kind}-{state}-{event.name}-{number}")
    for event, steps in STEPS.items()
    for number, (kind, step) in enumerate(steps)
    for state in STATES
    if (state is not OutboxState.HELD or kind is ALARM)
    if (kind, state, event) not in ELSEWHERE
]


@pytest.mark.parametrize(("kind", "before", "event", "step"), CASES)
async def test_the_store_follows_the_table(
    place: str,
    kind: OutboxKind,
    before: OutboxState,
    event: DeliveryEvent,
    step: Step,
) -> None:
    after = await state_after(place, kind, before, step)
    if event in DELIVERY_TABLE.rows[before]:
        assert after is DELIVERY_TABLE.after(before, event)
    elif before in ENDED:
        # What comes too late changes nothing.
        assert after is before


def test_every_event_is_tried() -> None:
    assert set(STEPS) == set(DeliveryEvent)
