"""The VIM's actions in its own order: soon over, and nobody is lost who is not (fake clock).

Agent, hosts and links are the real ones. The VM is a model, with our guest or with what was
recorded of the deployed client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from hbtrio.fsm.heartbeat.illness import HEALTH_INTERVAL_S, UNTIL_NOTICE_S
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.fsm.ownership import Owner
from hbtrio.nursery.agent.instance_states import SETTLES_S
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.wire.vocabulary import EVENT_TABLE, ActionName, Event, ExpectedEffect, Health
from support.fake_processes import FakeRun
from support.vim_order import AUDIT_S, OrderWorld, order_world
from support.vm_model import OurClient, RecordedClient, Told

pytestmark = pytest.mark.usefixtures("autojump_clock")

CLIENTS: Final = {"ours": OurClient, "recorded": RecordedClient}

#: From when the VM runs again to the end notice, in seconds.
SOON_S: Final = 8.0


async def pause(world: OrderWorld) -> None:
    world.vm.freeze()
    await trio.sleep(10)
    world.vm.thaw()


async def suspend(world: OrderWorld) -> None:
    """Its QEMU stays, as with ``virsh suspend`` or S3."""
    world.vm.freeze()
    await trio.sleep(30)
    world.vm.thaw()


async def save(world: OrderWorld) -> None:
    """Its QEMU ends, and another one goes on from its memory."""
    world.vm.freeze()
    await trio.sleep(3)
    world.vm.vanish(world.source)
    await trio.sleep(27)
    world.vm.appear(world.source)
    await trio.sleep(1)
    world.vm.thaw()


async def migration_that_stays(world: OrderWorld) -> None:
    """It answers all the while, but for a moment."""
    await trio.sleep(20)
    world.vm.freeze()
    await trio.sleep(0.3)
    world.vm.thaw()
    await trio.sleep(1)


async def migration_that_never_began(world: OrderWorld) -> None:
    await trio.sleep(2)
    world.vm.runs_since = trio.current_time()


async def migration(world: OrderWorld) -> None:
    """The target's channel is connected before the VM runs there."""
    world.vm.appear(world.target)
    await trio.sleep(15)
    world.vm.freeze()
    await trio.sleep(0.3)
    world.vm.thaw()
    await trio.sleep(0.5)
    world.vm.vanish(world.source)


async def cold_migration(world: OrderWorld) -> None:
    world.vm.shut_down()
    await trio.sleep(3)
    world.vm.vanish(world.source)
    await trio.sleep(5)
    world.vm.appear(world.target)
    boot_later(world, 20)


async def reboot(world: OrderWorld) -> None:
    """The VIM takes it for done at once. The old guest answers for another 30 s."""

    async def reset() -> None:
        await trio.sleep(30)
        world.vm.reset()
        boot_later(world, 20)

    world.agent.nursery.start_soon(reset)


def boot_later(world: OrderWorld, seconds: float) -> None:
    async def boot() -> None:
        await trio.sleep(seconds)
        world.vm.boot()

    world.vm.runs_since = 1e6
    world.agent.nursery.start_soon(boot)


@attrs.frozen
class Case:
    """An action of the VIM, and what it does to the VM."""

    event: Event
    perform: Callable[[OrderWorld], Awaitable[None]]
    end: Event | None
    moves: bool = False

    @property
    def boots(self) -> bool:
        """Whether its guest is another one then."""
        return EVENT_TABLE[self.event].effect is ExpectedEffect.RESTARTS


CASES: Final = {
    "pause": Case(Event.PAUSE, pause, Event.UNPAUSE),
    "suspend": Case(Event.SUSPEND, suspend, Event.RESUME),
    "save": Case(Event.SUSPEND, save, Event.RESUME),
    "migration that stays": Case(
        Event.LIVE_MIGRATE_BEGIN, migration_that_stays, Event.LIVE_MIGRATE_END
    ),
    "migration that never began": Case(
        Event.LIVE_MIGRATE_BEGIN, migration_that_never_began, Event.LIVE_MIGRATE_END
    ),
    "migration": Case(Event.LIVE_MIGRATE_BEGIN, migration, Event.LIVE_MIGRATE_END, moves=True),
    "cold migration": Case(
        Event.COLD_MIGRATE_BEGIN, cold_migration, Event.COLD_MIGRATE_END, moves=True
    ),
    "reboot": Case(Event.REBOOT, reboot, None),
}


async def acts(world: OrderWorld, case: Case, within_s: float = 120.0) -> None:
    await world.vim.act(
        case.event,
        lambda: case.perform(world),
        case.end,
        moves=case.moves,
        within_s=within_s,
    )


def nobody_was_lost(world: OrderWorld) -> None:
    assert world.told("loss") == []
    assert world.vim.alarms == []


#: RESTART by case: that of most, and one in which a guest that boots is just back.
RESTARTS: Final = [
    (name, restart_s)
    for name, case in CASES.items()
    for restart_s in ((120, 60) if case.boots else (120, 5))
]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("name", "restart_s"), RESTARTS)
async def test_an_action_is_soon_over(
    name: str, client: str, restart_s: int, tmp_path: Path
) -> None:
    case = CASES[name]
    async with order_world(tmp_path, CLIENTS[client], restart_s=restart_s) as world:
        await acts(world, case)
        course, vm = world.vim.course, world.vm
        assert course.heartbeating_at - max(vm.runs_since, course.enabled_at) <= SOON_S
        if case.end is not None:
            assert vm.told_at(case.end) - vm.runs_since <= SOON_S
            assert course.ended_at - vm.runs_since <= SOON_S
        assert 0 not in course.seconds
        nobody_was_lost(world)
        # Nothing between ``proceed`` and the VIM's own step: it would queue an extra action.
        changes = [at for at, _ in world.vim.services if at >= course.proceeds_at]
        assert changes[0] >= course.disabled_at
        await trio.sleep(130)
        nobody_was_lost(world)
        assert world.vim.services[-1][1] == "enabled"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", CASES)
async def test_it_is_as_soon_after_an_audit_has_shown_the_vims_steps(
    name: str, client: str, tmp_path: Path
) -> None:
    """The agent got none of the VIM's changes but by its audits, every 10 s."""
    case = CASES[name]
    async with order_world(tmp_path, CLIENTS[client], by_audit=True) as world:
        await acts(world, case)
        course, vm = world.vim.course, world.vm
        assert course.heartbeating_at - max(vm.runs_since, course.enabled_at) <= AUDIT_S + SOON_S
        assert case.end is None or vm.told_at(case.end) - vm.runs_since <= AUDIT_S + SOON_S
        nobody_was_lost(world)
        await trio.sleep(130)
        nobody_was_lost(world)
        assert world.vim.services[-1][1] == "enabled"


# -- what does not come back ----------------------------------------------------------------


async def hangs(world: OrderWorld) -> None:
    """The VIM takes the action for done, and the VM does not run."""
    world.vm.freeze()
    await trio.sleep(10)


@pytest.mark.parametrize("event", [Event.PAUSE, Event.SUSPEND, Event.LIVE_MIGRATE_BEGIN])
@pytest.mark.parametrize("restart_s", [120, 20])
async def test_one_that_does_not_answer_once_enabled_is_lost_at_the_end_of_restart(
    event: Event, restart_s: int, tmp_path: Path
) -> None:
    async with order_world(tmp_path, OurClient, restart_s=restart_s) as world:
        await acts(world, Case(event, hangs, None), within_s=0.1)
        over_at = world.vim.course.enabled_at + restart_s + 1  # which a guest advertises
        await trio.sleep_until(over_at - 0.1)
        nobody_was_lost(world)
        await trio.sleep_until(over_at + 0.1)
        assert [report[2] for report in world.told("loss")] == ["reboot"]
        assert [state for _, state in world.vim.alarms] == ["failed"]


async def test_enabled_within_a_stop_means_nothing(tmp_path: Path) -> None:
    async with order_world(tmp_path, OurClient, restart_s=20) as world:
        await acts(world, Case(Event.STOP, hangs, None), within_s=0.1)
        await trio.sleep(250)
        nobody_was_lost(world)
        assert world.source.host.channel(world.vm.uuid).heartbeat.state is HeartbeatState.SUSPENDED


async def test_enabled_within_restart_does_not_open_it_anew(tmp_path: Path) -> None:
    async with order_world(tmp_path, OurClient, restart_s=60) as world:

        async def goes_down(world: OrderWorld) -> None:
            world.vm.reset()
            await trio.sleep(40)

        await acts(world, Case(Event.REBOOT, goes_down, None), within_s=0.1)
        notified_at = world.vm.told_at(Event.REBOOT)
        await trio.sleep_until(notified_at + 61 - 0.2)
        nobody_was_lost(world)
        await trio.sleep_until(notified_at + 61 + 0.2)
        assert [state for _, state in world.vim.alarms] == ["failed"]


# -- ill health -------------------------------------------------------------------------------


@pytest.mark.parametrize("lasts", [True, False])
@pytest.mark.parametrize("name", ["pause", "suspend", "save", "migration that stays"])
async def test_ill_health_during_an_action_is_told_only_if_it_lasts(
    name: str, lasts: bool, tmp_path: Path
) -> None:
    """From the accepted vote on: the VIM would repair what it is about to act on."""
    case = CASES[name]
    async with order_world(tmp_path, OurClient) as world:
        client = world.vm.client
        assert client is not None

        def falls_ill(told: Told) -> None:
            if told.is_vote:
                client.health, client.log_msg = Health.UNHEALTHY, "load"

        world.vm.on_told = falls_ill
        await acts(world, case)
        course = world.vim.course
        nobody_was_lost(world)
        assert world.source.host.channel(world.vm.uuid).heartbeat.health is Health.UNHEALTHY
        await trio.sleep_until(course.heartbeating_at + HEALTH_INTERVAL_S - 2)
        nobody_was_lost(world)
        if not lasts:
            client.health = Health.HEALTHY
        await trio.sleep_until(course.heartbeating_at + HEALTH_INTERVAL_S + 2)
        assert [state for _, state in world.vim.alarms] == (["unhealthy"] if lasts else [])


@pytest.mark.parametrize("lasts", [True, False])
async def test_ill_health_of_one_that_moves_is_told_only_if_it_lasts(
    lasts: bool, tmp_path: Path
) -> None:
    """Its new host knows nothing of the event; the agent does."""
    async with order_world(tmp_path, OurClient) as world:
        client = world.vm.client
        assert client is not None

        def falls_ill(told: Told) -> None:
            if told.is_vote:
                client.health, client.log_msg = Health.UNHEALTHY, "load"

        world.vm.on_told = falls_ill
        await acts(world, CASES["migration"])
        assert world.target.host.channel(world.vm.uuid).heartbeat.health is Health.UNHEALTHY
        await trio.sleep(SETTLES_S - 10)
        nobody_was_lost(world)
        if not lasts:
            client.health = Health.HEALTHY
        # Its host repeats it once a minute.
        await trio.sleep(70)
        assert [state for _, state in world.vim.alarms] == (["unhealthy"] if lasts else [])


async def test_ill_health_after_a_vote_without_a_notice_is_told_after_a_minute(
    tmp_path: Path,
) -> None:
    async with order_world(tmp_path, OurClient) as world:
        client = world.vm.client
        assert client is not None
        assert (await world.agent.ask(Event.PAUSE, vote=True, uuid=world.vm.uuid)).seconds
        await trio.sleep(1)
        client.health, client.log_msg = Health.UNHEALTHY, "load"
        await trio.sleep(UNTIL_NOTICE_S - 2)
        assert world.vim.alarms == []
        await trio.sleep(3)
        assert [state for _, state in world.vim.alarms] == ["unhealthy"]


# -- whose it is ------------------------------------------------------------------------------


async def test_the_vim_owns_it_from_its_vote_to_its_end_notice(tmp_path: Path) -> None:
    async with order_world(tmp_path, OurClient) as world:
        owners: list[tuple[str, Owner]] = []

        def note(told: Told) -> None:
            what = f"{'vote' if told.is_vote else 'notice'} {told.event}"
            owners.append((what, world.source.host.owners.of(world.vm.uuid).owner))

        async def slow_pause(world: OrderWorld) -> None:
            await trio.sleep(70)
            owners.append(("acted", world.source.host.owners.of(world.vm.uuid).owner))
            await pause(world)

        world.vm.on_told = note
        await acts(world, attrs.evolve(CASES["pause"], perform=slow_pause))
        assert owners == [
            ("vote pause", Owner.NOBODY),
            ("notice pause", Owner.ORCHESTRATOR),
            ("acted", Owner.ORCHESTRATOR),
            ("notice unpause", Owner.ORCHESTRATOR),
        ]
        assert world.source.host.owners.of(world.vm.uuid).owner is Owner.NOBODY


async def test_during_an_operators_action_its_vote_is_refused_and_its_notice_delivered(
    tmp_path: Path,
) -> None:
    async with order_world(tmp_path, OurClient, runs={"slow": FakeRun(delay_s=100.0)}) as world:
        world.source.host.begin_action(world.vm.uuid, ActionName.UNPAUSE, ("slow",), force=True)
        await world.source.settle()
        with pytest.raises(CantAsk, match=r"an operator's action \(unpause\) is in progress"):
            await world.agent.ask(Event.PAUSE, vote=True, uuid=world.vm.uuid)
        assert (await world.agent.ask(Event.PAUSE, vote=False, uuid=world.vm.uuid)).seconds
        await world.source.settle()
        assert world.vm.told_at(Event.PAUSE) == trio.current_time()
        assert world.source.host.owners.of(world.vm.uuid).owner is Owner.OPERATOR
