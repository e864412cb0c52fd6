"""A correction from the failure to its end: holds, attempts, hindrances and decisions anew."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hbtrio.fsm.correction import (
    ASK_AGAIN_S,
    RETRIES,
    AwaitEnd,
    Correction,
    CorrectionState,
    Decide,
    End,
    Hold,
    Probe,
    Retry,
    Run,
)
from hbtrio.fsm.corrective import Cause, Never, NotNow
from hbtrio.fsm.table import IllegalEvent

BRAKE = NotNow(Cause.BRAKE, "too many")
OWNER = NotNow(Cause.OWNER, "an action")
DOWN = Never(Cause.DOWN, "shut off")


def deciding() -> Correction:
    correction = Correction(1.0)
    assert correction.start() == Hold()
    assert correction.held() == Decide()
    return correction


def test_a_command_that_ran_ends_it() -> None:
    correction = deciding()
    assert correction.acts() == Run()
    assert correction.ran() == End()
    assert correction.state is CorrectionState.ENDED


def test_a_command_in_vain_is_tried_five_times_more_ever_later() -> None:
    assert RETRIES == 5
    correction = deciding()
    waits = []
    for _ in range(5):
        correction.acts()
        step = correction.ran_in_vain()
        assert isinstance(step, Retry)
        waits.append(step.seconds)
        assert correction.retries() == Decide()
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0]
    correction.acts()
    assert correction.ran_in_vain() == End()


def test_a_vm_that_answers_between_two_attempts_ends_it() -> None:
    correction = deciding()
    correction.acts()
    correction.ran_in_vain()
    assert correction.back() == End()


def test_never_is_the_end_and_says_why() -> None:
    assert deciding().hindered(DOWN) == End(DOWN)


@pytest.mark.parametrize(("interval_s", "probes_s"), [(1.0, 7.0), (3.5, 7.0), (10.0, 20.0)])
def test_when_the_cause_has_ended_it_has_to_stay_silent(interval_s: float, probes_s: float) -> None:
    correction = Correction(interval_s)
    correction.held()
    assert correction.hindered(BRAKE) == AwaitEnd(BRAKE, news=True)
    assert correction.why == BRAKE
    assert correction.cause_ended() == Probe(probes_s)
    assert not correction.anew
    assert correction.still_silent() == Hold()
    assert correction.anew


def test_a_cause_is_told_once_until_it_is_another() -> None:
    correction = deciding()
    told = []
    for why in (BRAKE, BRAKE, OWNER, OWNER, BRAKE):
        step = correction.hindered(why)
        assert isinstance(step, AwaitEnd)
        told.append(step.news)
        correction.cause_ended()
        correction.still_silent()
        correction.held()
    assert told == [True, False, True, False, True]


def test_a_cause_is_told_anew_after_an_attempt() -> None:
    correction = deciding()
    correction.hindered(OWNER)
    correction.cause_ended()
    correction.still_silent()
    correction.held()
    correction.acts()
    correction.ran_in_vain()
    correction.retries()
    assert correction.hindered(OWNER) == AwaitEnd(OWNER, news=True)


def test_a_vm_that_is_back_ends_it_but_not_while_a_command_runs() -> None:
    correction = deciding()
    correction.acts()
    with pytest.raises(IllegalEvent):
        correction.back()


def test_confirm_and_traffic_are_asked_again_once_a_minute() -> None:
    assert ASK_AGAIN_S == 60.0


class Corrections(RuleBasedStateMachine):
    """Whatever happens in whatever order: attempts are bounded, and an end is an end."""

    def __init__(self) -> None:
        super().__init__()
        self.correction = Correction(1.0)
        self.in_vain = 0
        self.probed = True

    def in_state(self, state: CorrectionState) -> bool:
        return self.correction.state is state

    @precondition(lambda self: self.in_state(CorrectionState.HELD))
    @rule()
    def held(self) -> None:
        assert self.probed  # no second decision without fresh silence
        assert self.correction.held() == Decide()

    @precondition(lambda self: self.in_state(CorrectionState.DECIDING))
    @rule(why=st.sampled_from([BRAKE, OWNER]))
    def hindered(self, why: NotNow) -> None:
        assert isinstance(self.correction.hindered(why), AwaitEnd)
        self.probed = False

    @precondition(lambda self: self.in_state(CorrectionState.DECIDING))
    @rule()
    def dropped(self) -> None:
        assert self.correction.hindered(DOWN) == End(DOWN)

    @precondition(lambda self: self.in_state(CorrectionState.DECIDING))
    @rule()
    def acts(self) -> None:
        assert self.correction.acts() == Run()

    @precondition(lambda self: self.in_state(CorrectionState.RUNNING))
    @rule(in_vain=st.booleans())
    def ends(self, in_vain: bool) -> None:
        if not in_vain:
            assert self.correction.ran() == End()
            return
        self.in_vain += 1
        step = self.correction.ran_in_vain()
        assert isinstance(step, End if self.in_vain > RETRIES else Retry)

    @precondition(lambda self: self.in_state(CorrectionState.RETRYING))
    @rule()
    def retries(self) -> None:
        assert self.correction.retries() == Decide()

    @precondition(lambda self: self.in_state(CorrectionState.HINDERED))
    @rule()
    def cause_ends(self) -> None:
        assert isinstance(self.correction.cause_ended(), Probe)

    @precondition(lambda self: self.in_state(CorrectionState.PROBING))
    @rule()
    def stays_silent(self) -> None:
        self.probed, self.in_vain = True, 0
        assert self.correction.still_silent() == Hold()

    @precondition(lambda self: self.in_state(CorrectionState.ENDED))
    @rule()
    def fails_anew(self) -> None:
        self.correction, self.in_vain, self.probed = Correction(1.0), 0, True

    @precondition(
        lambda self: self.correction.state not in (CorrectionState.RUNNING, CorrectionState.ENDED)
    )
    @rule()
    def back(self) -> None:
        assert self.correction.back() == End()

    @invariant()
    def attempts_are_bounded(self) -> None:
        assert self.in_vain <= RETRIES + 1
        assert self.correction.failures == self.in_vain

    @invariant()
    def why_is_known_while_it_is_hindered(self) -> None:
        if self.in_state(CorrectionState.HINDERED):
            assert self.correction.why is not None


TestCorrections = Corrections.TestCase
