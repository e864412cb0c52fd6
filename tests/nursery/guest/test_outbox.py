"""What waits for a host that does not read: in order, bounded, and the least is given up first."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.nursery.guest.outbox import QUEUE, Outbox
from hbtrio.wire.channel_codec import decode
from hbtrio.wire.channel_messages import ActionResponse, ChallengeResponse, Exit, Init, Message
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, NotificationType, VoteResult
from support.voters import voter_state

pytestmark = pytest.mark.usefixtures("autojump_clock")


def beat(number: int = 0) -> ChallengeResponse:
    return ChallengeResponse(number, Health.HEALTHY, CorrectiveAction.REBOOT, "")


def init(number: int = 0) -> Init:
    return SessionSettings(name="vm1").init(number)


def answer(number: int = 0, result: VoteResult = VoteResult.ACCEPT) -> ActionResponse:
    return ActionResponse(number, Event.STOP, NotificationType.REVOCABLE, result, "")


def reject(number: int = 0) -> ActionResponse:
    return answer(number, VoteResult.REJECT)


def is_reject(message: Message) -> bool:
    return isinstance(message, ActionResponse) and message.vote_result is VoteResult.REJECT


EXIT = Exit("Exiting...")


async def drained(outbox: Outbox) -> list[Message]:
    """Everything that is queued, in the order in which it is sent."""
    messages: list[Message] = []
    with trio.move_on_after(1):
        while True:
            messages.append(decode((await outbox.next(1)).strip()))
            outbox.sent()
    return messages


async def test_messages_are_sent_in_order() -> None:
    outbox = Outbox()
    messages: list[Message] = [init(1), beat(2), answer(3), reject(4), beat(5), EXIT]
    for message in messages:
        outbox.put(message)
    assert await drained(outbox) == messages
    assert outbox.dropped == 0


async def test_the_writer_waits_for_a_message() -> None:
    outbox = Outbox()
    async with trio.open_nursery() as nursery:
        taken: list[tuple[float, bytes]] = []

        async def take() -> None:
            for sequence in (7, 8):
                taken.append((trio.current_time(), await outbox.next(sequence)))
                taken[-1] = (trio.current_time(), taken[-1][1])
                outbox.sent()

        nursery.start_soon(take)
        await trio.sleep(1)
        outbox.put(beat(1))
        await trio.sleep(1)
        outbox.put(beat(2))
    assert [(at, decode(data.strip())) for at, data in taken] == [(1.0, beat(1)), (2.0, beat(2))]
    assert [b'"sequence":%d' % number in data for number, (_, data) in enumerate(taken, 7)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("queued", "late", "left"),
    [
        # A beat is worth least: the host has long counted the oldest as missed.
        ([beat(n) for n in range(QUEUE)], beat(99), [*map(beat, range(1, QUEUE)), beat(99)]),
        ([init(1), beat(2), *[answer()] * (QUEUE - 2)], EXIT, [init(1), *[answer()] * 62, EXIT]),
        ([init(1), init(2), *[answer()] * (QUEUE - 2)], EXIT, [init(2), *[answer()] * 62, EXIT]),
        # An answer that agrees is what a silent guest is taken to say; a reject is not.
        (
            [reject(1), answer(2), *[reject(3)] * (QUEUE - 2)],
            EXIT,
            [reject(1), *[reject(3)] * (QUEUE - 2), EXIT],
        ),
        ([reject(n) for n in range(QUEUE)], EXIT, [*map(reject, range(1, QUEUE)), EXIT]),
        # Voters are for the operator's eyes.
        (
            [beat(1), voter_state(), voter_state(2, 2), *[answer()] * (QUEUE - 3)],
            EXIT,
            [beat(1), voter_state(2, 2), *[answer()] * 61, EXIT],
        ),
        # What comes is given up itself where it is worth less than all that is there.
        ([reject(n) for n in range(QUEUE)], beat(9), [reject(n) for n in range(QUEUE)]),
        ([answer(n) for n in range(QUEUE)], beat(9), [answer(n) for n in range(QUEUE)]),
        ([answer(n) for n in range(QUEUE)], init(9), [answer(n) for n in range(QUEUE)]),
        ([reject(n) for n in range(QUEUE)], answer(9), [reject(n) for n in range(QUEUE)]),
        ([EXIT, *[reject(1)] * (QUEUE - 1)], reject(2), [EXIT, *[reject(1)] * 62, reject(2)]),
    ],
)
async def test_when_it_is_full(queued: list[Message], late: Message, left: list[Message]) -> None:
    outbox = Outbox()
    for message in queued:
        outbox.put(message)
    assert outbox.dropped == 0
    outbox.put(late)
    assert outbox.dropped == 1
    assert await drained(outbox) == left


MESSAGES = st.builds(
    lambda make, number: make(number),
    st.sampled_from([beat, init, answer, reject, lambda _: EXIT]),
    st.integers(0, 3),
)


@settings(deadline=None)
@given(messages=st.lists(MESSAGES, max_size=3 * QUEUE))
def test_it_is_bounded_in_order_and_loses_no_reject_before_anything_else(
    messages: list[Message],
) -> None:
    outbox = Outbox()
    for message in messages:
        outbox.put(message)
    left = trio.run(drained, outbox, clock=MockClock(autojump_threshold=0))
    assert len(left) == min(len(messages), QUEUE)
    assert outbox.dropped == len(messages) - len(left)
    remaining = iter(messages)
    assert all(any(message == other for other in remaining) for message in left)
    rejects = [message for message in messages if is_reject(message)]
    kept = [message for message in left if is_reject(message)]
    if len(rejects) + messages.count(EXIT) <= QUEUE:
        assert kept == rejects


# -- waiting until it is empty --------------------------------------------------------------------


async def flushed_at(outbox: Outbox) -> float:
    await outbox.flushed()
    return trio.current_time()


async def test_flushed_when_nothing_is_queued() -> None:
    assert await flushed_at(Outbox()) == 0.0


async def test_flushed_when_the_last_message_is_sent() -> None:
    outbox = Outbox()
    outbox.put(beat())
    outbox.put(EXIT)

    async def write() -> None:
        for _ in range(2):
            await outbox.next(1)
            await trio.sleep(2)
            outbox.sent()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        # Not at 2.0, when the queue is empty and the last message still being written.
        assert await flushed_at(outbox) == 4.0


async def test_flushed_when_the_channel_goes_down() -> None:
    outbox = Outbox()
    outbox.put(beat())
    outbox.put(EXIT)
    await outbox.next(1)

    async def clear() -> None:
        await trio.sleep(2)
        outbox.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clear)
        assert await flushed_at(outbox) == 2.0
    assert await drained(outbox) == []
    assert outbox.dropped == 0
