"""Acting: not on a frozen VM, one owner at a time, and again after a failure."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    AGENT,
    ActionBegan,
    ActionEnded,
    Began,
    CommandEnded,
    Condition,
    Decided,
    Notified,
    Observation,
    Owner,
    Placed,
    Purpose,
    Verdict,
)
from hbtrio.simulate.order_observations import DrainBegan, HoldSet
from support.judged import (
    FINE,
    VIOLATED,
    action,
    asked,
    beating,
    command,
    during,
    judged,
    loss,
    reported,
)

C = Condition


def acted(at_s: float, outcome: str) -> list[Observation]:
    began = command(at_s, purpose=Purpose.ACTION, number="c9")
    ended = CommandEnded(at_s + 1, "c9", outcome)
    return [action(at_s), began, ended, ActionEnded(at_s + 1, "a1")]


@pytest.mark.parametrize("condition", [C.VM_PAUSED, C.VM_SAVING, C.VM_MIGRATING])
def test_nothing_is_done_to_a_frozen_vm(condition: Condition) -> None:
    frozen = Began(40, condition, "vm0")
    assert judged("frozen-not-acted", frozen, command(50)).outcome == VIOLATED
    assert judged("frozen-not-acted", frozen, command(50, instance="vm1")).outcome == FINE


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([command(50)], FINE),
        ([Began(40, C.VM_HUNG, "vm0"), command(50)], FINE),
        ([*during(40, 49.9, C.VM_PAUSED), command(50)], FINE),
        ([Began(40, C.VM_PAUSED, "vm0"), command(50, purpose=Purpose.ACTION)], FINE),
        ([Began(40, C.VM_PAUSED, "vm0"), command(50, "log")], "log"),
        ([Began(48.1, C.VM_PAUSED, "vm0"), command(50)], "just-began"),
        ([Began(47.9, C.VM_PAUSED, "vm0"), command(50)], VIOLATED),
    ],
)
def test_a_frozen_vm_is_excused_only_so_far(stream: list[Observation], outcome: str) -> None:
    assert judged("frozen-not-acted", *stream).outcome == outcome


def test_a_host_without_libvirt_does_not_know() -> None:
    stream = [Began(40, C.VM_PAUSED, "vm0"), command(50)]
    assert judged("frozen-not-acted", *stream, libvirt=False).outcome == "no-libvirt"


VIM, OPERATOR, ACTION = Owner.VIM, Owner.OPERATOR, Purpose.ACTION


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        # Commands.
        ([command(50), command(51, number="c2")], VIOLATED),
        ([command(50, purpose=ACTION), command(51, number="c2")], VIOLATED),
        ([command(50), command(51, number="c2", purpose=ACTION)], VIOLATED),
        ([command(50), command(51, number="c2", instance="vm1")], FINE),
        ([command(50), CommandEnded(51, "c1", "done"), command(51, number="c2")], FINE),
        ([command(50), command(51, "log", number="c2")], "log"),
        ([command(50, "log"), command(51, number="c2")], "log"),
        # A command beside an action.
        ([action(40), command(50)], VIOLATED),
        ([action(40, OPERATOR), command(50)], VIOLATED),
        ([action(40, OPERATOR), command(50, purpose=ACTION)], FINE),
        ([action(40), ActionEnded(49, "a1"), command(50)], FINE),
        ([action(40), command(50, "log")], "log"),
        ([action(40), command(100)], "lapsed"),
        ([action(40), command(99.9)], VIOLATED),
        ([action(40), asked(50, 60), command(109.9)], VIOLATED),
        ([action(40), Notified(50, "vm0", "stop", "a1"), command(109.9)], VIOLATED),
        ([action(40), Notified(50, "vm0", "stop", "a1"), command(110)], "lapsed"),
        ([action(40, OPERATOR), command(500)], VIOLATED),
        # Actions.
        ([action(40), action(50, OPERATOR, "a2")], "taken"),
        ([action(40, OPERATOR), action(50, OPERATOR, "a2")], VIOLATED),
        ([action(40, OPERATOR), action(50, VIM, "a2")], VIOLATED),
        ([action(40, OPERATOR), action(50, VIM, "a2", voted=False)], "notice"),
        ([action(40), action(50, VIM, "a2")], VIOLATED),
        ([action(40), action(100, VIM, "a2")], "lapsed"),
        ([action(40, OPERATOR), ActionEnded(45, "a1"), action(50, VIM, "a2")], FINE),
    ],
)
def test_an_instance_has_one_owner(stream: list[Observation], outcome: str) -> None:
    assert judged("one-owner", *stream).outcome == outcome


MOVED = Placed(45, "vm0", "compute-1")


@pytest.mark.parametrize(
    ("owner", "stream", "outcome"),
    [
        (VIM, [MOVED], "moved"),
        (VIM, [MOVED, Placed(46, "vm0", "compute-0")], VIOLATED),
        (VIM, [Placed(45, "vm1", "compute-1")], VIOLATED),
        (OPERATOR, [MOVED], "moved"),
        (OPERATOR, [Placed(45, "vm1", "compute-1")], VIOLATED),
    ],
)
def test_whoever_acts_does_so_where_a_vm_is_now(
    owner: Owner, stream: list[Observation], outcome: str
) -> None:
    began = [Placed(1, "vm0", "compute-0"), action(40, OPERATOR)]
    assert judged("one-owner", *began, *stream, action(50, owner, "a2")).outcome == outcome


HERE_OF_AGENT = Placed(1, "vm0", "compute-0")


def _at(observation: Observation) -> float:
    return observation.at_s


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([], VIOLATED),
        ([*during(42, 43, C.DOWN, AGENT)], "untold"),
        ([*during(42, 43, C.LINK_DOWN, "compute-0")], "untold"),
        ([*during(42, 43, C.LINK_DOWN, "compute-1")], VIOLATED),
        ([*during(38, 39, C.DOWN, AGENT)], VIOLATED),
        # Its command still runs.
        ([*during(42, 43, C.DOWN, AGENT), command(44, purpose=Purpose.ACTION)], VIOLATED),
    ],
)
def test_an_agent_may_not_know_yet_that_an_action_of_its_drain_is_over(
    stream: list[Observation], outcome: str
) -> None:
    began = ActionBegan(40, "d1 vm0", "vm0", OPERATOR, host="compute-0")
    seen = sorted([HERE_OF_AGENT, DrainBegan(30, "d1", AGENT, 1), began, *stream], key=_at)
    assert judged("one-owner", *seen, action(50, OPERATOR, "a2")).outcome == outcome
    # Only of an agent.
    of_host = [HERE_OF_AGENT, DrainBegan(30, "d1", "compute-0", 1), began, *stream]
    later = sorted(of_host, key=_at)
    assert judged("one-owner", *later, action(50, OPERATOR, "a2")).outcome == VIOLATED


def test_an_agent_that_was_started_again_repeats_what_it_had_heard_last() -> None:
    drain = DrainBegan(30, "d1", AGENT, 1)
    began = ActionBegan(32, "d1 vm0", "vm0", OPERATOR, host="compute-0")
    ended = ActionEnded(35, "d1 vm0")  # its connection has gone
    own, again = action(40, OPERATOR, "a2"), ActionBegan(50, *_members(began))
    away = during(35, 49, C.DOWN, AGENT)
    seen = HERE_OF_AGENT, drain, began, away[0], ended, own
    running = command(41, purpose=Purpose.ACTION)
    assert judged("one-owner", *seen, running, away[1], again).outcome == "untold"
    assert judged("one-owner", HERE_OF_AGENT, drain, began, ended, own, again).outcome == VIOLATED
    # One that it has not told of before begins only now.
    assert judged("one-owner", *seen[:2], away[0], own, away[1], again).outcome == VIOLATED


def _members(began: ActionBegan) -> tuple[str, str, Owner, bool, str]:
    return began.action, began.instance, began.owner, began.voted, began.host


def test_an_action_of_a_drain_is_where_its_line_says() -> None:
    began = ActionBegan(40, "d1 vm0", "vm0", OPERATOR, host="compute-1")
    assert judged("one-owner", HERE_OF_AGENT, began, action(50, VIM, "a2")).outcome == "moved"


ACTS = action(49, VIM, "a2")


def verdict_of_vim(at_s: float, *, process: str = "compute-0") -> list[Observation]:
    """A vote of the VIM from 35 s on, which agrees, and the VIM's action upon it."""
    vote = asked(35, 60, action="a2")
    return [vote, Decided(at_s, process, "r1", "accept"), action(at_s + 0.1, VIM, "a2")]


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        (verdict_of_vim(39.9), "taken"),  # its host has agreed before
        (verdict_of_vim(50), VIOLATED),
        ([*verdict_of_vim(50), *during(44, 45, C.VIM_AWAY, "vim")], "unheard"),
        ([*verdict_of_vim(50), *during(44, 45, C.STOPPED, "agent")], "unheard"),
        ([*verdict_of_vim(50), *during(44, 45, C.DISK_BAD, "agent")], "unheard"),
        ([*verdict_of_vim(50), *during(44, 45, C.DOWN, "compute-0")], "unheard"),
        ([*verdict_of_vim(50), *during(44, 45, C.LINK_DOWN, "compute-0")], "unheard"),
        ([*verdict_of_vim(50), *during(44, 45, C.LINK_DOWN, "compute-1")], VIOLATED),
        ([*during(33, 34, C.VIM_AWAY, "vim"), *verdict_of_vim(50)], VIOLATED),
        ([Verdict(34.99, "r1", "reject"), asked(35, 60, action="a2"), ACTS], "overtook"),
        ([Verdict(34.99, "r1", "allow"), asked(35, 60, action="a2"), ACTS], VIOLATED),
        ([asked(35, 60, action="a2"), Verdict(36, "r1", "reject"), ACTS], VIOLATED),
    ],
)
def test_the_vim_acts_beside_an_operator_only_on_what_was_agreed_before(
    stream: list[Observation], outcome: str
) -> None:
    all_of_it = [Placed(1, "vm0", "compute-0"), action(40, OPERATOR), *stream]
    ordered = sorted(all_of_it, key=lambda one: one.at_s)
    assert judged("one-owner", *ordered).outcome == outcome


FAILED = [*beating(), command(50), CommandEnded(55, "c1", "failed")]
TIMED_OUT = [*beating(), command(50), CommandEnded(55, "c1", "timed-out")]
HOST = "compute-0"


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        (FAILED, VIOLATED),
        ([*FAILED, command(129.9, number="c2")], FINE),
        ([*FAILED, command(130.1, number="c2")], VIOLATED),
        ([*TIMED_OUT, command(234.9, number="c2")], FINE),
        ([*TIMED_OUT, command(235.1, number="c2")], VIOLATED),
        ([*FAILED, *during(60, 61, C.LIBVIRT_SILENT, HOST), command(234.9, number="c2")], FINE),
        ([*FAILED, action(60), ActionEnded(61, "a1"), command(234.9, number="c2")], FINE),
        ([*FAILED, command(60, number="c2", instance="vm1")], VIOLATED),
        ([*FAILED, command(60, "log", number="c2")], VIOLATED),
        ([*FAILED, command(60, number="c2", purpose=ACTION)], VIOLATED),
        ([*FAILED, reported(60, "not-acted", "limit")], FINE),
        ([*FAILED, reported(60, "heartbeating")], FINE),
        ([*FAILED[:3], reported(52, "heartbeating"), FAILED[3]], FINE),
        ([*FAILED[:3], reported(52, "heartbeating"), loss(53), FAILED[3]], VIOLATED),
        ([*FAILED, reported(60, "paused")], FINE),
        ([*FAILED, reported(60, "loss")], VIOLATED),
        ([*FAILED, Began(60, C.VM_GONE, "vm0")], "gone"),
        ([*FAILED, action(60)], "announced"),
        ([*FAILED, *acted(60, "failed")], VIOLATED),
        ([*FAILED, *acted(60, "done")], VIOLATED),
        ([*FAILED, HoldSet(60, "vm0", "compute-0", 100), command(279)], "held"),
        ([*FAILED, HoldSet(60, "vm0", "compute-0", 100), command(281)], VIOLATED),
        ([*FAILED, action(60), ActionEnded(200, "a1")], VIOLATED),
        ([command(50, purpose=ACTION), CommandEnded(55, "c1", "failed")], FINE),
        ([command(50, "log"), CommandEnded(55, "c1", "failed")], FINE),
        # Each failure has its own time.
        ([*FAILED, command(60, number="c2"), CommandEnded(65, "c2", "failed")], VIOLATED),
    ],
)
def test_a_failed_command_is_retried_or_given_up(stream: list[Observation], outcome: str) -> None:
    assert judged("command-retried", *stream).outcome == outcome


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("done", FINE),
        ("dry-run", FINE),
        ("ended", FINE),
        ("failed", VIOLATED),
        ("not-started", VIOLATED),
        ("timed-out", VIOLATED),
        ("killed", VIOLATED),
    ],
)
def test_what_counts_as_failed(word: str, outcome: str) -> None:
    stream = [command(50), CommandEnded(55, "c1", word)]
    assert judged("command-retried", *beating(), *stream).outcome == outcome


LOST = [*beating(), loss(50)]


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        (LOST, VIOLATED),
        ([*LOST, command(229.9)], FINE),
        ([*LOST, command(230.1)], VIOLATED),
        ([*LOST, command(60, "log")], VIOLATED),
        ([*LOST, command(60, instance="vm1")], VIOLATED),
        ([*LOST, reported(60, "not-acted", "brake")], FINE),
        ([*LOST, reported(60, "heartbeating")], FINE),
        ([*LOST, reported(60, "stopped")], FINE),
        ([*LOST, Began(60, C.VM_GONE, "vm0")], "gone"),
        ([*LOST, Began(60, C.GUEST_DOWN, "vm0"), reported(171, "absent")], "left"),
        ([*LOST, reported(171, "absent")], VIOLATED),
        ([*LOST, action(60)], "announced"),
        ([*LOST, *acted(60, "failed")], VIOLATED),
        ([*LOST, *acted(60, "done")], VIOLATED),
        ([*LOST, HoldSet(60, "vm0", "compute-0", 100), command(279)], "held"),
        ([*LOST, HoldSet(60, "vm0", "compute-0", 100), command(281)], VIOLATED),
        ([*LOST, *during(100, 300, C.DOWN, HOST), command(429.9)], "host-away"),
        ([*LOST, *during(100, 300, C.DOWN, HOST), command(431)], VIOLATED),
    ],
)
def test_a_lost_vm_is_corrected_or_a_reason_given(stream: list[Observation], outcome: str) -> None:
    found = judged("lost-corrected", *stream, corrects=True)
    assert (VIOLATED if found.violations else found.outcome) == outcome
    assert judged("lost-corrected", *stream).outcome in (FINE, "gone")


def test_the_time_in_which_the_host_is_down_does_not_count() -> None:
    down = during(100, 300, C.DOWN, HOST)
    assert judged("command-retried", *FAILED, *down, command(434, number="c2")).outcome == (
        "host-away"
    )
    assert judged("command-retried", *FAILED, *down).violations == (
        "reboot of vm0 failed at 55.000 s, and nothing followed",
    )
