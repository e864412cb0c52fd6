"""Sightings: each is counted when it was seen, and not when it was nearly seen."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    ActionEnded,
    Began,
    CommandEnded,
    Condition,
    Decided,
    Observation,
    Owner,
    ProcessStarted,
    Recorded,
    RejectArrived,
    Struck,
    Verdict,
)
from hbtrio.simulate.order_observations import LOST, DrainBegan, DrainEnded, Refused
from hbtrio.simulate.sightings import Sighting, SightingCounter
from hbtrio.simulate.truth import Truth
from support.judged import action, asked, beating, command, during, loss, reported

C = Condition
ASKED = asked(40, 50)
DRAIN = DrainBegan(40, "d1", "compute-0", 1)
DOWN = Began(45, C.DOWN, "compute-0")
HUNG = [*beating(), Began(20, C.VM_HUNG, "vm0")]


def seen(*stream: Observation, corrects: bool = True) -> dict[Sighting, int]:
    truth = Truth()
    counter = SightingCounter(truth, corrects=corrects)
    for observation in stream:
        truth.see(observation)
        counter.see(observation)
    return dict(counter.counts)


CASES: list[tuple[Sighting, list[Observation], list[Observation]]] = [
    (
        Sighting.LATE_VERDICT,
        [ASKED, Verdict(49.76, "r1", "accept")],
        [ASKED, Verdict(49.74, "r1", "accept")],
    ),
    (
        Sighting.LATE_VERDICT,
        [ASKED, Verdict(50, "r1", "accept")],
        [ASKED, Verdict(50.01, "r1", "accept")],
    ),
    (
        Sighting.REJECT_AT_STOPPED,
        [Began(44, C.STOPPED, "agent"), RejectArrived(45, "agent", "r1")],
        [Began(44, C.STOPPED, "agent"), RejectArrived(45, "compute-0", "r1")],
    ),
    (Sighting.DEATH_IN_VOTE, [ASKED, DOWN], [asked(40, 44.9), DOWN]),
    (Sighting.DEATH_IN_VOTE, [ASKED, DOWN], [asked(40, 50, vote=False), DOWN]),
    (Sighting.DEATH_IN_VOTE, [ASKED, DOWN], [ASKED, Verdict(42, "r1", "accept"), DOWN]),
    (
        Sighting.POWER_CUT_IN_VOTE,
        [ASKED, Struck(45, "cut-power-of-agent", "agent")],
        [ASKED, Struck(45, "kill-agent", "agent")],
    ),
    (
        Sighting.VERDICT_PAST_VIM,
        [ASKED, *during(42, 43, C.VIM_AWAY, "vim"), Verdict(45, "r1", "accept")],
        [*during(30, 39, C.VIM_AWAY, "vim"), ASKED, Verdict(45, "r1", "accept")],
    ),
    (
        Sighting.EXPIRED,
        [Refused(45, "compute-0", "r1")],
        [Decided(45, "compute-0", "r1", "timeout")],
    ),
    (
        Sighting.OVERRIDDEN,
        [Decided(45, "agent", "r1", "accept", True)],
        [Decided(45, "agent", "r1", "accept")],
    ),
    (
        Sighting.FLEET_GROUP,
        [Recorded(45, "r1", "reject", by_group=True)],
        [Recorded(45, "r1", "reject")],
    ),
    (
        Sighting.LOSS_WITHOUT_LINK,
        [Began(20, C.LINK_DOWN, "compute-0"), loss(30)],
        [*during(20, 30, C.LINK_DOWN, "compute-0"), loss(30)],
    ),
    (
        Sighting.LOSS_AFTER_RESTART,
        [*HUNG, ProcessStarted(30, "compute-0"), loss(60)],
        [*HUNG, loss(24), ProcessStarted(30, "compute-0"), loss(60)],
    ),
    (
        Sighting.LOSS_AFTER_RESTART,
        [*HUNG, ProcessStarted(30, "compute-0"), loss(60)],
        [ProcessStarted(0, "compute-0"), *HUNG, ProcessStarted(30, "compute-1"), loss(60)],
    ),
    (
        Sighting.TAKEOVER,
        [action(40), ProcessStarted(45, "agent"), ActionEnded(50, "a1")],
        [action(40), ProcessStarted(45, "compute-0"), ActionEnded(50, "a1")],
    ),
    (
        Sighting.TAKEOVER,
        [action(40), ProcessStarted(45, "agent"), ActionEnded(50, "a1")],
        [action(40), ActionEnded(44, "a1"), ProcessStarted(45, "agent")],
    ),
    (
        Sighting.TAKEN_FROM_VIM,
        [action(40), action(41, Owner.OPERATOR, "a2")],
        [action(40, Owner.OPERATOR), action(41, Owner.VIM, "a2")],
    ),
    (
        Sighting.RETRIED,
        [command(50), CommandEnded(51, "c1", "failed"), command(60, number="c2")],
        [command(50), CommandEnded(51, "c1", "done"), command(60, number="c2")],
    ),
    (Sighting.PAUSED, [reported(50, "not-acted", "paused")], [reported(50, "paused")]),
    (
        Sighting.PAUSED,
        [loss(50), reported(51, "paused")],
        [loss(50), command(50.5), reported(51, "paused")],
    ),
    (
        Sighting.PAUSED,
        [loss(50), reported(51, "paused")],
        [loss(50), reported(50.5, "heartbeating"), reported(51, "paused")],
    ),
    (Sighting.OWNED, [reported(50, "not-acted", "owner")], [reported(50, "not-acted", "limit")]),
    (Sighting.BRAKE, [reported(50, "not-acted", "brake")], [reported(50, "not-acted", "busy")]),
    (
        Sighting.LIBVIRT_SILENT,
        [reported(50, "not-acted", "libvirt-silent")],
        [reported(50, "not-acted", "policy")],
    ),
    (Sighting.HELD, [reported(50, "not-acted", "hold")], [reported(50, "hold")]),
    (Sighting.GROUP, [reported(50, "not-acted", "group")], [reported(50, "not-acted", "busy")]),
    (
        Sighting.DRAIN_OUTLIVED,
        [DRAIN, ProcessStarted(45, "compute-0"), DrainEnded(50, "d1", "drained")],
        [DRAIN, ProcessStarted(45, "compute-1"), DrainEnded(50, "d1", "drained")],
    ),
    (
        Sighting.DRAIN_OUTLIVED,
        [DRAIN, ProcessStarted(45, "compute-0"), DrainEnded(50, "d1", "cancelled")],
        [DRAIN, ProcessStarted(45, "compute-0"), DrainEnded(50, "d1", LOST)],
    ),
]


@pytest.mark.parametrize(("sighting", "seen_in", "not_in"), CASES)
def test_a_sighting_is_counted(
    sighting: Sighting, seen_in: list[Observation], not_in: list[Observation]
) -> None:
    assert seen(*seen_in).get(sighting) == 1
    assert sighting not in seen(*not_in)


def test_each_sighting_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(Sighting)


def test_a_vm_that_its_host_does_not_correct_is_just_paused() -> None:
    assert seen(loss(50), reported(51, "paused"), corrects=False) == {}


def test_sightings_add_up() -> None:
    stream = [*HUNG, ProcessStarted(30, "compute-0"), loss(60), *HUNG[:0]]
    again = [Began(70, C.VM_HUNG, "vm0"), ProcessStarted(75, "compute-0"), loss(90)]
    assert seen(*stream, *again) == {Sighting.LOSS_AFTER_RESTART: 2}
