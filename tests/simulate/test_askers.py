"""Whose vote or notice it is, where operators and a VIM ask for the same."""

from __future__ import annotations

import math

import pytest

from hbtrio.simulate.askers import Askers, Said
from hbtrio.simulate.begin_watch import BeginWatch, Begun
from hbtrio.simulate.observations import Asked, Observation, Owner, Verdict
from hbtrio.simulate.reject_watch import RejectWatch
from hbtrio.simulate.requests import (
    FleetOperatorRequests,
    OperatorRequests,
    Questions,
    Requests,
)

NAMES = {"u0": "vm0"}
VOTE = ("u0", "stop", True)
NOTICE = ("u0", "stop", False)

OPENED = {"step": "vote", "event": "stop", "window": "VOTE", "seconds": 11.0}
CLOSED = {"step": "vote", "event": "stop", "result": "reject"}


class Fleet:
    """A VIM and operators who have asked for nothing yet."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        see = self.seen.append
        self.vim = Requests("vim", Owner.VIM, NAMES, lambda: 7.0, see)
        self.operators = FleetOperatorRequests("op", Owner.OPERATOR, NAMES, lambda: 7.0, see)
        self.questions = Questions("ask", Owner.OPERATOR, NAMES, lambda: 7.0, see)
        self.askers = Askers(self.operators, self.vim, self.questions)

    def ask(self) -> None:
        """Has both ask for the same vote, the operators last."""
        self.vim.begin_action("u0", "vm0-1")
        self.vim.name(*VOTE)
        self.askers.written(Begun(*VOTE, "vim"))
        self.operators.begin_action("u0", "act-1")
        self.askers.written(Begun(*VOTE, None))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_what_reaches_a_guest_is_of_whom_its_host_has_written_it_for_last(fleet: Fleet) -> None:
    fleet.vim.name(*VOTE)
    assert fleet.askers.request_of(*VOTE) == "vim-1"  # it is on its way
    fleet.ask()
    assert fleet.askers.request_of(*VOTE) == "op-1"
    assert fleet.askers.commanded(*VOTE, "vim", "c1") == "vim-2"
    fleet.askers.written(Begun(*VOTE, "vim"))
    assert fleet.askers.request_of(*VOTE) == "vim-2"


def test_a_notice_is_of_the_action_of_whom_it_was_written_for(fleet: Fleet) -> None:
    fleet.ask()
    assert fleet.askers.action_of("u0", "stop") == "vm0-1"  # a vote is no notice
    fleet.askers.written(Begun(*NOTICE, None))
    assert fleet.askers.action_of("u0", "stop") == "act-1"


def test_a_host_names_whose_vote_has_ended(fleet: Fleet) -> None:
    fleet.ask()
    assert fleet.askers.reported(Said(*VOTE, 5.0, "vim of the agent")) == "vim-1"
    assert fleet.askers.reported(Said(*VOTE, 6.0, "operator uid 0 of the agent")) == "op-1"


def test_the_agent_s_history_does_not_tell_the_votes_of_actions_apart(fleet: Fleet) -> None:
    fleet.ask()
    who = "operator uid 0 of the agent"
    fleet.askers.reported(Said(*VOTE, 6.0, who))
    fleet.askers.written(Begun(*VOTE, None))  # the next one; the line about the first is late
    assert fleet.askers.request_of(*VOTE) == "op-2"
    assert fleet.askers.recorded(Said(*VOTE, 6.0, who)) == "op-1"
    assert fleet.askers.recorded(Said(*VOTE, 5.0, who)) == ""
    assert fleet.askers.recorded(Said(*NOTICE, 6.0, who)) == ""
    assert fleet.askers.recorded(Said(*VOTE, 6.0, "vim")) == "vim-1"


def test_without_a_vim_all_is_the_operators() -> None:
    operators = OperatorRequests("op", Owner.OPERATOR, NAMES, lambda: 7.0, lambda _: None)
    askers = Askers(operators)
    askers.written(Begun(*VOTE, None))
    assert askers.request_of(*VOTE) == "op-1"
    assert askers.reported(Said(*VOTE, 5.0, "operator uid 0")) == "op-1"
    assert askers.recorded(Said(*VOTE, 5.0, "operator uid 0")) == "op-1"
    assert askers.commanded(*VOTE, "vim", "c1") == ""
    assert askers.next_end(0.0) == math.inf


@pytest.mark.parametrize("kind", [OperatorRequests, FleetOperatorRequests])
def test_a_vote_that_nobody_listens_to_is_of_no_action_that_was_heard_of(
    kind: type[OperatorRequests],
) -> None:
    """A plan's: its guest votes and is told before its operator has heard that it has begun."""
    operators = kind("op", Owner.OPERATOR, NAMES, lambda: 7.0, lambda _: None)
    askers = Askers(operators)
    operators.begin_action("u0", "act-1")
    askers.written(Begun(*VOTE, None))
    assert askers.action_of("u0", "stop") == "act-1"
    operators.action_ended("u0")
    askers.written(Begun(*NOTICE, None))  # after its reject: that is not to be
    assert askers.action_of("u0", "stop") == "act-1"
    askers.written(Begun(*VOTE, None))
    assert askers.action_of("u0", "stop") == ""
    operators.drained("u0", "plan-1", has_turn=True)
    askers.written(Begun(*VOTE, None))
    assert askers.action_of("u0", "stop") == "plan-1 vm0"


def test_a_question_is_told_apart_from_the_votes_of_actions(fleet: Fleet) -> None:
    """It was named before its host wrote it, and names nobody's action."""
    who = "operator uid 0"
    fleet.ask()
    assert fleet.questions.asks("u0", "stop") == "ask-1"
    assert fleet.askers.request_of(*VOTE) == "op-1"  # it is on its way
    fleet.askers.written(Begun(*VOTE, who))
    assert fleet.askers.request_of(*VOTE) == "ask-1"
    assert fleet.askers.commanded(*VOTE, who, "c1") == "ask-1"
    said = Said(*VOTE, 6.0, f"{who} of the agent", "c1")
    assert fleet.askers.reported(said) == "ask-1"
    assert fleet.askers.recorded(Said(*VOTE, 6.0, who)) == "ask-1"
    assert fleet.askers.recorded(Said(*VOTE, 6.0, f"{who} of the agent")) == ""  # no action's
    fleet.questions.heard("ask-1", "u0", OPENED)
    fleet.questions.heard("ask-1", "u0", CLOSED)
    fleet.questions.heard("ask-1", "u0", CLOSED)
    assert fleet.seen == [
        Asked(7.0, "ask-1", "vm0", "stop", "ask-1", True, 7.0 + 11.0 + 3.0, Owner.OPERATOR),
        Verdict(7.0, "ask-1", "reject"),
    ]


def test_for_what_a_drain_asks_first_nobody_waits(fleet: Fleet) -> None:
    fleet.ask()
    fleet.askers.written(Begun(*VOTE, "drain d1"))
    assert fleet.askers.request_of(*VOTE) == ""
    assert fleet.askers.commanded(*VOTE, "drain d1", "c1") == ""


def test_the_next_vote_that_ends_is_anybody_s(fleet: Fleet) -> None:
    fleet.vim.accepted("vim-1", *VOTE[:2], vote=True, seconds=30.0)
    assert fleet.askers.next_end(0.0) == 37.0
    fleet.operators.heard("u0", OPENED)
    assert fleet.askers.next_end(0.0) == 7.0 + 11.0 + 3.0
    assert fleet.askers.next_end(21.0) == 37.0


@pytest.mark.parametrize("is_quicker", [False, True], ids=["after", "before"])
def test_a_line_about_a_vote_comes_before_or_after_the_vote_is_written(
    fleet: Fleet, is_quicker: bool
) -> None:
    fleet.operators.begin_action("u0", "act-1")
    if is_quicker:
        fleet.operators.heard("u0", OPENED)
        fleet.operators.written(*VOTE)
    else:
        fleet.operators.written(*VOTE)
        fleet.operators.heard("u0", OPENED)
    fleet.operators.heard("u0", CLOSED)
    asked, verdict = fleet.seen
    assert isinstance(asked, Asked)
    assert (asked.request, asked.action, asked.owner) == ("op-1", "act-1", Owner.OPERATOR)
    assert verdict == Verdict(7.0, "op-1", "reject")


def test_what_was_written_or_heard_in_an_earlier_action_is_of_no_later_one(fleet: Fleet) -> None:
    fleet.operators.begin_action("u0", "act-1")
    fleet.operators.written(*VOTE)  # its line never comes
    fleet.operators.begin_action("u0", "act-2")
    fleet.operators.heard("u0", OPENED)
    assert [one.request for one in fleet.seen if isinstance(one, Asked)] == ["op-2"]
    fleet.operators.begin_action("u0", "act-3")
    fleet.operators.written(*VOTE)  # that of the line before was never written
    assert fleet.operators.request_of(*VOTE) == "op-3"


def test_the_agent_s_votes_are_the_vim_s_also_while_an_operator_asks() -> None:
    seen: list[Observation] = []
    watch = RejectWatch(lambda: 7.0, seen.append, lambda *_: "op-1", lambda *about: about[3])
    watch.link_to_host()(b'{"command_id":"c1","uuid":"u0","event":"stop","vote":true}\n')
    assert watch.commands == {"c1": "vim"}


def test_it_is_seen_for_whom_the_agent_had_commanded_what_a_host_writes() -> None:
    begun: list[Begun] = []
    watch = BeginWatch(lambda: 7.0, lambda _: None, lambda *_: 8.0, begun.append)
    command = (
        b'{"command_id":"c1","uuid":"u0","event":"stop","vote":true,"begin_by_s":5.0,'
        b'"boot_id":"b1"}\n'
    )
    watch.link_to_host("compute-0")(command)
    for _ in range(2):
        asked = b'{"event_type":"stop","notification_type":"revocable","invocation_id":9}\n'
        watch.channel_from_host("u0", "compute-0")(asked)
    assert begun == [Begun(*VOTE, "vim", "c1", 9), Begun(*VOTE, None, "", 9)]


def test_what_was_commanded_stays_of_its_request_while_the_same_is_asked_again(
    fleet: Fleet,
) -> None:
    """The first vote's reject, report and line are late: none of them is of the second one."""
    fleet.vim.name(*VOTE)
    assert fleet.askers.commanded(*VOTE, "vim", "c1") == "vim-1"
    fleet.vim.name(*VOTE)
    fleet.askers.written(Begun(*VOTE, "vim", "c1", 8))
    assert fleet.askers.commanded(*VOTE, "vim", "c2") == "vim-2"
    fleet.askers.written(Begun(*VOTE, "vim", "c2", 9))
    # The agent sends a command again on a new link.
    assert fleet.askers.commanded(*VOTE, "vim", "c1") == "vim-1"
    for command, invocation, request in (("c1", 8, "vim-1"), ("c2", 9, "vim-2")):
        assert fleet.askers.invoked("u0", "stop", invocation) == request
        assert fleet.askers.reported(Said(*VOTE, 6.0, "vim of the agent", command)) == request
        assert fleet.askers.recorded(Said(*VOTE, 6.0, "vim", command)) == request
    fleet.vim.name(*NOTICE)
    assert fleet.askers.commanded(*NOTICE, "vim", "c3") == "vim-3"
    fleet.vim.name(*NOTICE)
    assert fleet.askers.recorded(Said(*NOTICE, 6.0, "vim", "c3")) == "vim-3"
    # One that an action has asked for has no command.
    assert fleet.askers.invoked("u0", "stop", 10) == "vim-2"
