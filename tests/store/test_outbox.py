"""The outbox of the agent's store: order, states, and what replaces what."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store import delivery_order, outbox
from hbtrio.store.database import open_database
from hbtrio.store.outbox import ALARMS_PER_INSTANCE
from hbtrio.store.records import (
    Entry,
    HistoryEntry,
    InstanceRecord,
    NewEntry,
    RoundResult,
)
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.store import Store
from hbtrio.store.worker import (
    StoreFault,
)
from hbtrio.wire.vim import AlarmEvent, AlarmState, GuestResponse, VerdictEvent
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult
from support.inline_store import inline_store, wall_clock
from support.store_cases import (
    T0,
    A,
    B,
    C,
    Clock,
    a_round,
    action,
    alarm,
    bodies,
    due,
    ids,
    opened_at,
    service,
)

# -- outbox ----------------------------------------------------------------------------------------


async def test_an_entry_as_it_comes_out(store: Store, clock: Clock) -> None:
    await store.queue([action()])
    entry = Entry(
        id=1,
        kind=OutboxKind.ACTION,
        uuid=A,
        command_id="c1",
        body="verdict c1",
        expires_at=T0 + timedelta(seconds=8),
        state=OutboxState.QUEUED,
        attempts=0,
        queued_at=T0,
        done_at=None,
        fault="",
    )
    ready = await store.ready(8)
    assert (ready.entries, ready.waiting) == ((entry,), 1)
    assert ready.next_expiry_s == 8

    assert await store.mark_sending(1) is True
    assert await store.mark_sending(1) is False
    assert await due(store) == []
    assert (await store.ready(0)).next_expiry_s is None
    clock.pass_s(1)
    await store.back_to_queue(1, "refused")
    entry = attrs.evolve(entry, attempts=1, fault="refused")
    assert (await store.ready(8)).entries == (entry,)
    assert await store.mark_sending(1)
    await store.mark_done(1, OutboxState.DELIVERED)
    entry = attrs.evolve(entry, state=OutboxState.DELIVERED, fault="", done_at=clock.now)
    assert await store.outbox() == (entry,)
    # What has ended has ended.
    await store.back_to_queue(1, "late")
    await store.mark_done(1, OutboxState.UNDELIVERED, "late")
    assert await store.outbox() == (entry,)
    assert (await store.ready(8)).waiting == 0


async def test_states_coalesce_and_nothing_else_does(store: Store, clock: Clock) -> None:
    await store.queue([service(body="on"), alarm(body="a1"), alarm(body="a2"), service(B, "b on")])
    clock.pass_s(5)
    await store.queue([service(body="off"), action(command_id="c1"), action(command_id="c2")])
    assert await bodies(store) == [
        ("a1", "queued"),
        ("a2", "queued"),
        ("b on", "queued"),
        ("off", "queued"),
        ("verdict c1", "queued"),
        ("verdict c2", "queued"),
    ]
    # The newer state keeps the place in the queue of instances that the older one had.
    off = (await store.outbox())[2]
    assert (off.body, off.queued_at) == ("off", T0)


async def test_a_state_being_sent_is_not_replaced(store: Store) -> None:
    await store.queue([service(body="on")])
    assert await store.mark_sending(1)
    await store.queue([service(body="off")])
    assert await bodies(store) == [("on", "sending"), ("off", "queued")]
    assert await due(store) == []
    await store.mark_done(1, OutboxState.UNCONFIRMED)
    assert await due(store) == ["off"]


async def test_a_state_that_failed_is_not_sent_after_a_newer_one(store: Store) -> None:
    await store.queue([service(body="on")])
    assert await store.mark_sending(1)
    await store.queue([service(body="off")])
    await store.back_to_queue(1, "reset")
    assert await bodies(store) == [("off", "queued")]
    # Replaced while its connection was being made: the old one must not go out.
    await store.queue([service(body="on again")])
    assert await store.mark_sending(2) is False
    assert await store.mark_sending(3) is True


async def test_order_of_one_instance(store: Store) -> None:
    await store.queue([service(body="s"), alarm(body="a"), action(), service(B, "b")])
    sent = []
    while ready := (await store.ready(1, busy=[B])).entries:
        assert await store.mark_sending(ready[0].id)
        assert await due(store, busy=[B]) == []
        sent.append(ready[0].body)
        await store.mark_done(ready[0].id, OutboxState.DELIVERED)
    assert sent == ["s", "a", "verdict c1"]
    assert await due(store) == ["b"]


async def test_order_over_instances(store: Store, clock: Clock) -> None:
    await store.queue([alarm(A, "a")])
    clock.pass_s(1)
    await store.queue([alarm(B, "b"), alarm(C, "c"), action("dddd")])
    # Verdicts first, as they have a window; then what failed least often; then the oldest.
    assert await due(store) == ["verdict c1", "a", "b", "c"]
    assert await due(store, 2) == ["verdict c1", "a"]
    await store.back_to_queue((await ids(store))["a"], "refused")
    assert await due(store) == ["verdict c1", "b", "c", "a"]


async def test_a_verdict_passes_what_failed(store: Store) -> None:
    await store.queue([alarm(body="a"), action(command_id="c1"), action(command_id="c2")])
    assert await due(store) == ["a"]
    await store.back_to_queue(1, "stalled")
    assert await due(store) == ["verdict c1"]
    assert await due(store, resting=[A]) == ["verdict c1"]
    # But no verdict passes another.
    await store.back_to_queue(2, "refused")
    assert await due(store) == ["verdict c1"]
    await store.mark_done(2, OutboxState.DELIVERED)
    assert await due(store) == ["verdict c2"]
    await store.mark_done(3, OutboxState.DELIVERED)
    assert await due(store, resting=[A]) == []
    assert await due(store) == ["a"]


async def test_a_verdict_waits_for_the_reply(store: Store) -> None:
    await store.open_round(a_round())
    accept = RoundResult("c1", VoteResult.ACCEPT, "")
    await store.take_report("compute-0", "boot", 1, None, [action()], accept)
    assert await due(store) == []
    await store.replied("c1")
    assert await due(store) == ["verdict c1"]


async def test_a_verdict_that_waits_for_its_reply_holds_up_nothing(store: Store) -> None:
    """The reply may never be written: the agent was killed, or the link cut, before."""
    await store.open_round(a_round())
    accept = RoundResult("c1", VoteResult.ACCEPT, "")
    await store.take_report("compute-0", "boot", 1, None, [action()], accept)
    await store.queue([alarm(), action(A, "c2")])
    assert await due(store) == ["alarm"]
    await store.mark_sending(2)
    await store.back_to_queue(2, "reset")
    assert await due(store) == ["verdict c2"]
    await store.replied("c1")
    assert await due(store) == ["verdict c1"]


async def test_a_verdict_whose_window_is_over(store: Store, clock: Clock) -> None:
    await store.inventory.put_instance(InstanceRecord(B, "compute-1", True))
    await store.open_round(a_round())
    reject = RoundResult("c1", VoteResult.REJECT, "busy")
    await store.take_report("compute-0", "boot", 1, None, [action()], reject)
    await store.queue([action(B, "c2", within_s=9), alarm(B)])
    clock.pass_s(8)
    # It can't be sent from the very moment on, taken before or not.
    assert await store.mark_sending(1) is False
    assert await store.mark_sending(2) is True
    await store.back_to_queue(2, "refused")
    ready = await store.ready(0)
    fault = "its window was over before it could be sent"
    ended = [(entry.body, entry.fault) for entry in await store.outbox() if entry.done_at]
    assert ended == [("verdict c1", fault)]
    assert ready.next_expiry_s == 1
    clock.pass_s(1)
    assert (await store.ready(8)).next_expiry_s is None
    assert await bodies(store) == [
        ("verdict c1", "undelivered"),
        ("verdict c2", "undelivered"),
        ("alarm", "queued"),
    ]
    assert [record.entry for record in await store.history()] == [
        HistoryEntry(clock.now, "undelivered", B, "compute-1", f"action: {fault}"),
        HistoryEntry(
            T0 + timedelta(seconds=8),
            "undelivered",
            A,
            "compute-0",
            f"action: {fault}",
            Event.STOP,
            VoteResult.REJECT,
            "vim",
        ),
    ]


@pytest.mark.parametrize("step_s", [20, -300])
async def test_a_clock_that_is_set_moves_no_window(
    place: str, clock: Clock, step_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    def verdict(uuid: str, command_id: str, within_s: float) -> NewEntry:
        made = action(uuid, command_id, within_s)
        return attrs.evolve(made, deadline=trio.current_time() + within_s)

    with inline_store(place) as (_, worker):
        store = Store(worker, clock)
        await store.queue([verdict(A, "c1", 8), verdict(B, "c2", 9)])
        clock.pass_s(step_s)
        await trio.sleep(7)
        assert await due(store) == ["verdict c1", "verdict c2"]
        assert (await store.ready(0)).next_expiry_s == 1
        assert await store.mark_sending(1) is True
        await store.back_to_queue(1, "refused")
        await trio.sleep(1)
        assert await store.mark_sending(1) is False
        assert await due(store) == ["verdict c2"]
        assert [body for body, state in await bodies(store) if state == "undelivered"] == [
            "verdict c1"
        ]
    # That clock is gone with its process: by the wall clock it is too late, or not yet.
    with inline_store(place) as (_, worker):
        store = Store(worker, clock)
        ready = await store.ready(8)
        if step_s > 0:
            assert (ready.entries, ready.next_expiry_s) == ((), None)
            assert await bodies(store) == [
                ("verdict c1", "undelivered"),
                ("verdict c2", "undelivered"),
            ]
        else:
            assert [entry.body for entry in ready.entries] == ["verdict c2"]
            assert ready.next_expiry_s == 9 + 300
            # Only if it has come from the future nobody can say whether it is still wanted.
            await store.settle_interrupted()
            why = "the clock was set back: the VIM may no longer wait"
            assert [(one.state, one.fault) for one in await store.outbox()][:1] == [
                (OutboxState.UNDELIVERED, why)
            ]


async def test_a_verdict_that_outlives_a_power_cut_is_marked_on_the_disk(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with inline_store(tmp_path) as (store, worker):
        expires = wall_clock() + timedelta(hours=1)
        await store.queue(
            [
                alarm(A),
                attrs.evolve(action(B, "short", 0), expires_at=expires, deadline=19.9),
                attrs.evolve(action(C, "long", 0), expires_at=expires, deadline=20.0),
                attrs.evolve(action("dddd", "left", 0), expires_at=expires),
            ]
        )
        assert worker.syncs == 0
        assert (await store.mark_sending(1), worker.syncs) == (True, 0)
        assert (await store.mark_sending(2), worker.syncs) == (True, 0)
        assert (await store.mark_sending(3), worker.syncs) == (True, 1)
        assert (await store.mark_sending(4), worker.syncs) == (True, 2)
        assert (await store.mark_sending(4), worker.syncs) == (False, 2)
        # If that fails nobody may send it: it is not known what the disk has.
        await store.back_to_queue(3, "refused")
        worker.fault_of_sync = "disk failed"
        with pytest.raises(StoreFault, match="disk failed"):
            await store.mark_sending(3)


async def test_room_for_verdicts(store: Store) -> None:
    await store.queue([alarm(A), alarm(B), alarm(C), service("dddd"), action("eeee")])
    assert await due(store, 8, others=2) == ["verdict c1", "alarm", "alarm"]
    assert await due(store, 8, others=0) == ["verdict c1"]
    assert len(await due(store, 2, others=2)) == 2
    # It does not wait for what there is no room for.
    await store.queue([alarm("ffff", "before it"), action("ffff", "c2")])
    assert await due(store, 8, others=0) == ["verdict c1", "verdict c2"]
    assert "verdict c2" not in await due(store, 8, others=6)


async def test_what_was_being_sent_at_the_end(place: str, clock: Clock) -> None:
    async with opened_at(place, clock) as store:
        await store.queue([service(A, "old"), alarm(B), action(C), service("dddd", "d")])
        for number in (1, 2, 3, 4):
            assert await store.mark_sending(number)
        await store.queue([service(A, "new")])
    async with opened_at(place, clock) as store:
        clock.pass_s(1)
        await store.settle_interrupted()
        fault = "the agent ended while it was being sent"
        assert [
            (entry.body, entry.state.value, entry.attempts, entry.fault)
            for entry in reversed(await store.outbox())
        ] == [
            ("alarm", "queued", 1, fault),
            ("verdict c1", "unconfirmed", 0, fault),
            ("d", "queued", 1, fault),
            ("new", "queued", 0, ""),
        ]
        assert await due(store) == ["new", "alarm", "d"]


async def test_alarms_of_one_instance_are_bounded(store: Store) -> None:
    await store.queue([alarm(B, "other")])
    await store.queue([alarm(A, f"a{n}") for n in range(ALARMS_PER_INSTANCE + 2)])
    ready = await store.ready(8)
    assert [entry.body for entry in ready.entries] == ["other", "a2"]
    assert ready.waiting == ALARMS_PER_INSTANCE + 1
    given_up = [entry for entry in await store.outbox() if entry.state is OutboxState.UNDELIVERED]
    assert [entry.body for entry in given_up] == ["a1", "a0"]
    assert len(await store.history()) == 2


ILL = AlarmEvent(A, "compute-0", AlarmState.UNHEALTHY, CorrectiveAction.REBOOT).body()


def proceed(event: Event = Event.PAUSE) -> NewEntry:
    body = VerdictEvent(A, event, GuestResponse.PROCEED, "").body()
    return NewEntry(OutboxKind.ACTION, A, body, "c1", T0 + timedelta(seconds=8))


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize(
    ("event", "state"),
    [(Event.PAUSE, OutboxState.UNDELIVERED), (Event.UNPAUSE, OutboxState.QUEUED)],
)
async def test_ill_health_that_is_being_sent_when_the_vim_acts_is_not_sent_again(
    store: Store, event: Event, state: OutboxState, settled: bool
) -> None:
    await store.queue([alarm(body=ILL)])
    assert await store.mark_sending(1)
    await store.queue([proceed(event)])
    assert (await store.outbox())[-1].state is OutboxState.SENDING
    await (store.settle_interrupted() if settled else store.back_to_queue(1, "stalled"))
    assert (await store.outbox())[-1].state is state


async def test_ill_health_after_the_verdict_is_news(store: Store) -> None:
    await store.queue([proceed(), alarm(body=ILL)])
    for _ in range(2):
        assert (await store.outbox())[0].state is OutboxState.QUEUED
        await store.back_to_queue(2, "refused")


def test_a_long_queue_and_a_long_past_are_not_searched_through(path: str) -> None:
    """What is done for each verdict uses an index, whatever the outbox holds."""
    said: list[str] = []
    database = open_database(path, AGENT_SCHEMA)
    database.db.set_trace_callback(said.append)
    outbox.queue(database.db, [service(), alarm(), action()], 0.0)
    delivery_order.ready(database.db, 8, 6, [B], [C], None, 0.0, 0.0)
    outbox.mark_sending(database.db, 1, 0.0, 0.0)
    outbox.back_to_queue(database.db, 2, "refused", 0.0, 0.0, reached=True, refused=True)
    outbox.mark_done(database.db, 1, OutboxState.DELIVERED, "", 0.0)
    database.db.set_trace_callback(None)
    steps = [
        step
        for text in said
        if text.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))
        for *_, step in database.db.execute(f"EXPLAIN QUERY PLAN {text}")
    ]
    database.close()
    looked = {step for step in steps if "outbox" in step or "mine" in step or "other" in step}
    # The one that goes along its index does so in the order wanted and stops when it has enough.
    assert {step for step in looked if step.startswith("SCAN")} == {
        "SCAN mine USING INDEX outbox_turn",
        "SCAN outbox USING INDEX outbox_turn",
    }
    assert not [step for step in steps if "TEMP B-TREE" in step]
