"""Losses: who is well is not lost, who hangs is; each excuse, and what just misses it."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    DISTURBANCES,
    Began,
    CommandEnded,
    Condition,
    Observation,
    Over,
    Owner,
    Placed,
    ProcessStarted,
    Purpose,
)
from support.judged import (
    FINE,
    VIOLATED,
    action,
    beating,
    command,
    during,
    judged,
    loss,
    reported,
)

C = Condition


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([loss(50)], VIOLATED),
        ([command(50)], VIOLATED),
        ([reported(50, "stopped"), reported(51, "unhealthy")], FINE),
        ([command(50, purpose=Purpose.ACTION)], FINE),
        ([*during(20, 45.6, C.GUEST_STOPPED), loss(50)], "disturbed"),
        ([*during(20, 45.4, C.GUEST_STOPPED), loss(50)], VIOLATED),
        ([Began(20, C.VM_HUNG, "vm0"), loss(50)], "disturbed"),
        ([Began(20, C.VM_HUNG, "vm0"), command(50)], "disturbed"),
        ([Began(20, C.VM_HUNG, "vm1"), loss(50)], VIOLATED),
        # A host that stood still is no excuse: that is what the rule is about.
        ([*during(20, 50, C.STOPPED, "compute-0"), loss(50)], VIOLATED),
        ([*during(20, 45, C.GUEST_ILL), command(50)], "ill"),
        ([*during(20, 39.9, C.GUEST_ILL), command(50)], VIOLATED),
        ([*during(20, 45, C.GUEST_ILL), loss(50)], VIOLATED),
        ([command(50, "log")], "log"),
    ],
)
def test_who_is_well_is_not_lost(stream: list[Observation], outcome: str) -> None:
    assert judged("healthy-not-lost", *stream).outcome == outcome


@pytest.mark.parametrize("condition", DISTURBANCES)
def test_every_disturbance_excuses_a_loss(condition: Condition) -> None:
    assert judged("healthy-not-lost", Began(20, condition, "vm0"), loss(50)).outcome == "disturbed"


def test_a_disturbance_within_another_ends_with_the_longer_one() -> None:
    stream = [
        Began(20, C.VM_PAUSED, "vm0"),
        Began(21, C.VM_PAUSED, "vm0"),
        Over(22, C.VM_PAUSED, "vm0"),
        loss(50),
    ]
    assert judged("healthy-not-lost", *stream).outcome == "disturbed"


ACTS = command(22, purpose=Purpose.ACTION)
HUNG = [*beating(), Began(20, C.VM_HUNG, "vm0")]
HOST = "compute-0"


def started_in(*condition: Observation) -> list[Observation]:
    """A VM that hangs at 20 s, 2 s after its host was started."""
    stream = [ProcessStarted(18, HOST), *beating(18.5), Began(20, C.VM_HUNG, "vm0"), *condition]
    return sorted(stream, key=lambda one: one.at_s)


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        (HUNG, VIOLATED),
        ([*HUNG, loss(24.4)], FINE),
        ([*HUNG, loss(24.6)], VIOLATED),
        ([*HUNG, loss(24.4, "vm1")], VIOLATED),
        ([*HUNG, reported(22, "unwatched")], VIOLATED),
        ([*HUNG, Over(24.4, C.VM_HUNG, "vm0")], FINE),
        ([*HUNG, Began(24.4, C.VM_GONE, "vm0")], FINE),
        ([Placed(1, "vm0", HOST), Began(20, C.VM_HUNG, "vm0")], "silent-before"),
        (
            [*beating(), reported(19, "stopped"), Began(20, C.VM_HUNG, "vm0")],
            "silent-before",
        ),
        (started_in(*during(17, 21, C.LINK_DOWN, HOST)), "not-told"),
        (started_in(*during(17, 19.9, C.LINK_DOWN, HOST)), VIOLATED),
        (started_in(*during(19, 21, C.LINK_DOWN, HOST)), VIOLATED),
        (started_in(*during(17, 21, C.LINK_DOWN, "compute-1")), VIOLATED),
        (started_in(*during(17, 21, C.DOWN, "agent")), "not-told"),
        (started_in(*during(17, 21, C.DISK_BAD, "agent")), VIOLATED),
        ([*HUNG, action(22)], "announced"),
        ([*HUNG, ACTS, CommandEnded(23, "c1", "failed"), loss(192)], "announced"),
        ([*HUNG, ACTS, CommandEnded(23, "c1", "failed")], VIOLATED),
        ([*HUNG, ACTS, CommandEnded(23, "c1", "done"), loss(192)], "announced"),
        ([*HUNG, ACTS, CommandEnded(23, "c1", "done")], VIOLATED),
        ([*HUNG, action(24.6)], VIOLATED),
        ([*HUNG, *during(21, 22, C.VM_PAUSED)], "frozen"),
        ([*HUNG, *during(21, 22, C.VM_SAVING)], "frozen"),
        ([*HUNG, *during(21, 22, C.VM_MIGRATING)], "frozen"),
        ([*HUNG, *during(21, 22, C.VM_STALLED)], VIOLATED),
        ([*HUNG, *during(21, 22, C.LIBVIRT_SILENT, HOST)], "libvirt-silent"),
        ([*HUNG, *during(21, 22, C.LIBVIRT_SILENT, "compute-1")], VIOLATED),
    ],
)
def test_who_hangs_is_reported(stream: list[Observation], outcome: str) -> None:
    assert judged("hung-reported", *stream).outcome == outcome


@pytest.mark.parametrize(
    ("stopped_s", "due_s"),
    [
        ((10, 16.9), 24.5),  # calm again before the VM hangs
        ((10, 17.1), 35.0),
        ((21, 22), 36.0),
        ((21, 50), 64.0),
    ],
)
def test_a_host_that_stood_still_has_more_time(
    stopped_s: tuple[float, float], due_s: float
) -> None:
    def outcome(lost_s: float) -> str:
        host = during(*stopped_s, C.STOPPED, HOST)
        stream = sorted([*HUNG, *host, loss(lost_s)], key=lambda o: o.at_s)
        return "" if judged("hung-reported", *stream).violations == () else VIOLATED

    assert outcome(due_s - 0.1) == ""
    assert outcome(due_s + 0.1) == VIOLATED


def test_a_restarted_host_has_its_time_to_wait_for_absent_guests() -> None:
    restart = [*during(21, 24, C.DOWN, HOST), ProcessStarted(24, HOST)]
    assert judged("hung-reported", *HUNG, *restart, loss(192.9)).outcome == FINE
    assert judged("hung-reported", *HUNG, *restart, loss(193.1)).outcome == VIOLATED


def test_a_host_that_has_not_heard_it_since_its_start_has_that_time_too() -> None:
    stopped = during(10, 16, C.GUEST_STOPPED)
    restart = [*during(12, 14, C.DOWN, HOST), ProcessStarted(14, HOST)]
    stream = sorted([*HUNG, *stopped, *restart], key=lambda one: one.at_s)
    assert judged("hung-reported", *stream, loss(189.9)).outcome == FINE
    assert judged("hung-reported", *stream, loss(190.1)).outcome == VIOLATED
    heard = sorted([*stream, reported(14.1, "heartbeating")], key=lambda one: one.at_s)
    assert judged("hung-reported", *heard, loss(24.4)).outcome == FINE
    assert judged("hung-reported", *heard, loss(24.6)).outcome == VIOLATED


def test_a_host_that_stays_down_is_excused_for_as_long() -> None:
    down = Began(21, C.DOWN, HOST)
    assert judged("hung-reported", *HUNG, down, end_s=900).outcome == "host-away"


def test_a_vm_that_hangs_again_is_reported_again() -> None:
    stream = [*HUNG, loss(23), Over(30, C.VM_HUNG, "vm0"), reported(31, "heartbeating")]
    again = [*stream, Began(40, C.VM_HUNG, "vm0")]
    assert judged("hung-reported", *stream).outcome == FINE
    assert judged("hung-reported", *again, loss(44)).outcome == FINE
    assert judged("hung-reported", *again).violations == (
        "vm0 hangs since 40.000 s, its loss was due at 44.500 s",
    )


def test_what_is_due_after_the_end_is_not_judged() -> None:
    assert judged("hung-reported", *HUNG, end_s=24.4).outcome == FINE
    assert judged("hung-reported", *HUNG, end_s=24.6).outcome == VIOLATED


def test_an_operators_action_is_announced_too() -> None:
    assert judged("hung-reported", *HUNG, action(22, Owner.OPERATOR)).outcome == "announced"
