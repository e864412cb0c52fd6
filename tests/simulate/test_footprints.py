"""A daemon that keeps what it should give back, or carries out what is stale, is caught."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from hbtrio.net import link_session
from hbtrio.nursery.host.outside_rounds import OutsideRounds
from hbtrio.policy.begin_by import BeginBy
from hbtrio.simulate.begin_watch import BeginWatch
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.footprints import LOOK_S, leftovers
from hbtrio.simulate.invariant import Bounds
from hbtrio.simulate.observations import (
    CarriedOut,
    Leftover,
    Measured,
    Observation,
    Resource,
)
from hbtrio.simulate.process import Process
from hbtrio.simulate.reject_watch import Feed
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.watch import Watch
from support.simulation import Simulation

#: For how long users want something, in virtual seconds.
BUSY_S = 100.0


def ran(*faults: Fault, stops: bool = False) -> list[Observation]:
    """What is observed in a fleet of two VMs on a host each.

    Args:
        faults: what goes wrong.
        stops: whether a host is stopped whenever a command arrives, for longer than that may wait.
    """
    seen: list[Observation] = []
    minutes = BUSY_S / 60 + 200 / 60
    fleet = Fleet(Schedule(1, minutes, vms=2, hosts=2, faults=faults), seen.append)

    class StoppingWatch(BeginWatch):
        """Stops a host that has just been commanded something."""

        def link_to_host(self, host: str) -> Feed:
            feed = super().link_to_host(host)
            [daemon] = [one.daemon for one in fleet.hosts if one.name == host]

            def arrived(data: bytes) -> None:
                feed(data)
                if b'"begin_by_s"' in data and daemon.process is not None:
                    daemon.process.freeze_for(7.0)

            return arrived

    if stops:
        fleet._begins.__class__ = StoppingWatch
    fleet.run(BUSY_S + 40)
    fleet.look_again()
    return seen


def violated(seen: list[Observation], invariant: str) -> list[str]:
    """What an invariant says about that."""
    watch = Watch(Bounds())
    for observation in seen:
        watch.see(observation)
    violations = watch.finish(seen[-1].at_s, 1).violations
    return [one.text for one in violations if one.invariant == invariant]


#: Links are cut, and guests and hosts end in order.
ENDS = (
    Fault(at_s=31.0, kind=Kind.CUT_LINK, who=0),
    Fault(at_s=45.0, kind=Kind.RESTART_HOST, who=1, for_s=1.0),
    Fault(at_s=47.0, kind=Kind.RESTART_GUEST, who=0, for_s=1.0),
    Fault(at_s=60.0, kind=Kind.RESTART_AGENT, for_s=1.0),
)


def test_a_sound_fleet() -> None:
    seen = ran(*ENDS)
    whats = {one.what for one in seen if isinstance(one, Measured)}
    assert whats == {"tasks", "descriptors and children", "open rounds and deliveries"}
    measured = {one.process for one in seen if isinstance(one, Measured)}
    assert measured == {"agent", "compute-0", "compute-1", "vm0", "vm1"}
    assert any(isinstance(one, CarriedOut) for one in seen)
    for invariant in ("memory-bounded", "nothing-outlives", "nothing-stale"):
        assert violated(seen, invariant) == []


def test_stopped_hosts_carry_out_nothing_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    assert violated(ran(stops=True), "nothing-stale") == []
    monkeypatch.setattr(BeginBy, "check", lambda _: None)
    [first, *_] = violated(ran(stops=True), "nothing-stale")
    assert "which was to begin by" in first


def forgets(each: int) -> Callable[..., Any]:
    """A host that begins some tasks with each vote, and forgets them."""
    opens = OutsideRounds.open

    def leaky(self: OutsideRounds, *args: Any, **kwargs: Any) -> Any:
        for _ in range(each):
            trio.lowlevel.spawn_system_task(trio.sleep_forever, name="forgotten")
        return opens(self, *args, **kwargs)

    return leaky


def test_a_host_that_forgets_a_task_with_each_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutsideRounds, "open", forgets(10))
    [first, *_] = violated(ran(), "nothing-outlives")
    assert first.startswith("task forgotten, ")


def test_a_host_whose_tasks_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutsideRounds, "open", forgets(40))
    [first, *_] = violated(ran(), "memory-bounded")
    assert "tasks, at most 72 are allowed" in first


async def _keeps_open(_: trio.abc.AsyncResource) -> None:
    await trio.lowlevel.checkpoint()


def test_daemons_that_keep_the_ends_of_lost_links(monkeypatch: pytest.MonkeyPatch) -> None:
    leaky = SimpleNamespace(**{**vars(trio), "aclose_forcefully": _keeps_open})
    monkeypatch.setattr(link_session, "trio", leaky)
    left = [one for one in ran(*ENDS[:1]) if isinstance(one, Leftover)]
    assert {one.what for one in left} == {Resource.DESCRIPTOR}
    assert {one.process for one in left} <= {"agent", "compute-0"}
    # Between two looks it may be on its way out.
    assert all(one.at_s - one.over_s == LOOK_S for one in left)
    assert violated(ran(*ENDS[:1]), "nothing-outlives") != []


class Kept:
    """Something of the kernel."""

    def __init__(self, resource: Resource | None) -> None:
        self.resource = resource

    def released(self) -> None:
        pass


@pytest.mark.parametrize("resource", [*Resource, None])
def test_what_a_process_has_when_it_ends_by_itself(resource: Resource | None) -> None:
    simulation = Simulation(1)
    process: Process = simulation.process("short")
    process.hold(Kept(resource))

    async def main() -> None:
        await trio.lowlevel.checkpoint()

    process.start(main)
    simulation.run(1.0)
    found = [one.what for one in leftovers("short", process, 1.0)]
    assert found == ([] if resource is None else [resource])


def test_a_killed_process_has_left_nothing() -> None:
    simulation = Simulation(1)
    process = simulation.process("killed")
    process.hold(Kept(Resource.CHILD))
    process.start(trio.sleep_forever)
    simulation.run(1.0)
    process.kill()
    assert list(leftovers("killed", process, 1.0)) == []
