"""Whose turn it is in a drain, and what becomes of each instance."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hbtrio.fsm.action import (
    Action,
    ActionState,
    AskVote,
    AwaitDown,
    Finish,
    GiveNotice,
    Inspect,
    Perform,
    Step,
)
from hbtrio.fsm.drain import (
    ASK_AGAIN_S,
    UNBLOCKS_S,
    UNKNOWN_OUTCOME,
    Drain,
    DrainItem,
    DrainOutcome,
    DrainPhase,
    Turn,
)
from hbtrio.fsm.drain_rules import RETRY_FOR_S, DrainRules, OnReject
from hbtrio.fsm.drain_table import ENDED, IN_PROGRESS, DrainState
from hbtrio.fsm.table import IllegalEvent
from hbtrio.wire.vocabulary import ActionName, Event

_S, _A = DrainState, ActionState


def drain(names: str = "abc", **rules: object) -> Drain:
    return Drain(DrainRules(**rules), [DrainItem(name) for name in names])  # type: ignore[arg-type]


def states(of: Drain) -> dict[str, str]:
    return {uuid: item.state.value for uuid, item in of.items.items()}


def test_an_instance_twice_and_no_action_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        drain("aba")
    with pytest.raises(ValueError, match="parallel"):
        drain("ab", parallel=0)


def test_nothing_to_drain_is_drained() -> None:
    empty = drain("")
    assert (empty.is_over, empty.outcome) == (True, DrainOutcome.DRAINED)
    assert (empty.wakes_at, empty.turns(0.0)) == (math.inf, ())


def test_turns_come_in_order_as_many_at_once_as_there_are_slots() -> None:
    one = drain("abcd", parallel=2)
    assert one.turns(0.0) == (Turn("a"), Turn("b"))
    assert (one.turns(0.0), one.wakes_at) == ((), math.inf)
    one.step("b", _A.PREPARING)
    one.step("b", _A.PERFORMING)
    one.step("b", _A.GOING_DOWN)
    assert states(one) == {"a": "asked", "b": "acting", "c": "waiting", "d": "waiting"}
    one.ended("b", _A.DONE, "", 5.0)
    assert one.turns(5.0) == (Turn("c"),)
    one.ended("a", _A.FAILED, "the command failed: exit status 1", 6.0)
    one.ended("c", _A.DONE, "", 6.0)
    assert one.turns(6.0) == (Turn("d"),)
    assert one.outcome is None
    one.ended("d", _A.DONE, "", 7.0)
    assert one.outcome is DrainOutcome.INCOMPLETE
    assert one.items["a"].reason == "the command failed: exit status 1"


def test_one_that_rejects_holds_no_slot_and_is_asked_again() -> None:
    one = drain("ab")
    one.turns(0.0)
    one.ended("a", _A.REJECTED, "a backup runs", 2.0)
    assert one.items["a"].reason == "a backup runs"
    assert one.turns(2.0) == (Turn("b"),)
    one.ended("b", _A.DONE, "", 4.0)
    assert one.wakes_at == 2.0 + ASK_AGAIN_S
    assert one.turns(31.999) == ()
    assert one.turns(32.0) == (Turn("a"),)
    one.ended("a", _A.DONE, "", 40.0)
    assert one.outcome is DrainOutcome.DRAINED


def test_whoever_was_never_asked_comes_before_those_who_refused() -> None:
    one = drain("abc")
    one.turns(0.0)
    one.ended("a", _A.REJECTED, "no", 0.0)
    one.turns(0.0)
    assert states(one)["b"] == "asked"
    one.ended("b", _A.DONE, "", 100.0)
    assert one.turns(100.0) == (Turn("c"),)


def test_at_the_end_of_its_time_it_is_asked_once_more_and_that_answer_counts() -> None:
    for accepts in (True, False):
        one = drain("a", retry_for_s=40.0)
        one.turns(0.0)
        one.blocked("a", "group db: db-2 is restarting", 1.0)
        assert one.wakes_at == 31.0
        assert one.turns(31.0) == (Turn("a"),)
        one.ended("a", _A.REJECTED, "no", 31.0)
        assert one.wakes_at == 41.0
        # Late, too, it is asked first.
        assert one.turns(5000.0) == (Turn("a"),)
        if accepts:
            one.ended("a", _A.DONE, "", 5001.0)
            assert one.outcome is DrainOutcome.DRAINED
        else:
            one.ended("a", _A.REJECTED, "still no", 5001.0)
            assert one.outcome is DrainOutcome.INCOMPLETE
            assert one.items["a"].reason == "rejected: still no"
    assert RETRY_FOR_S == 1800.0


def test_the_end_of_an_action_has_the_blocked_asked_soon() -> None:
    one = drain("abc", parallel=3)
    one.turns(0.0)
    one.blocked("b", "group db: db-1 is migrating", 0.0)
    one.ended("c", _A.REJECTED, "busy", 0.0)
    assert one.items["b"].ask_at == UNBLOCKS_S
    one.turns(UNBLOCKS_S)
    one.blocked("b", "group db: db-1 is migrating", UNBLOCKS_S)
    assert one.items["b"].ask_at == UNBLOCKS_S + ASK_AGAIN_S
    one.ended("a", _A.DONE, "", 5.0)
    assert (one.items["b"].ask_at, one.items["c"].ask_at) == (5.0 + UNBLOCKS_S, ASK_AGAIN_S)
    # One that is due before that stays so.
    one.turns(6.0)
    one.blocked("b", "in progress", 6.0)
    one.turns(ASK_AGAIN_S)
    one.ended("c", _A.DONE, "", 35.5)
    assert one.items["b"].ask_at == 6.0 + ASK_AGAIN_S


def test_with_no_time_a_refusal_skips() -> None:
    one = drain("a", retry_for_s=0.0)
    one.turns(0.0)
    one.blocked("a", "reboot is in progress", 0.0)
    assert one.items["a"].state is _S.SKIPPED
    assert one.items["a"].reason == "blocked: reboot is in progress"


def test_on_reject_skip_force_and_abort() -> None:
    skips = drain("ab", on_reject=OnReject.SKIP)
    skips.turns(0.0)
    skips.ended("a", _A.REJECTED, "no", 0.0)
    assert states(skips) == {"a": "skipped", "b": "waiting"}

    forces = drain("ab", on_reject=OnReject.FORCE, parallel=2)
    forces.turns(0.0)
    forces.ended("a", _A.REJECTED, "no", 3.0)
    assert forces.turns(3.0) == (Turn("a", force=True, overrides="no"),)
    forces.blocked("b", "in progress", 3.0)
    assert forces.turns(33.0) == (Turn("b", force=False),)

    aborts = drain("abc", on_reject=OnReject.ABORT, parallel=2)
    aborts.turns(0.0)
    aborts.step("b", _A.PREPARING)
    aborts.ended("a", _A.REJECTED, "no", 0.0)
    assert states(aborts) == {"a": "skipped", "b": "told", "c": "cancelled"}
    assert (aborts.call_off, aborts.outcome) == (("b",), None)
    aborts.called_off("b", "the drain was aborted")
    assert aborts.outcome is DrainOutcome.ABORTED


@pytest.mark.parametrize("on_reject", OnReject)
@pytest.mark.parametrize("step", [_A.PREPARING, _A.PERFORMING, _A.AWAITING])
def test_a_host_that_lost_its_step_and_asks_again_has_failed_if_its_guest_rejects(
    on_reject: OnReject, step: ActionState
) -> None:
    one = drain("ab", on_reject=on_reject)
    one.turns(0.0)
    one.step("a", step)
    one.ended("a", _A.REJECTED, "busy", 5.0)
    assert states(one) == {"a": "failed", "b": "waiting"}
    assert one.items["a"].reason == "asked again after its notice: busy"
    assert one.phase is DrainPhase.RUNNING


def test_a_group_does_not_abort_and_is_not_forced() -> None:
    for on_reject in OnReject:
        one = drain("a", on_reject=on_reject)
        one.turns(0.0)
        one.blocked("a", "group db: db-2 is restarting", 0.0)
        assert (one.phase, one.items["a"].state) == (DrainPhase.RUNNING, _S.BLOCKED)
        assert one.turns(30.0) == (Turn("a", force=False),)


def test_a_cancelled_drain_calls_off_what_has_not_begun() -> None:
    one = drain("abcde", parallel=3)
    one.turns(0.0)
    one.ended("a", _A.REJECTED, "no", 0.0)
    one.turns(0.0)
    one.step("b", _A.PREPARING)
    one.step("c", _A.PERFORMING)
    assert one.call_off == ()
    one.cancel("cancelled by uid 0")
    assert states(one) == {
        "a": "cancelled",
        "b": "told",
        "c": "acting",
        "d": "asked",
        "e": "cancelled",
    }
    assert one.call_off == ("b", "d")
    assert (one.turns(100.0), one.wakes_at) == ((), math.inf)
    one.called_off("b", "cancelled by uid 0")
    one.ended("c", _A.DONE, "", 1.0)
    one.ended("d", _A.REJECTED, "no", 1.0)
    assert one.items["d"].state is _S.CANCELLED
    assert one.outcome is DrainOutcome.CANCELLED


def test_a_drain_that_is_over_is_not_cancelled() -> None:
    one = drain("a")
    one.gone("a", "it was shut off")
    one.cancel("too late")
    assert one.outcome is DrainOutcome.DRAINED


def test_gone_is_done_and_held_is_skipped() -> None:
    one = drain("ab", parallel=2)
    one.gone("a", "it was shut off")
    one.turns(0.0)
    one.skipped("b", "on hold until 12:00")
    assert states(one) == {"a": "done", "b": "skipped"}
    with pytest.raises(IllegalEvent):
        one.skipped("a", "too late")


def test_what_a_restart_finds() -> None:
    left = [
        DrainItem("waits"),
        DrainItem("not begun", _S.ASKED),
        DrainItem("told, gone", _S.TOLD),
        DrainItem("acting, gone", _S.ACTING),
        DrainItem("goes on", _S.ASKED),
        DrainItem("stored late"),
        DrainItem("done", _S.DONE),
    ]
    one = Drain(DrainRules(parallel=4), left)
    one.resumed("goes on", _A.PERFORMING)
    one.resumed("stored late", _A.PREPARING)
    one.resumed("done", _A.FINISHING)
    for uuid in ("waits", "not begun", "told, gone", "acting, gone"):
        one.unresumed(uuid)
    assert states(one) == {
        "waits": "waiting",
        "not begun": "waiting",
        "told, gone": "failed",
        "acting, gone": "failed",
        "goes on": "acting",
        "stored late": "told",
        "done": "done",
    }
    assert one.items["told, gone"].reason == UNKNOWN_OUTCOME


def test_a_cancelled_drain_that_a_restart_finds_begins_nothing() -> None:
    left = [DrainItem("waits"), DrainItem("asked", _S.ASKED), DrainItem("told", _S.TOLD)]
    one = Drain(DrainRules(parallel=3), left, DrainPhase.CANCELLED)
    one.unresumed("waits")
    one.unresumed("asked")
    one.resumed("told", _A.PREPARING)
    assert states(one) == {"waits": "cancelled", "asked": "cancelled", "told": "told"}
    assert (one.call_off, one.turns(0.0)) == (("told",), ())


class Running:
    """An action in progress, walked step by step."""

    def __init__(self, force: bool) -> None:
        self.machine = Action(ActionName.STOP, force=force)
        self.step: Step = self.machine.start()
        self.is_called_off = False


class Drains(RuleBasedStateMachine):
    """A drain with its actions, in any order of steps, refusals, cancellations and restarts.

    A restart finds what was stored: the actions as they are, and the drain as it was at any moment
    since the last action began or ended, with which it is stored.
    """

    NAMES = ("a", "b", "c", "d")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.drain = Drain(DrainRules(parallel=2), [DrainItem(name) for name in self.NAMES])
        self.stored = copy.deepcopy(self.drain)
        self.running: dict[str, Running] = {}
        self.notified: set[str] = set()
        self.performed: dict[str, int] = dict.fromkeys(self.NAMES, 0)

    def keep(self) -> None:
        self.stored = copy.deepcopy(self.drain)

    @rule(
        parallel=st.integers(1, 3),
        on_reject=st.sampled_from(OnReject),
        retry=st.sampled_from([0.0, 45.0, 1800.0]),
    )
    @precondition(lambda self: not any(item.state in ENDED for item in self.drain.items.values()))
    @precondition(lambda self: not self.running)
    def other_rules(self, parallel: int, on_reject: OnReject, retry: float) -> None:
        rules = DrainRules(parallel=parallel, on_reject=on_reject, retry_for_s=retry)
        self.drain.rules = rules
        self.keep()

    @rule(blocked=st.booleans())
    def takes_turns(self, blocked: bool) -> None:
        for turn in self.drain.turns(self.now):
            assert turn.uuid not in self.running
            if blocked:
                self.drain.blocked(turn.uuid, "group", self.now)
            else:
                self.running[turn.uuid] = Running(turn.force)
        if blocked:
            self.keep()

    @rule(seconds=st.sampled_from([1.0, 30.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(at=st.integers(0, 3), good=st.booleans())
    @precondition(lambda self: self.running)
    def goes_on(self, at: int, good: bool) -> None:
        uuid = sorted(self.running)[at % len(self.running)]
        one = self.running[uuid]
        machine = one.machine
        before = (_A.PLANNED, _A.VOTING, _A.PREPARING, _A.PERFORMING)
        if one.is_called_off and machine.state in before and one.step != Inspect():
            one.step = machine.called_off()
        match one.step:
            case AskVote():
                one.step = machine.voted(rejected=not good)
            case GiveNotice(Event.RESUME):
                self.notified.discard(uuid)
                one.step = machine.noticed()
            case GiveNotice():
                self.drain.step(uuid, machine.state)
                self.notified.add(uuid)
                one.step = machine.noticed()
            case Perform():
                self.drain.step(uuid, machine.state)
                self.performed[uuid] += 1
                one.step = machine.performed(succeeded=good)
            case Inspect():
                one.step = machine.performed(succeeded=good)
            case AwaitDown():
                one.step = machine.down() if good else machine.stayed()
        if isinstance(one.step, Finish):
            if machine.state is _A.DONE:
                self.notified.discard(uuid)
            del self.running[uuid]
            if one.is_called_off and machine.state is _A.FAILED:
                self.drain.called_off(uuid, "called off")
            else:
                self.drain.ended(uuid, machine.state, "no", self.now)
            self._call_off()
            self.keep()

    @rule()
    def cancel(self) -> None:
        self.drain.cancel("cancelled")
        self._call_off()
        self.keep()

    def _call_off(self) -> None:
        for uuid in self.drain.call_off:
            self.running[uuid].is_called_off = True

    @rule(late=st.booleans(), in_time=st.booleans())
    def restart(self, late: bool, in_time: bool) -> None:
        self.drain = copy.deepcopy(self.stored if late else self.drain)
        for uuid in self.NAMES:
            if (one := self.running.get(uuid)) is None:
                self.drain.unresumed(uuid)
                continue
            state = one.machine.state
            self.drain.resumed(uuid, state)
            one.machine = Action(ActionName.STOP)
            noticed = uuid in self.notified
            one.step = one.machine.resume(state, noticed=noticed, in_time=in_time)
            one.is_called_off = False
            if isinstance(one.step, Finish):
                del self.running[uuid]
                self.drain.ended(uuid, one.machine.state, "lapsed", self.now)
        self._call_off()
        self.keep()

    @invariant()
    def never_more_at_once(self) -> None:
        assert len(self.running) <= max(self.drain.rules.parallel, 1)
        busy = {u for u, item in self.drain.items.items() if item.state in IN_PROGRESS}
        assert busy == set(self.running)

    @invariant()
    def none_is_told_without_an_action_that_will_end_it(self) -> None:
        assert self.notified <= set(self.running)

    @invariant()
    def nothing_is_done_twice(self) -> None:
        assert all(times <= 1 for times in self.performed.values())

    @invariant()
    def who_waits_will_be_woken(self) -> None:
        if self.drain.phase is DrainPhase.RUNNING and not self.running and not self.drain.is_over:
            assert self.drain.wakes_at < math.inf

    def teardown(self) -> None:
        """Cancelled at any point, it comes to its end without another action."""
        self.cancel()
        performed = dict(self.performed)
        acting = {u for u, one in self.running.items() if not one.is_called_off}
        while self.running:
            self.goes_on(0, True)
        assert self.drain.is_over
        assert self.drain.outcome is not None
        assert self.notified == set()
        for uuid, times in self.performed.items():
            assert times == performed[uuid] or uuid in acting


TestDrains = Drains.TestCase
