"""Actions, drains, groups, holds, losses and restarts of a host in any order.

Whatever comes together, a group never has more members down through the host's own actions than it
permits, a guest that was told of an event hears of its end, a VM on hold is left alone, one command
runs on a VM at a time, and the history has each decision once.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import pytest
import trio
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hbtrio.config.groups import GroupSettings
from hbtrio.config.host import ActionCommands, BrakeSettings, CorrectiveCommands
from hbtrio.fsm.drain import DrainRules, OnReject
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drains import DrainPlan, DrainRefused
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.reports import ReportKind
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName, VoteResult
from support.acted_fleet import RESET, ActedFleet, Vm
from support.host_world import EPOCH, VOTE, HostWorld, Reply, agree, host_world, now, uuid_of
from support.judged_history import faults
from support.memory_store import memory_store
from support.stepped_world import SteppedWorld

VMS: Final = 5

#: The members of each group, and how many may be unavailable; the third VM is in both.
GROUPS: Final = {
    "db": (frozenset(uuid_of(number) for number in (1, 2, 3)), 1),
    "web": (frozenset(uuid_of(number) for number in (3, 4, 5)), 2),
}

DRAINS: Final = (
    ActionName.STOP,
    ActionName.REBOOT,
    ActionName.PAUSE,
    ActionName.RESIZE,
    ActionName.LIVE_MIGRATE,
)
ACTIONS: Final = (*DRAINS, ActionName.UNPAUSE)

COMMANDS: Final = ActionCommands(
    stop=("stop", "{uuid}"),
    reboot=("reboot", "{uuid}"),
    pause=("pause", "{uuid}"),
    unpause=("unpause", "{uuid}"),
    resize=("resize", "{uuid}"),
    live_migrate=("live-migrate", "{uuid}"),
)

#: What each guest says of itself.
PROFILE: Final = {
    "heartbeat_interval_ms": 2000,
    "vote_secs": 4,
    "shutdown_notice_secs": 3,
    "suspend_notice_secs": 3,
    "resume_notice_secs": 3,
    "restart_secs": 30,
}

#: All comes to its end within this, in seconds: a VM that was told to stop may take 300 s.
SETTLES_S: Final = 400.0

#: Within this a VM that is lost is corrected, if nothing hinders it.
NOTICED_S: Final = 15.0

#: How long a guest takes for its answer, in seconds.
ANSWERS_S: Final = 1.0

#: Much happens to the first ones: what comes together on one VM is more than on five.
T = TypeVar("T")

one_vm = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4])


def answer(how: str, asked: ActionNotify) -> Reply | None:
    """A guest's answer: it accepts, rejects votes, or answers nothing at all."""
    if how == "abstain":
        return None
    if how == "reject" and asked.notification_type is VOTE:
        return Reply(VoteResult.REJECT, "a backup runs", ANSWERS_S)
    return attrs.evolve(agree(asked), after_s=ANSWERS_S)


class Hosts(RuleBasedStateMachine):
    """A host, its VMs, and all that happens to them."""

    def __init__(self) -> None:
        super().__init__()
        self._opened = ExitStack()
        self.folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        #: When the host was ended, by the clock of its history.
        self.ended_at: list[float] = []
        self.stepped = SteppedWorld(self._open)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[HostWorld]:
        groups = {
            name: GroupSettings(
                members=tuple(sorted(members)), max_unavailable=allowed, max_delay_s=86_400
            )
            for name, (members, allowed) in GROUPS.items()
        }
        with memory_store(self.folder) as self.store:
            async with host_world(
                runs=lambda argv: self.fleet.run_of(argv),
                memory=self.store.memory(),
                groups=groups,
                actions=COMMANDS,
                corrective_commands=CorrectiveCommands(reboot=(RESET, "{uuid}"), per_hour=3600),
                brake=BrakeSettings(share=1.0),
            ) as world:
                guests = [
                    world.guest(name=f"vm-{number + 1}", **PROFILE).appear()
                    for number in range(VMS)
                ]
                for guest in guests:
                    guest.reply = partial(answer, "accept")
                self.world, self.fleet = world, ActedFleet(world, guests, GROUPS)
                await world.sleep(5)
                yield world

    def take(self, step: Callable[[HostWorld], Awaitable[Any]]) -> Any:
        """Takes a step, and lets a moment pass."""

        async def moment_later(world: HostWorld) -> Any:
            result = await step(world)
            await world.sleep(0.01)
            self.fleet.read()
            return result

        return self.stepped.take(moment_later)

    def see(self, what: Callable[[], T]) -> T:
        """Looks at something that depends on the present time."""

        async def step(_: HostWorld) -> T:
            return what()

        return self.stepped.take(step)

    def change(self, change: Callable[[], object]) -> None:
        """Does something to the VMs."""

        async def step(_: HostWorld) -> None:
            change()

        self.take(step)

    # -- what operators do --------------------------------------------------------------------

    @rule(at=one_vm, name=st.sampled_from(ACTIONS), force=st.booleans())
    def act(self, at: int, name: ActionName, force: bool) -> None:
        async def step(world: HostWorld) -> None:
            vm = self.fleet.vms[at]
            try:
                world.host.begin_action(vm.guest.uuid, name, (), force=force, who="uid 0")
            except (ActionRefused, UnknownInstance):
                pass
            else:
                assert not vm.is_on_hold

        self.take(step)

    @rule(
        name=st.sampled_from(DRAINS),
        parallel=st.integers(1, 4),
        on_reject=st.sampled_from(OnReject),
        by_group=st.booleans(),
        cancel_in_s=st.sampled_from([None, None, 2.5, 4.0]),
    )
    def drain(
        self,
        name: ActionName,
        parallel: int,
        on_reject: OnReject,
        by_group: bool,
        cancel_in_s: float | None,
    ) -> None:
        rules = DrainRules(parallel=parallel, on_reject=on_reject, retry_for_s=120.0)

        async def step(world: HostWorld) -> None:
            plan = DrainPlan(action=name, rules=rules, by_group=by_group)
            with suppress(DrainRefused):
                world.host.drains.start(plan, "uid 0")

        self.take(step)
        if cancel_in_s is not None:
            # The first guests have been told by then, and their commands have not begun.
            self.time_passes(cancel_in_s)
            self.cancel_the_drain()

    @rule()
    @precondition(lambda self: self.drains)
    def cancel_the_drain(self) -> None:
        async def step(world: HostWorld) -> None:
            for run in self.drains:
                world.host.drains.runs.cancel(run.record.id, "uid 0")

        self.take(step)

    @property
    def drains(self) -> list[DrainRun]:
        """Those in progress."""
        return [run for run in self.world.host.drains.runs.last if not run.is_over]

    @rule(at=one_vm, seconds=st.sampled_from([5.0, 60.0, 600.0]))
    def hold(self, at: int, seconds: float) -> None:
        async def step(world: HostWorld) -> None:
            vm = self.fleet.vms[at]
            vm.hold_since, vm.hold_until = now(), now() + seconds
            assert await world.host.holds.hold(vm.guest.uuid, seconds, "a disk", "uid 0")

        self.take(step)

    @rule()
    @precondition(lambda self: self.see(lambda: any(vm.is_on_hold for vm in self.fleet.vms)))
    def unhold(self) -> None:
        async def step(world: HostWorld) -> None:
            for vm in self.fleet.vms:
                if vm.is_on_hold:
                    vm.hold_until = now()
                    await world.host.holds.unhold(vm.guest.uuid, "uid 0")

        self.take(step)

    # -- what VMs do --------------------------------------------------------------------------

    @rule(which=st.sets(one_vm, min_size=1, max_size=2))
    def fall_silent(self, which: set[int]) -> None:
        def silent() -> None:
            for vm in (self.fleet.vms[at] for at in sorted(which)):
                if vm.is_up:
                    vm.fall_silent()
                    vm.was_away = True

        self.change(silent)

    @rule(at=one_vm)
    def is_stopped(self, at: int) -> None:
        self.change(self.fleet.vms[at].go)

    @rule()
    @precondition(lambda self: self.see(lambda: self.down))
    def one_comes_back(self) -> None:
        self.change(lambda: self._come(self.down[0]))

    @rule()
    @precondition(lambda self: self.see(lambda: self.down))
    def all_come_back(self) -> None:
        self.change(lambda: [self._come(vm) for vm in self.down])

    @property
    def down(self) -> list[Vm]:
        """The VMs that do not come back by themselves."""
        return [vm for vm in self.fleet.vms if not (vm.is_up or vm.is_busy)]

    def _come(self, vm: Vm) -> None:
        if not vm.is_there:
            self.store.sockets[vm.guest.path] = f"made at {now()}"
        vm.come()

    @rule(at=one_vm)
    def disconnects(self, at: int) -> None:
        def cut() -> None:
            vm = self.fleet.vms[at]
            if vm.is_up and not (vm.guest.peer.closed or vm.guest.peer.host_closed):
                vm.was_away = True
                vm.guest.peer.close()

        self.change(cut)

    @rule(at=one_vm, how=st.sampled_from(["accept", "reject", "abstain"]))
    def answers(self, at: int, how: str) -> None:
        self.fleet.vms[at].guest.reply = partial(answer, how)

    # -- what the host does -------------------------------------------------------------------

    @rule(fails=st.frozensets(st.sampled_from([*ACTIONS, RESET]), max_size=2))
    def commands(self, fails: frozenset[str]) -> None:
        self.fleet.fails = frozenset(str(name) for name in fails)

    @rule(kill=st.booleans(), works=st.booleans(), away_s=st.sampled_from([1.0, 1.0, 20.0, 90.0]))
    def restart(self, kill: bool, works: bool, away_s: float) -> None:
        async def step(world: HostWorld) -> None:
            self.fleet.works_if_cut_off = works
            if kill:
                self.store.kill_runs()
            else:
                await world.host.stopping.run(3.0, trio.sleep_forever)
            await world.stop_host()
            self.ended_at.append(EPOCH.timestamp() + now())
            await world.sleep(1.0)
            self.store.kill_runs()
            await world.restart_host(self.store.memory(), away_s=away_s - 1.0)

        self.take(step)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0, 20.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.take(lambda world: world.sleep(seconds))

    # -- what must hold -----------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        assert self.fleet.broken == [], self.fleet.broken

    def teardown(self) -> None:
        """All settles, and nobody waits for the end of what was told, or holds a place."""
        with self._opened:
            try:
                self.fleet.fails = frozenset()
                for at in range(VMS):
                    self.answers(at, "accept")
                self.time_passes(NOTICED_S)
                self.cancel_the_drain()
                self.unhold()
                self.stepped.take(self._settles)
                self.nothing_is_broken()
                self.stepped.take(self._settled)
            finally:
                self.stepped.close()

    async def _settles(self, world: HostWorld) -> None:
        end = now() + SETTLES_S
        while now() < end and (self.drains or world.host.actions):
            await world.sleep(5)
        while now() < end and not self._is_quiet(world):
            for vm in self.down:
                self._come(vm)
            await world.sleep(15)
        await world.sleep(15)
        self.fleet.read()

    def _is_quiet(self, world: HostWorld) -> bool:
        busy = self.drains or world.host.actions or world.host.groups.rule.going_down
        return not busy and not self.down and world.host.heartbeating == VMS

    async def _settled(self, world: HostWorld) -> None:
        told = {vm.guest.uuid: vm.told for vm in self.fleet.vms if not vm.was_away}
        assert {uuid: event for uuid, event in told.items() if event} == {}
        assert world.host.actions == {}
        assert world.host.groups.rule.going_down == frozenset()
        assert world.host.heartbeating == VMS
        assert self.drains == []
        for vm in self.fleet.vms:
            kept = await world.host.memory.history(10_000, uuid=vm.guest.uuid)
            entries = [one.entry for one in reversed(kept)]
            wrong = list(faults(entries, self.ended_at))
            assert wrong == [], wrong
            corrected = sum(entry.kind == ReportKind.CORRECTIVE for entry in entries)
            least, most = self.fleet.corrected(vm, self.ended_at)
            assert least <= corrected <= most


TestHosts = Hosts.TestCase
# What fails is shown as it is: to shrink it takes minutes, and no test may take three.
TestHosts.settings = settings(
    max_examples=100, stateful_step_count=30, phases=[Phase.explicit, Phase.generate]
)
TestHosts.pytestmark = [pytest.mark.slow]
