"""The notifier, with channels that fail and hang, on a fake clock."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.lowlevel

from hbtrio.nursery.notifier import GIVE_UP_S, QUEUE, Notifier
from hbtrio.wire.alert import Alert, Severity, Told, Undelivered

pytestmark = pytest.mark.usefixtures("autojump_clock")

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Channel:
    """A channel that does as it is told."""

    def __init__(self, name: str = "webhook") -> None:
        self.name = name
        #: What the next attempts raise; empty: they succeed.
        self.faults: list[Undelivered] = []
        self.hangs = False
        #: When each attempt was, whose it was, and what it was about.
        self.attempts: list[tuple[float, str, str]] = []
        self.delivered: list[Told] = []

    async def send(self, told: Told) -> None:
        self.attempts.append((trio.current_time(), told.id, told.alert.uuid))
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.faults:
            raise self.faults.pop(0)
        self.delivered.append(told)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(told.alert.kind, told.alert.uuid) for told in self.delivered]


@asynccontextmanager
async def notifying(*channels: Channel, per_minute: int = 1000) -> AsyncIterator[Notifier]:
    numbers = itertools.count(1)
    notifier = Notifier(
        channels,
        per_minute=per_minute,
        hostname="compute-0",
        wall_clock=lambda: EPOCH + timedelta(seconds=trio.current_time()),
        new_id=lambda: f"a{next(numbers)}",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.run)
        yield notifier
        nursery.cancel_scope.cancel()


def loss(uuid: str) -> Alert:
    return Alert(kind="loss", severity=Severity.CRITICAL, hostname="compute-0", uuid=uuid)


def recovered(uuid: str) -> Alert:
    return Alert(kind="recovered", severity=Severity.INFO, hostname="compute-0", uuid=uuid)


async def test_each_channel_gets_each_alert_in_order() -> None:
    first, second = Channel("command"), Channel()
    async with notifying(first, second) as notifier:
        await trio.sleep(7)
        for uuid in ("u1", "u2", "u1"):
            notifier.tell(loss(uuid))
        await trio.sleep(1)
        assert first.told == second.told == [("loss", "u1"), ("loss", "u2")]
        assert [told.id for told in first.delivered] == ["a1", "a2"]
        assert first.delivered[0].time == "2026-01-01T00:00:07+00:00"
        assert notifier.counts == {("command", "delivered"): 2, ("webhook", "delivered"): 2}


async def test_a_failed_delivery_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    channel.faults = [Undelivered("status 503") for _ in range(3)]
    caplog.set_level(logging.INFO)
    async with notifying(channel) as notifier:
        notifier.tell(loss("u1"))
        notifier.tell(loss("u2"))
        await trio.sleep(60)
        assert [(at, one) for at, one, _ in channel.attempts] == [
            (0, "a1"), (1, "a1"), (3, "a1"), (7, "a1"), (7, "a2"),
        ]  # fmt: skip
        assert channel.told == [("loss", "u1"), ("loss", "u2")]
    assert [record.getMessage() for record in caplog.records] == [
        "webhook: an alert was not delivered: status 503",
        "webhook: alerts are delivered again",
    ]


async def test_it_is_given_up_after_a_quarter_of_an_hour() -> None:
    channel = Channel()
    channel.faults = [Undelivered("status 503") for _ in range(100)]
    async with notifying(channel) as notifier:
        notifier.tell(loss("u1"))
        await trio.sleep(GIVE_UP_S + 100)
        assert notifier.counts == {("webhook", "failed"): 1}
        assert channel.attempts[-1][0] <= GIVE_UP_S
        channel.faults = []
        notifier.tell(loss("u2"))
        await trio.sleep(1)
        assert channel.told == [("loss", "u2")]


async def test_what_would_fail_again_is_not_tried_again() -> None:
    channel = Channel()
    channel.faults = [Undelivered("status 404", is_final=True)]
    async with notifying(channel) as notifier:
        notifier.tell(loss("u1"))
        notifier.tell(loss("u2"))
        await trio.sleep(0.5)
        assert len(channel.attempts) == 2
        assert notifier.counts == {("webhook", "failed"): 1, ("webhook", "delivered"): 1}


async def test_one_that_hangs_delays_no_other_and_its_queue_is_bounded() -> None:
    hung, sound = Channel(), Channel("command")
    hung.hangs = True
    async with notifying(hung, sound, per_minute=10_000) as notifier:
        for number in range(QUEUE + 11):
            notifier.tell(loss(f"u{number}"))
            await trio.lowlevel.checkpoint()
        await trio.sleep(1)
        assert len(sound.delivered) == QUEUE + 11
        assert notifier.counts["webhook", "dropped"] == 10
        assert len(hung.attempts) == 1


async def test_a_return_is_told_only_after_what_it_ends() -> None:
    channel = Channel()
    async with notifying(channel) as notifier:
        notifier.over(("loss",), recovered("u1"))
        notifier.tell(loss("u1"))
        notifier.over(("loss",), recovered("u2"))
        notifier.over(("loss",), recovered("u1"))
        notifier.over(("loss",), recovered("u1"))
        notifier.tell(loss("u1"))
        notifier.over(("loss",), recovered("u1"))
        await trio.sleep(1)
        assert [kind for kind, _ in channel.told] == ["loss", "recovered", "loss", "recovered"]


async def test_what_is_above_the_rate_is_told_in_one_message() -> None:
    channel = Channel()
    async with notifying(channel, per_minute=3) as notifier:
        for number in range(50):
            notifier.tell(loss(f"u{number}"))
        await trio.sleep(59)
        assert len(channel.delivered) == 3
        await trio.sleep(2)
        last = channel.delivered[-1].alert
        assert (last.kind, last.withheld, last.hostname) == ("withheld", {"loss": 47}, "compute-0")
        assert last.reason == "more alerts within a minute, which were not sent: 47 loss"
        await trio.sleep(600)
        assert len(channel.delivered) == 4


async def test_without_a_channel_nothing_is_kept() -> None:
    async with notifying() as notifier:
        for _ in range(5):
            notifier.tell(loss("u1"))
        await trio.sleep(100)
        assert notifier.counts == {}
