"""Drains: how many commands run at once, and what becomes of those that were told."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    AGENT,
    ActionEnded,
    Began,
    CommandEnded,
    Condition,
    Notified,
    Observation,
    Placed,
    Purpose,
)
from hbtrio.simulate.order_observations import LOST, DrainBegan, DrainEnded
from support.judged import FINE, VIOLATED, command, during, judged

C = Condition
ONE = DrainBegan(40, "d1", "compute-0", 1)
TWO = DrainBegan(40, "d1", "compute-0", 2)
ENDED = DrainEnded(60, "d1", "drained")
HERE = Placed(1, "vm0", "compute-0")
BY_AGENT = DrainBegan(40, "d1", AGENT, 1)


def told(at_s: float, instance: str = "vm0", event: str = "stop", drain: str = "d1") -> Notified:
    return Notified(at_s, instance, event, f"{drain} {instance}")


def acts(at_s: float, instance: str = "vm0", purpose: Purpose = Purpose.ACTION) -> Observation:
    return command(at_s, "shutdown", purpose, f"c-{instance}", instance)


FIRST = [told(50), acts(51)]
SECOND = [told(52, "vm1"), acts(53, "vm1")]
THIRD = [told(54, "vm2"), acts(55, "vm2")]


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([ONE, *FIRST], FINE),
        ([ONE, *FIRST, *SECOND], VIOLATED),
        ([*FIRST, *SECOND], FINE),  # there is no drain
        ([ONE, *FIRST, CommandEnded(51.9, "c-vm0", "failed"), *SECOND], FINE),
        ([ONE, *FIRST, told(52, "vm1"), CommandEnded(52.5, "c-vm0", "done"), *SECOND[1:]], FINE),
        # The next one's command is of another action: its own is over.
        (
            [
                ONE,
                *FIRST,
                CommandEnded(51.5, "c-vm0", "done"),
                ActionEnded(51.9, "d1 vm0"),
                *SECOND,
                acts(54),
            ],
            FINE,
        ),
        ([ONE, *FIRST, ActionEnded(51.9, "d1 vm0"), *SECOND], VIOLATED),
        ([TWO, *FIRST, *SECOND], FINE),
        ([TWO, *FIRST, *SECOND, *THIRD], VIOLATED),
        # Somebody else's.
        ([ONE, *FIRST, acts(53, "vm1")], FINE),
        ([ONE, *FIRST, Notified(52, "vm1", "stop", "act-1"), acts(53, "vm1")], FINE),
        ([ONE, *FIRST, told(52, "vm1"), acts(53, "vm1", Purpose.CORRECTIVE)], FINE),
        (
            [ONE, *FIRST, told(52, "vm1"), command(53, "resume", Purpose.ACTION, "c2", "vm1")],
            FINE,
        ),
        (
            [
                ONE,
                DrainBegan(41, "d2", "compute-1", 1),
                *FIRST,
                told(52, "vm1", drain="d2"),
                acts(53, "vm1"),
            ],
            FINE,
        ),
    ],
)
def test_no_more_actions_at_once_than_asked_for(stream: list[Observation], outcome: str) -> None:
    assert judged("drain-bounded", *stream).outcome == outcome


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([ONE, told(50), ENDED], VIOLATED),
        ([ONE, told(50)], FINE),  # it goes on
        ([ONE, told(50), acts(51), ENDED], FINE),
        ([ONE, told(50), told(51, event="resume"), ENDED], FINE),
        ([ONE, told(50), ENDED, told(60.9, event="resume")], FINE),  # on its way
        ([ONE, told(50), ENDED, told(61.1, event="resume")], VIOLATED),
        ([ONE, told(50), acts(51), told(52, event="resume"), told(53), ENDED], VIOLATED),
        ([ONE, told(50), Began(55, C.VM_GONE, "vm0"), ENDED], FINE),
        ([ONE, told(50), acts(51, "vm1"), ENDED], VIOLATED),
        ([ONE, Notified(50, "vm0", "stop", "act-1"), ENDED], FINE),
        ([ONE, told(50), DrainEnded(60, "d2", "drained")], FINE),
        ([ONE, told(50), DrainEnded(60, "d1", LOST)], FINE),  # with its machine
        ([ONE, told(50), *during(51, 52, C.GUEST_DOWN), ENDED], "guest-away"),
        ([ONE, *during(40, 49, C.CHANNEL_DISTURBED), told(50), ENDED], "guest-away"),
        ([*during(20, 30, C.CHANNEL_DISTURBED), ONE, told(50), ENDED], VIOLATED),
        ([HERE, BY_AGENT, told(50), ENDED], VIOLATED),
        ([HERE, BY_AGENT, told(50), *during(55, 56, C.LINK_DOWN, "compute-0"), ENDED], "unlinked"),
        ([HERE, BY_AGENT, told(50), *during(55, 56, C.DOWN, AGENT), ENDED], "unlinked"),
        ([HERE, BY_AGENT, told(50), *during(55, 56, C.LINK_DOWN, "compute-1"), ENDED], VIOLATED),
        ([HERE, ONE, told(50), *during(55, 56, C.DOWN, "compute-0"), ENDED], VIOLATED),
    ],
)
def test_who_was_told_has_the_action_or_its_end(stream: list[Observation], outcome: str) -> None:
    assert judged("drain-bounded", *stream).outcome == outcome
