"""Whole fleets of the real daemons, without faults."""

from __future__ import annotations

import pytest

from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.invariant import Bounds
from hbtrio.simulate.observations import (
    AGENT,
    Asked,
    CommandBegan,
    CommandEnded,
    Decided,
    Notified,
    Observation,
    Purpose,
    Recorded,
    Reported,
    Verdict,
)
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.watch import Watch
from support.simulation import digests_across_hash_seeds

#: Long enough for an action or two of each VM.
MINUTES = 2.0


def fleet_of(seed: int) -> tuple[Fleet, list[Observation]]:
    """A fleet after its time, and what was observed."""
    seen: list[Observation] = []
    fleet = Fleet(Schedule(seed=seed, minutes=MINUTES + 200 / 60, vms=4, hosts=2), seen.append)
    fleet.run(60 * MINUTES)
    return fleet, seen


@pytest.fixture(scope="module")
def ran() -> tuple[Fleet, list[Observation]]:
    return fleet_of(1)


def test_every_vm_heartbeats(ran: tuple[Fleet, list[Observation]]) -> None:
    _, seen = ran
    well = {
        one.instance for one in seen if isinstance(one, Reported) and one.kind == "heartbeating"
    }
    assert well == {"vm0", "vm1", "vm2", "vm3"}
    assert [one for one in seen if isinstance(one, Reported) and one.kind == "loss"] == []


def test_votes_and_notices_reach_the_guests_and_come_back(
    ran: tuple[Fleet, list[Observation]],
) -> None:
    _, seen = ran
    verdicts = [one for one in seen if isinstance(one, Verdict)]
    assert len(verdicts) > 10
    for kind in (Decided, Recorded):
        of_agent = {
            one.request
            for one in seen
            if isinstance(one, kind) and getattr(one, "process", AGENT) == AGENT
        }
        assert {one.request for one in verdicts} <= of_agent
    assert {one.result for one in verdicts} == {"allow", "reject", "proceed"}
    assert any(isinstance(one, Notified) for one in seen)


def test_nothing_is_violated_where_nothing_goes_wrong() -> None:
    watch = Watch(Bounds())
    fleet = Fleet(Schedule(seed=2, minutes=6.0, vms=4, hosts=2), watch.see)
    fleet.run(60 * MINUTES)
    result = watch.finish(60 * MINUTES, 2)
    assert result.violations == ()
    assert len(result.verdicts) > 10


def test_hosts_without_an_agent_act_themselves() -> None:
    """Operators ask them; a VM that hangs is reported, and reset."""
    seen: list[Observation] = []
    watch = Watch(Bounds())

    def see(observation: Observation) -> None:
        seen.append(observation)
        watch.see(observation)

    hang = Fault(at_s=60.0, kind=Kind.HANG_VM, who=0)
    schedule = Schedule(seed=3, minutes=8.0, vms=4, hosts=2, faults=(hang,))
    assert not schedule.has_agent
    Fleet(schedule, see).run(240.0)
    assert watch.finish(240.0, 3).violations == ()
    asked = {one.request for one in seen if isinstance(one, Asked)}
    answered = {one.request for one in seen if isinstance(one, Verdict)}
    assert len(answered) > 5
    assert answered <= asked
    assert answered <= {one.request for one in seen if isinstance(one, Recorded)}
    [loss] = [one for one in seen if isinstance(one, Reported) and one.kind == "loss"]
    assert loss.instance == "vm0"
    assert 60.0 < loss.at_s < 65.0
    reset = next(
        one for one in seen if isinstance(one, CommandBegan) and one.purpose is Purpose.CORRECTIVE
    )
    assert (reset.instance, reset.name) == ("vm0", "reset")
    assert 0.0 < reset.at_s - loss.at_s < 5.0


def test_a_command_ends_once_though_its_host_is_killed_when_it_has_done_its_work() -> None:
    seen: list[Observation] = []
    hang = Fault(at_s=60.0, kind=Kind.HANG_VM, who=0)
    schedule = Schedule(seed=3, minutes=8.0, vms=1, hosts=1, faults=(hang,))
    fleet = Fleet(schedule, seen.append)
    fleet.run(60.0)

    def ends() -> list[Observation]:
        return [one for one in seen if isinstance(one, CommandEnded) and one.at_s > 60.0]

    while not ends():
        assert fleet.timeline.now < 80.0
        fleet.run(fleet.timeline.now + 0.001)
    fleet.hosts[0].daemon.kill()
    fleet.run(fleet.timeline.now + 1.0)
    assert len(ends()) == 1


def test_a_seed_gives_one_run_and_another_seed_another(
    ran: tuple[Fleet, list[Observation]],
) -> None:
    fleet, _ = ran
    again, _ = fleet_of(1)
    other, _ = fleet_of(2)
    assert again.trace.digest == fleet.trace.digest
    assert other.trace.digest != fleet.trace.digest


def test_a_run_does_not_depend_on_the_hash_seed() -> None:
    assert len(digests_across_hash_seeds("fleet_digest", "support.small_fleets")) == 1
