"""What belongs to which host, as records and reports come, change and go."""

from __future__ import annotations

import attrs
import pytest

from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.store.records import HostRecord, InstanceRecord
from support.scripted_host import INSTANCE

pytestmark = pytest.mark.usefixtures("autojump_clock")

A, B = "compute-0", "compute-1"


def bound(fleet: Fleet) -> dict[str, list[str]]:
    """The instances that are bound to each host."""
    return {name: [one.uuid for one in fleet.bound_to(name)] for name in (A, B)}


def test_an_instance_is_bound_to_one_host() -> None:
    fleet = Fleet(has_vim=True)
    for uuid in ("1", "2"):
        fleet.put_instance(InstanceRecord(uuid, A, True))
    assert bound(fleet) == {A: ["1", "2"], B: []}
    fleet.put_instance(InstanceRecord("1", B, True))
    fleet.put_instance(InstanceRecord("2", A, False))
    assert bound(fleet) == {A: ["2"], B: ["1"]}
    assert fleet.bound_to(A) == [InstanceRecord("2", A, False)]
    # What is dropped may be known by an older record.
    fleet.drop_instance(InstanceRecord("1", A, True))
    fleet.drop_instance(InstanceRecord("1", A, True))
    assert bound(fleet) == {A: ["2"], B: []}
    assert list(fleet.instances) == ["2"]


def test_a_host_has_one_name() -> None:
    fleet = Fleet(has_vim=True)
    fleet.put_host(HostRecord("1", A, True))
    fleet.put_host(HostRecord("2", A, False))
    assert fleet.others_named(HostRecord("2", A, False)) == ["1"]
    fleet.put_host(HostRecord("1", B, True))
    assert (fleet.host_reporting(A), fleet.host_reporting(B)) == (False, True)
    assert [one.uuid for one in fleet.named(A)] == ["2"]
    fleet.drop_host("2")
    fleet.drop_host("2")
    assert (fleet.named(A), list(fleet.hosts)) == ([], ["1"])


async def test_a_host_that_forgets_is_forgotten_alone() -> None:
    """An instance that moves is reported by two hosts."""
    fleet = Fleet(has_vim=True)
    fleet.put_instance(InstanceRecord("1", A, True))
    for name in (A, B):
        for uuid in ("1", "2"):
            fleet.note(name, uuid, attrs.evolve(INSTANCE, uuid=uuid))
    fleet.forget_reports(A, but={"2"})
    assert fleet.live("1") is None
    assert fleet.live_on(A, "2") == attrs.evolve(INSTANCE, uuid="2")
    assert fleet.live_on(B, "1") == attrs.evolve(INSTANCE, uuid="1")
    fleet.forget_reports(A)
    fleet.note(A, "2", None)
    assert fleet.live_on(A, "2") is None
    assert fleet.live_on(B, "2") is not None
    with pytest.raises(KeyError):
        fleet.heard_at(A, "2")
