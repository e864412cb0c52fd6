"""How many instances of a host were heartbeating when one of them failed."""

from __future__ import annotations

from hbtrio.policy.losses import HeartbeatingInstances


def heartbeating(*uuids: str) -> HeartbeatingInstances:
    instances = HeartbeatingInstances()
    for uuid in uuids:
        instances.update(uuid, heartbeating=True, now=0.0)
    return instances


def test_those_that_ceased_in_the_same_interval_count() -> None:
    instances = heartbeating("a", "b", "c")
    for uuid in "abc":
        instances.update(uuid, heartbeating=False, now=5.0)
    assert len(instances) == 0
    assert instances.count_before("a", 5.0, 1.0) == 3
    assert instances.count_before("a", 6.0, 1.0) == 3
    assert instances.count_before("a", 6.1, 1.0) == 1


def test_the_one_that_failed_counts_once() -> None:
    instances = heartbeating("a", "b")
    assert instances.count_before("a", 0.0, 1.0) == 2
    assert instances.count_before("never heard of", 0.0, 1.0) == 3


def test_an_unknown_instance_that_stopped_counts_for_an_interval() -> None:
    instances = heartbeating("a")
    instances.update("b", heartbeating=False, now=5.0)
    assert (len(instances), instances.count_before("a", 6.0, 1.0)) == (1, 2)
    # The same state again changes nothing.
    instances.update("b", heartbeating=False, now=1000.0)
    assert instances.count_before("a", 1000.0, 1.0) == 1


def test_one_that_is_back_counts_once() -> None:
    instances = heartbeating("a", "b")
    instances.update("a", heartbeating=False, now=0.0)
    instances.update("a", heartbeating=True, now=0.1)
    assert (len(instances), instances.count_before("a", 0.2, 1.0)) == (2, 2)


def test_one_that_is_gone_does_not_count() -> None:
    instances = heartbeating("a", "b", "c")
    instances.update("a", heartbeating=False, now=0.0)
    instances.remove("a")
    instances.remove("b")
    instances.remove("never heard of")
    assert (len(instances), instances.count_before("c", 0.0, 1.0)) == (1, 1)


def test_a_shorter_interval_forgets_nothing() -> None:
    instances = heartbeating("a", "b", "c")
    instances.update("a", heartbeating=False, now=0.0)
    assert instances.count_before("b", 5.0, 1.0) == 2
    assert instances.count_before("b", 5.0, 10.0) == 3


def test_instances_outside_a_snapshot_are_removed() -> None:
    instances = heartbeating("a", "b", "c")
    for uuid in "bc":
        instances.update(uuid, heartbeating=False, now=0.0)
    instances.keep_only({"b", "never heard of"})
    assert (len(instances), instances.count_before("b", 0.0, 1.0)) == (0, 1)
