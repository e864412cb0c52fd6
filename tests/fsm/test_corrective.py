"""The decision on a corrective command: every standing and hindrance, and what is asked first."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import schema

from hbtrio.fsm.corrective import (
    GONE_WITHIN_S,
    Act,
    Ask,
    Cause,
    Decision,
    Known,
    Never,
    NotNow,
    Picture,
    Policy,
    Question,
    decide,
)
from hbtrio.fsm.domain import Standing
from hbtrio.wire.operator.events import EventLine
from hbtrio.wire.vocabulary import CorrectiveAction

REBOOT, STOP, LOG = CorrectiveAction.REBOOT, CorrectiveAction.STOP, CorrectiveAction.LOG

#: Without libvirt, or for an instance that libvirt does not know.
NO_LIBVIRT = Known()
RUNNING = Known(Standing.RUNNING, "running: booted")
SILENT = Known(words="libvirt unknown", silent=True)
FAILED = Known(Standing.FAILED, "shut off: crashed")


def decided(action: CorrectiveAction = REBOOT, **known: Any) -> Decision:
    return decide(Picture(action=action, **known))


def known(standing: Standing) -> Known:
    return Known(standing, standing.value)


# -- what libvirt says ----------------------------------------------------------------------


def test_libvirt_is_asked_first() -> None:
    assert decided() == Ask(Question.LIBVIRT)


@pytest.mark.parametrize("action", [REBOOT, STOP, LOG])
@pytest.mark.parametrize("look", [NO_LIBVIRT, RUNNING, known(Standing.PANICKED)])
def test_a_vm_that_runs_or_has_panicked_is_acted_upon(
    action: CorrectiveAction, look: Known
) -> None:
    assert decided(action, known=look) == Act()


@pytest.mark.parametrize("action", [REBOOT, STOP])
@pytest.mark.parametrize(
    ("look", "decision"),
    [
        (known(Standing.PAUSED), NotNow(Cause.PAUSED, "paused")),
        (known(Standing.ENDING), Never(Cause.DOWN, "ending")),
        (known(Standing.STOPPED), Never(Cause.DOWN, "stopped")),
        (known(Standing.UNKNOWN), Never(Cause.DOWN, "unknown")),
        (known(Standing.FAILED), Never(Cause.DOWN, "failed", alarm=True)),
        (SILENT, NotNow(Cause.LIBVIRT_SILENT, "libvirt does not answer", alarm=True)),
    ],
)
def test_any_other_is_left_alone(action: CorrectiveAction, look: Known, decision: Decision) -> None:
    assert decided(action, known=look) == decision


@pytest.mark.parametrize("standing", list(Standing))
def test_a_log_command_does_nothing_to_the_vm_and_runs_in_every_state(standing: Standing) -> None:
    assert decided(LOG, known=known(standing)) == Act()
    assert decided(LOG, known=SILENT) == Act()


# -- a VM that is gone ----------------------------------------------------------------------


@pytest.mark.parametrize(("ago_s", "starts"), [(0.0, True), (60.0, True), (60.1, False)])
def test_a_vm_that_is_gone_is_started_only_soon_after(ago_s: float, starts: bool) -> None:
    assert GONE_WITHIN_S == 60.0
    decision = decided(known=FAILED, starts_gone=True, saw_it_end_s=ago_s)
    if starts:
        assert decision == Act(starts_gone=True)
    else:
        text = "shut off: crashed, 60 s ago: it may run elsewhere"
        assert decision == Never(Cause.UNSURE, text, alarm=True)


def test_a_vm_whose_end_was_not_seen_is_never_started() -> None:
    text = "shut off: crashed, and it was not seen to fail just now: it may run elsewhere"
    assert decided(known=FAILED, starts_gone=True) == Never(Cause.UNSURE, text, alarm=True)


def test_a_stop_never_starts_a_vm() -> None:
    decision = decided(STOP, known=FAILED, starts_gone=True, saw_it_end_s=0.0)
    assert decision == Never(Cause.DOWN, "shut off: crashed", alarm=True)


# -- what forbids it whatever libvirt says --------------------------------------------------


@pytest.mark.parametrize(
    ("hindrance", "decision"),
    [
        (
            {"policy": Policy.OFF},
            NotNow(Cause.POLICY, "corrective is off for this instance"),
        ),
        (
            {"policy": Policy.LOG},
            NotNow(Cause.POLICY, "corrective is log for this instance"),
        ),
        ({"braked": True}, NotNow(Cause.BRAKE, "too many instances failed at once")),
        (
            {"owner": "an operator's action (stop)"},
            NotNow(Cause.OWNER, "an operator's action (stop) is in progress"),
        ),
        ({"limit": "limit reached: 3 per hour"}, NotNow(Cause.LIMIT, "limit reached: 3 per hour")),
    ],
)
@pytest.mark.parametrize("look", [None, RUNNING, SILENT, FAILED])
def test_a_hindrance_comes_before_all_questions(
    hindrance: dict[str, Any], decision: Decision, look: Known | None
) -> None:
    assert decided(known=look, **hindrance) == decision


def test_where_only_logs_are_allowed_a_log_runs() -> None:
    assert decided(LOG, policy=Policy.LOG, known=RUNNING) == Act()
    assert isinstance(decided(LOG, policy=Policy.OFF, known=RUNNING), NotNow)
    unknown = "libvirt ([libvirt] enabled) has not told what holds for this instance"
    for action in (LOG, CorrectiveAction.REBOOT):
        assert decided(action, policy=Policy.UNKNOWN, known=RUNNING) == NotNow(
            Cause.POLICY, unknown, alarm=True
        )


# -- no_io_for_s and confirm ----------------------------------------------------------------


def test_the_traffic_is_observed_only_of_a_vm_that_runs() -> None:
    assert decided(known=RUNNING, asks_traffic=True) == Ask(Question.TRAFFIC)
    assert decided(known=RUNNING, asks_traffic=True, busy="") == Act()
    busy = decided(known=RUNNING, asks_traffic=True, busy="7 disk requests in 30 s")
    assert busy == NotNow(Cause.BUSY, "7 disk requests in 30 s", alarm=True)
    assert decided(known=known(Standing.PANICKED), asks_traffic=True) == Act()


def test_confirm_is_asked_last_and_decides() -> None:
    asked = {"known": RUNNING, "asks_traffic": True, "asks_confirm": True}
    assert decided(**asked) == Ask(Question.TRAFFIC)
    assert decided(**asked, busy="") == Ask(Question.CONFIRM)
    assert decided(**asked, busy="", refusal="") == Act()
    assert decided(**asked, busy="", refusal="under repair") == NotNow(
        Cause.CONFIRM, "under repair"
    )


def test_confirm_is_asked_before_a_vm_is_started_too() -> None:
    gone = {"known": FAILED, "starts_gone": True, "saw_it_end_s": 1.0, "asks_confirm": True}
    assert decided(**gone) == Ask(Question.CONFIRM)
    assert decided(**gone, refusal="") == Act(starts_gone=True)


# -- whatever is known ----------------------------------------------------------------------

PICTURES = st.builds(
    Picture,
    action=st.sampled_from([REBOOT, STOP, LOG]),
    policy=st.sampled_from(Policy),
    owner=st.sampled_from(["", "x"]),
    braked=st.booleans(),
    limit=st.sampled_from(["", "x"]),
    known=st.none()
    | st.just(SILENT)
    | st.builds(Known, standing=st.none() | st.sampled_from(Standing), words=st.just("w")),
    starts_gone=st.booleans(),
    saw_it_end_s=st.none() | st.floats(0, 120),
    asks_traffic=st.booleans(),
    busy=st.sampled_from([None, "", "x"]),
    asks_confirm=st.booleans(),
    refusal=st.sampled_from([None, "", "x"]),
)


@given(PICTURES)
def test_nothing_is_done_to_a_vm_that_is_not_known_to_run_and_to_be_free(picture: Picture) -> None:
    decision = decide(picture)
    if not isinstance(decision, Act):
        return
    assert not picture.owner or picture.action is LOG
    assert not picture.braked
    assert not picture.limit
    look = picture.known
    assert look is not None
    if picture.action is LOG:
        return
    assert picture.policy is Policy.ON
    assert not look.silent
    if decision.starts_gone:
        assert look.standing is Standing.FAILED
        assert picture.action is REBOOT
    else:
        assert look.standing in (None, Standing.RUNNING, Standing.PANICKED)
    if picture.asks_confirm:
        assert picture.refusal == ""
    if picture.asks_traffic and look.standing in (None, Standing.RUNNING):
        assert picture.busy == ""


@given(PICTURES)
def test_what_is_known_is_not_asked_again(picture: Picture) -> None:
    match decide(picture):
        case Ask(Question.LIBVIRT):
            assert picture.known is None
        case Ask(Question.TRAFFIC):
            assert picture.busy is None
        case Ask(Question.CONFIRM):
            assert picture.refusal is None


def test_the_document_lists_every_cause() -> None:
    cause = schema(EventLine)["$defs"]["EventLine"]["properties"]["cause"]
    assert cause["enum"] == [str(cause) for cause in Cause]
