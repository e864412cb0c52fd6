"""Who owns an instance: one at a time, whatever comes in whatever order."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hbtrio.fsm.ownership import NEXT_STEP_S, OWNERSHIP_TABLE, Owner, Ownership, OwnershipEvent
from hbtrio.fsm.table import IllegalEvent


def test_nobody_owns_at_first() -> None:
    ownership = Ownership()
    assert (ownership.free, ownership.words, ownership.lapses_at) == (True, "nobody", math.inf)


def test_an_accepted_vote_owns_for_the_time_of_the_next_step() -> None:
    ownership = Ownership()
    ownership.vote_accepted("pause", 10.0)
    assert ownership.words == "an announced event (pause)"
    assert ownership.lapses_at == 10.0 + NEXT_STEP_S == 70.0
    ownership.lapse(69.999)
    assert not ownership.free
    ownership.lapse(70.0)
    assert (ownership.free, ownership.lapses_at) == (True, math.inf)


def test_a_notice_owns_until_the_end_notice_or_the_call_off_time() -> None:
    ownership = Ownership()
    ownership.vote_accepted("pause", 10.0)
    ownership.noticed("pause", 320.0)
    ownership.lapse(70.0)
    assert not ownership.free
    ownership.end_noticed()
    assert ownership.free
    ownership.noticed("live_migrate_begin", 400.0)
    ownership.lapse(400.0)
    assert ownership.free


def test_an_end_notice_alone_owns_nothing() -> None:
    ownership = Ownership()
    ownership.end_noticed()
    assert ownership.free


def test_under_an_operator_a_vote_is_refused_and_a_notice_changes_nothing() -> None:
    ownership = Ownership()
    ownership.act_begins("reboot")
    assert (ownership.refuses_vote, ownership.words) == (True, "an operator's action (reboot)")
    ownership.noticed("pause", 300.0)
    ownership.end_noticed()
    assert (ownership.owner, ownership.lapses_at) == (Owner.OPERATOR, math.inf)
    ownership.act_ended()
    assert ownership.free


def test_an_operator_waits_for_the_command_that_runs() -> None:
    ownership = Ownership()
    ownership.command_begins("reboot")
    ownership.act_begins("stop")
    assert (ownership.command_runs, ownership.refuses_vote) == (True, True)
    assert ownership.words == ("a corrective command (reboot)")
    ownership.command_ended()
    assert (ownership.command_runs, ownership.words) == (False, "an operator's action (stop)")


def test_an_operator_who_gives_up_the_wait_leaves_the_command() -> None:
    ownership = Ownership()
    ownership.command_begins("reboot")
    ownership.act_begins("stop")
    ownership.act_ended()
    assert ownership.owner is Owner.COMMAND


def test_an_operator_takes_the_instance_from_the_vim() -> None:
    ownership = Ownership()
    ownership.vote_accepted("pause", 0.0)
    ownership.act_begins("reboot")
    assert (ownership.owner, ownership.lapses_at) == (Owner.OPERATOR, math.inf)


def test_the_vims_action_is_next_after_the_command() -> None:
    ownership = Ownership()
    ownership.command_begins("reboot")
    ownership.noticed("pause", 300.0)
    assert (ownership.owner, ownership.lapses_at) == (Owner.COMMAND_THEN_ORCHESTRATOR, 300.0)
    ownership.command_ended()
    assert (ownership.words, ownership.lapses_at) == ("an announced event (pause)", 300.0)


def test_the_vims_action_may_lapse_while_the_command_runs() -> None:
    ownership = Ownership()
    ownership.command_begins("reboot")
    ownership.vote_accepted("pause", 0.0)
    ownership.lapse(60.0)
    assert ownership.owner is Owner.COMMAND


@pytest.mark.parametrize("owner", [owner for owner in Owner if owner is not Owner.NOBODY])
def test_no_command_starts_under_an_owner(owner: Owner) -> None:
    with pytest.raises(IllegalEvent):
        OWNERSHIP_TABLE.after(owner, OwnershipEvent.COMMAND)


class Claims(RuleBasedStateMachine):
    """Claims in any order; the model is who has a claim that has not ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ownership = Ownership()
        self.now = 0.0
        self.command = self.act = False
        self.vim_until: float | None = None

    def _vim(self, until: float) -> None:
        if not self.act:
            self.vim_until = until

    @rule()
    def vote(self) -> None:
        if not self.ownership.refuses_vote:
            self.ownership.vote_accepted("pause", self.now)
            self._vim(self.now + NEXT_STEP_S)

    @rule(lasts_s=st.floats(1, 3600))
    def notice(self, lasts_s: float) -> None:
        self.ownership.noticed("pause", self.now + lasts_s)
        self._vim(self.now + lasts_s)

    @rule()
    def end_notice(self) -> None:
        self.ownership.end_noticed()
        self.vim_until = None

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.ownership.lapse(self.now)
        if self.vim_until is not None and self.now >= self.vim_until:
            self.vim_until = None

    @precondition(lambda self: not self.act)
    @rule()
    def operator_begins(self) -> None:
        self.ownership.act_begins("stop")
        self.act, self.vim_until = True, None

    @precondition(lambda self: self.act)
    @rule()
    def operator_ends(self) -> None:
        self.ownership.act_ended()
        self.act = False

    @rule()
    def command_begins(self) -> None:
        if self.ownership.free:
            self.ownership.command_begins("reboot")
            self.command = True
            return
        with pytest.raises(IllegalEvent):
            self.ownership.command_begins("reboot")

    @precondition(lambda self: self.command)
    @rule()
    def command_ends(self) -> None:
        self.ownership.command_ended()
        self.command = False

    @invariant()
    def it_knows_who_has_a_claim(self) -> None:
        ownership, vim = self.ownership, self.vim_until is not None
        assert ownership.free is not (self.command or self.act or vim)
        assert ownership.command_runs is self.command
        assert ownership.refuses_vote is self.act
        assert ownership.lapses_at == (math.inf if self.vim_until is None else self.vim_until)


TestClaims = Claims.TestCase
