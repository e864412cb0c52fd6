"""Groups across hosts: votes that pass, and commands that begin, while others are down."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    AGENT,
    ActionBegan,
    ActionEnded,
    Asked,
    CommandBegan,
    CommandEnded,
    Condition,
    Grouped,
    Notified,
    Observation,
    Owner,
    Placed,
    ProcessStarted,
    Purpose,
    Reported,
    Verdict,
)
from support.judged import FINE, VIOLATED, during, judged

ALL = ("vm0", "vm1", "vm2")
ONE = Grouped(1, AGENT, 1, 300.0, ALL)
TWO = Grouped(1, AGENT, 2, 300.0, ALL)
PAIR = Grouped(1, AGENT, 1, 300.0, ("vm0", "vm2"))

#: Each heartbeats on a host of its own.
UP = [
    one
    for number, vm in enumerate(ALL)
    for one in (
        Placed(1, vm, f"compute-{number}"),
        Reported(1, f"compute-{number}", vm, "heartbeating"),
    )
]

#: vm1 is lost.
LOST = Reported(40, "compute-1", "vm1", "loss")


def vote(
    at_s: float,
    vm: str = "vm0",
    *,
    owner: Owner = Owner.VIM,
    event: str = "stop",
    result: str = "allow",
) -> list[Observation]:
    """A vote of an action, and its verdict a second later."""
    request = f"{vm}-vote"
    return [
        Asked(at_s, request, vm, event, f"{vm}-1", True, at_s + 10, owner),
        Verdict(at_s + 1, request, result),
    ]


def by_vim(at_s: float, vm: str = "vm1", event: str = "stop") -> list[Observation]:
    """The VIM acts with the consent of a vote that passes a second later."""
    return [*vote(at_s, vm, event=event), ActionBegan(at_s + 1, f"{vm}-1", vm, Owner.VIM)]


def by_operator(at_s: float, vm: str = "vm1", event: str = "reboot") -> list[Observation]:
    """An operator acts by force."""
    return [
        ActionBegan(at_s, f"{vm}-1", vm, Owner.OPERATOR, voted=False),
        Asked(at_s, f"{vm}-notice", vm, event, f"{vm}-1", False, at_s + 10, Owner.OPERATOR),
    ]


def begins(at_s: float, vm: str = "vm0", name: str = "reboot") -> CommandBegan:
    host = f"compute-{vm[-1]}"
    return CommandBegan(at_s, f"{vm}-c", vm, host, name, Purpose.ACTION)


def told(at_s: float, event: str, vm: str = "vm1") -> Asked:
    return Asked(at_s, f"{vm}-told", vm, event, f"{vm}-1", False, at_s + 10, Owner.VIM)


BACK = [
    Reported(52, "compute-1", "vm1", "stopped"),
    Reported(55, "compute-1", "vm1", "heartbeating"),
]
ENDED = ActionEnded(55, "vm1-1")


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([LOST, *vote(50)], FINE),  # there is no group
        ([ONE, *vote(50)], FINE),
        ([ONE, LOST, *vote(50, result="reject")], FINE),
        # One that is down for whatever reason, as its host has said for long enough.
        ([ONE, LOST, *vote(50)], VIOLATED),
        ([ONE, LOST, *vote(50, owner=Owner.OPERATOR)], VIOLATED),
        ([TWO, LOST, *vote(50)], FINE),
        ([PAIR, LOST, *vote(50)], FINE),
        ([PAIR, Reported(40, "compute-2", "vm2", "loss"), *vote(50, "vm1")], FINE),
        ([ONE, LOST, *vote(41)], FINE),
        ([ONE, LOST, *vote(50, event="unpause")], FINE),
        ([ONE, LOST, Reported(45, "compute-1", "vm1", "heartbeating"), *vote(50)], FINE),
        ([ONE, Reported(40, "compute-0", "vm1", "loss"), *vote(50)], FINE),  # it has moved away
        # Who is down itself, or may be, makes nothing worse.
        ([ONE, LOST, Reported(45, "compute-0", "vm0", "loss"), *vote(50)], FINE),
        ([ONE, LOST, Reported(49, "compute-0", "vm0", "heartbeating"), *vote(50)], FINE),
        # The agent can't know of it.
        ([ONE, *during(38, 39, Condition.LINK_DOWN, "compute-1"), LOST, *vote(50)], "unlinked"),
        ([ONE, LOST, *during(48, 49, Condition.STOPPED, AGENT), *vote(50)], "unlinked"),
        ([ONE, *during(28, 29, Condition.LINK_DOWN, "compute-1"), LOST, *vote(50)], VIOLATED),
        # Our own actions.
        ([ONE, *by_vim(48), *vote(50)], VIOLATED),
        ([TWO, *by_vim(48), *vote(50)], FINE),
        ([ONE, *by_vim(48), begins(50)], VIOLATED),
        ([ONE, *by_vim(48, "vm0"), begins(50)], FINE),
        ([ONE, *by_vim(48), begins(50, name="resume")], FINE),
        ([ONE, begins(48, "vm1"), begins(50)], VIOLATED),
        ([ONE, begins(48, "vm1"), *vote(50)], VIOLATED),
        ([ONE, begins(48, "vm1", "resume"), begins(50)], FINE),
        ([ONE, begins(48, "vm1"), CommandEnded(49, "vm1-c", "done"), begins(50)], FINE),
        ([ONE, *by_operator(48), *vote(50)], VIOLATED),
        ([ONE, *by_operator(48, event="unpause"), *vote(50)], FINE),
        ([ONE, *by_operator(48), ActionEnded(49, "vm1-1"), *vote(50)], FINE),
        # Without consent the VIM acts, but nobody has let it.
        ([ONE, ActionBegan(49, "vm1-1", "vm1", Owner.VIM), *vote(50)], FINE),
        # What the VIM does is over once the VM is back, or as it says so.
        ([ONE, *by_vim(48), *BACK, *vote(60)], FINE),
        ([ONE, *by_vim(48, event="pause"), *BACK, *vote(60)], VIOLATED),
        ([ONE, *by_vim(48, event="pause"), *BACK, told(56, "unpause"), *vote(60)], FINE),
        (
            [
                *(ONE, *by_vim(48, event="pause"), *BACK),
                *(Notified(56, "vm1", "unpause", "vm1-1"), *vote(60)),
            ],
            FINE,
        ),
        ([ONE, *by_vim(48), ENDED, *vote(60)], FINE),
        # It lapses without its next step, and later with it.
        ([ONE, *by_vim(48), *vote(107)], VIOLATED),
        ([ONE, *by_vim(48), *vote(109)], FINE),
        ([ONE, *by_vim(48), told(50, "stop"), *vote(249)], VIOLATED),
        ([ONE, *by_vim(48), told(50, "stop"), *vote(251)], FINE),
        # An agent that is started anew may not know of it.
        ([ONE, *by_vim(48), ProcessStarted(49, AGENT), *vote(60)], FINE),
        ([ONE, *by_vim(48)[:2], ProcessStarted(49, AGENT), by_vim(48)[2], *vote(60)], FINE),
        # A host without a link acts all the same.
        (
            [ONE, *by_vim(48), *during(49, 50, Condition.LINK_DOWN, "compute-0"), begins(60)],
            "unlinked",
        ),
    ],
)
def test_no_more_are_let_down_at_once(stream: list[Observation], outcome: str) -> None:
    assert judged("fleet-group-kept", *UP, *stream).outcome == outcome
