"""The queue of a host's reports: numbers, coalescing, bounds, what survives a reconnect."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.policy.report_queue import ReportQueue
from hbtrio.wire.link_messages import LinkReport

A, B = "aaaa", "bbbb"


def report(kind: str, uuid: str = A, reason: str = "") -> LinkReport:
    return LinkReport(0, "2026-01-01T00:00:00+00:00", kind, uuid, reason)


def held(queue: ReportQueue, after: int = 0) -> list[tuple[int, str, str]]:
    return [(one.number, one.kind, one.uuid) for one in queue.after(after, 10**6)]


def test_numbers_begin_with_one_and_are_put_into_the_report() -> None:
    queue = ReportQueue()
    first = report("loss", reason="silent")
    assert queue.add(first) == attrs.evolve(first, number=1)
    assert queue.add(report("vote")).number == 2
    assert held(queue) == [(1, "loss", A), (2, "vote", A)]
    assert len(queue) == 2


def test_of_one_instance_only_the_newest_state_waits() -> None:
    queue = ReportQueue()
    for kind, uuid in [
        ("heartbeating", A),
        ("heartbeating", B),
        ("loss", A),
        ("stopped", A),
        ("heartbeating", A),
    ]:
        queue.add(report(kind, uuid))
    # What is no state keeps its place: a loss is not undone by the heartbeat that follows.
    assert held(queue) == [(2, "heartbeating", B), (3, "loss", A), (5, "heartbeating", A)]


def test_other_kinds_are_never_coalesced() -> None:
    queue = ReportQueue()
    kinds = ["loss", "loss", "unhealthy", "unhealthy", "vote", "notice", "restart-expired"]
    for kind in kinds:
        queue.add(report(kind))
    assert [kind for _, kind, _ in held(queue)] == kinds


def test_what_is_acknowledged_is_forgotten_and_its_numbers_are_not_used_again() -> None:
    queue = ReportQueue()
    for _ in range(5):
        queue.add(report("loss"))
    queue.acknowledge(3)
    assert held(queue) == [(4, "loss", A), (5, "loss", A)]
    queue.acknowledge(2)
    assert len(queue) == 2
    queue.acknowledge(10**9)
    assert len(queue) == 0
    assert queue.add(report("loss")).number == 6


def test_a_state_that_was_acknowledged_is_not_looked_for_again() -> None:
    queue = ReportQueue()
    queue.add(report("heartbeating"))
    queue.acknowledge(1)
    assert queue.add(report("stopped")).number == 2
    assert held(queue) == [(2, "stopped", A)]


def test_after_gives_no_more_than_is_wanted() -> None:
    queue = ReportQueue()
    for _ in range(5):
        queue.add(report("loss"))
    assert [one.number for one in queue.after(1, 2)] == [2, 3]
    assert [one.number for one in queue.after(4, 2)] == [5]
    assert queue.after(5, 2) == []


def test_a_full_queue_gives_way_on_the_oldest_that_is_no_verdict() -> None:
    queue = ReportQueue(limit=3)
    for kind, uuid in [("vote", A), ("loss", A), ("heartbeating", B), ("notice", A)]:
        queue.add(report(kind, uuid))
    assert held(queue) == [(1, "vote", A), (3, "heartbeating", B), (4, "notice", A)]
    queue.add(report("vote"))
    assert held(queue) == [(1, "vote", A), (4, "notice", A), (5, "vote", A)]
    assert queue.dropped == 2
    # The state that gave way is not mistaken for one that waits.
    queue.acknowledge(5)
    queue.add(report("stopped", B))
    assert held(queue) == [(6, "stopped", B)]


def test_a_queue_full_of_verdicts_gives_way_on_what_comes_and_then_on_the_oldest() -> None:
    queue = ReportQueue(limit=2)
    for kind in ("vote", "notice", "loss"):
        queue.add(report(kind))
    assert held(queue) == [(1, "vote", A), (2, "notice", A)]
    queue.add(report("vote"))
    assert held(queue) == [(2, "notice", A), (4, "vote", A)]
    assert queue.dropped == 2


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["heartbeating", "stopped", "loss", "unhealthy", "vote", "notice"]),
            st.sampled_from([A, B]),
        ),
        st.integers(0, 30),
    ),
    max_size=60,
)


@given(steps=STEPS, limit=st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_any_history(steps: Sequence[tuple[str, str] | int], limit: int) -> None:
    queue = ReportQueue(limit)
    last = acknowledged = 0
    for step in steps:
        if isinstance(step, int):
            queue.acknowledge(step)
            acknowledged = max(acknowledged, min(step, last))
        else:
            last = queue.add(report(*step)).number
        waiting = held(queue)
        numbers = [number for number, _, _ in waiting]
        assert numbers == sorted(set(numbers))
        assert len(queue) == len(numbers) <= limit
        assert all(acknowledged < number <= last for number in numbers)
        states = [uuid for _, kind, uuid in waiting if kind in ("heartbeating", "stopped")]
        assert len(states) == len(set(states))
