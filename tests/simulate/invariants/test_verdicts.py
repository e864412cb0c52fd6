"""Verdicts: one for each question, in time; a reject stays one; the history agrees."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    Asked,
    Began,
    Condition,
    Decided,
    Observation,
    Over,
    Owner,
    Placed,
    ProcessStarted,
    Recorded,
    RejectArrived,
    Struck,
    Verdict,
)
from support.judged import FINE, VIOLATED, asked, during, judged

C = Condition
ASKED = asked(40, 50)
BY_OPERATOR = asked(40, 50, owner=Owner.OPERATOR)
PLACED = Placed(1, "vm0", "compute-0")


def verdict(at_s: float, result: str = "accept", request: str = "r1") -> Verdict:
    return Verdict(at_s, request, result)


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([ASKED, verdict(50.04)], FINE),
        ([ASKED], VIOLATED),
        ([ASKED, verdict(50.06)], VIOLATED),
        ([verdict(50)], VIOLATED),
        ([ASKED, verdict(45, request="r2")], VIOLATED),
        ([verdict(39.96), ASKED], "overtook"),
        ([verdict(39.94), ASKED], VIOLATED),
        ([asked(40, 50, vote=False)], VIOLATED),
        ([*during(30, 40.1, C.STOPPED, "agent"), ASKED], "agent-away"),
        ([*during(30, 39.9, C.STOPPED, "agent"), ASKED], VIOLATED),
        ([ASKED, *during(45, 46, C.DOWN, "agent")], "agent-away"),
        ([ASKED, *during(45, 46, C.DISK_BAD, "agent")], "agent-away"),
        ([ASKED, *during(50.1, 51, C.DOWN, "agent")], VIOLATED),
        ([ASKED, *during(45, 46, C.STOPPED, "compute-0")], VIOLATED),
        ([ASKED, *during(45, 46, C.VIM_AWAY, "vim")], "vim-away"),
        ([BY_OPERATOR, *during(45, 46, C.VIM_AWAY, "vim")], VIOLATED),
        ([BY_OPERATOR, *during(45, 46, C.STOPPED, "agent")], "agent-away"),
        ([PLACED, BY_OPERATOR, *during(45, 46, C.LINK_DOWN, "compute-0")], "agent-away"),
        ([PLACED, BY_OPERATOR, *during(45, 46, C.LINK_DOWN, "compute-1")], VIOLATED),
        ([PLACED, ASKED, *during(45, 46, C.LINK_DOWN, "compute-0")], VIOLATED),
    ],
)
def test_every_question_has_its_verdict_in_time(stream: list[Observation], outcome: str) -> None:
    ordered = sorted(stream, key=lambda observation: observation.at_s)
    assert judged("one-verdict", *ordered).outcome == outcome


def test_an_agent_that_was_away_sends_nothing_late() -> None:
    down = during(45, 55, C.DOWN, "agent")
    assert judged("one-verdict", ASKED, *down, verdict(56)).violations == (
        "r1 about stop of vm0, due at 50.000 s, has its verdict only now",
    )


def test_an_operator_waits_for_a_host_that_was_stopped() -> None:
    stopped = during(45, 55, C.STOPPED, "compute-0")
    late = [PLACED, BY_OPERATOR, *stopped, verdict(56)]
    assert judged("one-verdict", *late).outcome == "agent-away"
    assert judged("one-verdict", PLACED, BY_OPERATOR, verdict(56)).outcome == VIOLATED


def test_a_slow_vim_gets_late_what_was_sent_in_time() -> None:
    slow = during(45, 55, C.VIM_AWAY, "vim")
    assert judged("one-verdict", ASKED, *slow, verdict(56)).outcome == "vim-away"


def test_an_agent_that_was_stopped_at_the_sending_is_excused_at_the_thaw_only() -> None:
    def late(at_s: float) -> tuple[str, ...]:
        stop = during(49.99, 55, C.STOPPED, "agent")
        return judged("one-verdict", ASKED, *stop, verdict(at_s)).excused

    assert "stopped-between" in late(55.004)
    assert "stopped-between" not in late(55.006)


def test_a_missing_verdict_is_one_violation_even_if_it_comes_late() -> None:
    assert len(judged("one-verdict", ASKED, verdict(60)).violations) == 1


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([verdict(50)], FINE),
        ([verdict(50), verdict(50, request="r2")], FINE),
        ([verdict(50), verdict(51)], VIOLATED),
        ([verdict(50), verdict(51, "reject")], VIOLATED),
    ],
)
def test_a_verdict_comes_once(stream: list[Observation], outcome: str) -> None:
    assert judged("verdict-once", *stream).outcome == outcome


ARRIVED = RejectArrived(45, "agent", "r1")


def decided(
    at_s: float, result: str = "accept", *, process: str = "agent", overridden: bool = False
) -> Decided:
    return Decided(at_s, process, "r1", result, overridden)


#: Its disk was full when the agent was started.
NO_DISK = (Began(44, C.DISK_BAD, "agent"), ProcessStarted(44, "agent"))


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([ARRIVED, decided(46)], VIOLATED),
        ([ARRIVED, decided(46, "timeout")], VIOLATED),
        ([ARRIVED, decided(46, "reject")], FINE),
        ([ARRIVED, decided(46, process="compute-0")], FINE),
        ([RejectArrived(45, "agent", "r2"), decided(46)], FINE),
        ([decided(44), ARRIVED], FINE),
        ([ARRIVED, decided(46, overridden=True)], "overridden"),
        ([ARRIVED, decided(45.004)], "crossed"),
        ([ARRIVED, decided(45.006)], VIOLATED),
        ([ARRIVED, RejectArrived(45.005, "agent", "r1"), decided(45.006)], VIOLATED),
        ([ARRIVED, ProcessStarted(46, "agent"), decided(47)], "died"),
        ([ARRIVED, ProcessStarted(46, "compute-0"), decided(47)], VIOLATED),
        ([ProcessStarted(44, "agent"), ARRIVED, decided(47)], VIOLATED),
        ([*NO_DISK, ARRIVED, Over(46, C.DISK_BAD, "agent"), decided(47)], "no-disk"),
        ([*NO_DISK, Over(44.9, C.DISK_BAD, "agent"), ARRIVED, decided(47)], VIOLATED),
        (
            [
                ProcessStarted(43, "agent"),
                NO_DISK[0],
                ARRIVED,
                Over(46, C.DISK_BAD, "agent"),
                decided(47),
            ],
            VIOLATED,
        ),
    ],
)
def test_a_reject_stays_a_reject(stream: list[Observation], outcome: str) -> None:
    assert judged("reject-kept", *stream).outcome == outcome


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([decided(45, "reject"), decided(46)], VIOLATED),
        ([decided(45), decided(46, "reject")], VIOLATED),
        ([decided(45), decided(46, "timeout")], FINE),
        ([decided(45, "reject"), decided(46, process="compute-0")], FINE),
        ([decided(45, "reject"), decided(46, overridden=True)], "overridden"),
        ([decided(45, "reject"), ProcessStarted(45.5, "agent"), decided(46)], "died"),
        ([ProcessStarted(44, "agent"), decided(45, "reject"), decided(46)], VIOLATED),
    ],
)
def test_a_process_does_not_contradict_itself(stream: list[Observation], outcome: str) -> None:
    assert judged("decided-once", *stream).outcome == outcome


def line(at_s: float, result: str = "accept") -> Recorded:
    return Recorded(at_s, "r1", result)


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([verdict(50)], VIOLATED),
        ([line(49), verdict(50)], FINE),
        ([verdict(50), line(54.9)], FINE),
        ([verdict(50), line(55.1)], VIOLATED),
        ([line(49)], FINE),
        ([line(49, "reject"), verdict(50)], VIOLATED),
        ([verdict(50, "reject"), line(51)], VIOLATED),
        ([line(49, "timeout"), verdict(50, "allow")], FINE),
        ([line(49), verdict(50), line(53)], VIOLATED),
        ([line(49), verdict(50), Struck(52, "cut-power-of-agent", "agent"), line(53)], "lost"),
        ([Struck(48, "cut-power-of-agent", "agent"), line(49), verdict(50), line(53)], VIOLATED),
        ([line(49), verdict(50), Struck(52, "kill-agent", "agent"), line(53)], VIOLATED),
        ([PLACED, BY_OPERATOR, line(45), ProcessStarted(46, "compute-0"), line(47)], "asked-again"),
        ([PLACED, BY_OPERATOR, ProcessStarted(44, "compute-0"), line(45), line(47)], VIOLATED),
        ([PLACED, ASKED, line(45), ProcessStarted(46, "compute-0"), line(47)], VIOLATED),
        ([line(49), line(49.5, "reject"), verdict(50)], VIOLATED),
        ([verdict(50), *during(51, 52, C.DISK_BAD, "agent"), line(56)], "agent-away"),
        ([verdict(50), *during(51, 58, C.DOWN, "agent"), line(59)], "agent-away"),
        ([*during(40, 48, C.DISK_BAD, "agent"), verdict(50), line(57)], "agent-away"),
        ([*during(40, 48, C.DISK_BAD, "agent"), verdict(50), line(107.9)], VIOLATED),
        ([*during(40, 48, C.DISK_BAD, "agent"), verdict(50)], VIOLATED),
        ([*during(40, 48, C.DOWN, "agent"), verdict(54), line(107.9)], VIOLATED),
        ([verdict(50), *during(51, 58, C.DOWN, "agent")], VIOLATED),
        ([*during(51, 52, C.DOWN, "compute-0"), verdict(53)], VIOLATED),
        (
            [PLACED, BY_OPERATOR, verdict(45), *during(46, 48, C.DISK_BAD, "agent"), line(51)],
            "agent-away",
        ),
        (
            [PLACED, BY_OPERATOR, verdict(45), *during(46, 48, C.LINK_DOWN, "compute-0"), line(51)],
            "agent-away",
        ),
        ([PLACED, ASKED, verdict(45), *during(46, 48, C.LINK_DOWN, "compute-0")], VIOLATED),
        ([PLACED, BY_OPERATOR, verdict(45), ProcessStarted(46, "compute-0")], "host-died"),
        ([PLACED, BY_OPERATOR, ProcessStarted(44, "compute-0"), verdict(45)], VIOLATED),
        ([PLACED, BY_OPERATOR, verdict(45), ProcessStarted(46, "compute-1")], VIOLATED),
        ([PLACED, ASKED, verdict(45), ProcessStarted(46, "agent")], VIOLATED),
        ([PLACED, ASKED, verdict(45), ProcessStarted(46, "compute-0")], VIOLATED),
    ],
)
def test_the_history_agrees(stream: list[Observation], outcome: str) -> None:
    assert judged("history-agrees", *stream).outcome == outcome


def test_votes_of_all_requesters_and_notices_are_judged_alike() -> None:
    """No field of the question but its requester matters."""
    stop: tuple[Began, Over] = during(45, 46, C.STOPPED, "compute-0")
    for one in (ASKED, BY_OPERATOR, asked(40, 50, event="pause", vote=False)):
        assert isinstance(one, Asked)
        assert judged("one-verdict", one, *stop).outcome == VIOLATED
