"""Notices: none after a reject, and each with an end."""

from __future__ import annotations

import pytest

from hbtrio.simulate.invariants.notices import ENDS
from hbtrio.simulate.observations import (
    ActionEnded,
    Began,
    Condition,
    Decided,
    Notified,
    Observation,
    Owner,
    Placed,
    Recorded,
    Verdict,
)
from hbtrio.wire.vocabulary import ACTION_TABLE, Event
from support.judged import FINE, VIOLATED, action, asked, during, judged, reported

C = Condition


def notified(at_s: float, event: str = "stop", action: str = "a1") -> Notified:
    return Notified(at_s, "vm0", event, action)


def rejected(at_s: float = 45, request: str = "r1") -> Verdict:
    return Verdict(at_s, request, "reject")


ASKED = asked(40, 50)
AGAIN = [asked(60, 70, "r2"), Verdict(65, "r2", "accept")]


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([ASKED, rejected(), notified(46)], VIOLATED),
        ([ASKED, Verdict(45, "r1", "accept"), notified(46)], FINE),
        ([ASKED, notified(44), rejected()], FINE),
        ([ASKED, rejected(), notified(46, action="a2")], FINE),
        ([ASKED, rejected(), notified(46, "resume")], FINE),
        ([ASKED, rejected(), *AGAIN, notified(66)], FINE),
        ([ASKED, rejected(), asked(60, 70, "r2"), notified(66)], VIOLATED),
        ([asked(40, 50, vote=False), rejected(), notified(46)], FINE),
        (
            [ASKED, rejected(), Decided(45.5, "agent", "r1", "accept", True), notified(46)],
            "overridden",
        ),
        ([ASKED, rejected(), Recorded(45.5, "r1", "accept", True), notified(46)], "overridden"),
        ([ASKED, rejected(), Recorded(45.5, "r2", "accept", True), notified(46)], VIOLATED),
        ([ASKED, rejected(), Recorded(45.5, "r1", "accept"), notified(46)], VIOLATED),
        ([ASKED, rejected(), reported(45.5, "overridden"), notified(46)], "overridden"),
        ([ASKED, reported(44, "overridden"), rejected(), notified(46)], VIOLATED),
        ([ASKED, *during(41, 49, C.VIM_AWAY, "vim"), rejected(50.1), notified(51)], "gone-on"),
        ([ASKED, *during(41, 49, C.VIM_AWAY, "vim"), rejected(49.9), notified(51)], VIOLATED),
        ([*during(30, 39, C.VIM_AWAY, "vim"), ASKED, rejected(50.1), notified(51)], VIOLATED),
    ],
)
def test_no_notice_follows_a_reject(stream: list[Observation], outcome: str) -> None:
    assert judged("no-notice-after-reject", *stream).outcome == outcome


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([notified(50)], VIOLATED),
        ([notified(50), notified(379, "resume")], FINE),
        ([notified(50), notified(381, "resume")], VIOLATED),
        ([notified(50), notified(60, "unpause")], VIOLATED),
        ([notified(50), Began(60, C.VM_GONE, "vm0")], FINE),
        ([notified(50), Began(60, C.VM_GONE, "vm1")], VIOLATED),
        ([notified(50, "resume")], FINE),
        ([notified(50, "live_migrate_begin"), notified(3709, "live_migrate_end")], FINE),
        ([notified(50, "live_migrate_begin"), notified(3711, "live_migrate_end")], VIOLATED),
        ([notified(50), notified(60), notified(70, "resume")], FINE),
        ([notified(50), *during(60, 61, C.GUEST_DOWN)], "guest-away"),
        ([*during(40, 49, C.GUEST_DOWN), notified(50)], VIOLATED),
        ([notified(50), *during(60, 61, C.VM_STALLED)], VIOLATED),
        ([notified(50), *during(60, 61, C.VIM_AWAY, "vim")], "vim-away"),
        ([*during(40, 49, C.VIM_AWAY, "vim"), notified(50)], VIOLATED),
    ],
)
def test_every_notice_has_its_end(stream: list[Observation], outcome: str) -> None:
    assert judged("notice-ended", *stream).outcome == outcome


def test_the_ends_are_those_of_the_event_table() -> None:
    ends: dict[str, set[str]] = {}
    for rule in ACTION_TABLE.values():
        if rule.before is not None:
            ends[rule.before] = {e for e in (rule.after, rule.cancelled) if e is not None}
    assert ends == {event: set(of) for event, of in ENDS.items()}
    assert {Event(word) for word in ENDS} == set(ends)


ACTED = [Placed(1, "vm0", "compute-0"), action(45, Owner.OPERATOR), notified(50)]
ENDED = ActionEnded(60, "a1")


@pytest.mark.parametrize(
    ("stream", "end_s", "outcome"),
    [
        ([*ACTED, ENDED], 100, VIOLATED),
        ([*ACTED, ENDED], 60.9, FINE),
        ([*ACTED, ENDED, notified(60.5, "resume")], 100, FINE),
        ([*ACTED, ActionEnded(60, "a2")], 100, FINE),
        ([*ACTED, Began(55, C.VM_PAUSED, "vm0"), ENDED], 100, FINE),
        ([*ACTED, *during(55, 58, C.DOWN, "compute-0"), ENDED], 100, FINE),
        ([*ACTED, *during(55, 58, C.DOWN, "compute-0"), ENDED], 400, VIOLATED),
        ([*ACTED, *during(55, 59.5, C.STOPPED, "compute-0"), ENDED], 400, "host-away"),
        ([*ACTED, *during(55, 60.5, C.VM_STALLED), ENDED], 100, "guest-away"),
        ([*ACTED, *during(55, 60.5, C.GUEST_LYING), ENDED], 100, "guest-away"),
        ([*ACTED, *during(55, 58, C.VM_STALLED), ENDED], 100, VIOLATED),
        ([*ACTED, *during(55, 58, C.LINK_DOWN, "compute-0"), ENDED], 100, FINE),
        ([*ACTED, *during(55, 58, C.DOWN, "agent"), ENDED], 100, FINE),
        ([*ACTED, *during(55, 58, C.DISK_BAD, "agent"), ENDED], 100, FINE),
        ([*ACTED, *during(55, 58, C.DISK_BAD, "agent"), ENDED], 400, VIOLATED),
        ([*ACTED[:1], action(45), notified(50), ENDED], 100, FINE),
        ([action(30, number="a2"), *ACTED, ENDED], 100, "both"),
        ([action(30, number="a2"), *ACTED, ActionEnded(55, "a2"), ENDED], 100, "both"),
        ([action(30, number="a2"), ActionEnded(49, "a2"), *ACTED, ENDED], 100, VIOLATED),
        # An operator's action that was not heard of yet, and one that nobody takes from the VIM.
        ([action(30, number="a2"), *ACTED[:1], notified(50, action="")], 400, "both"),
        ([*ACTED[:1], notified(50, action="")], 400, VIOLATED),
        ([action(30, Owner.OPERATOR, "a2"), *ACTED, ENDED], 100, VIOLATED),
    ],
)
def test_an_operator_s_action_ends_after_its_notices(
    stream: list[Observation], end_s: float, outcome: str
) -> None:
    ordered = sorted(stream, key=lambda one: one.at_s)
    assert judged("notice-ended", *ordered, end_s=end_s).outcome == outcome
