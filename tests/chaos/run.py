"""Runs a fleet of real processes through a schedule, and keeps everything about it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from chaos.fleet import ChaosFleet
from chaos.footprints import Footprints
from chaos.judge import OBSERVATIONS, Kept, keep
from chaos.records import Records, RunClock
from chaos.strikes import RealStrikes
from hbtrio.lab.daemon import DaemonDied
from hbtrio.lab.launcher import Launcher
from hbtrio.lab.scene import LONGEST, new_directory
from hbtrio.simulate.fault_words import describe
from hbtrio.simulate.observations import AGENT, Crashed, Status
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.schedule_file import to_text
from hbtrio.system.reaper_link import open_reaper_link

#: The longest path of a socket, behind the directory.
_LONGEST: Final = f"/compute-0{LONGEST}"

#: How long the daemons have to start and to become well before the schedule begins, in seconds.
_START_S: Final = 120.0

#: For how long the last events may be on their way after all daemons have ended, in seconds.
_DRAIN_S: Final = 0.5

_TRACEBACK: Final = "Traceback (most recent call last)"


#: Wants something of the VMs of a fleet.
Users = Callable[[ChaosFleet], Awaitable[None]]


async def usual_users(fleet: ChaosFleet) -> None:
    """The VIM's users and the operators."""
    fleet.begin()
    await trio.lowlevel.checkpoint()


async def run(schedule: Schedule, kept: Path, users: Users = usual_users) -> None:
    """Runs a schedule.

    Args:
        schedule: what happens.
        kept: the directory for what is kept, which exists: the schedule, observations, lateness,
            events, logs and stores of all daemons.
        users: want something of its VMs; the run is not over before they return.
    """
    (kept / "schedule.faults").write_text(to_text(schedule))
    clock = RunClock()
    records = Records(clock, kept / OBSERVATIONS)
    with new_directory(_LONGEST) as directory, ExitStack() as resources:
        resources.callback(records.close)
        try:
            async with open_reaper_link() as reaper, trio.open_nursery() as nursery:
                launcher = Launcher(nursery, reaper)
                fleet = ChaosFleet(schedule, directory, kept, records, nursery, launcher, resources)
                try:
                    await _go_through(schedule, fleet, nursery, users)
                finally:
                    with trio.CancelScope(shield=True):
                        await fleet.end()
                        over_s = clock.now()
                        await trio.sleep(_DRAIN_S)
                        Footprints(fleet).look_behind(directory, over_s)
                nursery.cancel_scope.cancel()
        except* DaemonDied as died:
            for error in _leaves(died):
                records.observe(Crashed(clock.now(), str(error).split()[0], str(error)))
                print(error, file=sys.stderr)
        finally:
            end_s = clock.now()
            _finish(fleet, records, kept)
            late = tuple(sorted(fleet.lateness.measured, key=lambda one: one.at_s))
            keep(kept, Kept(schedule.seed, end_s, schedule.vms, fleet.lateness.naps, late))
            _copy(directory, kept)


async def _go_through(
    schedule: Schedule, fleet: ChaosFleet, nursery: trio.Nursery, users: Users
) -> None:
    await fleet.start()
    with trio.move_on_after(_START_S):
        while not fleet.is_well():  # noqa: ASYNC110 - other processes set no event
            await trio.sleep(0.2)
    fleet.say("runner", "all is up; the schedule begins")
    fleet.records.clock.begin()
    footprints = Footprints(fleet)
    satisfied = trio.Event()
    nursery.start_soon(_satisfy, users, fleet, satisfied)
    nursery.start_soon(_say_faults, schedule, fleet)
    nursery.start_soon(footprints.watch)
    async with trio.open_nursery() as strikers:
        strikers.start_soon(RealStrikes(fleet, schedule).run)
        await trio.sleep(60 * schedule.minutes)
        await satisfied.wait()  # on a busy machine they may take longer
        strikers.cancel_scope.cancel()
    footprints.look()
    for status in statuses(fleet):
        fleet.records.observe(status)


async def _satisfy(users: Users, fleet: ChaosFleet, satisfied: trio.Event) -> None:
    await users(fleet)
    satisfied.set()


async def _say_faults(schedule: Schedule, fleet: ChaosFleet) -> None:
    for fault in schedule.faults:
        await fleet.until(fault.at_s)
        print(f"{fleet.now():8.1f} s {describe(fault, schedule)}", flush=True)


def statuses(fleet: ChaosFleet) -> Iterator[Status]:
    """Yields how everything is that lives."""
    now = fleet.now()
    for host in fleet.linked_hosts:
        assert host.relay is not None
        linked = host.relay.joined
        yield Status(now, host.name, linked, "" if linked else "it has no link to the agent")
    for vm in fleet.vms.values():
        if vm.place is not None and not vm.hung:
            well = fleet.heartbeats(vm)
            yield Status(now, vm.name, well, "" if well else "it does not heartbeat")


def _finish(fleet: ChaosFleet, records: Records, kept: Path) -> None:
    """Takes in what is known only when all daemons have ended."""
    fleet.sayings.history(fleet.store, decides=AGENT)
    for host in fleet.hosts:
        if host.relay is None and host.store.exists():
            fleet.sayings.history(host.store, decides=host.name)
    logs = {AGENT: fleet.agent.log}
    logs |= {host.name: host.scene.host_log for host in fleet.hosts}
    logs |= {vm.name: vm.guest.log for vm in fleet.vms.values()}
    for name, log in logs.items():
        if log.exists():
            if _TRACEBACK in log.read_text(errors="replace"):
                records.observe(Crashed(records.clock.now(), name, f"see {name}.log"))
            shutil.copy(log, kept / f"{name}.log")


def _copy(directory: Path, kept: Path) -> None:
    for file in [*directory.glob("*.db*"), *directory.glob("*.toml"), *directory.glob("*/*.toml")]:
        shutil.copy(file, kept / f"{file.parent.name}-{file.name}")
    for file in directory.glob("*/state/*"):
        shutil.copy(file, kept / f"{file.parent.parent.name}-{file.name}")


def _leaves(group: BaseExceptionGroup[DaemonDied]) -> Iterator[DaemonDied]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
