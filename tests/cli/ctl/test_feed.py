"""What a feed asks a daemon for and when, and how it survives the daemon's restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from hbtrio.cli.ctl.feed import (
    BETWEEN_S,
    CROWD,
    EVERY_OF_MANY_S,
    EVERY_S,
    GATHER_S,
    LONGEST_PAUSE_S,
    MANY,
    RECENT,
    Away,
    Feed,
    Happened,
    News,
    Seen,
    SeenOne,
)
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.http.server import HttpLimits
from hbtrio.wire.operator import FleetStatus
from support.control_socket import Served
from support.ctl_cases import ONE, publish, serving
from support.host_world import HostWorld, uuid_of

pytestmark = pytest.mark.usefixtures("autojump_clock")


@attrs.define
class Watching:
    """The news of a feed, each with when it came."""

    world: HostWorld
    api: Served
    news: list[tuple[float, News]] = attrs.field(factory=list)

    def of(self, kind: type[News]) -> list[News]:
        return [one for _, one in self.news if isinstance(one, kind)]

    def times(self, kind: type[News]) -> list[float]:
        return [at for at, one in self.news if isinstance(one, kind)]

    async def serve_again(self, nursery: trio.Nursery) -> None:
        self.api.scope = trio.CancelScope()
        await nursery.start(self.api.run, self.world.host, HttpLimits())


@asynccontextmanager
async def watching(
    *, count: int = 0, every_s: float | None = None, recent: int = 0
) -> AsyncIterator[Watching]:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        if count:
            await world.all_heartbeating(count)
        async with CtlClient(Address.parse(f"unix:{api.path}")) as client:
            feed = Feed(client, every_s=every_s, recent=recent)
            made = Watching(world, api)

            async def take() -> None:
                began = trio.current_time()
                async for one in feed.news:
                    made.news.append((trio.current_time() - began, one))

            nursery.start_soon(take)
            nursery.start_soon(feed.run)
            yield made
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("count", "every_s", "each_s"),
    [(1, None, EVERY_S), (CROWD + 1, None, EVERY_OF_MANY_S), (1, 7.0, 7.0)],
)
async def test_everything_is_asked_for_now_and_then(
    count: int, every_s: float | None, each_s: float
) -> None:
    async with watching(count=count, every_s=every_s) as made:
        await trio.sleep(2.5 * (each_s + GATHER_S))
        assert made.times(Seen) == pytest.approx(
            [GATHER_S, each_s + 2 * GATHER_S, 2 * each_s + 3 * GATHER_S]
        )
        first = made.of(Seen)[0]
        assert isinstance(first, Seen)
        assert not isinstance(first.status, FleetStatus)
        assert len(first.status.instances) == count


async def test_after_an_event_its_instance_is_asked_for() -> None:
    async with watching(count=2, every_s=1000) as made:
        await trio.sleep(1)
        publish(made.world, 3)
        await trio.sleep(1)
        assert made.times(Happened) == pytest.approx([1, 1, 1])
        assert made.times(SeenOne) == pytest.approx([1 + GATHER_S])
        (one,) = made.of(SeenOne)
        assert isinstance(one, SeenOne)
        assert (one.instance.uuid, one.instance.state) == (ONE, "heartbeating")
        assert one.at == pytest.approx(trio.current_time() - 1 + GATHER_S)
        assert len(made.times(Seen)) == 1


async def test_after_events_of_many_instances_all_are_asked_for_once() -> None:
    async with watching(count=MANY + 1, every_s=1000) as made:
        await trio.sleep(0.5)
        for number in range(MANY + 1):
            publish(made.world, 1, uuid=uuid_of(number + 1))
        await trio.sleep(3)
        assert made.of(SeenOne) == []
        # Not before a second after the one at the beginning.
        assert made.times(Seen) == pytest.approx([GATHER_S, GATHER_S + BETWEEN_S])


async def test_an_instance_that_has_gone_makes_it_ask_for_all() -> None:
    async with watching(every_s=1000) as made:
        await trio.sleep(5)
        publish(made.world, 1)
        await trio.sleep(1)
        assert made.of(Away) == []
        assert made.times(Seen) == pytest.approx([GATHER_S, 5 + 2 * GATHER_S])


async def test_a_restart_of_the_daemon_is_survived() -> None:
    async with watching(recent=RECENT) as made, trio.open_nursery() as nursery:
        publish(made.world, 3)
        await trio.sleep(1)
        made.api.scope.cancel()
        await trio.sleep(30)
        aways = made.of(Away)
        assert f"unix:{made.api.path}: the daemon went away" in {
            one.reason for one in aways if isinstance(one, Away)
        }
        # It tries again for as long as it takes, not more often than that.
        assert 30 / LONGEST_PAUSE_S <= len(aways) < 20
        before = len(made.news)
        await made.serve_again(nursery)
        publish(made.world, 1, first=3)
        await trio.sleep(LONGEST_PAUSE_S + 1)
        after = [one for _, one in made.news[before:]]
        assert any(isinstance(one, Seen) for one in after)
        await trio.sleep(60)
        assert len(made.of(Away)) == len(aways)
        # The daemon sends its last events again; each is passed on once.
        events = [one.event.reason for one in made.of(Happened) if isinstance(one, Happened)]
        assert events == [f"number {n}" for n in range(4)]
        nursery.cancel_scope.cancel()


async def test_a_daemon_that_is_not_there_at_the_beginning_is_a_fault() -> None:
    async with CtlClient(Address.parse("unix:/nowhere/host.sock")) as client:
        with pytest.RaisesGroup(pytest.RaisesExc(UserError)) as caught:
            await Feed(client).run()
    fault = caught.value.exceptions[0]
    assert isinstance(fault, UserError)
    assert fault.status is ExitStatus.UNREACHABLE
