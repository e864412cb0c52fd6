"""Holds on a host's instances: nothing is done while one is in force, and all is watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.nursery.host.instance_holds import NOT_READ, UNKNOWN_S
from hbtrio.nursery.host.memory import STEP_S, HostMemory
from hbtrio.policy.instance_hold import MAX_HOLD_S, HoldRefused
from hbtrio.wire.vocabulary import ActionName, CorrectiveAction, Event, VoteResult
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, now
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

WHO = "operator uid 0"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


def commands(argv: Sequence[str]) -> FakeRun:
    return FakeRun(delay_s=20.0) if argv[0] == "slow" else FakeRun()


def held_world(
    memory: HostMemory | None = None, reboot: str = "reset"
) -> AbstractAsyncContextManager[HostWorld]:
    return host_world(
        corrective_commands=CorrectiveCommands(reboot=(reboot, "{uuid}"), log=("log", "{uuid}")),
        brake=BrakeSettings(share=1.0),
        runs=commands,
        memory=memory,
    )


def falls_silent(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


def speaks_again(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = 0.0, True


def started(world: HostWorld) -> list[tuple[float, str]]:
    return [(round(moment.time_s, 3), moment.argv[0]) for moment in world.processes.started]


def told(world: HostWorld, *kinds: str) -> list[tuple[str, str, str]]:
    return [
        (report.kind, report.who, report.reason)
        for report in world.host.reports.recent
        if report.kind in kinds
    ]


async def on_hold(world: HostWorld, guest: ScriptedGuest, seconds: float = 60) -> None:
    await world.host.holds.hold(guest.uuid, seconds, "disk swap", WHO)


async def test_nothing_is_done_until_the_hold_ends_then_it_is_decided_anew() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await on_hold(world, guest)
        falls_silent(guest)
        until = "2026-01-01T00:01:02+00:00"
        await world.at(61.9)
        assert started(world) == []
        assert told(world, "loss", "hold", "not-acted") == [
            ("hold", WHO, f"on hold until {until} by {WHO}: disk swap"),
            ("loss", "", "no answer for 3 s"),
            ("not-acted", "", f"reboot not run: on hold until {until} by {WHO}: disk swap"),
        ]
        why = world.host.corrective.why_not(guest.uuid)
        assert why is not None
        assert why.words == f"hold: on hold until {until} by {WHO}: disk swap"
        # Fresh challenges for 7 s, and a moment for others that fail with it.
        await world.at(90)
        assert started(world) == [(70.0, "reset")]
        assert told(world, "hold-over") == [("hold-over", "", "its time is over: disk swap")]


async def test_one_that_has_recovered_by_the_end_is_left_alone() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await on_hold(world, guest)
        falls_silent(guest)
        await world.at(30)
        speaks_again(guest)
        guest.send_init()
        await world.at(200)
        assert started(world) == []


async def test_one_that_answers_the_fresh_challenges_is_left_alone() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await on_hold(world, guest, 59)
        falls_silent(guest)
        await world.at(63)
        speaks_again(guest)
        guest.send_init()
        await world.at(200)
        assert started(world) == []


@pytest.mark.parametrize("ends_at", [20.0, 59.9])
async def test_an_operator_ends_it_before_its_time(ends_at: float) -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await on_hold(world, guest)
        falls_silent(guest)
        await world.at(ends_at)
        await world.host.holds.unhold(guest.uuid, "operator uid 7")
        await world.at(100)
        assert started(world) == [(ends_at + 8.0, "reset")]
        assert told(world, "hold-over") == [
            ("hold-over", "operator uid 7", "operator uid 7 has ended it: disk swap")
        ]


async def test_a_longer_hold_set_while_it_is_decided_anew_still_counts() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await on_hold(world, guest)
        falls_silent(guest)
        await world.at(69.9)
        await on_hold(world, guest, 100)
        await world.at(169.8)
        assert started(world) == []
        await world.at(200)
        assert [name for _, name in started(world)] == ["reset"]


async def test_a_hold_that_comes_before_the_command_keeps_it_back() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await world.at(4.5)
        falls_silent(guest)
        while not told(world, "loss"):
            await world.sleep(0.1)
        await on_hold(world, guest)  # the failure is held for an interval before it is decided
        await world.at(60)
        assert started(world) == []


async def test_a_command_that_runs_already_goes_on() -> None:
    async with held_world(reboot="slow") as world:
        guest = await world.heartbeating()
        await world.at(4.5)
        falls_silent(guest)
        while not started(world):
            await world.sleep(0.1)
        await on_hold(world, guest)
        await world.sleep(25)
        assert world.processes.cancelled == []
        assert [kind for kind, *_ in told(world, "corrective")] == ["corrective"]


async def test_ill_health_is_held_and_a_log_command_is_not() -> None:
    async with held_world() as world:
        ill, logs = await world.heartbeating(), await world.heartbeating()
        for guest in (ill, logs):
            await on_hold(world, guest)
        logs.init = logs.init.__class__(
            **{**_fields(logs.init), "corrective_action": CorrectiveAction.LOG}
        )
        logs.send_init()
        await world.sleep(1)
        falls_silent(ill)
        falls_silent(logs)
        await world.at(30)
        assert [name for _, name in started(world)] == ["log"]


def _fields(init: object) -> dict[str, object]:
    return {name: getattr(init, name) for name in init.__class__.__annotations__ if name != "TYPE"}


async def test_it_is_watched_as_ever() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await on_hold(world, guest)
        opened = world.vote(guest, Event.STOP)
        await opened.done.wait()
        assert opened.outcome is not None
        assert opened.outcome.result is VoteResult.ACCEPT
        beats = world.channel(guest).heartbeat.beats
        await world.sleep(5)
        assert world.channel(guest).heartbeat.beats > beats


async def test_an_action_is_refused_unless_the_hold_is_ignored() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await on_hold(world, guest)
        with pytest.raises(ActionRefused) as refused:
            world.host.begin_action(guest.uuid, ActionName.REBOOT, ("x",), force=True)
        assert str(refused.value) == (
            f"on hold until 2026-01-01T00:01:02+00:00 by {WHO}: disk swap; "
            "--ignore-hold acts all the same"
        )
        world.host.begin_action(guest.uuid, ActionName.REBOOT, ("x",), force=True, ignore_hold=True)
        await world.at(5)
        assert [name for _, name in started(world)] == ["x"]


@pytest.mark.parametrize("end_s", [30.0, 60.0])
async def test_actions_are_allowed_again_at_its_end(end_s: float) -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        await on_hold(world, guest, end_s - now())
        await world.at(end_s - 0.1)
        with pytest.raises(ActionRefused):
            world.host.begin_action(guest.uuid, ActionName.REBOOT, ("x",), force=True)
        await world.at(end_s)
        world.host.begin_action(guest.uuid, ActionName.REBOOT, ("x",), force=True)


async def test_faulty_holds_change_nothing() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        with pytest.raises(HoldRefused):
            await on_hold(world, guest, MAX_HOLD_S + 1)
        with pytest.raises(HoldRefused):
            await world.host.holds.unhold(guest.uuid, WHO)
        assert told(world, "hold", "hold-over") == []


# -- restarts of the host ---------------------------------------------------------------------


async def test_a_hold_outlives_a_restart_of_the_host(store: MemoryStore) -> None:
    async with held_world(store.memory()) as world:
        guest = await world.heartbeating()
        assert await world.host.holds.hold(guest.uuid, 600, "disk swap", WHO)
        falls_silent(guest)
        await world.at(20)
        await world.restart_host(store.memory(), away_s=10)
        await world.at(600)
        held = world.host.holds.of(guest.uuid)
        assert held is not None
        assert (held.who, held.reason) == (WHO, "disk swap")
        assert started(world) == []
        await world.at(650)
        assert world.host.holds.of(guest.uuid) is None
        assert [name for _, name in started(world)] == ["reset"]
        over = [("hold-over", "", "its time is over: disk swap")]
        assert told(world, "hold", "hold-over") == over
        kinds = [one.entry.kind for one in await world.host.memory.history(100)]
        assert (kinds.count("hold"), kinds.count("hold-over")) == (1, 1)


async def test_one_that_ended_meanwhile_is_reported_over_once(store: MemoryStore) -> None:
    async with held_world(store.memory()) as world:
        guest = await world.heartbeating()
        await on_hold(world, guest, 10)
        await world.restart_host(store.memory(), away_s=30)
        await world.sleep(1)
        assert world.host.holds.of(guest.uuid) is None
        over = [("hold-over", "", "its time is over: disk swap")]
        assert told(world, "hold", "hold-over") == over
        await world.restart_host(store.memory())
        await world.sleep(1)
        assert told(world, "hold", "hold-over") == []


async def test_one_that_an_operator_ended_does_not_come_back(store: MemoryStore) -> None:
    async with held_world(store.memory()) as world:
        guest = await world.heartbeating()
        await on_hold(world, guest)
        assert await world.host.holds.unhold(guest.uuid, WHO)
        await world.restart_host(store.memory())
        await world.sleep(1)
        assert list(world.host.holds) == []


@pytest.mark.parametrize("set_back_s", [0.0, 3600.0])
async def test_a_new_boot_of_the_machine_does_not_prolong_it(
    store: MemoryStore, set_back_s: float
) -> None:
    store.set_back_s = -365 * 86_400.0  # to the year of the world's clock
    async with held_world(store.memory()) as world:
        guest = await world.heartbeating()
        await world.at(10)
        await on_hold(world, guest, 600)
        await world.stop_host()
        store.boot_id = "another"
        store.set_back_s += set_back_s
        await world.restart_host(store.memory(), away_s=10)
        await world.settle()
        # If no time has passed by the wall clock, all of it is left.
        end = 20 + 600 if set_back_s else 10 + 600
        await world.at(end - 1)
        assert world.host.holds.of(guest.uuid) is not None
        await world.at(end + 1)
        assert world.host.holds.of(guest.uuid) is None


async def test_without_a_state_directory_it_is_not_stored() -> None:
    async with held_world() as world:
        guest = await world.heartbeating()
        assert not await world.host.holds.hold(guest.uuid, 60, "disk swap", WHO)
        assert world.host.holds.of(guest.uuid) is not None


async def test_a_slow_disk_is_waited_for_a_second_at_most(store: MemoryStore) -> None:
    async with held_world(store.memory()) as world:
        guest = await world.heartbeating()
        await world.sleep(1)
        store.worker.slow_s = 5.0
        since = now()
        assert not await world.host.holds.hold(guest.uuid, 60, "disk swap", WHO)
        assert now() - since == pytest.approx(STEP_S)
        await world.sleep(10)
        store.worker.slow_s = 0.0
        assert [one.uuid for one in (await store.recall()).holds] == [guest.uuid]


@pytest.mark.parametrize("refusals", [2, 1000])
async def test_nothing_is_done_before_the_holds_are_read_but_for_a_bounded_time(
    store: MemoryStore, refusals: int
) -> None:
    store.refusals = refusals
    async with held_world(store.memory()) as world:
        guest = await world.heartbeating()
        falls_silent(guest)
        await world.at(20)
        acted = [name for _, name in started(world)]
        if refusals == 1000:
            assert acted == []
            why = world.host.corrective.why_not(guest.uuid)
            assert why is not None
            assert why.text == NOT_READ
            await world.at(UNKNOWN_S + 10)
            assert [name for _, name in started(world)] == ["reset"]
        else:
            assert acted == ["reset"]
