"""The one health that is reported, and how often an illness asks for its action."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.policy.health_merge import HealthMerge, HealthReport, HealthStatus
from hbtrio.wire.channel_codec import decode
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import CorrectiveAction, Health
from wire.captured import capture

NONE, REBOOT, STOP, LOG, UNKNOWN = CorrectiveAction
WELL = HealthStatus(True)


def ill(action: CorrectiveAction, reason: str) -> HealthStatus:
    return HealthStatus(False, action, reason)


def healthy(configured: CorrectiveAction) -> HealthReport:
    return HealthReport(Health.HEALTHY, configured, "")


def unhealthy(action: CorrectiveAction, reason: str, all_reasons: str = "") -> HealthReport:
    return HealthReport(Health.UNHEALTHY, action, reason, all_reasons or reason)


@pytest.mark.parametrize(
    ("applications", "script", "report"),
    [
        # Nobody is ill: the configured action goes along, as a deployed client sends it.
        ([], None, healthy(REBOOT)),
        ([], True, healthy(REBOOT)),
        ([WELL, WELL], True, healthy(REBOOT)),
        ([HealthStatus(True, STOP, "left over")], True, healthy(REBOOT)),
        # Among the unhealthy applications the strongest action wins.
        ([ill(LOG, "a")], None, unhealthy(LOG, "a")),
        ([ill(LOG, "a"), ill(REBOOT, "b")], True, unhealthy(REBOOT, "b", "b; a")),
        ([ill(STOP, "a"), ill(REBOOT, "b"), WELL], True, unhealthy(STOP, "a", "a; b")),
        ([ill(NONE, "a"), ill(LOG, "b"), ill(NONE, "c")], True, unhealthy(LOG, "b", "b; a; c")),
        ([ill(NONE, "a")], True, unhealthy(NONE, "a")),
        ([ill(UNKNOWN, "a")], True, unhealthy(UNKNOWN, "a")),
        # Of equals the first registered speaks.
        ([ill(REBOOT, "a"), ill(REBOOT, "b")], True, unhealthy(REBOOT, "a", "a; b")),
        # If all of them are healthy, the script decides, with the configured action.
        ([], False, unhealthy(REBOOT, "script")),
        ([WELL], False, unhealthy(REBOOT, "script")),
        # If both are unhealthy, the stronger action and its message.
        ([ill(LOG, "a")], False, unhealthy(REBOOT, "script", "script; a")),
        ([ill(STOP, "a")], False, unhealthy(STOP, "a", "a; script")),
        ([ill(REBOOT, "a")], False, unhealthy(REBOOT, "a", "a; script")),
        ([WELL, ill(NONE, "a")], False, unhealthy(REBOOT, "script", "script; a")),
    ],
)
def test_the_merge(
    applications: list[HealthStatus], script: bool | None, report: HealthReport
) -> None:
    merge = HealthMerge(REBOOT)
    if script is not None:
        merge.script_result(healthy=script, reason="script")
    assert merge.report(applications, 100.0) == report


@settings(deadline=None)  # a shared machine may be slow
@given(
    st.lists(st.builds(HealthStatus, st.booleans(), st.sampled_from(CorrectiveAction), st.text())),
    st.booleans(),
    st.sampled_from([LOG, REBOOT, STOP]),
)
def test_the_strongest_of_all_ill_sources_wins(
    applications: list[HealthStatus], script: bool, configured: CorrectiveAction
) -> None:
    merge = HealthMerge(configured)
    merge.script_result(healthy=script, reason="script")
    report = merge.report(iter(applications), 0.0)
    actions = [a.action for a in applications if not a.healthy] + [configured] * (not script)
    assert report.health is (Health.UNHEALTHY if actions else Health.HEALTHY)
    order = [STOP, REBOOT, LOG]
    strongest = next((action for action in order if action in actions), None)
    if strongest is not None:
        assert report.action is strongest
    elif actions:
        assert not report.action.is_actionable


def test_an_illness_asks_again_after_60_s_and_for_none_in_between() -> None:
    merge = HealthMerge(REBOOT)
    sick = [ill(STOP, "broken")]
    asked = {at: merge.report(sick, at).action for at in (0.0, 1.0, 59.999, 60.0, 60.5, 119.999)}
    assert asked == {0.0: STOP, 1.0: NONE, 59.999: NONE, 60.0: STOP, 60.5: NONE, 119.999: NONE}
    assert merge.report(sick, 120.0) == unhealthy(STOP, "broken")


def test_in_between_the_reason_is_still_told() -> None:
    merge = HealthMerge(REBOOT)
    merge.report([ill(STOP, "broken")], 0.0)
    assert merge.report([ill(STOP, "still broken")], 1.0) == unhealthy(NONE, "still broken")


def test_a_recovery_resets_the_60_s() -> None:
    merge = HealthMerge(REBOOT)
    assert merge.report([ill(STOP, "x")], 0.0).action is STOP
    assert merge.report([WELL], 1.0) == healthy(REBOOT)
    assert merge.report([ill(STOP, "x")], 2.0).action is STOP
    assert merge.report([ill(STOP, "x")], 61.9).action is NONE
    assert merge.report([ill(STOP, "x")], 62.0).action is STOP


def test_another_action_is_asked_for_at_once_and_has_its_own_60_s() -> None:
    merge = HealthMerge(REBOOT)
    assert merge.report([ill(LOG, "x")], 0.0).action is LOG
    assert merge.report([ill(LOG, "x"), ill(STOP, "y")], 10.0) == unhealthy(STOP, "y", "y; x")
    assert merge.report([ill(LOG, "x"), ill(STOP, "y")], 69.9).action is NONE
    assert merge.report([ill(LOG, "x"), ill(STOP, "y")], 70.0).action is STOP
    assert merge.report([ill(LOG, "x")], 71.0).action is LOG


def test_a_forgotten_script_is_healthy() -> None:
    merge = HealthMerge(REBOOT)
    merge.script_result(healthy=False, reason="disk full")
    assert merge.report([], 0.0) == unhealthy(REBOOT, "disk full")
    merge.forget_script()
    assert merge.report([], 1.0) == healthy(REBOOT)


# -- a script that hangs ---------------------------------------------------------------------------

HUNG = HealthStatus(False, LOG, "hung")


@pytest.mark.parametrize("healthy_now", [True, False])
def test_a_script_that_hangs_is_ill_until_its_next_result(healthy_now: bool) -> None:
    merge = HealthMerge(REBOOT)
    merge.script_result(healthy=True, reason="")
    merge.script_hung(HUNG)
    assert merge.report([], 0.0) == unhealthy(LOG, "hung")
    assert merge.report([], 59.9) == unhealthy(NONE, "hung")
    merge.script_hung(HUNG)
    assert merge.report([], 60.0) == unhealthy(LOG, "hung")
    merge.script_result(healthy=healthy_now, reason="disk full")
    expected = healthy(REBOOT) if healthy_now else unhealthy(REBOOT, "disk full")
    assert merge.report([], 61.0) == expected


@pytest.mark.parametrize(
    ("configured", "timeout_action", "report"),
    [
        (REBOOT, LOG, unhealthy(REBOOT, "disk full", "disk full; hung")),
        (REBOOT, REBOOT, unhealthy(REBOOT, "disk full", "disk full; hung")),
        (REBOOT, STOP, unhealthy(STOP, "hung", "hung; disk full")),
    ],
)
def test_a_hang_does_not_weaken_the_last_verdict(
    configured: CorrectiveAction, timeout_action: CorrectiveAction, report: HealthReport
) -> None:
    merge = HealthMerge(configured)
    merge.script_result(healthy=False, reason="disk full")
    merge.script_hung(ill(timeout_action, "hung"))
    assert merge.report([], 0.0) == report


@pytest.mark.parametrize(("action", "reason"), [(NONE, "hung"), (LOG, "a"), (STOP, "a")])
def test_an_application_wins_a_tie_against_a_hang(action: CorrectiveAction, reason: str) -> None:
    merge = HealthMerge(REBOOT)
    merge.script_hung(HUNG)
    assert merge.report([ill(action, "a")], 0.0).reason == reason


def test_a_forgotten_script_does_not_hang() -> None:
    merge = HealthMerge(REBOOT)
    merge.script_hung(HUNG)
    merge.forget_script()
    assert merge.report([], 0.0) == healthy(REBOOT)


def test_a_newly_configured_action_counts_from_the_next_run_of_the_script() -> None:
    merge = HealthMerge(REBOOT)
    merge.configured = LOG
    assert merge.report([], 0.0) == healthy(LOG)
    merge.script_result(healthy=False, reason="disk full")
    assert merge.report([], 1.0) == unhealthy(LOG, "disk full")


def test_the_rhythm_is_that_of_a_deployed_client() -> None:
    answers = [
        (captured.at_s, message)
        for captured in capture("g_health")
        if isinstance(message := decode(captured.line), ChallengeResponse)
    ]
    merge = HealthMerge(REBOOT)
    asked = []
    for at, theirs in answers:
        merge.script_result(
            healthy=theirs.heartbeat_health is Health.HEALTHY, reason=theirs.log_msg
        )
        ours = merge.report([], at)
        assert (ours.health, ours.action) == (theirs.heartbeat_health, theirs.corrective_action)
        if ours.health is Health.UNHEALTHY:
            assert ours.reason == theirs.log_msg
            if ours.action is REBOOT:
                asked.append(round(at))
    # Ill from 7 on, asked again 60 s later; well at 83, ill again at 89: asked at once.
    assert (len(answers), asked) == (95, [7, 67, 89])


def test_the_named_reason_has_everybody_who_is_ill_with_names_and_who_decides_first() -> None:
    merge = HealthMerge(LOG)
    merge.script_result(healthy=False, reason="disk full")
    applications = [
        HealthStatus(False, LOG, "slow", "web"),
        HealthStatus(False, STOP, "3 orders are open", "orders"),
        HealthStatus(True, NONE, "", "db"),
        HealthStatus(False, LOG, "", "mute"),
    ]
    report = merge.report(applications, 0.0)
    assert report.reason == "3 orders are open"
    assert report.named_reason == "orders: 3 orders are open; web: slow; mute; disk full"
