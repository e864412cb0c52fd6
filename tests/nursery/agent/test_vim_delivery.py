"""The delivery against a scripted VIM on the fake clock: what goes out, when, and how often."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from hbtrio.fsm.delivery import GIVE_UP_S, OutboxKind, OutboxState
from hbtrio.nursery.agent.vim_delivery import DeliveryStatus, VimDelivery
from hbtrio.nursery.time_guard import run_guard
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.policy.vim_attempts import FOR_VERDICTS, SLOTS
from hbtrio.store.delivery_order import TRIES
from hbtrio.store.held_alarms import HoldRecord
from hbtrio.store.outbox import REBOOT_S
from hbtrio.store.records import HistoryEntry, NewEntry, RoundRecord, RoundResult
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vim import VimRequest
from hbtrio.wire.vim_result import (
    Delivered,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    SendResult,
    Unconfirmed,
)
from hbtrio.wire.vocabulary import Event, VoteResult
from support.given_up import GivenUp
from support.inline_store import InlineWorker, inline_store, wall_clock

pytestmark = pytest.mark.usefixtures("autojump_clock")

A, B, C = "aaaa", "bbbb", "cccc"

DELIVERED = Delivered(200, b"")
CLOSED = Unconfirmed(MissingAnswer.CLOSED)
RESET = Unconfirmed(MissingAnswer.RESET)
STALLED = Unconfirmed(MissingAnswer.STALLED)
REFUSED = NotSent("connection refused")


@attrs.frozen
class Answer:
    """What becomes of a request: nothing for a while, its first byte, again nothing, its end."""

    delivery: SendResult
    connects_s: float = 0.0
    takes_s: float = 0.0


class AnsweringVim:
    """A transport that does what ``answers`` says of each request."""

    def __init__(self) -> None:
        self.answers: Callable[[str], Answer] = lambda body: Answer(CLOSED)
        #: When an attempt began, and of which body.
        self.begun: list[tuple[float, str]] = []
        #: When the first byte of a request was written, and of which body.
        self.sent: list[tuple[float, str]] = []
        self.most_at_once = 0
        self._at_once: Counter[tuple[str, bool]] = Counter()

    async def send(
        self, request: VimRequest, on_sending: Callable[[], Awaitable[None]]
    ) -> SendResult:
        body = request.body.decode()
        # A verdict may be sent beside a state or alarm of its instance.
        about = request.target.rpartition("/")[2], body[:1] == "c" and body[1:].isdigit()
        self._at_once[about] += 1
        assert self._at_once[about] == 1
        self.most_at_once = max(self.most_at_once, self._at_once.total())
        try:
            self.begun.append((now(), body))
            answer = self.answers(body)
            await trio.sleep(answer.connects_s)
            if not isinstance(answer.delivery, NotSent):
                await on_sending()
                self.sent.append((now(), body))
            await trio.sleep(answer.takes_s)
            return answer.delivery
        finally:
            self._at_once[about] -= 1


def now() -> float:
    return round(trio.current_time(), 6)


@attrs.define
class DeliveryWorld:
    store: Store
    worker: InlineWorker
    vim: AnsweringVim
    delivery: VimDelivery
    outbox: WakeUp
    given_up: GivenUp

    async def queue(self, *entries: NewEntry) -> None:
        await self.store.queue(entries)
        self.outbox.set()

    async def ended(self) -> list[tuple[str, str, str]]:
        entries = reversed(await self.store.outbox())
        return [(entry.body, entry.state.value, entry.fault) for entry in entries]


@asynccontextmanager
async def world_of(folder: Path, *, guarded: bool = False) -> AsyncIterator[DeliveryWorld]:
    """A delivery; ``guarded``: in a process whose guard notices when it is stopped."""
    with inline_store(folder) as (store, worker):
        vim = AnsweringVim()
        outbox = WakeUp()
        guard = OnTimeGuard(trio.current_time() if guarded else math.inf)
        delivery = VimDelivery(store, vim, outbox, guard)
        given_up = GivenUp()
        async with trio.open_nursery() as nursery:
            if guarded:
                nursery.start_soon(run_guard, guard, lambda: True)
            nursery.start_soon(delivery.run, given_up)
            yield DeliveryWorld(store, worker, vim, delivery, outbox, given_up)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[DeliveryWorld]:
    async with world_of(tmp_path) as world:
        yield world


def service(uuid: str = A, body: str = "state") -> NewEntry:
    return NewEntry(OutboxKind.SERVICE, uuid, body)


def alarm(uuid: str = A, body: str = "alarm") -> NewEntry:
    return NewEntry(OutboxKind.ALARM, uuid, body)


def action(uuid: str = A, command_id: str = "c1", within_s: float = 8.0) -> NewEntry:
    expires, deadline = wall_clock() + timedelta(seconds=within_s), trio.current_time() + within_s
    return NewEntry(OutboxKind.ACTION, uuid, command_id, command_id, expires, deadline)


ALL = [service, alarm, action]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("delivery", "state", "fault"),
    [
        (DELIVERED, OutboxState.DELIVERED, ""),
        (Delivered(200, b"{", "cut"), OutboxState.DELIVERED, ""),
        (CLOSED, OutboxState.UNCONFIRMED, "closed without an answer"),
        (Unconfirmed(MissingAnswer.GARBLED), OutboxState.UNCONFIRMED, "an answer that is not HTTP"),
        (ErrorStatus(400), OutboxState.UNDELIVERED, "the VIM answered with status 400"),
        (ErrorStatus(302), OutboxState.UNDELIVERED, "the VIM answered with status 302"),
    ],
)
async def test_ends_that_are_final_for_all(
    world: DeliveryWorld,
    make: Callable[[], NewEntry],
    delivery: SendResult,
    state: OutboxState,
    fault: str,
) -> None:
    world.vim.answers = lambda body: Answer(delivery)
    entry = make()
    await world.queue(entry)
    await trio.sleep(1000)
    assert world.vim.sent == [(0.0, entry.body)]
    assert await world.ended() == [(entry.body, state, fault)]
    counts = {kind: int(kind is state) for kind in OutboxState}
    assert world.delivery.status == DeliveryStatus(
        reachable=True,
        fault="",
        waiting=0,
        in_flight=0,
        delivered=counts[OutboxState.DELIVERED],
        unconfirmed=counts[OutboxState.UNCONFIRMED],
        undelivered=counts[OutboxState.UNDELIVERED],
        retries=0,
    )


@pytest.mark.parametrize(
    "delivery", [RESET, STALLED, ErrorStatus(500), ErrorStatus(503), ErrorStatus(429)]
)
async def test_a_verdict_written_whole_is_never_sent_again(
    world: DeliveryWorld, delivery: SendResult
) -> None:
    world.vim.answers = lambda body: Answer(delivery)
    await world.queue(action())
    await trio.sleep(1000)
    assert world.vim.sent == [(0.0, "c1")]
    [(_, state, _)] = await world.ended()
    assert state == ("undelivered" if isinstance(delivery, ErrorStatus) else "unconfirmed")


@pytest.mark.parametrize("make", [service, alarm])
@pytest.mark.parametrize(
    "delivery", [RESET, STALLED, ErrorStatus(500), ErrorStatus(503), ErrorStatus(429)]
)
async def test_states_and_alarms_are_repeated(
    world: DeliveryWorld, make: Callable[[], NewEntry], delivery: SendResult
) -> None:
    world.vim.answers = lambda body: Answer(CLOSED if len(world.vim.begun) > 4 else delivery)
    entry = make()
    await world.queue(entry)
    await trio.sleep(1000)
    assert world.vim.sent == [(at, entry.body) for at in (0.0, 1.0, 3.0, 7.0, 15.0)]
    assert await world.ended() == [(entry.body, "unconfirmed", "closed without an answer")]
    status = world.delivery.status
    assert (status.retries, status.reachable, status.fault) == (4, True, "")


@pytest.mark.parametrize("make", [service, alarm])
@pytest.mark.parametrize(
    ("delivery", "fault"),
    [(RESET, "reset"), (ErrorStatus(503), "the VIM answered with status 503")],
)
async def test_what_is_refused_for_too_long_is_given_up_and_told_of(
    world: DeliveryWorld,
    make: Callable[[], NewEntry],
    delivery: SendResult,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.vim.answers = lambda body: Answer(delivery)
    entry = make()
    await world.queue(entry)
    # 1, 2, 4, 8, 16, 32 and then 60 seconds in between.
    await trio.sleep(GIVE_UP_S)
    assert [at for at, _ in world.vim.sent[:9]] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert world.delivery.status.undelivered == 0
    await trio.sleep(1000)
    assert world.vim.sent[-1][0] == 63 + 60 * 59
    fault += ", again and again for 1 h"
    assert await world.ended() == [(entry.body, "undelivered", fault)]
    assert world.delivery.status.undelivered == 1
    [kept] = await world.store.history()
    assert (kept.entry.kind, kept.entry.reason) == ("undelivered", f"{entry.kind}: {fault}")
    assert caplog.messages == [f"{A}: not delivered: {entry.kind}: {fault}"]
    assert world.given_up.entries == [kept.entry]
    state_given_up = [(A, False)] if entry.kind is OutboxKind.SERVICE else []
    assert world.given_up.states == state_given_up


@pytest.mark.parametrize("delivery", [RESET, ErrorStatus(500), STALLED])
async def test_what_fails_each_time_lets_the_rest_pass(
    world: DeliveryWorld, delivery: SendResult
) -> None:
    world.vim.answers = lambda body: Answer(delivery if body[:2] == "no" else CLOSED)
    await world.queue(alarm(body="no 1"), alarm(body="no 2"), service(body="state"))
    await trio.sleep(1000)
    sent = world.vim.sent
    assert [body for _, body in sent[: 2 * TRIES + 1]] == ["no 1"] * TRIES + ["no 2"] * TRIES + [
        "state"
    ]
    assert sent[TRIES] == (15.0, "no 2")
    # What is left takes turns, and lets through at once what is new.
    later = [body for _, body in sent[2 * TRIES + 1 :]]
    assert later in (["no 1", "no 2"] * (len(later) // 2), [*["no 1", "no 2"] * 9, "no 1"])
    await trio.sleep(60)
    await world.queue(alarm(body="new"))
    await trio.sleep(61)
    assert "new" in [body for _, body in world.vim.sent]


@pytest.mark.parametrize("stopped_s", [70.0, 2 * GIVE_UP_S])
async def test_the_hour_of_refusals_is_one_in_which_the_process_ran(
    stopped_s: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world_of(tmp_path, guarded=True) as world:
        world.vim.answers = lambda body: Answer(ErrorStatus(503))
        await world.queue(alarm())
        await trio.sleep(GIVE_UP_S - 61)
        autojump_clock.jump(stopped_s)
        await trio.sleep(GIVE_UP_S - 1)
        assert [state for _, state, _ in await world.ended()] == ["queued"]
        await trio.sleep(62)
        assert [state for _, state, _ in await world.ended()] == ["undelivered"]


async def test_an_upgrade_behind_a_proxy_costs_no_alarm(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(ErrorStatus(503) if now() < 3000 else DELIVERED)
    instances = [f"u{n:02}" for n in range(20)]
    await world.queue(*(alarm(uuid, f"{uuid} {n}") for uuid in instances for n in range(3)))
    await trio.sleep(3000 + 62)
    assert {state for _, state, _ in await world.ended()} == {"delivered"}


async def test_while_the_vim_can_t_be_reached_it_refuses_nothing(world: DeliveryWorld) -> None:
    """Refused once, an alarm waits while others try for it, and is refused again."""
    world.vim.answers = lambda body: Answer(ErrorStatus(503))
    await world.queue(alarm(A, "refused"))
    await trio.sleep(0.5)
    world.vim.answers = lambda body: Answer(REFUSED)
    await world.queue(*(alarm(f"u{n}", f"a{n}") for n in range(150)))
    await trio.sleep(2 * GIVE_UP_S)
    assert [at for at, body in world.vim.begun if body == "refused"] == [0.0]
    world.vim.answers = lambda body: Answer(ErrorStatus(503) if body == "refused" else DELIVERED)
    world.delivery.vim_spoke()
    await trio.sleep(GIVE_UP_S - 1)
    assert [body for _, body in world.vim.sent].count("refused") > 60
    ended = await world.ended()
    assert ended[0] == ("refused", "queued", "the VIM answered with status 503")
    assert {state for _, state, _ in ended[1:]} == {"delivered"}
    # Now its hour is over.
    await trio.sleep(61)
    fault = "the VIM answered with status 503, again and again for 1 h"
    assert (await world.ended())[0] == ("refused", "undelivered", fault)


async def test_an_alarm_that_is_held_back_is_refused_by_nobody(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(ErrorStatus(503))
    await world.queue(attrs.evolve(alarm(), hostname="h"))
    await trio.sleep(0.5)
    told = HistoryEntry(wall_clock(), "host-alarm", "", "h", "why")
    await world.store.held.hold(HoldRecord("h", wall_clock(), "why"), told)
    await trio.sleep(2 * GIVE_UP_S)
    assert await world.store.held.end_hold("h", {A}, told) == 1
    world.outbox.set()
    await trio.sleep(0.5)
    released = 0.5 + 2 * GIVE_UP_S
    assert world.vim.sent == [(0.0, "alarm"), (released, "alarm")]
    assert await world.ended() == [("alarm", "queued", "the VIM answered with status 503")]
    world.vim.answers = lambda body: Answer(DELIVERED)
    await trio.sleep(2)
    assert await world.ended() == [("alarm", "delivered", "")]


async def test_silence_is_no_refusal(world: DeliveryWorld) -> None:
    """A VIM hangs for half a day, and resets what is in progress when it is killed at last."""
    world.vim.answers = lambda body: Answer(STALLED if 100 < now() < 40_000 else RESET)
    await world.queue(alarm())
    await trio.sleep(40_500)
    assert await world.ended() == [("alarm", "queued", "reset")]
    world.vim.answers = lambda body: Answer(DELIVERED)
    await trio.sleep(61)
    assert await world.ended() == [("alarm", "delivered", "")]


@pytest.mark.slow
async def test_an_alarm_outlives_a_vim_that_hangs(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(STALLED, takes_s=10.0)
    await world.queue(alarm())
    await trio.sleep(86400)
    world.vim.answers = lambda body: Answer(DELIVERED)
    await trio.sleep(71)
    assert await world.ended() == [("alarm", "delivered", "")]
    # Every 70 seconds in the end.
    assert 86400 / 70 < len(world.vim.sent) < 86400 / 70 + 10


async def test_a_stalled_instance_delays_no_other(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: (
        Answer(STALLED, takes_s=10.0) if body == "s" else Answer(CLOSED)
    )
    await world.queue(service(A, "s"), alarm(A, "behind it"))
    for n in range(10):
        await world.queue(alarm(B, f"b{n}"), alarm(C, f"d{n}"))
        await trio.sleep(0.5)
    others = [(at, body) for at, body in world.vim.sent if body[1:].isdigit()]
    assert sorted(others) == [(n / 2, f"{u}{n}") for n in range(10) for u in "bd"]
    assert world.delivery.status.in_flight == 1
    assert "behind it" not in [body for _, body in world.vim.sent]


async def test_a_verdict_passes_an_alarm_that_failed(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(RESET if body == "alarm" else CLOSED)
    await world.queue(alarm())
    await trio.sleep(0.5)
    await world.queue(action())
    await trio.sleep(0.1)
    assert world.vim.sent == [(0.0, "alarm"), (0.5, "c1")]
    await trio.sleep(0.5)
    assert world.vim.sent[2:] == [(1.0, "alarm")]


async def test_stalled_alarms_delay_no_verdict(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: (
        Answer(STALLED, takes_s=10.0) if body == "alarm" else Answer(CLOSED)
    )
    await world.queue(*(alarm(f"u{n}") for n in range(30)))
    await trio.sleep(0.5)
    assert world.delivery.status.in_flight == SLOTS - FOR_VERDICTS
    for n in range(5):
        await world.queue(action(f"v{n}", f"c{n}"))
        await trio.sleep(0.5)
    # Nor if its own instance's alarm waits for one of them to end.
    await world.queue(alarm("late"), action("late", "c5"))
    await trio.sleep(0.5)
    verdicts = [(at, body) for at, body in world.vim.sent if body != "alarm"]
    assert verdicts == [(0.5 + n / 2, f"c{n}") for n in range(6)]


async def test_a_vim_that_stalls_has_all_verdicts_when_it_goes_on(world: DeliveryWorld) -> None:
    """Neither states nor other verdicts delay them, though none is answered for 10 s."""
    world.vim.answers = lambda body: Answer(STALLED, takes_s=10.0)
    await world.queue(*(alarm(f"u{n}") for n in range(30)))
    await trio.sleep(0.5)
    count = 30
    await world.queue(*(action(f"v{n}", f"c{n}") for n in range(count)))
    await trio.sleep(3.0)
    verdicts = [at for at, body in world.vim.sent if body != "alarm"]
    assert len(verdicts) == count
    assert verdicts == sorted(verdicts)
    assert verdicts[-1] == pytest.approx(0.5 + 0.1 * (count // FOR_VERDICTS - 1))


async def test_a_request_that_hangs_does_not_delay_its_own_instances_verdict(
    world: DeliveryWorld,
) -> None:
    world.vim.answers = lambda body: Answer(
        CLOSED, takes_s={"alarm": 10.0, "c1": 1.0}.get(body, 0.0)
    )
    await world.queue(alarm(), service(), action(), action(command_id="c2"))
    await trio.sleep(5)
    # But it waits for one that doesn't; and verdicts never pass each other.
    assert world.vim.sent == [(0.0, "alarm"), (0.1, "c1"), (1.1, "c2")]
    await trio.sleep(10)
    assert world.vim.sent[3:] == [(10.0, "state")]


async def test_a_state_behind_an_alarm_that_failed_holds_up_no_verdict(
    world: DeliveryWorld,
) -> None:
    world.vim.answers = lambda body: Answer(CLOSED if body == "c1" else RESET)
    await world.queue(alarm(), service())
    await trio.sleep(1.5)
    await world.queue(action())
    await trio.sleep(0.1)
    assert world.vim.sent == [(0.0, "alarm"), (1.0, "alarm"), (1.5, "c1")]


async def test_order_and_concurrency(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(CLOSED, connects_s=0.25, takes_s=0.75)
    instances = [f"u{n:02}" for n in range(2 * SLOTS)]
    await world.queue(*(alarm(uuid, f"{uuid} {n}") for n in range(3) for uuid in instances))
    await trio.sleep(100)
    assert world.vim.most_at_once == SLOTS - FOR_VERDICTS
    assert len(world.vim.sent) == 3 * len(instances)
    for uuid in instances:
        mine = [(at, body) for at, body in world.vim.sent if body.startswith(uuid)]
        assert [body for _, body in mine] == [f"{uuid} {n}" for n in range(3)]
    assert world.vim.sent[-1][0] == 7.25


async def test_a_newer_state_takes_the_place_of_one_not_yet_sent(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(CLOSED, connects_s=1.0)
    await world.queue(service(body="on"))
    await trio.sleep(0.5)
    await world.queue(service(body="off"))
    await trio.sleep(10)
    # The first connection was closed without a byte.
    assert world.vim.begun == [(0.0, "on"), (1.0, "off")]
    assert world.vim.sent == [(2.0, "off")]
    assert world.delivery.status.retries == 0


# -- a VIM that can't be reached -------------------------------------------------------------------


async def test_a_thousand_entries_do_not_hammer(
    world: DeliveryWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.vim")
    world.vim.answers = lambda body: Answer(REFUSED)
    await world.queue(*(alarm(f"u{n}", f"a{n}") for n in range(1000)))
    await trio.sleep(100)
    at = [at for at, _ in world.vim.begun]
    assert at == [0.0] * (SLOTS - FOR_VERDICTS) + [1.0, 3.0, 7.0, 15.0, 31.0, 63.0]
    status = world.delivery.status
    assert (status.reachable, status.fault) == (False, "connection refused")
    assert (status.waiting, status.retries) == (1000, len(at))
    # Each time another one tries for all: the first may be the one that can't be sent.
    assert len({body for _, body in world.vim.begun}) == len(at)

    world.vim.answers = lambda body: Answer(CLOSED)
    await trio.sleep(24)
    assert len(world.vim.sent) == 1000
    assert world.vim.sent[0][0] == 123.0
    assert world.delivery.status.reachable is True
    assert [record.message for record in caplog.records] == [
        "the VIM can't be reached: connection refused",
        "the VIM can be reached again",
    ]


async def test_the_wait_starts_over_after_each_success(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(REFUSED)
    await world.queue(alarm(body="a"))
    await trio.sleep(20)
    world.vim.answers = lambda body: Answer(CLOSED if body == "a" else REFUSED)
    await trio.sleep(20)
    await world.queue(alarm(body="b"))
    await trio.sleep(5)
    assert [at for at, _ in world.vim.begun] == [0, 1, 3, 7, 15, 31, 40, 41, 43]


async def test_a_vim_that_speaks_is_up(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(REFUSED)
    await world.queue(alarm())
    await trio.sleep(70)
    world.vim.answers = lambda body: Answer(CLOSED)
    world.delivery.vim_spoke()
    await world.queue(action(B))
    await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    # One entry tries for all, and a verdict beside it.
    assert sorted(world.vim.sent) == [(70.0, "alarm"), (70.0, "c1")]


async def test_a_connection_that_hangs_delays_no_verdict(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(REFUSED, connects_s=5.0)
    await world.queue(alarm(), alarm(B))
    # Both fail, and one tries for both.
    await trio.sleep(6.5)
    assert [at for at, _ in world.vim.begun] == [0.0, 0.0, 6.0]
    world.vim.answers = lambda body: Answer(CLOSED)
    world.delivery.vim_spoke()
    await world.queue(action(C))
    await trio.sleep(1)
    assert world.vim.sent[0] == (6.5, "c1")


@pytest.mark.parametrize("make", [alarm, action])
async def test_what_hangs_since_before_delays_no_verdict(
    world: DeliveryWorld, make: Callable[..., NewEntry]
) -> None:
    """The old VIM hangs, then its port is gone; the new one asks for a vote."""
    world.vim.answers = lambda body: (
        Answer(REFUSED) if body == "late" else Answer(STALLED, takes_s=10.0)
    )
    await world.queue(*(make(f"u{n}", f"c{n}") for n in range(4)))
    await trio.sleep(0.5)
    await world.queue(alarm(B, "late"))
    await trio.sleep(0.25)
    status = world.delivery.status
    assert (status.in_flight, status.reachable) == (4, False)
    world.vim.answers = lambda body: Answer(CLOSED, connects_s=float(body == "late"))
    world.delivery.vim_spoke()
    await world.queue(action(C, "c9"))
    await trio.sleep(2)
    # Beside one of the others, that tries for all.
    assert sorted(world.vim.begun[5:]) == [(0.75, "c9"), (0.75, "late")]
    assert world.vim.sent[4:] == [(0.75, "c9"), (1.75, "late")]


async def test_alarms_that_hang_since_before_try_for_nobody(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: (
        Answer(REFUSED) if body == "late" else Answer(STALLED, takes_s=10.0)
    )
    await world.queue(*(alarm(f"u{n}", "hangs") for n in range(4)))
    await trio.sleep(0.5)
    await world.queue(alarm(B, "late"))
    await trio.sleep(2)
    assert [at for at, body in world.vim.begun if body == "late"] == [0.5, 1.5]
    world.vim.answers = lambda body: Answer(CLOSED)
    world.delivery.vim_spoke()
    await trio.sleep(0.25)
    assert world.vim.sent[4:] == [(2.5, "late")]


async def test_a_verdict_that_was_not_written_is_sent_when_that_is_possible(
    world: DeliveryWorld,
) -> None:
    world.vim.answers = lambda body: Answer(CLOSED if now() >= 5 else REFUSED)
    await world.queue(action())
    await trio.sleep(30)
    assert world.vim.sent == [(7.0, "c1")]
    assert [ended[:2] for ended in await world.ended()] == [("c1", "unconfirmed")]


async def test_a_verdict_too_late_is_recorded_and_not_sent(
    world: DeliveryWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.vim.answers = lambda body: Answer(REFUSED)
    await world.queue(action(), alarm())
    await trio.sleep(8)
    await trio.testing.wait_all_tasks_blocked()
    fault = "its window was over before it could be sent"
    assert (await world.ended())[0] == ("c1", "undelivered", fault)
    assert world.delivery.status.undelivered == 1
    assert caplog.messages[-1] == f"{A}: not delivered: action: {fault}"
    world.vim.answers = lambda body: Answer(CLOSED)
    await trio.sleep(60)
    assert [body for _, body in world.vim.sent] == ["alarm"]


async def test_a_verdict_whose_window_ends_while_connecting(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(CLOSED, connects_s=3.0)
    await world.queue(action(within_s=2.0))
    await trio.sleep(10)
    assert (len(world.vim.begun), world.vim.sent) == (1, [])
    assert [ended[:2] for ended in await world.ended()] == [("c1", "undelivered")]


@pytest.mark.parametrize(
    ("slow", "within_s", "fault"),
    [("slow_s", 8.0, ""), ("slow_s", 8.0, "disk is full"), ("slow_sync_s", REBOOT_S + 2, "")],
)
async def test_a_verdict_whose_window_ends_while_it_is_marked(
    world: DeliveryWorld,
    slow: str,
    within_s: float,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The disk takes its time, and then may even be full."""
    caplog.set_level(logging.WARNING, "hbtrio.vim")
    world.vim.answers = lambda body: Answer(CLOSED, connects_s=1.0)
    await world.queue(action(A, "c1", within_s), action(A, "c2", 100.0), alarm())
    await trio.sleep(0.5)
    setattr(world.worker, slow, within_s - 1.0)
    await trio.sleep(1)
    setattr(world.worker, slow, 0.0)
    if fault:
        await trio.sleep(within_s - 1.75)
        world.worker.fault = fault
        await trio.sleep(2)
        world.worker.fault = ""
    await trio.sleep(30)
    assert [body for _, body in world.vim.sent] == ["c2", "alarm"]
    assert await world.ended() == [
        ("c1", "undelivered", "its window was over before it could be sent"),
        ("c2", "unconfirmed", "closed without an answer"),
        ("alarm", "unconfirmed", "closed without an answer"),
    ]
    assert world.delivery.status.undelivered == 1
    lines = [one.getMessage() for one in caplog.records if one.name == "hbtrio.vim"]
    assert f"{A}: not delivered: action: its window was over before it could be sent" in lines


# -- the gate --------------------------------------------------------------------------------------


async def a_vote_answered(world: DeliveryWorld, uuid: str = A, command_id: str = "c1") -> None:
    asked = RoundRecord(command_id, uuid, "h", Event.STOP, True, "vim", wall_clock(), 8.0)
    await world.store.open_round(asked)
    accept = RoundResult(command_id, VoteResult.ACCEPT, "")
    entries = [action(uuid, command_id)]
    assert await world.store.take_report("h", "boot", int(command_id[1:]), None, entries, accept)
    world.outbox.set()


async def test_a_verdict_waits_for_the_vote_reply(world: DeliveryWorld) -> None:
    await a_vote_answered(world)
    await trio.sleep(2)
    assert world.vim.begun == []
    await world.queue(alarm(B, "of another"))
    await world.store.replied("c1")
    world.outbox.set()
    await trio.sleep(1)
    assert sorted(world.vim.sent) == [(2.0, "c1"), (2.0, "of another")]


async def test_a_reply_that_is_never_written_holds_up_nothing(world: DeliveryWorld) -> None:
    await a_vote_answered(world)
    await world.queue(alarm())
    await trio.sleep(30)
    assert world.vim.sent == [(0.0, "alarm")]
    assert [ended[:2] for ended in await world.ended()] == [
        ("c1", "undelivered"),
        ("alarm", "unconfirmed"),
    ]


# -- restarts and faults of our own ----------------------------------------------------------------


async def test_what_was_under_way_at_the_end(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.vim.answers = lambda body: Answer(CLOSED, takes_s=9.0)
        await world.queue(action(A), alarm(B, "b"), service(C, "c"))
        await trio.sleep(1)
        assert len(world.vim.sent) == 3
    async with world_of(tmp_path) as world:
        await trio.sleep(1)
        assert {body for _, body in world.vim.sent} == {"b", "c"}
        assert [ended[:2] for ended in await world.ended()] == [
            ("c1", "unconfirmed"),
            ("b", "unconfirmed"),
            ("c", "unconfirmed"),
        ]


async def test_a_delivery_that_is_restarted(tmp_path: Path) -> None:
    with inline_store(tmp_path) as (store, _):
        vim = AnsweringVim()
        outbox = WakeUp()
        delivery = VimDelivery(store, vim, outbox, OnTimeGuard(math.inf))
        vim.answers = lambda body: Answer(CLOSED, connects_s=1.0, takes_s=9.0)
        await store.queue([alarm(A, "sent"), action(B)])
        for lasts_s in (0.5, 1.5, 20.0):
            with trio.move_on_after(lasts_s):
                await delivery.run(GivenUp())
        # Its first life ended while it was connecting, its second in the middle of both.
        assert sorted(vim.sent) == [(1.5, "c1"), (1.5, "sent"), (3.0, "sent")]
        assert delivery.status.in_flight == 0


async def test_a_disk_that_is_full_for_a_while(world: DeliveryWorld) -> None:
    await trio.sleep(0.5)
    world.vim.answers = lambda body: Answer(DELIVERED, connects_s=0.1, takes_s=0.1)
    await world.queue(action(A), alarm(B, "b"))
    await trio.sleep(0.05)
    # Neither may be sent that can't be marked, ...
    world.worker.fault = "disk is full"
    await trio.sleep(0.5)
    assert world.vim.sent == []
    world.worker.fault = ""
    await trio.sleep(2.15)
    assert sorted(body for _, body in world.vim.sent) == ["b", "c1"]
    # ... and what was sent is not forgotten.
    world.worker.fault = "disk is full"
    await trio.sleep(10)
    world.worker.fault = ""
    await trio.sleep(60)
    assert [ended[:2] for ended in await world.ended()] == [("c1", "delivered"), ("b", "delivered")]
    assert len(world.vim.sent) == 2
    assert world.delivery.status.delivered == 2


async def test_a_disk_that_takes_no_mark_does_not_have_the_vim_hammered(
    world: DeliveryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a full disk all can still be read."""

    async def refuse(entry_id: int) -> bool:
        raise StoreFault("disk is full")

    world.vim.answers = lambda body: Answer(CLOSED, connects_s=0.01)
    with monkeypatch.context() as full:
        full.setattr(world.store, "mark_sending", refuse)
        await world.queue(action(), alarm(B))
        await trio.sleep(5)
        assert len(world.vim.begun) == 2 * 5
        assert world.vim.sent == []
    await trio.sleep(2)
    assert sorted(body for _, body in world.vim.sent) == ["alarm", "c1"]


async def test_instances_that_rested_are_forgotten(world: DeliveryWorld) -> None:
    world.vim.answers = lambda body: Answer(RESET)
    await world.queue(*(service(f"u{n}", f"s{n}") for n in range(20)))
    await trio.sleep(0.5)
    # Their states are of no interest any more: nothing is left that would end their rest.
    for entry in await world.store.outbox():
        await world.store.mark_done(entry.id, OutboxState.UNDELIVERED, "instance deleted")
    assert len(world.delivery._attempts.rests) == 20
    await trio.sleep(400)
    assert not world.delivery._attempts.rests
