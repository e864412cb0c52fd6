"""What is in progress at once: whatever order the store's answers come in, one truth remains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.agent.fleet import Unknown
from hbtrio.nursery.agent.keyed_lock import KeyedLock
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.link_messages import Gone
from hbtrio.wire.vocabulary import Event, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.scripted_host import (
    HOST_UUID,
    HOSTNAME,
    INSTANCE,
    OTHER_HOST_UUID,
    OTHER_VM,
    VM,
    ScriptedHost,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")

OTHER = "compute-1"

#: How long the store takes to answer the first and the second of two.
ORDERS = pytest.mark.parametrize("answers_s", [(5.0, 1.0), (1.0, 5.0)])


def other_host() -> ScriptedHost:
    return ScriptedHost(OTHER, OTHER_HOST_UUID, "b", (attrs.evolve(INSTANCE, uuid=OTHER_VM),))


async def both(
    world: AgentWorld, answers_s: tuple[float, float], *steps: Callable[[], Awaitable[object]]
) -> None:
    """Two steps, of which the second begins while the store is at the first's."""
    async with trio.open_nursery() as nursery:
        for step, answer_s in zip(steps, answers_s, strict=True):
            world.worker.slow_s = answer_s
            nursery.start_soon(step)
            await wait_all_tasks_blocked()
    await trio.sleep(100)
    world.worker.slow_s = 0.0


async def agreed(world: AgentWorld) -> dict[str, InstanceRecord]:
    """The instances, of which memory and store tell the same."""
    assert {
        one.uuid: one for one in await world.store.inventory.instances()
    } == world.agent.fleet.instances
    assert {one.uuid: one for one in await world.store.inventory.hosts()} == world.agent.fleet.hosts
    return world.agent.fleet.instances


# -- turns -----------------------------------------------------------------------------------------


async def test_a_turn_is_whose_it_was_first_and_leaves_nothing() -> None:
    turns, done = KeyedLock(), list[str]()

    async def take(key: str, name: str) -> None:
        async with turns.of(key):
            done.append(f"{name} begins")
            await trio.sleep(1)
            done.append(f"{name} ends")

    async with trio.open_nursery() as nursery:
        for key, name in [("x", "a"), ("x", "b"), ("y", "c"), ("x", "d")]:
            nursery.start_soon(take, key, name)
            await wait_all_tasks_blocked()
        assert ("x" in turns, "y" in turns, "z" in turns) == (True, True, False)
    assert [one for one in done if one[0] != "c"] == [
        f"{name} {what}" for name in "abd" for what in ("begins", "ends")
    ]
    assert done.index("c begins") < done.index("a ends")
    assert len(turns) == 0


async def test_a_turn_that_fails_or_is_not_waited_for_holds_up_nobody() -> None:
    turns = KeyedLock()
    async with trio.open_nursery() as nursery:

        async def fail() -> None:
            with suppress(ValueError):
                async with turns.of("x"):
                    await trio.sleep(2)
                    raise ValueError("so it goes")

        nursery.start_soon(fail)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            async with turns.of("x"):
                pytest.fail("it was another's")
        assert "x" in turns
        async with turns.of("x"):
            assert trio.current_time() == 2
    assert len(turns) == 0


async def test_a_turn_that_is_not_waited_for_leaves_a_later_one_alone() -> None:
    """Cancelled in the moment in which the turn ends and somebody begins a new one."""
    for _ in range(40):  # in which order two tasks run is left to chance
        turns = KeyedLock()
        first, scope = turns.of("x"), trio.CancelScope()
        await first.__aenter__()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_too_late, turns, scope)
            # It has asked by now or asks next, and is told a turn of the event loop later.
            await trio.lowlevel.cancel_shielded_checkpoint()
            await first.__aexit__(None, None, None)
            async with turns.of("x"):
                await wait_all_tasks_blocked()
                assert scope.cancelled_caught
                assert "x" in turns
        assert len(turns) == 0


async def _too_late(turns: KeyedLock, scope: trio.CancelScope) -> None:
    with scope:
        scope.cancel()
        async with turns.of("x"):
            pytest.fail("it was cancelled")


# -- the inventory ---------------------------------------------------------------------------------


@ORDERS
async def test_of_two_words_about_an_instance_the_last_counts(
    answers_s: tuple[float, float], world: AgentWorld
) -> None:
    host, _ = await world.bound_host(host=ScriptedHost()), await world.bound_host(host=other_host())
    put = world.agent.inventory.put_instance
    last = InstanceRecord(VM, OTHER, True)
    await both(
        world,
        answers_s,
        lambda: put(InstanceRecord(VM, HOSTNAME, False)),
        lambda: put(last),
    )
    assert (await agreed(world))[VM] == last
    assert host.reporting[VM] is False


@ORDERS
async def test_what_is_enabled_and_at_once_disabled_is_disabled(
    answers_s: tuple[float, float], world: AgentWorld
) -> None:
    host = await world.bound_host(reporting=False)
    put, put_host = world.agent.inventory.put_instance, world.agent.inventory.put_host
    await both(
        world,
        answers_s,
        lambda: put(InstanceRecord(VM, HOSTNAME, True)),
        lambda: put(InstanceRecord(VM, HOSTNAME, False)),
    )
    assert (await agreed(world))[VM] == InstanceRecord(VM, HOSTNAME, False)
    await both(
        world,
        answers_s,
        lambda: put_host(HostRecord(HOST_UUID, HOSTNAME, True)),
        lambda: put_host(HostRecord(HOST_UUID, HOSTNAME, False)),
    )
    await agreed(world)
    assert world.agent.fleet.host(HOST_UUID) == HostRecord(HOST_UUID, HOSTNAME, False)
    assert host.reporting == {VM: False, "": False}


@ORDERS
async def test_of_two_uuids_of_a_host_the_last_counts(
    answers_s: tuple[float, float], world: AgentWorld
) -> None:
    first, last = (HostRecord(uuid, HOSTNAME, True) for uuid in (HOST_UUID, OTHER_HOST_UUID))
    put = world.agent.inventory.put_host
    await both(world, answers_s, lambda: put(first), lambda: put(last))
    await agreed(world)
    assert world.agent.fleet.hosts == {OTHER_HOST_UUID: last}


@ORDERS
async def test_what_is_deleted_while_it_is_being_told_of_is_gone(
    answers_s: tuple[float, float], world: AgentWorld
) -> None:
    inventory = world.agent.inventory
    await both(
        world,
        answers_s,
        lambda: inventory.put_instance(InstanceRecord(VM, HOSTNAME, True)),
        lambda: inventory.delete_instance(VM),
    )
    assert await agreed(world) == {}
    await both(
        world,
        answers_s,
        lambda: inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True)),
        lambda: inventory.delete_host(HOST_UUID),
    )
    await agreed(world)
    assert world.agent.fleet.hosts == {}
    for deleted in (inventory.delete_instance(VM), inventory.delete_host(HOST_UUID)):
        with pytest.raises(Unknown):
            await deleted


async def test_a_change_that_the_disk_does_not_take_holds_up_no_other(world: AgentWorld) -> None:
    await world.bound_host()
    put = world.agent.inventory.put_instance
    world.worker.slow_s = 5.0
    with trio.move_on_after(1) as scope:
        await put(InstanceRecord(VM, OTHER, False))
    assert scope.cancelled_caught
    last = InstanceRecord(VM, HOSTNAME, False)
    with trio.fail_after(100):
        await put(last)
    assert (await agreed(world))[VM] == last


# -- hosts that come, go and are forgotten ---------------------------------------------------------


@ORDERS
@pytest.mark.parametrize("forgotten_first", [True, False])
async def test_an_instance_that_moves_while_its_host_is_forgotten(
    answers_s: tuple[float, float], forgotten_first: bool, world: AgentWorld
) -> None:
    host, _ = await world.bound_host(host=ScriptedHost()), await world.bound_host(host=other_host())
    await host.cut()
    await world.at(40)
    moved = InstanceRecord(VM, OTHER, True)
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: world.agent.inventory.forget(HOSTNAME, "an operator"),
        lambda: world.agent.inventory.put_instance(moved),
    ]
    await both(world, answers_s, *(steps if forgotten_first else steps[::-1]))
    assert (await agreed(world))[VM] == moved
    assert list(world.agent.fleet.hosts) == [OTHER_HOST_UUID]


@ORDERS
@pytest.mark.parametrize("forgotten_first", [True, False])
async def test_a_host_that_the_vim_tells_of_while_it_is_forgotten(
    answers_s: tuple[float, float], forgotten_first: bool, world: AgentWorld
) -> None:
    """Whoever was last is right, the operator or the VIM."""
    inventory = world.agent.inventory
    host = await world.bound_host()
    await host.cut()
    await world.at(40)
    told = {
        VM: InstanceRecord(VM, HOSTNAME, False),
        OTHER_VM: InstanceRecord(OTHER_VM, HOSTNAME, True),
    }

    async def tell() -> None:
        async with trio.open_nursery() as nursery:
            for one in told.values():
                nursery.start_soon(inventory.put_instance, one)
            nursery.start_soon(inventory.put_host, HostRecord(HOST_UUID, HOSTNAME, False))

    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: inventory.forget(HOSTNAME, "an operator"),
        tell,
    ]
    await both(world, answers_s, *(steps if forgotten_first else steps[::-1]))
    assert await agreed(world) == (told if forgotten_first else {})
    assert list(world.agent.fleet.hosts) == ([HOST_UUID] if forgotten_first else [])


@ORDERS
async def test_without_a_vim_an_instance_that_migrates_is_where_it_beats(
    tmp_path: Path, answers_s: tuple[float, float]
) -> None:
    async with agent_world(tmp_path, vim=False) as world:
        source, target = await world.host(ScriptedHost()), await world.host(other_host())
        target.instances[VM] = source.instances.pop(VM)
        await both(
            world,
            answers_s,
            lambda: target.send(INSTANCE),
            lambda: source.send(Gone(VM, "its directory is gone")),
        )
        assert (await agreed(world))[VM] == InstanceRecord(VM, OTHER, True)


async def test_without_a_vim_a_host_takes_back_only_what_is_its_own(tmp_path: Path) -> None:
    """Its list of instances is worked off slowly; some are elsewhere before it is their turn."""
    async with agent_world(tmp_path, vim=False) as world:
        vms = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(8)]
        instances = tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in vms)
        host, other = (
            await world.host(ScriptedHost(instances=instances)),
            await world.host(other_host()),
        )
        await host.cut()
        await wait_all_tasks_blocked()
        world.worker.slow_s = 0.5
        host.instances.clear()
        host.welcome = None
        world.nursery.start_soon(host.dial, world.agent.links, world.nursery)
        await host.until(lambda: host.welcome is not None)
        await wait_all_tasks_blocked()
        assert len(world.agent.fleet.bound_to(HOSTNAME)) == 8
        for instance in instances[6:]:
            await other.send(instance)
        await other.send(Gone(vms[7], "it was stopped there"))
        await trio.sleep(100)
        assert host.up
        world.worker.slow_s = 0.0
        assert await agreed(world) == {
            uuid: InstanceRecord(uuid, OTHER, True) for uuid in (OTHER_VM, vms[6])
        }


# -- what the VIM is told --------------------------------------------------------------------------


@ORDERS
async def test_what_the_vim_was_told_last_is_what_it_knows(
    answers_s: tuple[float, float], world: AgentWorld
) -> None:
    host = await world.bound_host()
    states, bound = world.agent.states, world.agent.fleet.instance(VM)
    await world.at(1)
    # In vain, for so long that it was given up.
    states.given_up(VM, for_good=False)
    world.vim.got.clear()
    await both(world, answers_s, lambda: states.notify_again(bound), host.report_lost)
    sent = [body["status"] for _, body in world.vim.received("service")]
    assert sent[-1] == "disabled"
    await host.report_heartbeating()
    await trio.sleep(10)
    assert [body["status"] for _, body in world.vim.received("service")] == [*sent, "enabled"]


# -- links that end while a report is being stored -------------------------------------------------


async def recovered(world: AgentWorld) -> Counter[str]:
    """What was published, which is what the history keeps."""
    published = Counter(one.kind for one in world.agent.history.recent)
    assert published == Counter(one.entry.kind for one in await world.store.history())
    return published


@pytest.mark.parametrize("again", [True, False])
async def test_a_link_that_ends_while_an_outcome_is_being_stored(
    again: bool, world: AgentWorld
) -> None:
    host = await world.bound_host()
    host.silent()
    asked = await world.ask(Event.STOP, vote=True)
    assert asked.outcome is not None
    await wait_all_tasks_blocked()
    world.worker.slow_s = 0.5
    await host.outcome(host.commands[0], VoteResult.REJECT, "busy")
    await wait_all_tasks_blocked()
    if not again:
        host.waiting.clear()
    # Its next connection ends this one in the middle of it.
    world.nursery.start_soon(world.host, host)
    with trio.fail_after(1.5):
        result = await asked.outcome.wait()
    assert (result.result, result.reason) == (VoteResult.REJECT, "busy")
    await trio.sleep(60)
    assert host.waiting == {}
    assert len(world.agent.rounds) == 0
    world.worker.slow_s = 0.0
    assert await recovered(world) == {"vote": 1}
    assert [verdict[1:] for verdict in world.vim.verdicts] == [("stop", "reject", "busy")]


@pytest.mark.parametrize("again", [True, False])
async def test_a_link_that_ends_while_a_loss_is_being_stored(
    again: bool, world: AgentWorld
) -> None:
    host = await world.bound_host()
    await wait_all_tasks_blocked()
    world.worker.slow_s = 0.5
    await host.report_lost()
    await wait_all_tasks_blocked()
    waiting = dict(host.waiting)
    if not again:
        host.waiting.clear()
    await world.host(host)
    for report in waiting.values():
        # Whatever it was told in its welcome.
        await host.send(report)
    await trio.sleep(10)
    assert host.waiting == {}
    world.worker.slow_s = 0.0
    assert await recovered(world) == {"loss": 1}
    assert len(world.vim.received("alarm")) == 1


async def test_a_report_that_was_not_taken_until_it_came_again(world: AgentWorld) -> None:
    host = await world.bound_host()
    await wait_all_tasks_blocked()
    world.worker.slow_s, world.worker.fault = 0.5, "database or disk is full"
    await host.report_lost()
    await wait_all_tasks_blocked()
    # Whether it was taken can't be seen either, and is looked at again a while later.
    await world.host(host)
    assert not host.up
    world.worker.slow_s, world.worker.fault = 0.0, ""
    await world.host(host)
    await trio.sleep(60)
    assert host.waiting == {}
    assert await recovered(world) == {"loss": 1}
    assert len(world.vim.received("alarm")) == 1
