"""The end of a host: actions in progress go on for a while, and no new one is begun."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType
from support.actions_cases import BEGUN, TAKES_S, end, world_of
from support.fake_processes import HANGS, FakeRun
from support.host_world import HostWorld, host_world, now, stay_silent

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[HostWorld]:
    async with world_of() as world:
        yield world


def after(seconds: float) -> Callable[[], Awaitable[None]]:
    """A second TERM, so many seconds after the first."""

    async def second() -> None:
        await trio.sleep(seconds)

    return second


async def drained(world: HostWorld, grace_s: float, hurry_s: float = 1000) -> float:
    """Drains the host; returns for how long it took."""
    began = now()
    await world.host.stopping.run(grace_s, after(hurry_s))
    return round(now() - began, 3)


async def test_with_nothing_in_progress_it_ends_at_once(world: HostWorld) -> None:
    guest = await world.heartbeating()
    assert await drained(world, 60) == 0
    with pytest.raises(ActionRefused) as refusal:
        world.host.begin_action(guest.uuid, ActionName.STOP, ("cmd",), force=True)
    assert str(refusal.value) == "this host is stopping: it begins no new action"


async def test_an_action_in_progress_goes_on_to_its_end(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(BEGUN)
    acted = await world.act(guest, ActionName.LIVE_MIGRATE, "cmd")
    assert TAKES_S <= await drained(world, 60) <= TAKES_S + 0.1
    assert acted.lines[-1] == end("done")
    assert world.processes.cancelled == []


async def test_another_is_refused_meanwhile(world: HostWorld) -> None:
    guest, other = await world.all_heartbeating(2)
    await world.act(guest, ActionName.LIVE_MIGRATE, "cmd")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drained, world, 60)
        await world.settle()
        with pytest.raises(ActionRefused, match="this host is stopping"):
            await world.act(other, ActionName.LIVE_MIGRATE, "cmd")
        # Its beats go on, and so do votes.
        world.vote(other)
    assert world.channel(other).heartbeating


@pytest.mark.parametrize(("grace_s", "hurry_s"), [(60.0, 1000.0), (3600.0, 5.0), (0.0, 1000.0)])
async def test_a_command_that_hangs_holds_it_up_no_longer(grace_s: float, hurry_s: float) -> None:
    async with world_of(HANGS) as world:
        guest = await world.heartbeating()
        await world.at(BEGUN)
        acted = await world.act(guest, ActionName.LIVE_MIGRATE, "cmd")
        bound_s = min(grace_s, hurry_s)
        assert await drained(world, grace_s, hurry_s) == bound_s
        assert world.processes.cancelled == []
        await world.stop_host()
        assert [moment.time_s for moment in world.processes.cancelled] == [BEGUN + bound_s]
        assert "outcome" not in acted.lines[-1]


async def test_a_corrective_command_that_runs_is_waited_for() -> None:
    settings = CorrectiveCommands(reboot=("reset",))
    runs = {"reset": FakeRun(delay_s=10)}
    async with host_world(
        runs=runs, corrective_commands=settings, brake=BrakeSettings(share=1.0)
    ) as world:
        guest = await world.heartbeating()
        await world.at(BEGUN)
        guest.answers_after_s, guest.sends_init = None, False
        while not world.processes.started:
            await world.sleep(0.1)
        assert 9 <= await drained(world, 60) <= 10.1
        assert len(world.processes.ended) == 1


async def test_an_open_vote_is_not_waited_for() -> None:
    async with host_world() as world:
        guest = await world.heartbeating()
        guest.reply = stay_silent
        vote = world.host.open_round(guest.uuid, Event.STOP, NotificationType.REVOCABLE)
        await world.sleep(1.0)
        assert await drained(world, 60) == 0
        assert not vote.done.is_set()
